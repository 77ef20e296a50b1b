"""The library's own recipe (`fit_head`) on other encoders: writes bench/encoders.csv. What is there already is not measured again.

    FASTAI_HOME=... python bench/encoders.py --weights squeezenet1_0.pth [--arch squeezenet1_0 --seeds 6 7 8 9 10 11 --protocols new]; those on the page: --seeds 6 7 8 9 --protocols known, --seeds 6 7 8 --protocols new, and with --blocks 1 seeds 6 to 9 of both

Splits as in quality.py; siamese_learner on the training images, its head and the encoder's last two blocks trained for 24 epochs on six augmented views, as `train_finder` does it. Beside it the cosine of the encoder's features before any training.
The rows with the last block alone were measured when a pooling counted as a block: the last two of SqueezeNet were one that learns, and a pooling before it, which is what --blocks 1 is today.
"""
import argparse, csv, warnings
from pathlib import Path
import torch, torch.nn.functional as F
from fastai.torch_core import set_seed
from torchvision import models
from common import here
from protocols import Protocol
from quality import as_logits, with_neighbours
from similarity_finder.classifier import evaluating
from similarity_finder.data import label_func, pets
from similarity_finder.encode import PairEncoder
from similarity_finder.scored import score_queries
from similarity_finder.gallery import Gallery
from similarity_finder.pairs import siamese_dls
from similarity_finder.siamese import siamese_learner


def measured(p, files, arch, weights, size=224, views=6, epochs=24, neighbours=False, blocks=2, **settings):
    "Measures of raw features and of the trained network on a protocol, and how many source classes vote; `neighbours`: and searched with them, a dict more of each"
    dls = siamese_dls(files, splitter=lambda _: (p.train, p.query), size=size, bs=32, seed=p.seed, num_workers=0)
    set_seed(p.seed, reproducible=True)
    learn = siamese_learner(dls, arch, weights=weights, seed=p.seed)
    prep = PairEncoder(learn.model.eval(), dls).prep
    with evaluating(learn.model), torch.no_grad(): raw = F.normalize(torch.cat([learn.model.encoder(prep(files[i:i+32])).mean((2, 3)).cpu() for i in range(0, len(files), 32)]))
    cosine = lambda q, g: raw[q] @ raw[g].T
    out = {'raw features': p.measures(p.scores_of(cosine))}
    if neighbours: out['raw features, expanded'] = p.measures(with_neighbours(p, as_logits(p, cosine)))
    with learn.no_bar(), learn.no_logging(): learn.fit_head(epochs, 1e-3, bs=64, blocks=blocks, views=views, seed=p.seed, **settings)
    gallery = Gallery.from_files([files[i] for i in p.gallery], PairEncoder(learn.model.eval(), dls), num_workers=0, progress=False)
    def searched():
        with warnings.catch_warnings():
            warnings.simplefilter('ignore') # new breeds ask among themselves
            return score_queries(gallery, [files[i] for i in p.query], num_workers=0, progress=False).logits
    out['default'] = p.measures(searched())
    if neighbours:
        gallery.expand(3)
        out['default, expanded'] = p.measures(searched())
    return out, gallery.head.n_source


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--weights', required=True, help='ImageNet weights of the encoder')
    a.add_argument('--arch', default='squeezenet1_0', help='a model of torchvision')
    a.add_argument('--seeds', type=int, nargs='+', default=[6, 7, 8, 9, 10, 11])
    a.add_argument('--protocols', nargs='+', default=['new', 'known'])
    a.add_argument('--blocks', type=int, default=2, choices=(1, 2), help='how many of the last ones learn; rows of 1 are called "default, last block alone"')
    a.add_argument('--out', type=Path, default=here/'encoders.csv')
    a = a.parse_args()
    torch.set_num_threads(1)
    if not a.out.exists(): a.out.write_text('encoder,protocol,method,seed,measure,value\n')
    name = 'default' if a.blocks == 2 else 'default, last block alone'
    done = {(r['encoder'], r['protocol'], r['seed']) for r in csv.DictReader(open(a.out)) if r['method'] == name}
    files = pets()
    for protocol in a.protocols:
        for seed in [s for s in a.seeds if (a.arch, protocol, str(s)) not in done]:
            out, _ = measured(Protocol(protocol, [label_func(f) for f in files], seed), files, getattr(models, a.arch), a.weights, blocks=a.blocks)
            out = {name: out['default']} | ({'raw features': out['raw features']} if a.blocks == 2 else {}) # which the other rows have
            with open(a.out, 'a', newline='') as f: csv.writer(f, lineterminator='\n').writerows([a.arch, protocol, m, seed, k, f'{v:.5f}'] for m, o in out.items() for k, v in o.items())
            print(a.arch, protocol, seed, {m: {k: round(float(v), 3) for k, v in o.items()} for m, o in out.items()}, flush=True)


if __name__ == '__main__': main()
