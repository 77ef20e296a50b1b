"""Measures every kind of map on photographs of pets with trimaps: writes bench/explain.csv.

    FASTAI_HOME=... python bench/explain.py --weights mobilenet_v2.pth [--seed 0 --pairs 60 --append]

The classifier's mobilenet_v2 is fine-tuned (3 epochs of its head, 8 of all of it), the siamese network's head is trained on its features. Each held-out
query is paired with its best match of the same breed, where both have a trimap. Energy (share of the positive evidence on the animal), pointing game,
areas under the deletion and insertion curves of P(same) and agreement with occlusion are means over both images of the pairs. At --sizes over 224 the
same network looks at larger images: its maps are finer, and it is the score at that size that is explained. Rows to hold the maps against:
'from the average' counts maxima, too, from the average image on; 'activation' is the length of the encoder's vector at each place, which knows nothing of
the partner; 'centre' is a bump in the middle of the image, and 'uniform' the mask's share. 'scrambled' is the agreement of a map with that of the
network after all its weights were put in another order.
"""
import argparse, csv, time
from pathlib import Path
import numpy as np, torch
from fastai.data.transforms import TrainTestSplitter
from fastai.torch_core import set_seed
from torchvision.models import mobilenet_v2
from common import here
from similarity_finder import cam
from similarity_finder.cam import PairMaps, cam_methods, encoder_maps, occlusion_maps
from similarity_finder.classifier import classifier_dls, classifier_learner
from similarity_finder.data import label_func, pets, pets_mask
from similarity_finder.encode import PairEncoder
from similarity_finder.gallery import Gallery
from similarity_finder.faithfulness import energy_inside, map_agreement, perturbation_curve, pointing_game, scrambled
from similarity_finder.metrics import map_at_r, roc_auc
from similarity_finder.pairs import siamese_dls
from similarity_finder.siamese import siamese_learner


def from_the_average(head, A, B):
    "Exact maps with maxima counted from the average image on as well"
    ours, cam.average_image = cam.average_image, lambda head, bn: bn.running_mean
    try: return cam.exact_maps(head, A, B)
    finally: cam.average_image = ours


def plain(f): return lambda head, A, B: PairMaps(f(A), f(B), torch.zeros(len(A)), torch.zeros(len(A)), '')


def bump(A):
    h, w = A.shape[-2:]
    y, x = torch.linspace(-1, 1, h)[:,None], torch.linspace(-1, 1, w)
    return torch.exp(-2*(x*x + y*y)).expand(len(A), h, w)


