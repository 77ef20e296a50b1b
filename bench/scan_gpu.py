"""Times the exact scan of a gallery that lies on a GPU, for one query: writes bench/scan_gpu.csv.

    python bench/scan_gpu.py [--sizes 100000 1000000 10000000]

Random vectors as mobilenet_v2's finder keeps them: n_hidden = 512, and 1792 numbers for the metric term (1280 channels, 512 source classes); 2816 numbers an image. 'fused' is one compiled loop, 'eager' step by step; both
include picking the ten best. 'read' is what reading the memory costs: the sum of all numbers. Medians of 20, each from a synchronised start to a synchronised end. The largest difference is to the scores of the same vectors on the CPU, of the first 10 000 images.
"""
import argparse
import torch
import torch.nn.functional as F
from common import here, in_turns, write_csv
from similarity_finder.head import PairHead, PairVectors
from similarity_finder.scan import best, pair_scan, scan_weights


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', type=int, nargs='+', default=(100_000, 1_000_000, 10_000_000))
    a = p.parse_args()
    if not torch.cuda.is_available(): raise SystemExit('there is no GPU here')
    torch.manual_seed(0)
    w, rows, numbers = scan_weights(PairHead(1280, 512).eval()), [], 2*512 + 1792
    for n in a.sizes:
        for dtype in (torch.float32, torch.float16):
            if numbers*n*dtype.itemsize > 0.9*torch.cuda.mem_get_info()[0]: print(f'{n:,} images of {dtype} do not fit'); continue
            g = PairVectors(*(torch.empty(n, d, dtype=dtype, device='cuda') for d in (512, 512, 1792)))
            for o in g:
                for part in o.split(100_000): part.copy_(torch.randn(part.shape, device='cuda') if o is not g.e else F.normalize(torch.randn(part.shape, device='cuda')))
            q = PairVectors(torch.randn(1, 512), torch.randn(1, 512), F.normalize(torch.randn(1, 1792)))
            def ended(f): torch.cuda.synchronize(); out = f(); torch.cuda.synchronize(); return out
            ways = {k: lambda fused=fused: ended(lambda: best(pair_scan(q, g, w, fused)[0], 10)) for k, fused in (('fused', True), ('eager', False))}
            times = in_turns(ways | {'read': lambda: ended(lambda: [o.sum() for o in g])}, 20)
            few = g.rows(slice(10_000)).to('cpu')
            expected = pair_scan(q, PairVectors(*(o.float() for o in few)), w, False)[0]
            for k, s in times.items():
                off = '' if k == 'read' else f'{(pair_scan(q, g, w, k == "fused")[0,:10_000].cpu()-expected).abs().max():.1g}'
                rows.append((torch.cuda.get_device_name(), n, str(dtype)[6:], k, numbers, f'{s:.6f}', f'{n*numbers*dtype.itemsize/s/1e9:.0f}', off))
                print(*rows[-1], flush=True)
            del g, ways
            torch.cuda.empty_cache()
        write_csv(here/'scan_gpu.csv', ('device', 'images', 'dtype', 'what', 'numbers', 'seconds', 'GB/s', 'largest difference'), rows)


if __name__ == '__main__': main()
