"""Percentages for labels that no network has learned, without an image of them, and with those that the gallery has: writes bench/new_labels.csv, with --mix bench/new_labels_mix.csv, with --gallery bench/new_labels_gallery.csv, with --together bench/new_labels_together.csv.

    FASTAI_HOME=... python bench/new_labels.py --weights mobilenet_v2.pth --cache folder [--seeds 3 4 5 6 7 8 9 10 11] [--mix] [--gallery [--without left-out]] [--together]

A third of the breeds are new: nothing of them is looked at but to measure. Of the photographs of the other breeds a fifth is held out, and the default is trained on the rest, as `train_finder` does.
Then, as `score_new_labels` does, the default is trained five more times, each time without a fifth of those breeds, which then ask among themselves (no more than 12 photographs of each).
P(same) of pairs of new breeds, for as many same as different pairs, by calibrations that were fitted to
    nothing: the network's own percentages
    held-out images: those of breeds that were learned, with those that it was learned from
    left-out labels: the breeds of the five trainings, as `train_finder(new_labels=5)` does
    both: held-out images and left-out labels, which count the same (`calibrate_head(..., beside=)`); what is asked has no part in it
    half of the new labels, all other new labels: with labelled images of new breeds, as in quality.py.
'both new': what two new images have in the logit from that alone, 3 and 0 (not with --mix and --gallery).
'of learned labels': the photographs that were held out, among those that were learned from; what was fitted to them is judged by halves.
'evenly': new breeds with no more than 12 photographs each; which, is drawn ten times (the mean).
'AUC of left-out labels' is what the five trainings foretell of the AUC on new ones.
--mix: do left-out labels foretell which setting is better for new ones? MAP@R with as much of the trained blocks as the default keeps (0.8), and with less (0.5, 0.3): of labels left out (the mean of the five
trainings), of new breeds, as they are and evenly, and of held-out images of breeds that were learned.
--gallery: the gallery has a few labelled images of each new breed (so many, or half of them), the others ask; where a breed has too few, two ask. Which, is drawn ten times (the mean). The same calibrations, and one
that was fitted to the pairs of the gallery's own images ('gallery'), as `SimilarityFinder.calibrate('gallery')` does. 'promised' is the mean P(same) of the first image, for the share of same pairs that the gallery has, 'right' how often it is (these two were measured later, with `--without left-out`). `--seeds 18 ... 35 --without left-out` are other splits, without the five trainings.
--together: the gallery has learned breeds and new ones, as 'together' in quality.py. Calibrations that were fitted to half of the held-out images of learned breeds, to the gallery's images of new breeds (each against all
others), and to both; each for the share of same pairs among those that it was fitted to, as `calibrate` does; judged on the other half and on the other images of new breeds. 'promised' is the mean P(same) of the first image, 'right' how often it is.
Seeds 0 to 2 and 12 to 14 were looked at before: with --gallery all six, three parts or five (0 and 12 alone), and whether breeds with many photographs may count for more.
"""
import argparse, copy, csv, random, warnings
from functools import partial
from itertools import product
from pathlib import Path
import numpy as np, torch
from fastai.data.transforms import TrainTestSplitter
from scipy.linalg import block_diag
from similarity_finder.calibrate import Calibration, cross_calibrated, fit_calibration
from similarity_finder.metrics import brier_score, calibration_error, map_at_r, roc_auc
from similarity_finder.train import label_parts
from protocols import Caches, Protocol, photographs, train
from quality import calibrated, evenly, methods

here = Path(__file__).parent
header = ['seed', 'both new', 'photographs', 'fitted to', 'measure', 'value']
default = methods['default, 24 epochs, kept, both new 3']


def some(p, seed, images):
    "The protocol with other images to learn from"
    o = copy.copy(p)
    o.seed, o.train = seed, sorted(images)
    vocab = sorted(set(p.labels[o.train]))
    o.y = torch.tensor([vocab.index(l) if l in vocab else -1 for l in p.labels])
    return o


def held_out(images, labels, seed):
    "Four fifths of some images, and the others"
    a, b = TrainTestSplitter(0.2, random_state=seed, stratify=[labels[i] for i in images])([labels[i] for i in images])
    return [images[i] for i in a], [images[i] for i in b]


def left_out(p, caches, parts=5, most=12, **cfg):
    "Logits and labels of pairs of labels that a network has not learned, one set for each training; the logits without what two new images have in common, and the images"
    for k, part in enumerate(label_parts([p.labels[i] for i in p.train], parts, p.seed)):
        known = [i for i in p.train if p.labels[i] not in part]
        o, rng, by = some(p, 1000*(p.seed+1)+k, held_out(known, p.labels, p.seed)[0]), random.Random(p.seed), {}
        for i in p.train: by.setdefault(p.labels[i], []).append(i)
        asked = sorted(i for l in sorted(part) for i in rng.sample(by[l], min(most, len(by[l]))))
        score = train(o, caches, **{**default, **cfg})[0]
        z, without = (np.asarray(score(asked, asked, o), dtype=float).copy() for o in (True, False))
        for o in (z, without): np.fill_diagonal(o, -np.inf)
        yield z, p.labels[asked], without, asked


