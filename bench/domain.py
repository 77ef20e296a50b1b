"""Does what the encoder was taught help where the images are nothing like those it was taught on? Writes bench/domain.csv, one row a measure.

    python bench/domain.py --weights mobilenet_v2.pth

Drawn pets (15 breeds, 24 drawings each, 128 pixels) look like nothing in ImageNet. The library itself trains MobileNetV2 from ImageNet: `fit_head` with what it does by default
('default'), the same without votes, and with mixed weights alone as it does for encoders without source classes ('mixed'). Known classes: a quarter of each class's images held out, new classes: a third of the classes, as in quality.py. 'classes that vote' is 0 where votes did not help on the training images.
"""
import argparse, csv
from pathlib import Path
import torch
from torchvision.models import mobilenet_v2
from common import here
from encoders import measured
from protocols import Protocol
from similarity_finder.data import label_func
from similarity_finder.doodle import doodle_pets

ways = {'default': {}, 'default, no votes': dict(vote=0.), 'mixed': dict(distill=0., vote=0.)}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    a.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    a.add_argument('--out', type=Path, default=here/'domain.csv')
    a = a.parse_args()
    torch.set_num_threads(1)
    rows = []
    def write():
        with open(a.out, 'w', newline='') as f: csv.writer(f).writerows([['images', 'protocol', 'seed', 'method', 'measure', 'value'], *rows])
    files = doodle_pets(n=24, size=128, progress=False)
    labels = [label_func(f) for f in files]
    for seed in a.seeds:
        for protocol in ('known', 'new'):
            p = Protocol(protocol, labels, seed)
            for name, settings in ways.items():
                found, votes = measured(p, files, mobilenet_v2, a.weights, 128, 2, **settings)
                found = ({'raw features': found['raw features']} if name == 'default' else {}) | {name: found['default'] | {'classes that vote': votes}}
                rows += [('drawn pets', protocol, seed, m, k, f'{float(x):.5f}') for m, o in found.items() for k, x in o.items()]
                write()
                print(protocol, seed, {m: {k: round(float(o[k]), 3) for k in ('auc', 'recall@1', 'map@r')} for m, o in found.items()}, votes, flush=True)


if __name__ == '__main__': main()
