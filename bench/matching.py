"""How many true counterparts do matchings find, and how long does the assignment take? Writes bench/matching.csv and bench/matching_time.csv.

    python bench/matching.py [--what counterparts time --seeds 0 1 2 --sizes 500 1000 2000 4000 --weights mobilenet_v2-imagenet.pth]

Counterparts: cohorts of doodle patients (24 treated, 96 controls, two images each), one for each seed; everyone is matched with the same sex and an age within
five years, one to one, with the largest sum of a score. The scores: log-odds of P(same) of a finder trained on breeds (`doodle_finder`), the cosine of its
classifier's pooled features, the cosine of a network's features that was trained on ImageNet (where --weights are given), and the distance in age (covariates alone).
The finder with nothing but images shows what the covariates add. Time: random scores with the spread of a finder's, n treated and n controls; all pairs allowed, or one in a hundred.
"""
import argparse, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd, torch
import torch.nn.functional as F
from scipy import sparse
from common import here, write_csv
from similarity_finder.admissible import agree, log_odds, rules, units
from similarity_finder.assign import assign, pair_up
from similarity_finder.balance import balance, covariates_of
from similarity_finder.cohort import doodle_cohort, patient
from similarity_finder.finder import SimilarityFinder
from similarity_finder.gallery import Gallery
from similarity_finder.preprocess import Preprocess
from similarity_finder.train import doodle_finder


@torch.no_grad()
def cosine(encoder, prep, a, b):
    "Mean cosine of pooled features between the images of two lists of patients"
    def features(us): return [F.normalize(F.adaptive_avg_pool2d(encoder(prep(fs)), 1).flatten(1)).cpu() for fs in us.files]
    fa, fb = features(a), features(b)
    return np.array([[float((x @ y.T).mean()) for y in fb] for x in fa])


def pretrained(weights):
    "MobileNetV2 with ImageNet weights, and its preprocessing"
    import torchvision
    from similarity_finder.classifier import create_encoder
    prep = Preprocess.from_dict(dict(size=[96, 96], method='squish', pad_mode='reflection', resample=2, div=255., mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]))
    return create_encoder(torchvision.models.mobilenet_v2, weights=weights).eval(), prep


def counterparts(seeds, weights, note):
    finder = doodle_finder(progress=False).finder
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            cohort = doodle_cohort(folder, seed=seed)
            gallery = Gallery.from_files(cohort.treated + cohort.controls, finder.encoder, None, num_workers=0, progress=False)
            a, b = (units(gallery, f, patient, progress=False) for f in (cohort.treated, cohort.controls))
            about = cohort.table.set_index('patient')
            known = [covariates_of(u.names, cohort.table[['patient', 'age', 'sex', 'crp']], 'patient') for u in (a, b)]
            ok = np.logical_and.reduce([agree(r, *known) for r in rules(pd.concat(known, ignore_index=True), 'sex', dict(age=5))])
            scores = {'P(same), age and sex': (log_odds(gallery, a, b), ok), 'P(same) alone': (log_odds(gallery, a, b), np.ones_like(ok))}
            scores['classifier features, age and sex'] = cosine(finder.classifier.model[0], finder.classifier.prep, a, b), ok
            if weights: scores['ImageNet features, age and sex'] = cosine(*pretrained(weights), a, b), ok
            scores['age and sex alone'] = -np.abs(known[0].age.to_numpy()[:, None] - known[1].age.to_numpy()), ok
            for name, (z, allowed) in scores.items():
                pairs = assign(z, allowed)
                names = [(a.names[i], b.names[j]) for i, j in pairs]
                crp = balance(*known, pairs).set_index('covariate').smd_after.abs()['crp']
                note(seed, name, len(a.names), len(pairs), np.mean([cohort.counterpart[t] == c for t, c in names])*len(pairs)/len(a.names),
                     np.mean([about.disease[t] == about.disease[c] for t, c in names]), crp)


def times(sizes, note):
    for n in sizes:
        rng = np.random.default_rng(0)
        z = rng.normal(-5, 5, (n, n))
        few = sparse.coo_array((z[m := rng.random((n, n)) < 0.01], m.nonzero()), shape=(n, n)).tocsr()
        for what, f in (('two groups, all pairs', lambda: assign(z)), ('two groups, one pair in a hundred', lambda: assign(few)),
                        ('one group, 10 neighbours', lambda: pair_up(z+z.T, neighbours=10) if n <= 500 else None), ('one group, all pairs', lambda: pair_up(z+z.T) if n <= 250 else None)):
            start = time.perf_counter()
            if (out := f()) is not None: note(n, what, time.perf_counter()-start, len(out))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--what', nargs='+', default=['counterparts', 'time'])
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--sizes', type=int, nargs='+', default=[250, 500, 1000, 2000, 4000, 8000])
    p.add_argument('--weights', type=Path, help='ImageNet weights of torchvision.models.mobilenet_v2')
    a = p.parse_args()
    rows, timed = [], []
    def note(*row):
        rows.append([f'{o:.3f}' if isinstance(o, float) else o for o in row])
        print(*rows[-1], flush=True)
        write_csv(here/'matching.csv', ('seed', 'score', 'treated', 'pairs', 'true counterparts', 'same disease', 'SMD of crp'), rows)
    def note_time(*row):
        timed.append([f'{o:.3f}' if isinstance(o, float) else o for o in row])
        print(*timed[-1], flush=True)
        write_csv(here/'matching_time.csv', ('n', 'what', 'seconds', 'pairs'), timed)
    if 'counterparts' in a.what: counterparts(a.seeds, a.weights, note)
    if 'time' in a.what: times(a.sizes, note_time)


if __name__ == '__main__': main()