methods = {**cam_methods, 'from the average': from_the_average, 'activation': plain(lambda A: A.norm(dim=1)), 'centre': plain(bump)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--sizes', type=int, nargs='+', default=(224, 352))
    p.add_argument('--pairs', type=int, default=60, help='how many pairs to measure deletion, insertion and occlusion on; the masks are held against all')
    p.add_argument('--epochs', type=int, nargs=3, default=(3, 8, 30))
    p.add_argument('--network', type=Path, help='keep the trained network here, and use it if it is there')
    p.add_argument('--out', type=Path, default=here/'explain.csv')
    p.add_argument('--append', action='store_true', help='add to the csv file, for a further seed')
    a = p.parse_args()
    if not a.append or not a.out.exists(): a.out.write_text('seed,size,method,measure,value,n\n')
    def note(size, method, measure, values):
        values = np.asarray(values, dtype=float)
        with open(a.out, 'a', newline='') as f: csv.writer(f).writerow((a.seed, size, method, measure, f'{np.nanmean(values):.4f}', len(values)))
        print(f'seed {a.seed}  {size}  {method:18} {measure:22} {np.nanmean(values):.4f}  ({len(values)})', flush=True)

    files = pets()
    labels = [label_func(f) for f in files]
    split = TrainTestSplitter(0.25, random_state=a.seed, stratify=labels)
    train, valid = split(files)
    set_seed(a.seed, reproducible=True)
    common = dict(splitter=split, size=224, bs=32, seed=a.seed, num_workers=2)
    clearn = classifier_learner(classifier_dls(files, **common), mobilenet_v2, weights=a.weights, seed=a.seed)
    slearn = siamese_learner(siamese_dls(files, **common), encoder=clearn.model[0], seed=a.seed)
    if a.network and a.network.exists(): slearn.model.load_state_dict(torch.load(a.network, weights_only=True))
    else:
        clearn.fit_one_cycle(a.epochs[0], 3e-3)
        clearn.unfreeze()
        clearn.fit_one_cycle(a.epochs[1], slice(1e-4, 1e-3))
        slearn.fit_head(a.epochs[2], 1e-3, seed=a.seed)
        if a.network: torch.save(slearn.model.state_dict(), a.network)
    model = slearn.model.eval()
    encoder = PairEncoder(model, slearn.dls)
    gallery, queries = (Gallery.from_files(files[i], encoder, num_workers=2) for i in (train, valid))
    pairs = []
    for f in queries.files:
        if pets_mask(f) is None: continue
        ms = [m.file for m in gallery.search(f, k=20, labels=label_func(f)) if pets_mask(m.file) is not None]
        if ms: pairs.append((f, ms[0]))
    mixed = scrambled(model)
    for size in a.sizes:
        prep = encoder.prep.at_size(size)
        g, q = (PairEncoder(model, prep).encode(list(o.files)).vectors for o in (gallery, queries))
        logits = torch.cat([model.head.all_logits(q.rows(slice(i, i+16)), g) for i in range(0, len(q), 16)]).detach()
        note(size, '-', 'auc', [roc_auc(logits, queries.labels, gallery.labels)])
        note(size, '-', 'map@r', [map_at_r(logits, queries.labels, gallery.labels)])
        out, times = {}, {}
        def add(method, measure, value): out.setdefault((method, measure), []).append(value)
        for n, pair in enumerate(pairs):
            x = prep(list(pair))
            masks = [prep.mask(pets_mask(o)).numpy() for o in pair]
            A, B = encoder_maps(model, x[:1], x[1:])
            maps = {k: f(model.head, A, B) for k, f in methods.items() if k != 'weights' or model.head.nf == model.head.n_hidden}
            for k, m in maps.items():
                for c, mask in zip((m.a[0], m.b[0]), masks):
                    add(k, 'energy', energy_inside(c, mask)); add(k, 'pointing', pointing_game(c, mask))
                if k in ('exact', 'hirescam'): add(k, 'residual', m.residual().abs().item())
            for mask in masks: add('uniform', 'energy', mask.mean())
            if n >= a.pairs: continue
            with torch.no_grad():
                v = model.vectors(x)
                def score(i): return lambda o: torch.sigmoid(model.head.pair_logit(model.vectors(o), type(v)(*(t[1-i:2-i].expand(len(o), -1) for t in v))))
                occlusion = occlusion_maps(model, x[:1], x[1:])
                C, D = encoder_maps(mixed, x[:1], x[1:])
            maps['occlusion'] = occlusion
            for c, mask in zip((occlusion.a[0], occlusion.b[0]), masks): add('occlusion', 'energy', energy_inside(c, mask)); add('occlusion', 'pointing', pointing_game(c, mask))
            for k, m in maps.items():
                for i, (c, o) in enumerate(((m.a[0], occlusion.a[0]), (m.b[0], occlusion.b[0]))):
                    for mode in ('deletion', 'insertion'): add(k, mode, perturbation_curve(score(i), x[i], c, mode).area)
                    if k != 'occlusion': add(k, 'agrees with occlusion', map_agreement(o, c))
                if k in cam_methods:
                    other = cam_methods[k](mixed.head, C, D)
                    add(k, 'scrambled', np.mean([map_agreement(m.a[0], other.a[0]), map_agreement(m.b[0], other.b[0])]))
            if n < 30: # what it costs: scoring the pair, and explaining it
                ways = {'scoring': lambda: model(x[:1], x[1:])} | {k: (lambda k=k: cam.pair_maps(model, x[:1], x[1:], k)) for k in ('exact', 'gradcam')}
                for k, f in ways.items():
                    start = time.perf_counter()
                    with torch.no_grad(): f()
                    times.setdefault(k, []).append(time.perf_counter()-start)
        for (method, measure), values in out.items(): note(size, method, measure, values)
        for k, v in times.items(): note(size, k, 'seconds', [np.median(v)])


if __name__ == '__main__': main()
