"""Times the exact scan of a gallery for one query against FAISS's flat index on as many numbers: writes bench/scan.csv.

    pip install faiss-cpu
    python bench/scan.py [--sizes 10000 100000 1000000 --threads 2]

Random vectors of n_hidden = 512 and C = 512 (as a resnet34 gives them). 'symmetric' reads u, v and e, 1536 numbers an image; 'one order' v and e, 1024;
FAISS takes an inner product of vectors of that length, on as many threads. Scans include picking the ten best, as FAISS does. 'read' is what reading the
memory costs: the sum of all numbers or the sum of their squares, whichever is faster. All take turns; medians. The largest difference is to the scores
of the scan in steps ('eager', fp32), and of its ten best as many are found as the last column says. A million images take 17 GB.
"""
import argparse
import numpy as np, torch
import torch.nn.functional as F
from common import here, in_turns, write_csv
from similarity_finder.head import PairHead, PairVectors
from similarity_finder.scan import best, pair_scan, scan_weights


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', type=int, nargs='+', default=(10_000, 100_000, 1_000_000))
    p.add_argument('--threads', type=int, default=2)
    a = p.parse_args()
    import faiss # before any work: it may be missing
    torch.set_num_threads(a.threads); faiss.omp_set_num_threads(a.threads)
    torch.manual_seed(0)
    rows = []
    for n in a.sizes:
        g = PairVectors(torch.randn(n, 512), torch.randn(n, 512), F.normalize(torch.randn(n, 512)))
        q = PairVectors(torch.randn(1, 512), torch.randn(1, 512), F.normalize(torch.randn(1, 512)))
        half = PairVectors(*(o.half() for o in g))
        for name, symmetric in (('symmetric', True), ('one order', False)):
            w = scan_weights(PairHead(512, 512, symmetric=symmetric).eval())
            read = list(g if symmetric else g[1:])
            numbers = 512*len(read)
            index = faiss.IndexFlatIP(numbers)
            for i in range(0, n, 50_000): index.add(torch.cat([o[i:i+50_000] for o in read], 1).numpy())
            one = np.random.default_rng(0).standard_normal((1, numbers)).astype('f')
            scans = {'fused': (g, True), 'eager': (g, False), 'fused fp16': (half, True)}
            ways = {k: lambda v=v, fused=fused: best(pair_scan(q, v, w, fused)[0], 10) for k, (v, fused) in scans.items()}
            ways |= {'sum': lambda: [o.sum() for o in read], 'squares': lambda: [torch.dot(o.view(-1), o.view(-1)) for o in read],
                     'FAISS flat': lambda: index.search(one, 10)}
            times = in_turns(ways, 20 if n <= 100_000 else 7, before=1) # threads of the one before may still be spinning
            times['read'] = min(times.pop('sum'), times.pop('squares'))
            scores = {k: pair_scan(q, v, w, fused)[0] for k, (v, fused) in scans.items()}
            for k, s in times.items():
                rate = n*numbers*(2 if 'fp16' in k else 4)/s/1e9
                same = (f'{(scores[k]-scores["eager"]).abs().max():.1g}', len({*best(scores[k], 10).tolist()} & {*best(scores['eager'], 10).tolist()})) if k in scores else ('', '')
                rows.append((n, a.threads, f'{name}, {k}', numbers, f'{s:.5f}', f'{rate:.2f}', *same))
                print(f'{n:9,} {name+", "+k:28} {numbers:5} numbers {s*1e3:9.2f} ms {rate:6.1f} GB/s', *same, flush=True)
            write_csv(here/'scan.csv', ('images', 'threads', 'what', 'numbers', 'seconds', 'GB/s', 'largest difference', 'of the ten best the same'), rows)
            del index, ways


if __name__ == '__main__': main()
