"""How sure is the first image, and which label is it? Writes bench/identify.csv, one row a measure. What is there already is not measured again.

    FASTAI_HOME=... python bench/identify.py --weights mobilenet_v2.pth --cache folder
    python bench/identify.py --protocols characters --omniglot folder --workers 6

Three things are said of each query: the P(same) of its best match (`cross_calibrated`), the probability of that match's label, and the most probable label with its probability (`cross_identified`).
Of each: how often it is right, the mean probability, the calibration error, the Brier score, and the AUC with which the probability tells right answers from wrong ones (where there are both).

The splits are quality.py's, and so are the networks of the photographs, with the same --cache (drawings are learned anew; the rows are from a CPU): known and new breeds and both together in one gallery, seeds 3 to 11, as they are and 'even' (drawn ten times); drawn characters both ways, seeds 0 to 2.
Fits: known breeds, each half of the queries by the other; new breeds, each breed by all others ('all other breeds') and each half of the breeds by the other ('half'); characters, each half of them by the other;
together, by the queries of learned breeds ('learned'): learned ones each half by the other, new ones by all of them; and by the gallery's images of new breeds ('gallery').
The classifier is that of 'classifier softmax, 24 epochs', which says nothing of new breeds: its most probable class and its softmax at a temperature fitted to the other half (rows of seeds 3 to 6, evenly 3 to 5).
How the odds of a label's images are put together was chosen on known breeds of seeds 0 to 2, and on new ones and both together of 0 to 2 and 12 to 14, among what `shapes` lists (`--shapes`: identify_shapes.csv, which has known and new breeds of 0 to 2, both together of all six, and them evenly not; the rest by hand).
Two earlier forms, of which no rows are left, had been measured on seeds 3 to 11: by the root of a label's number of images alone, whose weakness, new labels beside learned ones, led to the search for another; and one with another measure of cohesion, which a copy of an image could upset.
"""
import argparse, csv, warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
import numpy as np, torch, torch.nn.functional as F
from sklearn.metrics import roc_auc_score
import similarity_finder.identify as identify
from similarity_finder.calibrate import cross_calibrated, fit_calibration
from similarity_finder.identify import among, cross_identified, fit_label_temperature, label_probabilities
from similarity_finder.metrics import brier_score, calibration_error
from protocols import Caches, Protocol, photographs, train
from quality import as_logits, evenly, methods
import omniglot

here = Path(__file__).parent
header = ['protocol', 'dataset', 'method', 'seed', 'fit', 'said', 'measure', 'value']
default, classifier = 'default, 24 epochs, kept', 'classifier softmax, 24 epochs'
protocols = ['known', 'new', 'together', 'known, even', 'new, even', 'together, even', 'characters']


# the k best images of a label (None: all), and the powers of their number and of the label's cohesion that the sum of their odds is divided by
shapes = {'as it is': (None, 0.5, 0.5), 'the sum': (None, 0, 0), 'the mean': (None, 1, 0), 'by the root of the number alone': (None, 0.5, 0), 'by the root of the number and the fourth of cohesion': (None, 0.5, 0.25),
          'the mean, by cohesion': (None, 1, 1), 'the best image': (1, 0, 0), 'the mean of the best three': (3, 1, 0)}


def shaped(k, number, cohesion):
    "Let the library put a label's images together in another way"
    def evidence(z, start, temperature):
        if k:
            z = z.copy()
            for a, b in zip(start, [*start[1:], z.shape[1]]):
                if b-a > k: z[:,a:b] = np.where(z[:,a:b] >= np.partition(z[:,a:b], b-a-k, axis=1)[:,[b-a-k]], z[:,a:b], -np.inf)
        sums, n = identify._sums(z, start, temperature)
        return sums - number*np.log(np.maximum(n, 1))
    identify._evidence, identify._cohesion = evidence, lambda *args: 2*cohesion*whole(*args)


whole = identify._cohesion


def told(p, right):
    "What probabilities of single answers are worth"
    out = {'right': right.mean(), 'promised': p.mean(), 'calibration error': calibration_error(p, right), 'Brier score': brier_score(p, right)}
    return out | ({'AUC of right answers': roc_auc_score(right, p)} if 0 < right.sum() < len(right) else {})


