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
from fastai.vision.learner import create_head
from torch import nn
from common import gallery_files, here, timed, write_csv
from predict import loop
from similarity_finder.classifier import classifier_dls, classifier_learner, create_encoder
from similarity_finder.finder import SimilarityFinder
from similarity_finder.gallery import Gallery
from similarity_finder.pairs import siamese_dls
from similarity_finder.preprocess import Preprocess
from similarity_finder.siamese import SiameseLearner, SiameseModel

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
        rows.append((a.arch, torch.get_num_threads(), n, what, f'{seconds:.5f}', diff and f'{diff:.2g}'))
        print(f'{n:6,} {what:24} {seconds*1e3:12.2f} ms a query   {rows[-1][-1]}', flush=True)
        write_csv(a.out, ('arch', 'threads', 'images', 'what', 'seconds', 'largest difference of P(same) to the loop'), rows)
    with tempfile.TemporaryDirectory() as folder:
        files = gallery_files(max(a.sizes)+5, Path(folder), a.photographs)
        files, queries = files[:-5], files[-5:]
        label = lambda f: 'other' if Path(f) == Path(files[0]) else 'Pet' # a learner needs two
        clearn = classifier_learner(classifier_dls(files[:40], label, size=a.size, bs=8, num_workers=0), arch, pretrained=False)
        clearn.model[1][-1].weight.data.zero_() # it always says the same
        clearn.model[1][-1].bias = nn.Parameter(torch.tensor([float(o == 'Pet') for o in clearn.dls.vocab]))
        encoder = create_encoder(arch, pretrained=False)
        with torch.no_grad(): channels = encoder(torch.zeros(2, 3, 64, 64)).shape[1]
        model = SiameseModel(encoder, create_head(2*channels, 2))
        slearn = SiameseLearner(siamese_dls(files[:40], label, size=a.size, bs=8, num_workers=0), model, loss_func=nn.CrossEntropyLoss())
        x = Preprocess.of(slearn.dls)(files[:16])
        with torch.no_grad():
            for _ in range(10): model(x[:8], x[8:]) # statistics that fit the weights, so that the probabilities differ
        model.eval(); clearn.model.eval()
        seconds, finder = timed(lambda: SimilarityFinder(clearn, slearn, files, lambda f: 'Pet', progress=False))
        note(len(files), 'indexing, an image', seconds/len(files))
        everything = finder.gallery.rows
        for n in a.sizes:
            finder.gallery = Gallery(finder.encoder, everything.take(range(n)))
            finder.search(queries[0]); finder.predict(queries[0], n, show=False); loop(slearn, clearn, queries[0], finder.lbl2files, 3) # to warm up
            times = {}
            for q in queries[:queries_of(n)]:
                preds = None
                if n <= a.loop_up_to:
                    s, (_, preds) = timed(lambda: loop(slearn, clearn, q, finder.lbl2files, n))
                    times.setdefault("the article's loop", []).append((s, 0))
                s, best = timed(lambda: finder.predict(q, n, show=False))
                times.setdefault('predict', []).append((s, np.abs(np.subtract(preds, finder.preds)).max() if preds else 0))
            for q in [*queries, *queries]:
                s, _ = timed(lambda: finder.encoder([q]))
                times.setdefault('encoding the query', []).append((s, 0))
                s, found = timed(lambda: finder.search(q, k=n))
                times.setdefault('search', []).append((s, 0))
                if q == queries[0] and preds and len(finder.preds) == n:
                    again = {m.file: m.probability for m in found}
                    if queries_of(n) == 1: times['search'][-1] = (s, max(abs(again[f]-pr) for f, pr in zip(files[:n], preds)))
                s, _ = timed(lambda: finder.search(q, k=10))
                times.setdefault('search, ten best', []).append((s, 0))
            for what, t in times.items(): note(n, what, float(np.median([s for s, _ in t])), max(d for _, d in t))


if __name__ == '__main__': main()
