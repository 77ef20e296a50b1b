"""Times the exact scan of a gallery for one query against FAISS's flat index on as many numbers: writes bench/scan.csv.

    pip install faiss-cpu
    python bench/scan.py [--sizes 10000 100000 1000000 --threads 2]

Random vectors of n_hidden = 512 and C = 512 (as a resnet34 gives them). 'symmetric' reads u, v and e, 1536 numbers an image; 'one order' v and e, 1024;
FAISS takes an inner product of vectors of that length. 'read' is the sum of all numbers: what reading the memory costs. Medians; all in one run.
"""
import argparse, csv, time
from pathlib import Path
import numpy as np, torch
import torch.nn.functional as F
from similarity_finder.head import PairHead, PairVectors
from similarity_finder.scan import pair_scan, scan_weights

here = Path(__file__).parent


def median(f, n):
    "Seconds of a call: the median of n after two to warm up"
    f(); f()
    times = []
    for _ in range(n):
        start = time.perf_counter(); f(); times.append(time.perf_counter()-start)
    return float(np.median(times))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', type=int, nargs='+', default=(10_000, 100_000, 1_000_000))
    p.add_argument('--threads', type=int, default=2)
    a = p.parse_args()
    import faiss # before any work: it may be missing
    torch.set_num_threads(a.threads); faiss.omp_set_num_threads(a.threads)
    torch.manual_seed(0)
    rows = []
    def note(n, what, numbers, seconds, nbytes):
        rows.append((n, a.threads, what, numbers, f'{seconds:.5f}', f'{nbytes/seconds/1e9:.2f}'))
        print(f'{n:9,} {what:28} {numbers:5} numbers {seconds*1e3:9.2f} ms {nbytes/seconds/1e9:6.1f} GB/s', flush=True)
    for n in a.sizes:
        repeat = 20 if n <= 100_000 else 7
        g = PairVectors(torch.randn(n, 512), torch.randn(n, 512), F.normalize(torch.randn(n, 512)))
        q = PairVectors(torch.randn(1, 512), torch.randn(1, 512), F.normalize(torch.randn(1, 512)))
        for name, symmetric in (('symmetric', True), ('one order', False)):
            w = scan_weights(PairHead(512, 512, symmetric=symmetric).eval())
            read = list(g if symmetric else g[1:])
            numbers = 512*len(read)
            best = {}
            for kind, fused in (('fused', True), ('eager', False)):
                if kind == 'eager' and n > 100_000: continue
                note(n, f'{name}, {kind}', numbers, median(lambda: pair_scan(q, g, w, fused), repeat), n*numbers*4)
                best[kind] = pair_scan(q, g, w, fused)[0].topk(10).indices.tolist()
            half = PairVectors(*(o.half() for o in g))
            note(n, f'{name}, fused fp16', numbers, median(lambda: pair_scan(q, half, w, True), repeat), n*numbers*2)
            best['fp16'] = pair_scan(q, half, w, True)[0].topk(10).indices.tolist()
            del half
            print('          the same ten best:', {k: len(set(v) & set(best['fused'])) for k, v in best.items()})
            note(n, f'{name}, read', numbers, median(lambda: [o.sum() for o in read], repeat), n*numbers*4)
            index = faiss.IndexFlatIP(numbers)
            for i in range(0, n, 50_000): index.add(torch.cat([o[i:i+50_000] for o in read], 1).numpy())
            one = np.random.default_rng(0).standard_normal((1, numbers)).astype('f')
            note(n, f'{name}, FAISS flat', numbers, median(lambda: index.search(one, 10), repeat), n*numbers*4)
            del index
    with open(here/'scan.csv', 'w', newline='') as f:
        csv.writer(f).writerows([('images', 'threads', 'what', 'numbers', 'seconds', 'GB/s'), *rows])


if __name__ == '__main__': main()