def answers(s, q, g, pairs, names, labels):
    "Probability and truth of the best match as a pair, of its label, and of the most probable label, for each query"
    row, first, column = np.arange(len(q)), s.argmax(1), {l: i for i, l in enumerate(names)}
    right, best = g[first] == q, labels.argmax(1)
    return {'first image, as a pair': (pairs[row, first], right), 'first image, its label': (labels[row, [column[l] for l in g[first]]], right), 'most probable label': (labels[row, best], np.array(names, object)[best] == q)}


def crossed(s, q, g, seed, own=None, near=None, **kwargs):
    "Answers by fits that have not seen the query, or not its label"
    same = (q[:,None] == g[None])[s > -np.inf].mean()
    return answers(s, q, g, cross_calibrated(s, q, g, same, seed=seed, own=own, **kwargs), *cross_identified(s, q, g, seed=seed, own=own, among=near, **kwargs))


def by_learned(s, q, g, learned, seed, near):
    "Answers to all queries by fits to those of learned labels: learned ones each half by the other, the others by all"
    same = (q[:,None] == g[None])[s > -np.inf].mean()
    a, b = s[learned], s[~learned]
    out = {'learned': answers(a, q[learned], g, cross_calibrated(a, q[learned], g, same, seed=seed), *cross_identified(a, q[learned], g, seed=seed, among=near))}
    c = fit_calibration(a, q[learned], g, same)
    return out | {'new': answers(b, q[~learned], g, c.probability(b), *label_probabilities(b, g, fit_label_temperature(a, q[learned], g, c.temperature, near), near))}


def by_gallery(s, q, g, learned, pairs, own, near):
    "Answers to all queries by fits to the gallery's images of labels that were not learned, each asking among all others (as `calibrate('gallery')`)"
    same = (q[:,None] == g[None])[s > -np.inf].mean()
    c = fit_calibration(pairs, g[own], g, same)
    t = fit_label_temperature(pairs, g[own], g, c.temperature, near, own)
    return {k: answers(s[of], q[of], g, c.probability(s[of]), *label_probabilities(s[of], g, t, near)) for k, of in (('learned', learned), ('new', ~learned))}


def measured(p, score, alone=True):
    "{(protocol's part, fit): {said: {measure: value}}}"
    s, q, g = p.scores_of(score), p.labels[p.query], p.labels[p.gallery]
    near, at = among(score(p.gallery, p.gallery), g), {o: i for i, o in enumerate(p.gallery)}
    own = np.array([at.get(o, -1) for o in p.query])
    if p.name == 'known': found = {('', 'half'): crossed(s, q, g, p.seed, near=near)}
    elif p.name == 'together':
        learned, new = (np.isin(o, p.labels[p.train]) for o in (q, g))
        found = {(f', {k}', 'learned'): o for k, o in by_learned(s, q, g, learned, p.seed, near).items()}
        if alone:
            new = np.flatnonzero(~new)
            pairs = np.asarray(score([p.gallery[i] for i in new], p.gallery), dtype=np.float64).copy()
            pairs[np.arange(len(new)), new] = -np.inf
            found |= {(f', {k}', 'gallery'): o for k, o in by_gallery(s, q, g, learned, pairs, new, near).items()}
    else:
        found = {('', 'half'): crossed(s, q, g, p.seed, own, near, by='label', folds=2)}
        if p.name == 'new' and alone: found |= {('', 'all other breeds'): crossed(s, q, g, p.seed, own, near, by='label', folds=len(set(q)))}
    return {k: {o: told(*v) for o, v in f.items()} for k, f in found.items()}


def classified(p, logits):
    "The same of a classifier, its temperature fitted to the other half of the queries"
    from scipy.optimize import minimize_scalar
    z, y = logits[p.query], p.y[p.query].numpy()
    half, out = np.random.default_rng(p.seed).permutation(len(y)) % 2 == 0, np.empty(len(y))
    for a in (half, ~half):
        loss = lambda t: F.cross_entropy(z[a]/float(np.exp(t)), torch.tensor(y[a])).item()
        t = np.exp(minimize_scalar(loss, bounds=(-3, 3), method='bounded').x)
        out[~a] = (z[~a]/float(t)).softmax(1).amax(1).numpy()
    return {('', 'half'): {'most probable label': told(out, z.argmax(1).numpy() == y)}}


