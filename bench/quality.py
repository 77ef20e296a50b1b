"""Every method on every protocol: writes bench/quality.csv, one row a measure. What is there already is not measured again.

    FASTAI_HOME=... python bench/quality.py --weights mobilenet_v2.pth --omniglot folder --cache folder

Known breeds: a quarter of each breed's photographs held out; they are the queries, the others the gallery. New breeds: a third of the breeds
held out of all training; each of their photographs is a query among all the others of those breeds. Fixed pairs, as in fastai's siamese tutorial:
each held-out photograph of a known breed with one other, half of them of the same breed; drawn ten times. Unseen characters: Omniglot.
Together: a quarter of each breed's photographs held out, as for known breeds, but a third of the breeds is not learned from; their other photographs are in the gallery, with those that were learned from.
None of these ('open'): a third of the breeds and a quarter of the others' photographs held out; all of them ask among the photographs that were learned from, and for the new breeds nothing there is right.
Three breeds have 160 photographs and the others 6 to 16, so of all pairs of the same breed nearly all are of those: of new breeds, of the one among them that is held out. Hence the same networks are
also measured 'even': no breed has more than 12 photographs, of known ones 3 queries and 9 in the gallery; which, is drawn ten times (the mean).

The augmented views that the networks learn from are drawn once, before the splits. The photographs were run three times, on three machines, each with views of its own and another --cache: `--name pets`, `--name "pets again"`, and `--name third --seeds 3 4 5 6 7 8 9 10 11` (networks of 24 epochs only; `--seeds 3 4 5 6 7 8 --methods 'default, 72 epochs, kept'` for the one of 72). `--name fresh --seeds 18 ... 35 --protocols new 'new, even'` are splits that nothing was measured on before the recipe was as it is.
Drawings: `--protocols characters --workers 5`, on a GPU if there is one (the rows: pixels on a CPU, all else on an H200); each half of the characters asks among all with what the other half fitted, drawn twice (the mean).
`--arch tf_efficientnet_lite2 --size 260 --name EfficientNet-Lite2 --protocols known new 'known, even' 'new, even'` (weights: lite_weights.py; another --cache) is another encoder, on which nothing was chosen: raw features and the default on seeds 3 to 11, the networks of 24 epochs and those taken back further ('mixed 0.5') on 3 to 8.
The recipe was chosen on splits of the photographs by seeds 0 to 2 (recipe.py); those by seeds 3 to 11 are only measured; but 'held 0.2' and 'held 0.3' were, before 'held' was decided on, and that and an earlier form of 'kept', of which no row is left, before 'kept' was. 'MultiSimilarity, 24 epochs, kept' and the one of 72 epochs were measured after, and 'both new 3' last.
The library's default is 'default, 24 epochs, kept, two views', before it 'default, 24 epochs, kept' (the default in all rows but those of 'fourth', which has both), and before that 'default, 24 epochs, held'; for encoders without source classes it is 'default, 24 epochs, mixed', with two views, which was not measured on photographs. Before, it was 'default' (12 epochs at 4e-4) and then 'default, 24 epochs at 2e-4', whose rate was chosen on seeds 0 to 2 in 'pets again'. What is said of the first image of each query, and the class filter's misses, is in 'third' only.
What ends in ', expanded' is trained as before and searched with neighbours (`with_neighbours`), whose number and weight were chosen on seeds 0 to 2 and 12 to 17 (neighbours.py); scores that are no logits become some by a fit to the pairs of training images.
All methods see the same images, start from the same encoder and learn from them for as many epochs, where no other number is said; those that are mixed encode each view once more before their heads learn again (all seven where nothing else is said). `--name fourth --seeds 3 ... 11 --protocols known 'known, even' new 'new, even' --methods 'raw features' 'default, 24 epochs, kept' 'default, 24 epochs, kept, two views' 'SupCon, 26 epochs' 'MultiSimilarity, 26 epochs'` has networks that learn from as many images, with views of its own: the library's default since then, whose head learns on from two views of each image, and two rivals. ('SupCon, 32 epochs' sees as many as the default with seven views, and was run on new breeds of seeds 3 to 5 and known ones of 3 to 10, 'SupCon, 24 epochs' on 3 to 5 alone; 'SupCon, 55 epochs' counts what the blocks as they were see as well, and was run on seeds 3 and 4, as they are.)
Calibration: on known breeds each half of the queries is measured with what the other half fitted; on new breeds each half of the breeds, halved ten times (the mean), and each breed with what all
other new breeds fitted ('all other breeds').
"""
import argparse, copy, csv, random, warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
import numpy as np, torch, torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn
from torchvision.models import mobilenet_v2
from similarity_finder.calibrate import cross_calibrated, fit_calibration
from similarity_finder.data import open_image, pets
from similarity_finder.expansion import best_neighbours, expanded
from similarity_finder.metrics import brier_score, calibration_error, equal_error_rate, filter_misses
from similarity_finder.pairs import SiameseTransform
import omniglot
from protocols import Caches, Protocol, photographs, told, train

