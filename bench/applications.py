"""Clusters measured: writes bench/applications.csv, each part its own rows.

    FASTAI_HOME=... python bench/applications.py breeds --weights mobilenet_v2.pth [--seeds 3 4 5]
    python bench/applications.py scale [--sizes 1000 3000 10000 --threads 2]
    python bench/applications.py copies

breeds: a third of the breeds of the Oxford pets is left out of training (another third for each seed). The head and the encoder's last two blocks are trained on all pairs
of the other breeds, as `train_finder` does it by default; with --frozen the head alone (rows 'breeds, frozen encoder'). Then the images of the breeds left out are clustered: by P(same), by k-means (which is told the number of breeds) and by HDBSCAN on the pooled features,
of length 1, of the encoder as ImageNet left it, and of the trained one ('tuned features'). Agreement with the breeds: adjusted Rand index (ARI) and normalised mutual information (NMI); each image in no cluster counts as a cluster of its own. 'balanced' keeps at most
16 images of a breed (three breeds have 160). Seeds 0 to 2 were used to choose the method and its defaults, so they are not reported.
scale: vectors of a mixture of a hundred groups, as long as those of mobilenet_v2 with 512 hidden units; each size in a process of its own.
copies: re-encoded, resized and cropped copies among drawings of 15 breeds, 10 of which the network learned from: how alike copies are, and breed mates.
"""
import argparse, csv, json, subprocess, sys, tempfile
from pathlib import Path
import numpy as np, torch
from torch import nn
from common import here, timed

out = here/'applications.csv'
header = ['part', 'seed', 'what', 'measure', 'value']


def note(part, rows):
    "Replace a part's rows in the csv file"
    old = [r for r in csv.reader(open(out, newline=''))][1:] if out.exists() else []
    with open(out, 'w', newline='') as f: csv.writer(f).writerows([header, *(r for r in old if r[0] != part), *((part, *r) for r in rows)])


def alone(groups):
    "Each image in no cluster as a cluster of its own"
    groups = np.array(groups)
    none = groups == -1
    groups[none] = groups.max() + 1 + np.arange(none.sum())
    return groups


