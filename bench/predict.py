"""Times the article's loop against `predict` on the same two networks: writes bench/predict.csv.

    python bench/predict.py [--size 224 --compare 20 --queries 8]

The weights are random, as they do not change the time: a resnet34 classifier, and the article's siamese model (resnet34 with create_head on both
images' maps). The loop is kinder than the article's: the query is opened and resized once, not once a pair. Both run in turn, query by query.
"""
import argparse, csv, time
from pathlib import Path
import numpy as np, torch
from fastai.vision.learner import create_head
from torch import nn
from torchvision.models import resnet34
from similarity_finder.classifier import classifier_dls, classifier_learner, create_encoder, predict_class
from similarity_finder.doodle import doodle_pets
from similarity_finder.finder import SimilarityFinder
from similarity_finder.pairs import siamese_dls
from similarity_finder.preprocess import Preprocess
from similarity_finder.siamese import SiameseLearner, SiameseModel

here = Path(__file__).parent


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
    clearn = classifier_learner(classifier_dls(files, label, size=a.size, bs=8, num_workers=0), resnet34, pretrained=False)
    clearn.model[1][-1].weight.data.zero_() # it always says Tufted_Mau
    model = SiameseModel(create_encoder(resnet34, pretrained=False), create_head(2*512, 2))
    slearn = SiameseLearner(siamese_dls(files, label, size=a.size, bs=8, num_workers=0), model, loss_func=nn.CrossEntropyLoss())
    x = Preprocess.of(slearn.dls)(files[:16])
    with torch.no_grad():
        for _ in range(10): model(x[:8], x[8:]) # statistics that fit the weights, so that the probabilities differ
    model.eval()
    clearn.model.eval()

    start = time.perf_counter()
    finder = SimilarityFinder(clearn, slearn, files[:a.compare], lambda f: 'Tufted_Mau', progress=False)
    encode = time.perf_counter()-start
    queries, times, diff = files[a.compare:a.compare+a.queries], {'loop': [], 'predict': []}, 0.
    for q in [queries[0], *queries]: # the first is to warm up
        start = time.perf_counter()
        best, preds = loop(slearn, clearn, q, finder.lbl2files, a.compare)
        times['loop'].append(time.perf_counter()-start)
        start = time.perf_counter()
        assert finder.predict(q, a.compare, show=False) == best
        times['predict'].append(time.perf_counter()-start)
        diff = max(diff, np.abs(np.subtract(preds, finder.preds)).max())
    median = {k: float(np.median(v[1:])) for k, v in times.items()}
    rows = [('threads', torch.get_num_threads()), ('size', a.size), ('compare_n', a.compare), ('queries', a.queries),
            ('encoding the gallery, once, s', encode), ('loop, s a query', median['loop']), ('predict, s a query', median['predict']),
            ('ratio', median['loop']/median['predict']), ('largest difference of P(same)', diff), ('range of P(same)', np.ptp(preds))]
    with open(here/'predict.csv', 'w', newline='') as f: csv.writer(f).writerows([('measure', 'value'), *((k, f'{v:.4g}') for k, v in rows)])
    for k, v in rows: print(f'{k:32} {v:.4g}')


if __name__ == '__main__': main()