here = Path(__file__).parent
header = ['protocol', 'dataset', 'method', 'seed', 'measure', 'value', 'images_encoded']
# how each network is trained; what is not said is as in `protocols.default`
methods = {
    'pixels': None, 'raw features': None,
    'classifier features': dict(loss='classifier'), 'classifier softmax': dict(loss='classifier'), # the latter for 'none of these' alone
    'article': dict(loss='sampled', metric=False, symmetric=False),
    'SupCon': dict(loss='supcon'),
    'MultiSimilarity': dict(loss='ms'),
    'article, all pairs': dict(loss='pairs', metric=False),
    'default': dict(loss='pairs', rank_e=1., apart=True),
    # at half the learning rate of the encoder
    'SupCon at 2e-4': dict(loss='supcon', lr_enc=2e-4),
    'MultiSimilarity at 2e-4': dict(loss='ms', lr_enc=2e-4),
    'default at 2e-4': dict(loss='pairs', rank_e=1., apart=True, lr_enc=2e-4),
}
# twice as long; those with a choice of rates choose on seeds 0 to 2
methods |= {f'{name}, 24 epochs{at}': dict(methods[name], epochs=24, **({'lr_enc': 2e-4} if at else {}))
            for name in ('default', 'SupCon', 'MultiSimilarity', 'classifier features', 'classifier softmax', 'article, all pairs', 'article')
            for at in ((' at 2e-4', '') if name in ('default', 'SupCon', 'MultiSimilarity') else ('',))}
# the last blocks go back part of the way that they came: weights between those before and after the training
methods |= {f'{name}, 24 epochs, mixed': dict(methods[f'{name}, 24 epochs'], mix=0.65) for name in ('default', 'SupCon')}
# held to what the encoder told of the classes that it was pretrained on, which then vote
methods |= {f'{name}, 24 epochs, held 0.2': dict(methods[f'{name}, 24 epochs'], lr_enc=8e-4, lwf=0.2, vote=0.15) for name in ('default', 'SupCon', 'MultiSimilarity')}
methods |= {f'{name}, 24 epochs, kept': dict(methods[f'{name}, 24 epochs, held 0.2'], lwf=0.1, mix=0.8, vote=(0.1, 0.3), own=False) for name in ('default', 'SupCon', 'MultiSimilarity')} # on what is new the blocks as they were vote, and weigh more
methods |= {f'default, 24 epochs, kept, mixed {m}': dict(methods['default, 24 epochs, kept'], mix=m) for m in (0.3, 0.5)} # taken back further: for 'EfficientNet-Lite2'
methods |= {'default, 24 epochs, kept, both new 3': dict(methods['default, 24 epochs, kept'], both=3.), 'default, 24 epochs, kept, mixed 0.5, both new 3': dict(methods['default, 24 epochs, kept'], mix=0.5, both=3.)} # two new images have that in common
methods |= {'default, 72 epochs, kept': dict(methods['default, 24 epochs, kept'], epochs=72)}
methods |= {'default, 24 epochs, held 0.3': dict(methods['default, 24 epochs, held 0.2'], lwf=0.3), 'default, 24 epochs, held': dict(methods['default, 24 epochs, held 0.2'], mix=0.8), 'raw features and votes': None}
# the head learns on from the image as it is and one augmented view, as in the library since
methods |= {'default, 24 epochs, kept, two views': dict(methods['default, 24 epochs, kept'], again_views=2)}
# as many encoded images as the default: those that its blocks and its head learn from; and what the blocks as they were see beside them as well
methods |= {f'SupCon, {n} epochs': dict(methods['SupCon'], epochs=n) for n in (26, 32, 55)} | {'MultiSimilarity, 26 epochs': dict(methods['MultiSimilarity'], epochs=26)}
# trained as before, and searched with the neighbours in the gallery (`with_neighbours`)
methods |= {f'{name}, expanded': methods[name] for name in ('default, 24 epochs, kept', 'SupCon, 24 epochs, kept', 'MultiSimilarity, 24 epochs, kept', 'SupCon, 24 epochs', 'MultiSimilarity, 24 epochs', 'classifier features, 24 epochs', 'raw features', 'raw features and votes')}
protocols = ['known', 'new', 'open', 'together', 'known, even', 'new, even', 'open, even', 'together, even', 'characters']
omniglot_methods = {'pixels': None, 'classifier features': 'classifier', 'article': 'sampled', 'SupCon': 'supcon', 'MultiSimilarity': 'ms',
                    'article, all pairs': 'head', 'default': 'ours'}


