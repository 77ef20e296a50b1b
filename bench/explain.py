"""Measures every kind of map on photographs of pets with trimaps: writes bench/explain.csv.

    FASTAI_HOME=... python bench/explain.py --weights mobilenet_v2.pth [--seeds 0 1 2 --pairs 12]
    ... --hidden 1280 --only weights exact # the article's maps need as many hidden units as channels

mobilenet_v2 with ImageNet weights; the siamese network's head and the encoder's last two blocks are trained on the training images (three quarters of each breed) as `train_finder` does it by default. With --frozen, the head alone. Each held-out
query is paired with its best match of the same breed, where both have a trimap. Energy (share of the positive evidence on the animal) and pointing game are means over both
images of all pairs ('occlusion', 'pixels' and 'expected', which counts from 48 images of the gallery: of some). On --pairs of them: areas under the deletion and insertion curves of P(same), agreement with occlusion, agreement with the map of the network after all its weights were put
in another order ('scrambled'), and what is missing to the logit ('residual'). Rows to hold the maps against: 'exact, even grid' draws every place in its cell of an even grid, 'mean maximum' counts maxima from their mean on, 'activation' is the length of the encoder's vector at
each place, which knows nothing of the partner; 'random weights' adds up its channels as chance would have it; 'centre' is a bump in the middle of the image, and 'uniform' the mask's share. Methods 'enlarged' look at images enlarged as 'fine' enlarges them (which is
'exact, enlarged'); 'fine, mirrored' enlarges them more, and averages with the mirrored images. Seconds are medians for scoring a pair, and for scoring and explaining it, on one of two cores while the other was at work as well.
"""
import argparse, csv, random, time
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from fastai.data.transforms import TrainTestSplitter
from fastai.torch_core import set_seed
from torchvision.models import mobilenet_v2
from common import here
from similarity_finder import evidence
from similarity_finder.cam import encoder_maps, expected_maps, fine_maps, image_methods, pair_maps
from similarity_finder.data import label_func, pets, pets_mask
from similarity_finder.encode import PairEncoder
from similarity_finder.evidence import PairMaps, cam_methods
from similarity_finder.faithfulness import energy_inside, map_agreement, perturbation_curve, pointing_game, scrambled
from similarity_finder.gallery import Gallery
from similarity_finder.head import PairVectors
from similarity_finder.metrics import map_at_r, roc_auc
from similarity_finder.pairs import siamese_dls
from similarity_finder.places import place_shift
from similarity_finder.siamese import siamese_learner


def mean_maximum(head, A, B):
    "Exact maps with maxima counted from their mean over the training images on"
    ours, evidence.place_evidence = evidence.place_evidence, lambda X, weight, base, pool: place(X, weight, torch.cat([head.bn_q.running_mean[:head.nf], base[head.nf:]]), pool)
    place = ours
    try: return evidence.exact_maps(head, A, B)
    finally: evidence.place_evidence = ours


def plain(f): return lambda head, A, B: PairMaps(*(f(o[:,:head.nf]) for o in (A, B)), torch.zeros(len(A)), torch.zeros(len(A)), '')


def bump(A):
    h, w = A.shape[-2:]
    y, x = torch.linspace(-1, 1, h)[:,None], torch.linspace(-1, 1, w)
    return torch.exp(-2*(x*x + y*y)).expand(len(A), h, w)


def chance(A): return torch.einsum('nchw,c->nhw', A, torch.randn(A.shape[1], generator=torch.Generator().manual_seed(0)))


of_head = {**cam_methods, 'mean maximum': mean_maximum, 'activation': plain(lambda A: A.norm(dim=1)), 'centre': plain(bump), 'random weights': plain(chance)}


def enlarged(x): return F.interpolate(x, scale_factor=8/7, mode='bicubic', align_corners=False)


def trained(files, labels, weights, seed, frozen=False, n_hidden=512):
    "A siamese network, and galleries of the training and of the held-out images"
    split = TrainTestSplitter(0.25, random_state=seed, stratify=labels)
    train, valid = split(files)
    set_seed(seed, reproducible=True)
    learn = siamese_learner(siamese_dls(files, splitter=split, size=224, bs=32, seed=seed, num_workers=0), mobilenet_v2, weights=weights, n_hidden=n_hidden, seed=seed)
    if frozen: learn.fit_head(30, 1e-3, seed=seed)
    else: learn.fit_head(24, 1e-3, bs=64, blocks=2, views=6, seed=seed)
    encoder = PairEncoder(learn.model.eval(), learn.dls)
    return encoder, *(Gallery.from_files(files[i], encoder, num_workers=0, progress=False) for i in (train, valid))


def best_pairs(gallery, queries):
    "Each query with a trimap and its best match of the same label with one"
    for f in queries.files:
        if pets_mask(f) is None: continue
        ms = [m.file for m in gallery.search(f, k=20, labels=label_func(f)) if pets_mask(m.file) is not None]
        if ms: yield f, ms[0]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    p.add_argument('--seeds', type=int, nargs='+', default=(0, 1, 2))
    p.add_argument('--pairs', type=int, default=12, help='how many pairs to measure deletion, insertion and occlusion on; the masks are held against all')
    p.add_argument('--steps', type=int, default=8, help='of the deletion and insertion curves')
    p.add_argument('--frozen', action='store_true', help='the encoder stays as it is')
    p.add_argument('--only', nargs='+', default=(), help='methods to measure; their rows are added to what the file has')
    p.add_argument('--hidden', type=int, default=512, help='hidden units of the head; methods are called by it if it is not 512')
    p.add_argument('--out', type=Path, default=here/'explain.csv')
    a = p.parse_args()
    files = pets()
    labels = [label_func(f) for f in files]
    if not a.only or not a.out.exists():
        with open(a.out, 'w', newline='') as f: csv.writer(f).writerow(('seed', 'method', 'measure', 'value', 'n'))
    for seed in a.seeds:
        def note(method, measure, values):
            values, method = np.asarray(values, dtype=float), method + (f', {a.hidden} hidden units' if a.hidden != 512 else '')
            with open(a.out, 'a', newline='') as f: csv.writer(f).writerow((seed, method, measure, f'{np.nanmean(values):.5g}', len(values)))
            print(f'seed {seed}  {method:14} {measure:22} {np.nanmean(values):.4f}  ({len(values)})', flush=True)
        measure(*trained(files, labels, a.weights, seed, a.frozen, a.hidden), a.pairs, a.steps, note, a.only)


