"""Trains both networks on Oxford pets photographs and measures them on images held out: writes bench/pets.csv.

    FASTAI_HOME=... python bench/pets.py --weights mobilenet_v2.pth

Known breeds: a quarter of each breed's images held out; they are the queries, the others the gallery. New breeds: a quarter of the breeds
held out of training altogether; each of their images is a query among all the others of those breeds.
"""
import argparse, csv, time
from pathlib import Path
import numpy as np, torch
from PIL import Image
from fastai.data.transforms import TrainTestSplitter
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize
from torchvision.models import mobilenet_v2
from similarity_finder.cam import pair_maps
from similarity_finder.classifier import classifier_dls, classifier_learner
from similarity_finder.data import ClassSplitter, label_func, pets, pets_mask
from similarity_finder.encode import PairEncoder
from similarity_finder.evidence import cam_methods
from similarity_finder.finder import SimilarityFinder
from similarity_finder.gallery import Gallery
from similarity_finder.faithfulness import energy_inside, pointing_game
from similarity_finder.metrics import map_at_r, recall_at_k, roc_auc
from similarity_finder.pairs import siamese_dls
from similarity_finder.preprocess import Preprocess
from similarity_finder.siamese import siamese_learner

here = Path(__file__).parent


def mask_as_seen(f, size):
    "The animal's mask, scaled and cropped as the network sees the image"
    mask = pets_mask(f)
    if mask is None: return None
    return np.asarray(Resize(size)(Image.fromarray(mask.astype(np.uint8)*255), split_idx=1)) > 127


def retrieval(gallery, vectors, query_labels, itself=None):
    "AUC, R@1 and MAP@R of queries in a gallery"
    logits = torch.cat([gallery.scores(vectors.rows(slice(i, i+32))) for i in range(0, len(vectors), 32)])
    if itself is not None: logits[torch.arange(len(logits)), itself] = -torch.inf
    return {'auc': roc_auc(logits, query_labels, gallery.labels), 'recall@1': recall_at_k(logits, query_labels, gallery.labels),
            'map@r': map_at_r(logits, query_labels, gallery.labels)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--classifier-size', type=int, help="the classifier's; by default the same")
    p.add_argument('--maps', type=int, help='for how many queries to measure maps; by default for all that have a trimap')
    p.add_argument('--epochs', type=int, nargs=2, default=(4, 30), help='of the classifier, with the encoder frozen, and of the heads of the siamese networks')
    p.add_argument('--out', type=Path, default=here/'pets.csv', help='the csv file to write')
    p.add_argument('--append', action='store_true', help='add to the csv files, for a further seed')
    a = p.parse_args()
    maps, fname = [], a.out
    if not a.append or not fname.exists(): fname.write_text('seed,what,measure,value\n')
    def note(what, **values):
        with open(fname, 'a', newline='') as f:
            for k, v in values.items():
                csv.writer(f).writerow((a.seed, what, k, round(float(v), 4)))
                print(f'seed {a.seed}  {what:28} {k:12} {v:.4f}', flush=True)

    files = pets()
    labels = [label_func(f) for f in files]
    split = TrainTestSplitter(0.25, random_state=a.seed, stratify=labels)
    train, valid = split(files)
    set_seed(a.seed, reproducible=True)
    common = dict(seed=a.seed, num_workers=2)
    csize = a.classifier_size or a.size

    start = time.time()
    clearn = classifier_learner(classifier_dls(files, splitter=split, size=csize, bs=32, **common), mobilenet_v2, weights=a.weights, seed=a.seed)
    clearn.fit_one_cycle(a.epochs[0], 3e-3)
    probs, y = clearn.get_preds()
    right = (probs.argmax(1) == y).float()
    note('classifier, known breeds', accuracy=right.mean(), balanced_accuracy=np.mean([right[y == c].mean() for c in y.unique()]), seconds=time.time()-start)

    start = time.time()
    slearn = siamese_learner(siamese_dls(files, splitter=split, size=a.size, bs=32, **common), encoder=clearn.model[0], seed=a.seed)
    slearn.fit_head(a.epochs[1], 1e-3, seed=a.seed)
    seconds = time.time()-start
    finder = SimilarityFinder(clearn, slearn, files[train], num_workers=2)
    queries = Gallery.from_files(files[valid], PairEncoder(slearn.model, slearn.dls), num_workers=2)
    note('siamese, known breeds', **retrieval(finder.gallery, queries.vectors, queries.labels), seconds=seconds)
    found = [label_func(finder.predict(f, compare_n=15, show=False)) == label_func(f) for f in queries.files]
    by_breed = [np.mean([o for o, f in zip(found, queries.files) if label_func(f) == b]) for b in sorted(set(queries.labels))]
    note('predict(compare_n=15)', right_breed=np.mean(found), right_breed_balanced=np.mean(by_breed), queries=len(found))

    # the evidence for each query and its best match of the same breed, where both have a trimap
    for f in queries.files:
        if a.maps is not None and len({o['query'] for o in maps}) >= a.maps: break
        ms = [m for m in finder.search(f, k=20, labels=label_func(f)) if pets_mask(m.file) is not None]
        if pets_mask(f) is None or not ms: continue
        pair = [f, ms[0].file]
        x = Preprocess.of(slearn.dls)(pair)
        masks = [mask_as_seen(o, a.size) for o in pair]
        for method in cam_methods:
            try: m = pair_maps(slearn.model, x[:1], x[1:], method)
            except ValueError: continue # 'weights' refuses where the sizes differ
            for cam, mask in zip((m.a[0], m.b[0]), masks):
                maps.append({'query': f, 'method': method, 'energy': energy_inside(cam, mask), 'pointing': float(pointing_game(cam, mask)),
                             'uniform': mask.mean(), 'residual': m.residual().abs().item()})
    for method in sorted({o['method'] for o in maps}):
        of = [o for o in maps if o['method'] == method]
        note(f'maps, {method}', energy=np.nanmean([o['energy'] for o in of]), pointing=np.mean([o['pointing'] for o in of]),
             uniform=np.mean([o['uniform'] for o in of]), residual=max(o['residual'] for o in of), images=len(of))

    # breeds that the network has never seen; its encoder has not seen them as a classifier either
    start = time.time()
    split = ClassSplitter(valid_pct=0.25, seed=a.seed)
    train, valid = split(files)
    slearn = siamese_learner(siamese_dls(files, splitter=split, size=a.size, bs=32, **common), mobilenet_v2, weights=a.weights, seed=a.seed)
    slearn.fit_head(a.epochs[1], 1e-3, seed=a.seed)
    seconds = time.time()-start
    new = Gallery.from_files(files[valid], PairEncoder(slearn.model, slearn.dls), num_workers=2)
    note('siamese, new breeds', **retrieval(new, new.vectors, new.labels, itself=torch.arange(len(new))), breeds=len(set(new.labels)), images=len(new), seconds=seconds)


if __name__ == '__main__': main()