def tiny(files, size=32):
    "Photographs as vectors of pixels between 0 and 1"
    return torch.stack([torch.tensor(np.asarray(open_image(f).resize((size, size)), dtype=np.float32)/255).flatten() for f in files])


def calibrated(p, s, prior, draws):
    "P(same) of each pair from calibrations that know neither the query nor, where they are new, its breed: by halves of the queries; by halves of the breeds, drawn several times (characters ask among all); and by all other breeds"
    q, g = p.labels[p.query], p.labels[p.gallery]
    if p.name == 'known': return {'': [cross_calibrated(s, q, g, prior, seed=p.seed)]}
    breeds, by_half, by_others = sorted(set(q)), [], np.full(s.shape, -np.inf)
    def by(a, rows, columns): return fit_calibration(s[np.ix_(a, a)], q[a], q[a], prior).probability(s[np.ix_(rows, columns)])
    for d in range(draws):
        mixed, out = random.Random(draws*p.seed + d).sample(breeds, len(breeds)), np.full(s.shape, -np.inf)
        halves = [np.isin(q, mixed[i::2]) for i in range(2)]
        for a, b in (halves, halves[::-1]):
            to = np.ones_like(b) if p.name == 'characters' else b
            out[np.ix_(b, to)] = by(a, b, to)
        by_half.append(out)
    if p.name == 'characters': return {'': by_half} # so many fits, one without each, would take hours
    for b in breeds: by_others[q == b] = by(q != b, q == b, q == q)
    return {'': by_half, ', all other breeds': [by_others]}


def honesty(p, s, logits, draws):
    "Equal error rate; Brier score and calibration error before and after calibration, for as many same as different pairs and for the share the gallery has"
    q, g = p.labels[p.query], p.labels[p.gallery]
    out, same = {'equal error rate': equal_error_rate(s, q, g)}, q[:,None] == g[None]
    if logits:
        raw = np.where(s > -np.inf, 1/(1+np.exp(-np.clip(s, -60, 60))), -np.inf)
        out |= {'Brier score before': brier_score(raw, q, g, 0.5), 'calibration error before': calibration_error(raw, q, g, prior=0.5)}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for name, prior in (('', 0.5), (', gallery', same[s > -np.inf].mean())):
            for by, P in calibrated(p, s, prior, draws).items():
                out |= {f'Brier score{name}{by}': np.mean([brier_score(o, q, g, prior) for o in P]), f'calibration error{name}{by}': np.mean([calibration_error(o, q, g, prior=prior) for o in P])}
                if name: # of the first image of each query alone: what stands under the picture
                    first = [np.where((o == o.max(1, keepdims=True)) & (o > -np.inf), o, -np.inf) for o in P]
                    out |= {f'first image{by}, promised': np.mean([o[o > -np.inf].mean() for o in first]), f'first image{by}, right': np.mean([same[o > -np.inf].mean() for o in first]),
                            f'first image{by}, calibration error': np.mean([calibration_error(o, q, g) for o in first])}
    return out


def as_logits(p, score):
    "Other scores as logits of P(same), by a fit to all pairs of training images"
    z = torch.as_tensor(score(p.train, p.train)).double().numpy().copy()
    np.fill_diagonal(z, -np.inf)
    c = fit_calibration(z, p.labels[p.train], p.labels[p.train], 0.5)
    return lambda q, g: torch.as_tensor(score(q, g))/c.temperature + c.shift


