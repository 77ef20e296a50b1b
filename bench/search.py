"""Times the article's loop, `predict` and `search` for galleries of several sizes on the same networks: writes bench/search.csv.

    python bench/search.py [--sizes 20 200 2000 7390 --arch resnet34]

A query is compared with every image of the gallery: by the article's loop (one pass of the siamese network for each gallery image, which encodes query and
gallery image again), by `predict` (classifier, vectors from the gallery) and by `search`. The files are as many different JPEGs of 500 x 375
pixels, about the size of the Oxford pets, made by cutting and flipping --photographs (default: drawn pets). The weights are random and do not change
the time. The loop opens and resizes the query once, which is kinder than the article. One query for galleries over 200, the loop being slow; medians.
"""
import argparse, tempfile
from pathlib import Path
import numpy as np, torch, torchvision
from common import article_learners, gallery_files, here, timed, write_csv
from predict import loop
from similarity_finder.finder import SimilarityFinder
from similarity_finder.gallery import Gallery


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', type=int, nargs='+', default=(20, 200, 2000, 7390))
    p.add_argument('--loop-up-to', type=int, default=10**9, help='the largest gallery that the loop is run on')
    p.add_argument('--arch', default='resnet34')
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--photographs', type=Path, help='folder of image files')
    p.add_argument('--out', type=Path, default=here/'search.csv')
    a = p.parse_args()
    arch, queries_of = getattr(torchvision.models, a.arch), lambda n: 5 if n <= 200 else 1
    torch.manual_seed(0)
    rows = []
    def note(n, what, seconds, diff=''):
        rows.append((a.arch, torch.get_num_threads(), n, what, f'{seconds:.5f}', diff if diff == '' else f'{diff:.2g}'))
        print(f'{n:6,} {what:24} {seconds*1e3:12.2f} ms a query   {rows[-1][-1]}', flush=True)
        write_csv(a.out, ('arch', 'threads', 'images', 'what', 'seconds', 'largest difference of P(same) to the loop'), rows)
    with tempfile.TemporaryDirectory() as folder:
        files = gallery_files(max(a.sizes)+5, Path(folder), a.photographs)
        files, queries = files[:-5], files[-5:]
        label = lambda f: 'other' if Path(f) == Path(files[0]) else 'Pet' # a learner needs two
        clearn, slearn = article_learners(files[:40], label, 'Pet', arch, a.size)
        seconds, finder = timed(lambda: SimilarityFinder(clearn, slearn, files, lambda f: 'Pet', progress=False))
        note(len(files), 'indexing, an image', seconds/len(files))
        everything = finder.gallery.rows
        for n in a.sizes:
            finder.gallery = Gallery(finder.encoder, everything.take(range(n)))
            finder.search(queries[0]); finder.predict(queries[0], n, show=False); loop(slearn, clearn, queries[0], finder.lbl2files, 3) # to warm up
            times, diffs, answers = {}, {}, {}
            for q in queries[:queries_of(n)]:
                preds = None
                if n <= a.loop_up_to:
                    s, (_, preds) = timed(lambda: loop(slearn, clearn, q, finder.lbl2files, n))
                    times.setdefault("the article's loop", []).append(s)
                    answers[q] = dict(zip(files[:n], preds))
                s, best = timed(lambda: finder.predict(q, n, show=False))
                times.setdefault('predict', []).append(s)
                if preds:
                    diffs.setdefault('predict', []).append(np.abs(np.subtract(preds, finder.preds)).max())
                    assert np.ptp(preds) > 1e-3 and answers[q][best] > max(preds)-1e-4 # they differ, and the best is the same but for rounding
            for q in [*queries, *queries]:
                times.setdefault('encoding the query', []).append(timed(lambda: finder.encoder([q]))[0])
                s, found = timed(lambda: finder.search(q, k=n))
                times.setdefault('search', []).append(s)
                if q in answers: diffs.setdefault('search', []).append(max(abs(m.probability-answers[q][m.file]) for m in found))
                times.setdefault('search, ten best', []).append(timed(lambda: finder.search(q, k=10))[0])
            for what, t in times.items(): note(n, what, float(np.median(t)), max(diffs[what]) if what in diffs else '')


if __name__ == '__main__': main()