def breeds(a):
    from scipy.cluster.hierarchy import fcluster, linkage
    from sklearn.cluster import HDBSCAN, KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from fastai.torch_core import set_seed
    from torchvision.models import mobilenet_v2
    from similarity_finder.classifier import create_encoder
    from similarity_finder.cluster import cluster
    from similarity_finder.data import ClassSplitter, label_func, pets
    from similarity_finder.encode import PairEncoder
    from similarity_finder.gallery import Gallery
    from similarity_finder.pairs import siamese_dls
    from similarity_finder.propagate import propagate
    from similarity_finder.siamese import siamese_learner
    files, rows = pets(), []
    encoder = create_encoder(mobilenet_v2, weights=a.weights).eval()
    @torch.no_grad()
    def features(net, prep, files): return nn.functional.normalize(torch.cat([net(prep(files[i:i+32])).mean((2, 3)) for i in range(0, len(files), 32)])).numpy()
    for seed in a.seeds:
        split = ClassSplitter(valid_pct=1/3, seed=seed)
        _, valid = split(files)
        dls = siamese_dls(files, splitter=split, size=224, bs=32, seed=seed, num_workers=0)
        set_seed(seed, reproducible=True)
        learn = siamese_learner(dls, encoder=encoder, seed=seed)
        with learn.no_bar(): learn.fit_head(30, 1e-3, seed=seed) if a.frozen else learn.fit_head(24, 1e-3, bs=64, blocks=2, views=6, seed=seed)
        pair = PairEncoder(learn.model, learn.dls)
        for what, cap in (('all', 10**6), ('balanced', 16)):
            count, keep = {}, []
            for f in files[valid]:
                count[label_func(f)] = count.get(label_func(f), 0) + 1
                if count[label_func(f)] <= cap: keep.append(f)
            gallery = Gallery.from_files(keep, pair, num_workers=0, progress=False)
            x, tuned = (features(net, pair.prep, keep) for net in (encoder, getattr(learn.model.encoder, 'trained', learn.model.encoder)))
            y, k = np.array(gallery.labels), len(set(gallery.labels))
            ours = lambda **kw: (lambda c: dict(zip(map(str, c.files), c.labels)))(cluster(gallery, progress=False, **kw))
            in_order = lambda d: np.array([d[p] for p in gallery.rows.paths])
            found = {'P(same), default': in_order(ours()), 'P(same), no neighbours': in_order(ours(neighbours=0)),
                     'P(same), told the number': in_order(ours(n_clusters=k)),
                     'P(same), default, float16': in_order(ours(dtype=np.float16)),
                     'P(same), HDBSCAN 3': in_order(ours(method='hdbscan', min_size=3)), 'P(same), HDBSCAN 5': in_order(ours(method='hdbscan', min_size=5)),
                     'features, k-means, told the number': KMeans(k, n_init=10, random_state=seed).fit_predict(x),
                     'tuned features, k-means, told the number': KMeans(k, n_init=10, random_state=seed).fit_predict(tuned),
                     'features, HDBSCAN 3': HDBSCAN(min_cluster_size=3, copy=True).fit_predict(x),
                     'features, HDBSCAN 5': HDBSCAN(min_cluster_size=5, copy=True).fit_predict(x),
                     'features, average linkage, told the number': fcluster(linkage(x, 'average', metric='cosine'), k, 'maxclust')}
            for t in (0.1, 0.3, 0.7, 0.9): found[f'P(same), threshold {t}'] = in_order(ours(threshold=t))
            for name, g in found.items():
                for measure, v in (('ARI', adjusted_rand_score(y, alone(g))), ('NMI', normalized_mutual_info_score(y, alone(g))),
                                   ('clusters', len(set(g) - {-1})), ('in none', (g == -1).mean())):
                    rows.append((seed, f'{what}: {name}', measure, round(float(v), 4)))
                print(f'seed {seed} {what:9} {name:44} ARI {rows[-4][3]:.3f} NMI {rows[-3][3]:.3f} clusters {rows[-2][3]:.0f}', flush=True)
            rows += [(seed, f'{what}: data', 'images', len(y)), (seed, f'{what}: data', 'breeds', k)]
            c = cluster(gallery, progress=False)
            for shots in (1, 3):
                rng = np.random.default_rng(seed)
                given = {p: b for b in sorted(set(y)) for p in rng.choice(np.array(gallery.rows.paths)[y == b], shots, replace=False)}
                truth = dict(zip(gallery.rows.paths, y))
                rest = [str(f) for f in c.files if str(f) not in given]
                logits = dict(zip(gallery.rows.paths, gallery.scores(gallery.vectors.rows([gallery.index(p) for p in given])).T.numpy()))
                nearest = [list(given.values())[int(logits[p].argmax())] == truth[p] for p in rest]
                rows.append((seed, f'{what}: {shots} labels a breed', 'accuracy of the nearest labelled', round(float(np.mean(nearest)), 4)))
                for name, kw in (('', {}), (', without clusters', dict(use_clusters=False))):
                    got = {str(f): (l, p) for f, l, p in zip(*(lambda o: (o.files, o.labels, o.confidence))(propagate(c, given, **kw)))}
                    told = [p for p in rest if got[p][0] is not None]
                    rows += [(seed, f'{what}: {shots} labels a breed{name}', 'labelled', round(len(told)/len(rest), 4)),
                             (seed, f'{what}: {shots} labels a breed{name}', 'accuracy of the labelled', round(float(np.mean([got[p][0] == truth[p] for p in told])), 4)),
                             (seed, f'{what}: {shots} labels a breed{name}', 'mean confidence of the labelled', round(float(np.mean([got[p][1] for p in told])), 4))]
                    print(f'seed {seed} {what:9} {shots} labels a breed{name}', *(r[3] for r in rows[-3:]), 'nearest', np.mean(nearest).round(3), flush=True)
        note('breeds, frozen encoder' if a.frozen else 'breeds', rows)


