"""How surely a planted background is found out: finders of doodle pets, each breed in its own place and places at random, for several seeds of the drawings and of the training. Writes bench/reliance.csv.

    python bench/reliance.py [--seeds 43 44 45 46 47]

Each finder is asked for its `background_reliance` on the files that it has not learned from. A training that ends otherwise on another machine is another sample of the same: what a page says of one finder
should hold for all of these.
"""
import argparse, csv
from pathlib import Path
from common import here
from similarity_finder.doodle import doodle_masks
from similarity_finder.faithfulness import background_reliance
from similarity_finder.train import doodle_finder


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--seeds', type=int, nargs='+', default=[43, 44, 45, 46, 47])
    a.add_argument('--out', type=Path, default=here/'reliance.csv')
    a = a.parse_args()
    with open(a.out, 'w', newline='') as f:
        out = csv.writer(f)
        out.writerow(['places', 'seed', 'measure', 'value'])
        for seed in a.seeds:
            for places, plant in (('of its own', True), ('at random', False)):
                trained = doodle_finder(plant=plant, seed=seed, progress=False)
                r = background_reliance(trained.finder, trained.held_out, lambda f: doodle_masks(f)['animal'], max_pairs=24, progress=False)
                values = {k: getattr(r, k) for k in ('outside', 'chance', 'auc', 'object_auc', 'background_auc', 'outline_auc')} | {k: trained.measures[k] for k in ('recall@1', 'map@r')}
                out.writerows([places, seed, k, f'{v:.5f}'] for k, v in values.items())
                f.flush()
                print(places, seed, {k: round(float(v), 3) for k, v in values.items()}, flush=True)


if __name__ == '__main__': main()
