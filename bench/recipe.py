"""What was tried to train a better similarity on the photographs: writes bench/recipe.csv. What is there already is not trained again.

    FASTAI_HOME=... python bench/recipe.py --weights mobilenet_v2.pth --cache folder

Each trial changes one thing of `base`, on known and on new breeds as in quality.py. Seed 0 for all; the trials that looked good got the other seeds too.
"""
import argparse, csv, time
from pathlib import Path
import torch
from protocols import Caches, Protocol, photographs, train

here = Path(__file__).parent
base = dict(n_hidden=256, epochs=15)
# name -> (what it is in a few words, settings that differ from `base`)
trials = {
    'base': ('last 2 of 19 blocks at 4e-4, plain and 6 augmented views, 64 images a batch, 15 epochs', {}),
    'slower blocks': ('last 2 blocks at 1e-4, a tenth of the head\'s rate', dict(lr_enc=1e-4, n_hidden=512)),
    'slower blocks, averaged': ('last 2 blocks at 1e-4, weights averaged (EMA 0.98)', dict(lr_enc=1e-4, ema=0.98)),
    'faster blocks, averaged': ('last 2 blocks at 1e-3, weights averaged (EMA 0.98)', dict(lr_enc=1e-3, ema=0.98)),
    'one block': ('last block only, at 1e-3', dict(tail=1, lr_enc=1e-3)),
    'five blocks': ('last 5 blocks at 4e-4', dict(tail=5)),
    'frozen, 60 epochs': ('encoder as it is, 128 images a batch, 60 epochs', dict(tail=0, bs=128, epochs=60)),
    'frozen, 40 epochs': ('encoder as it is, 128 images a batch, 40 epochs', dict(tail=0, bs=128, epochs=40)),
    'frozen, 40 epochs, 3e-3': ('encoder as it is, 128 images a batch, 40 epochs at 3e-3', dict(tail=0, bs=128, epochs=40, lr=3e-3)),
    'with classification': ('last 2 blocks at 1e-4, half a cross-entropy of the breeds added', dict(lr_enc=1e-4, n_hidden=512, ce=0.5)),
}
header = ['trial', 'what', 'protocol', 'seed', 'measure', 'value']


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    a.add_argument('--cache', type=Path, required=True, help='a folder for the cached maps (300 MB)')
    a.add_argument('--trials', nargs='+', default=list(trials))
    a.add_argument('--seeds', type=int, nargs='+', default=[0])
    a.add_argument('--protocols', nargs='+', default=['known', 'new'])
    a.add_argument('--out', type=Path, default=here/'recipe.csv')
    a = a.parse_args()
    torch.set_num_threads(1)
    labels, encoder, maps = photographs(a.weights, a.cache)
    caches = Caches(encoder, maps, a.cache)
    if not a.out.exists(): a.out.write_text(','.join(header)+'\n')
    for seed in a.seeds:
        for protocol in a.protocols:
            p = Protocol(protocol, labels, seed)
            for name in a.trials:
                what, changes = trials[name]
                if (name, protocol, str(seed)) in {(r['trial'], r['protocol'], r['seed']) for r in csv.DictReader(open(a.out))}: continue
                start = time.process_time()
                score, _, _ = train(p, caches, **{**base, **changes})
                values = p.measures(p.scores_of(score)) | {'CPU seconds': time.process_time()-start}
                with open(a.out, 'a', newline='') as f: csv.writer(f).writerows([name, what, protocol, seed, k, f'{v:.5f}'] for k, v in values.items())
                print(name, protocol, seed, {k: round(float(v), 4) for k, v in values.items()}, flush=True)


if __name__ == '__main__': main()