def peak():
    "The largest memory this process has held, in GB"
    return int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])*1024/1e9


def scale_one(n, threads):
    "In a fresh process: cluster n images; seconds of each part, and the largest memory after it"
    import similarity_finder.cluster as C
    from similarity_finder.encode import PairEncoder
    from similarity_finder.gallery import Gallery
    from similarity_finder.head import PairHead, PairVectors
    from similarity_finder.pairs_matrix import pair_neighbours
    from similarity_finder.preprocess import Preprocess
    from similarity_finder.siamese import SiameseModel
    from similarity_finder.table import Rows
    torch.set_num_threads(threads)
    g = torch.Generator().manual_seed(0)
    head = PairHead(1280, 512).eval()
    w = torch.randn(512, generator=g)/22
    head.w.weight.data[0] = w - w.mean()
    y = torch.arange(n) % 100
    of = lambda d, spread: torch.randn(100, d, generator=g)[y] + spread*torch.randn(n, d, generator=g)
    v = PairVectors(of(512, 1.), of(512, 1.), nn.functional.normalize(of(1280, 1.5)))
    head.w.bias.data.fill_(-2. - float((w - w.mean()).sum()))
    zeros = np.zeros(n, np.int64)
    gallery = Gallery(PairEncoder(SiameseModel(nn.Identity(), head), Preprocess.from_dict({})), Rows([f'/g/{i:06}.jpg' for i in range(n)], [None]*n, zeros, zeros, v), label_func=None)
    marks = {'memory before, GB': peak()}
    def mark(name, f):
        seconds, result = timed(f)
        marks[f'{name}, s'], marks[f'{name}, memory so far, GB'] = seconds, peak()
        return result
    mark('once: compiling', lambda: C.pair_matrix(Gallery(gallery.encoder, gallery.rows.take(range(300)), label_func=None), fused=True))
    odds = mark('matrix', lambda: C.pair_matrix(gallery, progress=False))
    near = mark('neighbours speak', lambda: C.with_neighbours(odds))
    groups = mark('linkage and cut', lambda: C.group(near))
    del near
    c = mark('medoids and confidence', lambda: C.Clusters(gallery, np.arange(n), groups, odds))
    marks['clusters'] = len(c)
    marks['in the cluster of their group'] = float(np.mean([np.bincount(y[c.labels == k].numpy()).max() for k in range(len(c))])*len(c)/n) if len(c) else 0.
    del odds, c
    mark('sparse: 50 neighbours', lambda: pair_neighbours(gallery, 50, progress=False))
    print(json.dumps(marks))