def with_neighbours(p, score, k=3):
    "Scores of all queries with the gallery, as a gallery that is searched with neighbours gives them"
    among, at = torch.as_tensor(score(p.gallery, p.gallery)).double(), {o: i for i, o in enumerate(p.gallery)}
    z = expanded(torch.as_tensor(score(p.query, p.gallery)).double(), best_neighbours(among, k+1), lambda i: among[i], k, [at.get(o, -1) for o in p.query])
    return p.scores_of(lambda q, g: z)


def none_of_these(p, s, info=None):
    "Does the best match tell whether the gallery has a query's breed (or a classifier, by how sure it is of its class)? Shares at two thresholds: one that 95 % of the queries with a breed in the gallery reach, and one that at most 10 % of the others do"
    q, g = p.labels[p.query], p.labels[p.gallery]
    known, best, right = np.isin(q, g), s.max(1), g[s.argmax(1)] == q
    if info: best, right = info['sure'][p.query], info['predicted'][p.query] == q
    others = np.sort(best[~known])[::-1]
    return {'none: AUC': roc_auc_score(known, best), 'none: unknown shown where 95 % of known are': (others >= np.quantile(best[known], 0.05)).mean(),
            'none: right and shown where 10 % of unknown are': (right & (best > others[int(0.1*len(others))]))[known].mean(), 'recall@1': right[known].mean()}


