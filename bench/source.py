"""Do source classes help only with breeds that are source classes themselves? Writes bench/source.csv, one row a measure.

    FASTAI_HOME=... python bench/source.py --weights mobilenet_v2.pth --cache folder

MobileNetV2 was pretrained on ImageNet, which has 24 of the 37 breeds among its classes (`of_imagenet` below; the cocker spaniel of ImageNet may be English or American). MAP@R of new breeds, the mean over breeds of each kind, each breed
weighing the same, on the splits of quality.py by seeds 3 to 11; networks that quality.py has trained are read from the same --cache.
"""
import argparse, csv
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from torchvision.models import MobileNet_V2_Weights
from similarity_finder.metrics import map_at_r
from protocols import Caches, Protocol, photographs, told, train
from quality import methods

here = Path(__file__).parent
of_imagenet = { # breed -> ImageNet's name for it
    'Egyptian_Mau': 'Egyptian cat', 'Persian': 'Persian cat', 'Siamese': 'Siamese cat', 'basset_hound': 'basset', 'beagle': 'beagle', 'boxer': 'boxer', 'chihuahua': 'Chihuahua', 'english_cocker_spaniel': 'cocker spaniel',
    'english_setter': 'English setter', 'german_shorthaired': 'German short-haired pointer', 'great_pyrenees': 'Great Pyrenees', 'japanese_chin': 'Japanese spaniel', 'keeshond': 'keeshond', 'leonberger': 'Leonberg',
    'miniature_pinscher': 'miniature pinscher', 'newfoundland': 'Newfoundland', 'pomeranian': 'Pomeranian', 'pug': 'pug', 'saint_bernard': 'Saint Bernard', 'samoyed': 'Samoyed', 'scottish_terrier': 'Scotch terrier',
    'staffordshire_bull_terrier': 'Staffordshire bullterrier', 'wheaten_terrier': 'soft-coated wheaten terrier', 'yorkshire_terrier': 'Yorkshire terrier',
}
which = ('raw features', 'raw features and votes', 'default, 24 epochs', 'default, 24 epochs, mixed', 'SupCon, 24 epochs', 'SupCon, 24 epochs, mixed', 'default, 24 epochs, held', 'SupCon, 24 epochs, kept', 'default, 24 epochs, kept')


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    a.add_argument('--cache', type=Path, required=True, help='the folder that quality.py used')
    a.add_argument('--seeds', type=int, nargs='+', default=list(range(3, 12)))
    a.add_argument('--out', type=Path, default=here/'source.csv')
    a = a.parse_args()
    assert set(of_imagenet.values()) <= set(MobileNet_V2_Weights.IMAGENET1K_V1.meta['categories'])
    torch.set_num_threads(1)
    labels, encoder, maps = photographs(a.weights, a.cache)
    assert set(of_imagenet) <= set(labels)
    caches = Caches(encoder, maps, a.cache)
    A, v = told(caches.blocks(2).eval(), caches('plain', 2)[0], caches.source)
    raw, v = F.normalize(A.mean((2,3))), F.normalize(v)
    untrained = {'raw features': raw, 'raw features and votes': torch.cat([0.8**0.5*raw, 0.2**0.5*v], 1)}
    rows = []
    for seed in a.seeds:
        p = Protocol('new', labels, seed)
        for name in which:
            e = untrained.get(name)
            s = p.scores_of((lambda q, g: e[q] @ e[g].T) if e is not None else train(p, caches, **methods[name])[0])
            q = p.labels[p.query]
            by = {b: map_at_r(s[q == b], q[q == b], q) for b in sorted(set(q))}
            for kind, breeds in (('of ImageNet', [b for b in by if b in of_imagenet]), ('others', [b for b in by if b not in of_imagenet])):
                rows.append([name, seed, kind, len(breeds), f'{np.mean([by[b] for b in breeds]):.5f}'])
                print(*rows[-1], flush=True)
    with open(a.out, 'w', newline='') as f: csv.writer(f).writerows([['method', 'seed', 'breeds', 'n', 'map@r'], *rows])


if __name__ == '__main__': main()