def scale(a):
    rows = []
    for n in a.sizes:
        answer = subprocess.run([sys.executable, __file__, 'scale-one', str(n), str(a.threads)], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        for k, v in json.loads(answer).items():
            rows.append(('', f'{n} images, {a.threads} threads{a.remark}', k, round(v, 3)))
            print(*rows[-1][1:], flush=True)
        note('scale', rows)


def copies(a):
    "Copies of drawings and of other drawings of their breed: what the network says of them, and what the pixels say"
    from PIL import Image, ImageEnhance
    from similarity_finder.doodle import doodle_pets
    from similarity_finder.draw import DOODLE_BREEDS
    from similarity_finder.duplicates import duplicates, same_picture
    from similarity_finder.gallery import Gallery
    from similarity_finder.train import doodle_finder
    left_out = ['Marble_Lynx', 'Velvet_Moth', 'butler_collie', 'button_terrier', 'pepper_spaniel'] # as in the notebooks
    finder = doodle_finder(breeds=sorted(set(DOODLE_BREEDS) - set(left_out)), progress=False).finder
    files = list(doodle_pets(n=24, size=96, progress=False))
    tmp, made, rows = tempfile.TemporaryDirectory(), [], []
    def crop(im, c): w, h = im.size; return im.crop((round(c*w), round(c*h/2), round(w - c*w/2), round(h - c*h)))
    kinds = {'re-encoded, quality 60': (lambda im: im, 60), 're-encoded, quality 30': (lambda im: im, 30), 'half size': (lambda im: im.resize((im.width//2, im.height//2)), 90),
             'brighter by 15 %': (lambda im: ImageEnhance.Brightness(im).enhance(1.15), 90), 'cropped by 5 %': (lambda im: crop(im, 1/30), 90),
             'cropped by 10 %': (lambda im: crop(im, 1/15), 90), 'cropped by 20 %': (lambda im: crop(im, 2/15), 90)}
    for i, (kind, (change, quality)) in enumerate(kinds.items()):
        for f in files[i::2*len(kinds)]:
            to = Path(tmp.name)/f'{i}_{f.name}'
            change(Image.open(f).convert('RGB')).save(to, quality=quality)
            made.append((f, to, kind))
    gallery = Gallery.from_files([*files, *(t for _, t, _ in made)], finder.encoder, label_func=None, progress=False)
    e, n = gallery.vectors.e, len(files)
    def say(what, pairs):
        i, j = ([gallery.index(p[k]) for p in pairs] for k in (0, 1))
        cosine = (e[i]*e[j]).sum(1).numpy()
        fit = np.array([same_picture(*p[:2]) for p in pairs])
        for name, x in (('cosine', cosine), ('correlation', fit)):
            for q in (0, 50, 100): rows.append(('', f'copies: {what}', f'{name}, {("least", "median", "largest")[q//50]}', round(float(np.percentile(x, q)), 4)))
        rows.append(('', f'copies: {what}', 'pairs', len(pairs)))
        print(what, *(r[3] for r in rows[-7:]), flush=True)
    for kind in kinds: say(kind, [m for m in made if m[2] == kind])
    c = e[:n] @ e[:n].T
    c.fill_diagonal_(-1)
    say('different drawings, the three nearest of each', [(files[i], files[j]) for i, js in enumerate(c.topk(3).indices.tolist()) for j in js])
    true = {frozenset(map(str, m[:2])): m[2] for m in made}
    for cosine in (0.95, 0.9, 0.85):
        got = {frozenset((str(p.a), str(p.b))) for p in duplicates(gallery, cosine=cosine, progress=False).pairs}
        for kind in kinds: rows.append(('', f'copies: {kind}', f'found, cosine {cosine}', round(float(np.mean([p in got for p, k in true.items() if k == kind])), 4)))
        rows.append(('', 'copies: different drawings, the three nearest of each', f'reported, cosine {cosine}', len(got - set(true))))
        print(cosine, [r[3] for r in rows[-8:]], flush=True)
    note('copies', rows)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest='part', required=True)
    o = sub.add_parser('breeds')
    o.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    o.add_argument('--seeds', type=int, nargs='+', default=(3, 4, 5))
    o.add_argument('--frozen', action='store_true', help='the encoder stays as it is')
    o.set_defaults(run=breeds)
    o = sub.add_parser('scale')
    o.add_argument('--sizes', type=int, nargs='+', default=(1000, 3000, 10_000))
    o.add_argument('--threads', type=int, default=2)
    o.add_argument('--remark', default='', help='to stand beside the timings, for instance ", shared machine"')
    o.set_defaults(run=scale)
    o = sub.add_parser('scale-one')
    o.add_argument('n', type=int); o.add_argument('threads', type=int)
    o.set_defaults(run=lambda a: scale_one(a.n, a.threads))
    sub.add_parser('copies').set_defaults(run=copies)
    a = p.parse_args()
    a.run(a)