def fixed_pairs(p, files, score, draws=10):
    "Accuracy on fixed pairs of held-out images, half of them of the same breed: one half of the images at the threshold that is best for the other half"
    index, pairs = {f: i for i, f in enumerate(files)}, []
    for d in range(draws):
        pairs += [(index[f], index[o], same) for f, (o, same) in SiameseTransform(files, (p.train, p.query), seed=d).valid.items()]
    at = {i: k for k, i in enumerate(p.query)}
    s = np.asarray(torch.as_tensor(score(p.query, p.query)), dtype=np.float64)
    s, same = np.array([s[at[i], at[j]] for i, j, _ in pairs]), np.array([o[2] for o in pairs], bool)
    rng = random.Random(p.seed)
    half = set(rng.sample(p.query, len(p.query)//2))
    half = np.array([i in half for i, _, _ in pairs])
    def best(k):
        order = np.argsort(s[k])
        right = np.concatenate([[same[k].sum()], same[k].sum() + np.cumsum(1-2*same[k][order])]) # pairs that are right if those up to here are called different
        t = s[k][order]
        return np.concatenate([[-np.inf], (t[1:]+t[:-1])/2, [np.inf]])[right.argmax()]
    return np.mean([((s[k] >= best(~k)) == same[k]).mean() for k in (half, ~half)])


def evenly(p, draws=10, most=12):
    "The protocol with no more than 12 photographs of any breed, as many of them held out as before; drawn several times"
    def few(rng, images, n):
        by = {}
        for i in images: by.setdefault(p.labels[i], []).append(i)
        return sorted(i for b in sorted(by) for i in rng.sample(by[b], min(n, len(by[b]))))
    for d in range(draws):
        rng, o = random.Random(draws*p.seed + d), copy.copy(p)
        o.seed = draws*p.seed + d
        if p.name == 'new': o.query = o.gallery = few(rng, p.query, most)
        else: o.query, o.gallery = few(rng, p.query, most//4), few(rng, p.gallery, most - most//4)
        yield o


def on_characters(sets, name, seed, folder):
    "Trains on one set of alphabets and tests on the other: the number of images encoded, and the measures"
    torch.set_num_threads(1)
    learned, (x, y) = (omniglot.drawings(folder/f'images_background_{o}.zip') for o in sets.split(' to '))
    method, info = omniglot_methods[name], dict(images=0)
    if name == 'pixels': score = lambda x, y: -torch.cdist(x.flatten(1), y.flatten(1))**2
    else: score, _, info = omniglot.train(*learned, method=method, seed=seed)
    s, i = omniglot.scores_of(score, x), list(range(len(y)))
    p = SimpleNamespace(name='characters', seed=seed, labels=np.array(y), query=i, gallery=i)
    return info['images'], omniglot.measures(s, y, seed=seed) | honesty(p, s, method in ('ours', 'head', 'sampled'), 2)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2, or of --arch')
    a.add_argument('--arch', default=mobilenet_v2, help='another encoder, by timm\'s name (with a cache of its own)')
    a.add_argument('--size', type=int, default=224, help='of the images, in pixels')
    a.add_argument('--omniglot', type=Path, required=True, help='the folder with images_background_small1.zip and 2')
    a.add_argument('--cache', type=Path, required=True, help='a folder for the cached maps (300 MB)')
    a.add_argument('--seeds', type=int, nargs='+', default=[3, 4, 5], help='of the photographs; Omniglot takes 0 to 2 always')
    a.add_argument('--protocols', nargs='+', default=protocols, choices=protocols)
    a.add_argument('--methods', nargs='+', default=list(methods))
    a.add_argument('--name', default='pets', help='what the csv calls this run of the photographs')
    a.add_argument('--out', type=Path, default=here/'quality.csv')
    a.add_argument('--workers', type=int, default=1, help='processes that learn drawings')
    a = a.parse_args()
    torch.set_num_threads(1)
    if not a.out.exists(): a.out.write_text(','.join(header)+'\n')
    def done(*key): return key in {(r['protocol'], r['dataset'], r['method'], r['seed']) for r in csv.DictReader(open(a.out))}
    def note(protocol, dataset, method, seed, images, values):
        with open(a.out, 'a', newline='') as f: csv.writer(f).writerows([protocol, dataset, method, seed, k, f'{v:.5f}', images] for k, v in values.items())
        print(protocol, dataset, method, seed, {k: round(float(v), 3) for k, v in values.items()}, flush=True)

    photographed = [o for o in a.protocols if o != 'characters']
    if photographed:
        files = pets()
        labels, encoder, maps = photographs(a.weights, a.cache, arch=a.arch, size=a.size)
        caches, pixels = Caches(encoder, maps, a.cache), None
        raw = F.normalize(caches('plain', 0)[0].float().mean((2,3)))
        votes = torch.cat([0.8**0.5*raw, 0.2**0.5*F.normalize(told(caches.blocks(2).eval(), caches('plain', 2)[0], caches.source)[1])], 1)
    for protocol in photographed:
        for seed in a.seeds:
            p = Protocol(protocol.removesuffix(', even'), labels, seed)
            for name in a.methods:
                cfg, plain, of = methods[name], name.removesuffix(', expanded'), lambda o: o.scores_of(score)
                if done(protocol, a.name, name, str(seed)) or 'softmax' in name and 'open' not in protocol: continue
                info, logits = dict(images=0), False
                if plain == 'pixels':
                    if pixels is None: pixels = tiny(files)
                    score = lambda q, g: -torch.cdist(pixels[q], pixels[g])**2
                elif plain == 'raw features': score = lambda q, g: raw[q] @ raw[g].T
                elif plain == 'raw features and votes': score = lambda q, g: votes[q] @ votes[g].T
                else:
                    score, _, info = train(p, caches, **cfg)
                    logits = cfg['loss'] in ('pairs', 'sampled')
                if plain != name:
                    given = score if logits else as_logits(p, score)
                    of, logits = lambda o: with_neighbours(o, given), True
                def measured(p, s, draws): return none_of_these(p, s, info if 'softmax' in name else None) if p.name == 'open' else p.by_kind(s) if p.name == 'together' else p.measures(s) | honesty(p, s, logits, draws)
                if protocol.endswith(', even'):
                    each = [measured(o, of(o), 1) for o in evenly(p)]
                    values = {k: np.mean([o[k] for o in each]) for k in each[0]}
                else:
                    values = measured(p, of(p), 10)
                if protocol == 'known' and plain == name: values['accuracy on fixed pairs'] = fixed_pairs(p, files, score)
                if protocol == 'known' and plain == name and 'predicted' in info: values['class filter misses'] = filter_misses(info['predicted'][p.query].tolist(), [labels[i] for i in p.query], [labels[i] for i in p.gallery])
                note(protocol, a.name, name, seed, info['images'], values)
    if 'characters' in a.protocols:
        todo = [(f'{frm} to {to}', name, seed) for seed in range(3) for frm, to in (('small1', 'small2'), ('small2', 'small1')) for name in a.methods
                if name in omniglot_methods and not done('characters', f'{frm} to {to}', name, str(seed))]
        with ProcessPoolExecutor(a.workers, mp_context=get_context('spawn')) as pool:
            for key, out in zip(todo, pool.map(on_characters, *zip(*todo), [a.omniglot]*len(todo)) if todo else ()): note('characters', *key, *out)


if __name__ == '__main__': main()
