"""How many neighbours, and on which side? What does a search with them cost? Writes bench/neighbours.csv, and with --time bench/neighbours_time.csv.

    FASTAI_HOME=... python bench/neighbours.py --weights mobilenet_v2.pth --cache folder
    python bench/neighbours.py --time 1000 10000 [--device cuda]

The choice: the default's networks on the splits of the photographs that the recipe was chosen on (seeds 0 to 2; for new breeds 12 to 17 as well), searched with neighbours of both sides, of the gallery's images alone, of the
query alone, with percentages that are off (temperature and shift of the logits by which neighbours count), and with neighbours that count at most as much as the image itself or a quarter of it, instead of half. 'images': all photographs, or at most so many of a breed (drawn five times; known breeds: a quarter of them queries).
'raw features': their cosines as logits by a fit to the training images.
Time: random vectors as mobilenet_v2's finder keeps them; seconds to find the neighbours of all images (once), and of one query with and without them, the ten best included; medians of 5.
"""
import argparse, csv, time
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from common import here, in_turns, random_encoder, write_csv
from similarity_finder import expansion
from similarity_finder.calibrate import Calibration
from similarity_finder.expansion import Neighbours, augmented, best_neighbours, expanded
from similarity_finder.gallery import Gallery
from similarity_finder.head import PairVectors
from similarity_finder.pairs_matrix import nearest
from similarity_finder.table import Rows

fields = ['protocol', 'seed', 'method', 'neighbours', 'images', 'auc', 'recall@1', 'map@r']
ways = {'none': None, **{f'{k}, both sides': dict(k=k) for k in (1, 2, 3, 5, 10)}, '3, of gallery images': dict(query=False), '3, of the query': dict(gallery=False),
        **{f'3, both sides, {n}': dict(calibration=c) for n, c in (('temperature 2', Calibration(2.)), ('temperature 1/2', Calibration(0.5)), ('2 higher', Calibration(1., 2.)), ('2 lower', Calibration(1., -2.)))},
        **{f'3, both sides, weight {n}': dict(most=n) for n in (0.25, 1.)}}


def scores(p, score, k=3, query=True, gallery=True, calibration=Calibration(), most=expansion.most_weight):
    "(Q, G), of a gallery that is searched with neighbours of queries, of its own images, or of both"
    expansion.most_weight = most
    z, among = (torch.as_tensor(score(o, p.gallery)).double() for o in (p.query, p.gallery))
    near, at = best_neighbours(among, k+1), {o: i for i, o in enumerate(p.gallery)}
    if not gallery: near = Neighbours(near.idxs[:,:0], near.logits[:,:0])
    own = [at.get(o, -1) for o in p.query]
    z = expanded(z, near, lambda i: among[i], k, own, calibration=calibration) if query else augmented(z, near, k, own, calibration)
    return p.scores_of(lambda q, g: z)


def choose(a):
    from protocols import Caches, Protocol, photographs, train
    from quality import as_logits, evenly, methods
    labels, encoder, maps = photographs(a.weights, a.cache)
    caches, rows = Caches(encoder, maps, a.cache), []
    raw = F.normalize(caches('plain', 0)[0].float().mean((2, 3)))
    for protocol, seeds in (('known', range(3)), ('new', (0, 1, 2, *range(12, 18)))):
        for seed in seeds:
            p = Protocol(protocol, labels, seed)
            cosine = lambda q, g: raw[q] @ raw[g].T
            for method, score in (('default', train(p, caches, **methods['default, 24 epochs, kept'])[0]), ('raw features', as_logits(p, cosine))):
                whole = list(range(len(labels)))
                z = torch.as_tensor(score(whole, whole)) # of all, once
                for images in ('all', 12, 4) + ((2,) if protocol == 'new' else ()):
                    ps = [p] if images == 'all' else list(evenly(p, 5, images))
                    for name, how in ways.items():
                        of = (lambda o: o.scores_of(lambda q, g: z[q][:,g])) if how is None else (lambda o: scores(o, lambda q, g: z[q][:,g], **how))
                        m = [o.measures(of(o)) for o in ps]
                        rows.append((protocol, seed, method, name, images, *(f'{np.mean([o[k] for o in m]):.5f}' for k in fields[5:])))
                print(*rows[-1], flush=True)
        write_csv(here/'neighbours.csv', fields, rows)


def timed(a):
    torch.manual_seed(0)
    if a.device == 'cpu': torch.set_num_threads(a.threads)
    encoder, rows = random_encoder('mobilenet_v2', 224), []
    encoder.model.head.add_source(torch.randn(1000, 1280), torch.randn(1000), range(512))
    where = torch.cuda.get_device_name() if a.device == 'cuda' else f'CPU, {a.threads} threads'
    for n in a.time:
        vectors = PairVectors(torch.randn(n, 512), torch.randn(n, 512), torch.cat([F.normalize(torch.randn(n, 1280)), 0.5*F.normalize(torch.rand(n, 512))], 1))
        g = Gallery(encoder, Rows([f'{i}.jpg' for i in range(n)], ['a']*n, np.zeros(n, np.int64), np.zeros(n, np.int64), vectors)).to(a.device)
        query = PairVectors(*(o[:1].cpu() for o in g.vectors))
        if n > 1000: nearest(g.to(a.device), 1, progress=False) if n < 20_000 else None # what is compiled is compiled
        start = time.perf_counter()
        near = nearest(g, 4)
        found = time.perf_counter()-start
        plain = lambda: g.expand(0).search(query, k=10)
        def company():
            g.expand(3)
            g.expansion.keep(g, near)
            return g.search(query, k=10)
        s = in_turns({'alone': plain, 'with neighbours': company}, 5, before=1)
        rows.append((where, n, f'{found:.3f}', f'{s["alone"]:.6f}', f'{s["with neighbours"]:.6f}'))
        print(*rows[-1], flush=True)
    out, header = here/'neighbours_time.csv', ('device', 'images', 'seconds to find neighbours', 'seconds a query alone', 'seconds a query with neighbours')
    before = [tuple(r.values()) for r in csv.DictReader(open(out)) if r['device'] != where] if out.exists() else []
    write_csv(out, header, before + rows)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--weights', help='ImageNet weights of torchvision mobilenet_v2')
    p.add_argument('--cache', type=Path, help='a folder for the cached maps, as of quality.py')
    p.add_argument('--time', type=int, nargs='+', default=(), help='images in the gallery')
    p.add_argument('--device', default='cpu')
    p.add_argument('--threads', type=int, default=2)
    a = p.parse_args()
    if a.time: timed(a)
    else: torch.set_num_threads(1); choose(a)


if __name__ == '__main__': main()
