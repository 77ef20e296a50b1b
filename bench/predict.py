"""Times the article's loop against `predict` on the same two networks: writes bench/predict.csv.

    python bench/predict.py [--size 224 --compare 20 --queries 8]

The weights are random, as they do not change the time: a resnet34 classifier, and the article's siamese model (resnet34 with create_head on both
images' maps). The loop is kinder than the article's: the query is opened and resized once, not once a pair. Both run in turn, query by query.
"""
import argparse
import numpy as np, torch
from torchvision.models import resnet34
from common import article_learners, here, timed, write_csv
from similarity_finder.classifier import predict_class
from similarity_finder.doodle import doodle_pets
from similarity_finder.finder import SimilarityFinder
from similarity_finder.preprocess import Preprocess


def loop(slearn, clearn, fn, lbl2files, compare_n):
    "The article's way: one forward pass of the whole siamese network for each file of the predicted class"
    files = [f for f in lbl2files[predict_class(fn, clearn)] if f != fn][:compare_n]
    x, preds = Preprocess.of(slearn.dls)([fn]), []
    for f in files:
        with torch.no_grad(): preds.append(slearn.model(x, Preprocess.of(slearn.dls)([f])).softmax(1)[0,1].item())
    return files[int(np.argmax(preds))], preds


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--compare', type=int, default=20)
    p.add_argument('--queries', type=int, default=8)
    p.add_argument('--seed', type=int, default=0)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    # all of one breed, so that every query has as many files to be compared with
    files = [f for f in doodle_pets(n=a.compare+a.queries, size=256, progress=False) if f.name.startswith('Tufted_Mau')]
    label = lambda f: 'Tufted_Mau' if files.index(f) < len(files)-1 else 'other'
    clearn, slearn = article_learners(files, label, 'Tufted_Mau', resnet34, a.size)

    encode, finder = timed(lambda: SimilarityFinder(clearn, slearn, files[:a.compare], lambda f: 'Tufted_Mau', progress=False))
    queries, times, diff = files[a.compare:a.compare+a.queries], {'loop': [], 'predict': []}, 0.
    for q in [queries[0], *queries]: # the first is to warm up
        s, (best, preds) = timed(lambda: loop(slearn, clearn, q, finder.lbl2files, a.compare))
        times['loop'].append(s)
        s, found = timed(lambda: finder.predict(q, a.compare, show=False))
        times['predict'].append(s)
        assert found == best
        diff = max(diff, np.abs(np.subtract(preds, finder.preds)).max())
    median = {k: float(np.median(v[1:])) for k, v in times.items()}
    rows = [('threads', torch.get_num_threads()), ('size', a.size), ('compare_n', a.compare), ('queries', a.queries),
            ('encoding the gallery, once, s', encode), ('loop, s a query', median['loop']), ('predict, s a query', median['predict']),
            ('ratio', median['loop']/median['predict']), ('largest difference of P(same)', diff), ('range of P(same)', np.ptp(preds))]
    write_csv(here/'predict.csv', ('measure', 'value'), [(k, f'{v:.4g}') for k, v in rows])
    for k, v in rows: print(f'{k:32} {v:.4g}')


if __name__ == '__main__': main()