def mean(many):
    "The mean of such measures; of those that are not always there, of the times that they are"
    out = {}
    for k in many[0]:
        out[k] = {}
        for o in many[0][k]:
            each = [m[k][o] for m in many]
            out[k][o] = {n: np.mean([e[n] for e in each if n in e]) for n in dict.fromkeys(n for e in each for n in e)}
    return out


def on_characters(frm, to, seed, folder):
    "Trains on one set of alphabets and asks with the other"
    torch.set_num_threads(1)
    warnings.simplefilter('ignore', UserWarning)
    learned, (x, y) = (omniglot.drawings(folder/f'images_background_{o}.zip') for o in (frm, to))
    score, _, _ = omniglot.train(*learned, method='ours', seed=seed)
    z, everyone = omniglot.scores_of(score, x).astype(np.float64), list(range(len(y)))
    return measured(SimpleNamespace(name='characters', seed=seed, labels=y.numpy(), query=everyone, gallery=everyone, scores_of=lambda _: z), lambda *_: z)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--weights', help='ImageNet weights of torchvision mobilenet_v2')
    a.add_argument('--cache', type=Path, help="quality.py's folder")
    a.add_argument('--omniglot', type=Path, help='the folder with images_background_small1.zip and 2')
    a.add_argument('--seeds', type=int, nargs='+', default=list(range(3, 12)), help='of the photographs')
    a.add_argument('--protocols', nargs='+', default=protocols[:-1], choices=protocols)
    a.add_argument('--methods', nargs='+', default=['raw features', default, classifier])
    a.add_argument('--out', type=Path, default=here/'identify.csv')
    a.add_argument('--workers', type=int, default=1, help='processes that learn drawings')
    a.add_argument('--shapes', action='store_true', help="with other ways to put a label's images together: writes identify_shapes.csv")
    a = a.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore', UserWarning) # that there are few pairs
    if a.shapes: a.out, a.methods = here/'identify_shapes.csv', list(shapes)
    if not a.out.exists(): a.out.write_text(','.join(header)+'\n')
    done = {(r['protocol'].removesuffix(', learned').removesuffix(', new') if r['protocol'].startswith('together') else r['protocol'], r['dataset'], r['method'], r['seed']) for r in csv.DictReader(open(a.out))}
    def note(protocol, dataset, method, seed, values):
        with open(a.out, 'a', newline='') as f:
            csv.writer(f, lineterminator='\n').writerows([protocol + part, dataset, method, seed, fit, said, k, f'{v:.5f}'] for (part, fit), o in values.items() for said, m in o.items() for k, v in m.items())
        print(protocol, dataset, method, seed, {k: {o: {n: round(float(v), 3) for n, v in m.items()} for o, m in d.items()} for k, d in values.items()}, flush=True)

    photographed = [o for o in a.protocols if o != 'characters']
    if photographed:
        labels, encoder, maps = photographs(a.weights, a.cache)
        caches = Caches(encoder, maps, a.cache)
        raw, trained = F.normalize(caches('plain', 0)[0].float().mean((2,3))), {}
    for protocol in photographed:
        for seed in a.seeds:
            p, even = Protocol(protocol.removesuffix(', even'), labels, seed), protocol.endswith(', even')
            for name in a.methods:
                if (protocol, 'third', name, str(seed)) in done or name == classifier and p.name != 'known': continue
                key = p.name, seed, default if a.shapes else name
                if key not in trained: trained[key] = (as_logits(p, lambda q, g: raw[q] @ raw[g].T), {}) if name == 'raw features' else train(p, caches, **methods[key[2]])[::2]
                score, info = trained[key]
                if a.shapes: shaped(*shapes[name])
                if name == classifier: of = lambda o: classified(o, info['logits'])
                else: of = lambda o: measured(o, score, not a.shapes)
                note(protocol, 'third', name, seed, mean([of(o) for o in evenly(p)]) if even else of(p))
    if 'characters' in a.protocols:
        todo = [(frm, to, seed) for seed in range(3) for frm, to in (('small1', 'small2'), ('small2', 'small1')) if ('characters', f'{frm} to {to}', 'default', str(seed)) not in done]
        with ProcessPoolExecutor(a.workers, mp_context=get_context('spawn')) as pool:
            for (frm, to, seed), out in zip(todo, pool.map(on_characters, *zip(*todo), [a.omniglot]*len(todo)) if todo else ()): note('characters', f'{frm} to {to}', 'default', seed, out)


if __name__ == '__main__': main()
