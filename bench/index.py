"""Times indexing: `Gallery.add` against the bare encoder on tensors in memory, and where the time goes: writes bench/index.csv.

    python bench/index.py [--images 1000 --archs resnet34 mobilenet_v2 --photographs FOLDER]

'bare encoder' is the network and its head on batches of 64 prepared tensors. Decoding (open, resize, crop) is timed alone in one process and in as
many as there are cores. 'bound' is what no order of work on these cores can beat: decoding spread over all cores, plus the bare encoder, which
uses all cores as well; with a GPU it would be the larger of the two. Medians of --repeat runs, turn by turn. Files are JPEGs of 500 x 375, cut from
--photographs or from drawn pets; both take as long to decode.
"""
import argparse, os, tempfile
from pathlib import Path
import torch
from torch.utils.data import DataLoader
from common import gallery_files, here, in_turns, random_encoder, write_csv
from similarity_finder.encode import _Files, _collate
from similarity_finder.gallery import Gallery


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--images', type=int, default=1000)
    p.add_argument('--archs', nargs='+', default=('resnet34', 'mobilenet_v2'))
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--repeat', type=int, default=5)
    p.add_argument('--photographs', type=Path, help='folder of image files')
    a = p.parse_args()
    cores, rows = len(os.sched_getaffinity(0)), []
    with tempfile.TemporaryDirectory() as folder:
        files = gallery_files(a.images, Path(folder), a.photographs)
        for arch in a.archs:
            encoder = random_encoder(arch, a.size)
            tensors = [torch.stack([encoder.prep.item(f) for f in files[i:i+64]]) for i in range(0, len(files), 64)]
            def decode(n): return [None for _ in DataLoader(_Files(files, encoder.prep), 64, num_workers=n, collate_fn=_collate, prefetch_factor=4 if n else None)]
            def on_disk():
                with tempfile.TemporaryDirectory() as table:
                    return Gallery.open(table, encoder, create=True).add(files, label_func=None, progress=False)
            ways = {'bare encoder': lambda: [encoder.tensors(x) for x in tensors],
                    'decoding, one process': lambda: decode(0), f'decoding, {cores} processes': lambda: decode(cores),
                    'add, decoding in turn': lambda: Gallery(encoder).add(files, None, num_workers=0, progress=False),
                    'add': lambda: Gallery(encoder).add(files, None, progress=False), 'add, to disk': on_disk}
            encoder.tensors(tensors[0])
            times = {k: s/len(files) for k, s in in_turns(ways, a.repeat, warm=0).items()}
            times['bound'] = times['bare encoder'] + times[f'decoding, {cores} processes']
            for k, s in times.items():
                rows.append((arch, torch.get_num_threads(), len(files), k, f'{s:.5f}', f'{times["bare encoder"]/s:.3f}'))
                print(f'{arch:14} {k:26} {s*1e3:8.2f} ms an image, {times["bare encoder"]/s:.2f} of the bare encoder\'s speed', flush=True)
    write_csv(here/'index.csv', ('arch', 'threads', 'images', 'what', 'seconds an image', 'speed relative to the bare encoder'), rows)


if __name__ == '__main__': main()