def measure(encoder, gallery, queries, n_pairs, steps, note, only=()):
    model, prep, out, times = encoder.model, encoder.prep, {}, {}
    head, mixed, shift = model.head, scrambled(model), place_shift(model.encoder)
    logits = gallery.scores(queries.vectors)
    if only: print('auc', roc_auc(logits, queries.labels, gallery.labels)) # as in the file, if it is the same network
    else: note('-', 'auc', [roc_auc(logits, queries.labels, gallery.labels)]); note('-', 'map@r', [map_at_r(logits, queries.labels, gallery.labels)])
    background = prep(random.Random(0).sample(list(gallery.files), 48))
    def wanted(method): return not only or method in only
    def add(method, measure, value): out.setdefault((method, measure), []).append(value)
    pairs = list(best_pairs(gallery, queries))
    few = set(range(0, len(pairs), max(1, len(pairs)//n_pairs)))
    for n, pair in enumerate(pairs):
        x = prep(list(pair))
        masks = [prep.mask(pets_mask(o)).numpy() for o in pair]
        A, B = encoder_maps(model, x[:1], x[1:])
        large = encoder_maps(model, enlarged(x[:1]), enlarged(x[1:]))
        ways = {k: (lambda f=f: f(head, A, B).placed(shift)) for k, f in of_head.items() if k != 'weights' or head.nf == head.n_hidden}
        ways |= {k: (lambda f=f: f(model, x[:1], x[1:])) for k, f in image_methods.items() if k not in ('occlusion', 'pixels') or n in few}
        ways |= {f'{k}, enlarged': (lambda f=of_head[k]: f(head, *large).placed(shift)) for k in ('hirescam', 'gradcam', 'mean maximum', 'activation')}
        ways |= {'fine, mirrored': lambda: fine_maps(model, x[:1], x[1:], scale=9/7, mirror=True), 'exact, even grid': lambda: of_head['exact'](head, A, B)}
        if n in few: ways['expected'] = lambda: expected_maps(model, x[:1], x[1:], background)
        maps = {k: f() for k, f in ways.items() if wanted(k) or k == 'occlusion'}
        for k, m in maps.items():
            if not wanted(k): continue
            for c, mask in zip((m.a[0], m.b[0]), masks): add(k, 'energy', energy_inside(c, mask)); add(k, 'pointing', pointing_game(c, mask))
            if k in ('exact', 'hirescam', 'fine', 'fine, mirrored', 'sharp', 'pixels', 'expected', 'gradcam'): add(k, 'residual', m.residual().abs().item())
        for mask in masks if not only else (): add('uniform', 'energy', mask.mean()); add('uniform', 'pointing', mask.mean())
        if n not in few: continue
        with torch.no_grad(): v = model.vectors(x)
        occlusion = (maps['occlusion'].a[0], maps['occlusion'].b[0])
        C, D = encoder_maps(mixed, x[:1], x[1:])
        for k, m in maps.items():
            if k in ('mean maximum', 'mean maximum, enlarged', 'centre', 'exact, even grid') or not wanted(k): continue
            for i, (c, o) in enumerate(zip((m.a[0], m.b[0]), occlusion)):
                def score(y): return head.probability(head.pair_logit(model.vectors(y), PairVectors(*(t[1-i:2-i].expand(len(y), -1) for t in v))))
                for mode in ('deletion', 'insertion'): add(k, mode, perturbation_curve(score, x[i], c, mode, steps=steps).area)
                if k != 'occlusion': add(k, 'agrees with occlusion', map_agreement(o, c))
            if k in ('exact', 'gradcam', 'hirescam', 'weights', 'activation', 'fine', 'sharp', 'pixels', 'expected'):
                other = of_head[k](mixed.head, C, D).placed(shift) if k in of_head else pair_maps(mixed, x[:1], x[1:], k, background=background)
                add(k, 'scrambled', np.mean([map_agreement(m.a[0], other.a[0]), map_agreement(m.b[0], other.b[0])]))
        for k, f in {'scoring': lambda: model(x[:1], x[1:]), **{k: (lambda k=k: pair_maps(model, x[:1], x[1:], k, background=background)) for k in ('exact', 'gradcam', 'hirescam', 'fine', 'sharp', 'pixels', 'expected', 'occlusion')},
                     'fine, mirrored': lambda: fine_maps(model, x[:1], x[1:], scale=9/7, mirror=True)}.items():
            if not wanted(k): continue
            start = time.perf_counter()
            with torch.no_grad(): f()
            times.setdefault(k, []).append(time.perf_counter()-start)
    for (method, what), values in out.items(): note(method, what, values)
    for k, o in times.items(): note(k, 'seconds', [np.median(o)])


if __name__ == '__main__': main()
