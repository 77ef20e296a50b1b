"""Memory and time of galleries on disk up to a million images: writes bench/scale.csv.

    python bench/scale.py [--sizes 7390 100000 1000000 --dtypes float32 float16]

Saves a finder (resnet34, 512 hidden units: 1536 numbers an image) with random vectors, and opens it in fresh processes, with the vectors in memory and
left on disk: seconds from the start of Python to the first answer, in parts; the largest memory the process held. Each is run twice and the second
counts, with the files in the system's cache as far as they fit. Then 100 images are added to the gallery of 100,000.
"""
import argparse, json, subprocess, sys, tempfile, time
from pathlib import Path

here = Path(__file__).parent


def largest_memory():
    "The largest memory this process has held, in GB (getrusage would begin with that of the process it was forked from)"
    line = next(o for o in open('/proc/self/status') if o.startswith('VmHWM'))
    return int(line.split()[1])*1024/1e9


def child(folder, query, memory):
    "In a fresh process: open and search"
    t, marks = time.perf_counter(), {}
    def mark(name):
        nonlocal t
        marks[name], t = time.perf_counter()-t, time.perf_counter()
    from similarity_finder import SimilarityFinder
    SimilarityFinder.load # the import is lazy
    mark('importing')
    marks['memory after importing, GB'] = largest_memory()
    finder = SimilarityFinder.load(folder, memory=memory); mark('opening')
    first = finder.search(query, k=10); mark('first answer')
    for _ in range(3): finder.search(query, k=10)
    t = time.perf_counter(); finder.search(query, k=10); mark('a later answer')
    marks['largest memory, GB'] = largest_memory()
    marks['best'] = [(str(m.file), m.logit) for m in first]
    print(json.dumps(marks))


def random_gallery(encoder, n, dtype, rng):
    "A gallery of random vectors, of about the size that trained ones have"
    import numpy as np, torch
    import torch.nn.functional as F
    from similarity_finder.gallery import Gallery
    from similarity_finder.head import PairVectors
    from similarity_finder.table import Rows
    g = torch.Generator().manual_seed(rng)
    v = PairVectors(*(torch.empty(n, 512, dtype=dtype) for _ in range(3)))
    for i in range(0, n, 65536):
        m = min(65536, n-i)
        for o, norm in zip(v, (False, False, True)):
            x = torch.randn(m, 512, generator=g)
            o[i:i+m] = F.normalize(x) if norm else x
    return Gallery(encoder, Rows([f'/gallery/{i:08}.jpg' for i in range(n)], ['Pet']*n, np.zeros(n, np.int64), np.zeros(n, np.int64), v), label_func=None)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', type=int, nargs='+', default=(7390, 100_000, 1_000_000))
    p.add_argument('--dtypes', nargs='+', default=('float32', 'float16'))
    p.add_argument('--child', nargs=3)
    a = p.parse_args()
    if a.child: return child(a.child[0], a.child[1], a.child[2] == 'memory')
    import numpy as np, torch
    from common import gallery_files, random_encoder, timed, write_csv
    from similarity_finder.finder import SimilarityFinder
    rows = []
    def note(n, dtype, vectors, what, value):
        rows.append((n, dtype, vectors, what, f'{value:.4g}'))
        print(f'{n:9,} {dtype} {vectors:8} {what:28} {value:.4g}', flush=True)
        write_csv(here/'scale.csv', ('images', 'dtype', 'vectors', 'what', 'value'), rows)
    encoder = random_encoder()
    with tempfile.TemporaryDirectory() as images:
        files = gallery_files(301, Path(images))
        query, files = files[0], files[1:]
        for n in a.sizes:
            for dtype in a.dtypes:
                with tempfile.TemporaryDirectory() as folder:
                    gallery = random_gallery(encoder, n, getattr(torch, dtype), 0)
                    s, _ = timed(lambda: SimilarityFinder.from_parts(None, gallery).save(folder))
                    note(n, dtype, '-', 'saving, s', s)
                    note(n, dtype, '-', 'on disk, GB', sum(f.stat().st_size for f in Path(folder).rglob('*') if f.is_file())/1e9)
                    del gallery
                    answers = []
                    for where in ('memory', 'disk'):
                        for _ in range(2):
                            start = time.perf_counter()
                            out = subprocess.run([sys.executable, __file__, '--child', folder, str(query), where], capture_output=True, text=True)
                            whole = time.perf_counter()-start
                            if out.returncode: raise RuntimeError(out.stderr[-2000:])
                        marks = json.loads(out.stdout.splitlines()[-1])
                        answers.append(marks.pop('best'))
                        note(n, dtype, where, 'whole process, s', whole)
                        for k, v in marks.items(): note(n, dtype, where, k if k.endswith('GB') else f'{k}, s', v)
                    same = len({f for f, _ in answers[0]} & {f for f, _ in answers[1]})
                    note(n, dtype, '-', 'of the ten best the same', same)
                    if n == 100_000:
                        finder = SimilarityFinder.load(folder)
                        times = {'encoding': [], 'adding': []}
                        for i in range(0, 300, 100):
                            times['encoding'].append(timed(lambda: finder.encoder.encode(files[i:i+100], num_workers=0, progress=False))[0])
                            times['adding'].append(timed(lambda: finder.gallery.add(files[i:i+100], None, num_workers=0, progress=False))[0])
                        assert len(finder.gallery) == n+300
                        for k, v in times.items(): note(n, dtype, 'memory', f'{k} 100, s', float(np.median(v)))
                        note(n, dtype, 'memory', 'adding 100 less encoding, s', float(np.median(np.subtract(times['adding'], times['encoding']))))


if __name__ == '__main__': main()