def block(sets, without=()):
    "Logits of several sets of images, each compared with itself alone, and some images with none"
    z = block_diag(*(s for s, *_ in sets))
    gone = np.isin(np.concatenate([i for *_, i in sets]), list(without))
    z[~block_diag(*(np.ones_like(s, dtype=bool) for s, *_ in sets)) | gone[:,None] | gone[None]] = -np.inf
    return z, np.concatenate([l for _, l, _ in sets])


def by_mix(p, caches, mix):
    "MAP@R of labels left out of trainings, of new ones, and of those that were learned"
    learned, asked = held_out(p.train, p.labels, p.seed)
    score = partial(train(some(p, p.seed, learned), caches, **{**default, 'mix': mix})[0], both=False)
    yield 'left-out labels', np.mean([map_at_r(z, l, l) for _, l, z, _ in left_out(p, caches, mix=mix)])
    yield 'as they are', p.measures(p.scores_of(score))['map@r']
    yield 'evenly', np.mean([o.measures(o.scores_of(score))['map@r'] for o in evenly(p)])
    yield 'of learned labels', map_at_r(np.asarray(score(asked, learned), dtype=float), p.labels[asked], p.labels[learned])


errors = {'calibration error': lambda P, q, g: calibration_error(P, q, g, prior=0.5), 'Brier score': lambda P, q, g: brier_score(P, q, g, 0.5)}


def by_gallery(p, s, fits, draws=10, most=12):
    "Errors on pairs of new breeds, some images of which are in the gallery with labels: photographs, images of a breed, what was fitted to, measure -> value"
    out, labels = {}, p.labels[p.query]
    for photographs_, n in product(('as they are', 'evenly'), (2, 3, 4, 6, 'half')):
        for d in range(draws):
            rng, gallery, asked = random.Random(draws*p.seed + d), [], []
            for b in sorted(set(labels)):
                some = rng.sample(list(np.flatnonzero(labels == b)), (labels == b).sum())[:most if photographs_ == 'evenly' else None]
                k = len(some)//2 if n == 'half' else min(n, len(some)-2)
                gallery += some[:k]
                asked += some[k:]
            q, g = labels[asked], labels[gallery]
            for name, c in {**fits, 'gallery': fit_calibration(s[np.ix_(gallery, gallery)], g, g, 0.5)}.items():
                z = s[np.ix_(asked, gallery)]
                P, found = c.probability(z), c.at_prior((q[:,None] == g[None]).mean()).probability(z) # for as many same as different pairs, and as a search among these images asks
                values = {m: f(P, q, g) for m, f in errors.items()} | {'promised': found.max(1).mean(), 'right': (g[z.argmax(1)] == q).mean()}
                for m, v in values.items(): out.setdefault((photographs_, n, name, m), []).append(v)
    return {k: np.mean(v) for k, v in out.items()}


def fitted(p, score, asked, learned, sets=()):
    "Calibrations, by what they were fitted to"
    held = score(asked, learned), p.labels[asked], p.labels[learned]
    out = {'nothing': Calibration(), 'held-out images': fit_calibration(*held, 0.5)}
    if not sets: return out
    z, l = block(sets)
    return out | {'left-out labels': fit_calibration(z, l, l, 0.5), 'both': fit_calibration(*held, 0.5, beside=(z, l, l))}


def by_fit(p, score, asked, learned, sets):
    "Errors on new breeds, as they are and evenly, and on held-out images of those that were learned: photographs, what was fitted to, measure -> value"
    fits, out = fitted(p, score, asked, learned, sets), {}
    for photographs_, ps in (('as they are', [p]), ('evenly', list(evenly(p)))):
        for o in ps:
            s, q = o.scores_of(score), o.labels[o.query]
            ways = {k: [c.probability(s)] for k, c in fits.items()} | {f'{k} new labels': v for k, v in zip(('half of the', 'all other'), calibrated(o, s, 0.5, 10 if photographs_ == 'as they are' else 1).values())}
            for k, P in ways.items():
                for m, f in errors.items(): out.setdefault((photographs_, k, m), []).append(np.mean([f(x, q, q) for x in P]))
            for m, f in (('AUC', roc_auc), ('map@r', map_at_r)): out.setdefault((photographs_, 'nothing', m), []).append(f(s, q, q))
    s, q, g = np.asarray(score(asked, learned), dtype=float), p.labels[asked], p.labels[learned]
    known, half = {k: c.probability(s) for k, c in fits.items()} | {'held-out images': cross_calibrated(s, q, g, 0.5, seed=p.seed)}, np.random.default_rng(p.seed).permutation(len(asked)) % 2
    for k in (0, 1): # what is asked has no part in the fit, nor has the same image where its label was left out
        z, l = block(sets, np.array(asked)[half == k])
        known['both'][half == k] = fit_calibration(s[half != k], q[half != k], g, 0.5, beside=(z, l, l)).probability(s[half == k])
    out |= {('of learned labels', k, m): [f(P, q, g)] for k, P in known.items() for m, f in errors.items()} | {('of learned labels', 'nothing', 'map@r'): [map_at_r(s, q, g)]}
    out['evenly', 'left-out labels', 'AUC of left-out labels'] = [roc_auc(z, l, l) for z, l, _ in sets]
    return {k: np.mean(v) for k, v in out.items()}


