"""The library's own recipe on larger images and for more epochs: writes bench/larger.csv. What is there already is not measured again. Made for a GPU, one process for each split.

    FASTAI_HOME=... python bench/larger.py --weights mobilenet_v2.pth [--sizes 224 320 448 --epochs 24 72 --seeds 3 4 5]

`--sizes 224 --epochs 24 --seeds 3 4 5 6 7 8 9 10 11 --neighbours --out bench/library.csv` is the library itself, from the files to the search (its head learned on from all seven views then, today from two); `--protocols new --seeds 54 ... 71` are splits of new breeds that nothing was measured on before, and so were 36 ... 53, of which `--most 1 --out bench/library_whole.csv` is: neighbours that count up to as much as the image itself, an earlier form.
Splits as in quality.py, and `fit_head` as in encoders.py: its head and the last two blocks of mobilenet_v2, on six augmented views; the rows in larger.csv are of an earlier form of its votes: those of the blocks as they were alone, vote=(0.05, 0.4), in place of the features instead of beside them. 'seconds' are those of one split from the first file to the last measure, with as many splits at work as there are processes.
"""
import argparse, csv, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import torch
from torchvision.models import mobilenet_v2
from common import here
from encoders import measured
from protocols import Protocol
from similarity_finder import expansion
from similarity_finder.data import label_func, pets


def one(protocol, seed, size, epochs, weights, neighbours, most):
    torch.set_num_threads(1)
    expansion.most_weight = most
    start = time.perf_counter()
    files = pets()
    out, _ = measured(Protocol(protocol, [label_func(f) for f in files], seed), files, mobilenet_v2, weights, size, epochs=epochs, neighbours=neighbours)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    out['default']['seconds'] = time.perf_counter()-start
    return [(size, epochs, protocol, seed, m, k, f'{v:.5f}', device) for m, o in out.items() for k, v in o.items()]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    a.add_argument('--sizes', type=int, nargs='+', default=[224, 320, 448], help='height and width of the images, in pixels')
    a.add_argument('--epochs', type=int, nargs='+', default=[24, 72])
    a.add_argument('--seeds', type=int, nargs='+', default=[3, 4, 5])
    a.add_argument('--protocols', nargs='+', default=['new', 'known'])
    a.add_argument('--neighbours', action='store_true', help='search with neighbours as well')
    a.add_argument('--most', type=float, default=expansion.most_weight, help='a neighbour counts at most so much, the image itself being 1')
    a.add_argument('--processes', type=int, default=14, help='splits at a time')
    a.add_argument('--out', type=Path, default=here/'larger.csv')
    a = a.parse_args()
    if not a.out.exists(): a.out.write_text('size,epochs,protocol,seed,method,measure,value,device\n')
    done = {(r['protocol'], int(r['seed']), int(r['size']), int(r['epochs'])) for r in csv.DictReader(open(a.out))}
    wanted = [k for k in ((p, s, size, n) for n in a.epochs for size in a.sizes for s in a.seeds for p in a.protocols) if k not in done]
    with ProcessPoolExecutor(a.processes, get_context('spawn'), max_tasks_per_child=1) as pool:
        for rows in pool.map(one, *zip(*(k + (a.weights, a.neighbours, a.most) for k in wanted))):
            with open(a.out, 'a', newline='') as f: csv.writer(f, lineterminator='\n').writerows(rows)
            print(*rows[0][:4], {f'{r[4]} {r[5]}': r[6] for r in rows if r[5] in ('auc', 'map@r', 'recall@1', 'seconds')}, flush=True)


if __name__ == '__main__': main()