def by_kind(p, score):
    "Errors in a gallery of learned and new breeds: what was fitted to, of which queries, measure -> value"
    s, q, g = p.scores_of(score), p.labels[p.query], p.labels[p.gallery]
    learned = np.isin(q, p.labels[p.train])
    half = np.zeros(len(q), dtype=bool)
    half[random.Random(p.seed).sample(list(np.flatnonzero(learned)), learned.sum()//2)] = True
    new = [i for i in p.gallery if p.labels[i] not in set(q[learned])]
    z = np.asarray(score(new, p.gallery), dtype=float).copy()
    z[np.array(new)[:,None] == np.array(p.gallery)[None]] = -np.inf
    pairs = {'held-out images': (s[half], q[half]), 'gallery': (z, p.labels[new])}
    pairs['both'] = tuple(map(np.concatenate, zip(*pairs.values())))
    out = {}
    for name, (logits, l) in pairs.items():
        P = fit_calibration(logits, l, g).probability(s)
        for kind, rows in (('learned', learned & ~half), ('new', ~learned)):
            best = P[rows].argmax(1)
            out |= {(name, kind, 'calibration error'): calibration_error(P[rows], q[rows], g), (name, kind, 'promised'): P[rows].max(1).mean(), (name, kind, 'right'): (g[best] == q[rows]).mean()}
    return out


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    a.add_argument('--cache', type=Path, required=True, help='a folder for the cached maps (300 MB)')
    a.add_argument('--seeds', type=int, nargs='+', default=list(range(3, 12)))
    a.add_argument('--mix', action='store_true', help='which setting is better for new labels?')
    a.add_argument('--gallery', action='store_true', help='what do a few labelled images of the new labels give?')
    a.add_argument('--together', action='store_true', help='what holds in a gallery of learned and new labels?')
    a.add_argument('--without', nargs='*', default=(), choices=['left-out'], help='calibrations to do without')
    a.add_argument('--out', type=Path)
    a = a.parse_args()
    a.out = a.out or here/f'new_labels{next((f"_{o}" for o in ("mix", "gallery", "together") if getattr(a, o)), "")}.csv'
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    labels, encoder, maps = photographs(a.weights, a.cache)
    caches = Caches(encoder, maps, a.cache)
    columns = ['seed', 'mix', 'photographs', 'map@r'] if a.mix else ['seed', 'photographs', 'images', *header[3:]] if a.gallery else [*header[:4], 'queries', *header[4:]] if a.together else header
    if not a.out.exists(): a.out.write_text(','.join(columns)+'\n')
    with open(a.out) as f:
        if (there := next(csv.reader(f))) != columns: raise SystemExit(f'{a.out} was written by another version: its columns are {there}, not {columns}')
    def note(rows):
        with open(a.out, 'a', newline='') as f: csv.writer(f).writerows(rows)
        print(*rows, sep='\n', flush=True)

    for seed in a.seeds:
        if str(seed) in {r['seed'] for r in csv.DictReader(open(a.out))}: continue
        if a.together:
            p, rows = Protocol('together', labels, seed), []
            score = train(p, caches, **default)[0]
            for both in (True, False):
                each = {'as they are': [by_kind(p, partial(score, both=both))], 'evenly': [by_kind(o, partial(score, both=both)) for o in evenly(p)]}
                rows += [(seed, default['both']*both, name, *k, f'{np.mean([o[k] for o in v]):.5f}') for name, v in each.items() for k in v[0]]
            note(rows)
            continue
        p, rows = Protocol('new', labels, seed), []
        if a.mix:
            rows = [(seed, mix, name, f'{v:.5f}') for mix in (0.8, 0.5, 0.3) for name, v in by_mix(p, caches, mix)]
            note(rows)
            continue
        learned, asked = held_out(p.train, p.labels, seed)
        score = train(some(p, seed, learned), caches, **default)[0]
        sets = [] if 'left-out' in a.without else list(left_out(p, caches))
        if a.gallery:
            score = partial(score, both=False)
            rows = [(seed, *k, f'{v:.5f}') for k, v in by_gallery(p, p.scores_of(score), fitted(p, score, asked, learned, [(z, l, i) for _, l, z, i in sets])).items()]
            note(rows)
            continue
        for both in (True, False):
            rows += [(seed, default['both']*both, *k, f'{v:.5f}') for k, v in by_fit(p, partial(score, both=both), asked, learned, [(z if both else without, l, i) for z, l, without, i in sets]).items()]
        note(rows)


if __name__ == '__main__': main()
