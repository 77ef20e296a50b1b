"""How sure is the first image, and which label is it? Writes bench/identify.csv, one row a measure. What is there already is not measured again.

    FASTAI_HOME=... python bench/identify.py --weights mobilenet_v2.pth --cache folder
    python bench/identify.py --protocols characters --omniglot folder

Three things are said of each query: the P(same) of its best match (`cross_calibrated`), the probability of that match's label, and the most probable label with its probability (`cross_identified`).
Of each: how often it is right, the mean probability, the calibration error, the Brier score, and the AUC with which the probability tells right answers from wrong ones (where there are both).

The splits are quality.py's, and so are the networks, with the same --cache: known and new breeds and both together in one gallery, seeds 3 to 11, as they are and 'even' (drawn ten times); drawn characters both ways, seeds 0 to 2.
Fits: known breeds, each half of the queries by the other; new breeds, each breed by all others ('all other breeds') and each half of the breeds by the other ('half'); characters, each half of them by the other;
together, by the queries of learned breeds: learned ones each half by the other, new ones by all of them.
The classifier is that of 'classifier softmax, 24 epochs', which says nothing of new breeds: its most probable class and its softmax at a temperature fitted to the other half.
What the odds of a label's images are divided by, the root of their number, was chosen on known breeds of seeds 0 to 2 and new ones of 0 to 2 and 12 to 14, among other powers of it (`--powers --seeds 0 1 2 --protocols known new 'known, even' 'new, even'`, and 12 to 14 of new ones: identify_powers.csv).
"""
import argparse, csv, warnings
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from sklearn.metrics import roc_auc_score
import similarity_finder.identify as identify
from similarity_finder.calibrate import cross_calibrated, fit_calibration
from similarity_finder.identify import cross_identified, fit_label_temperature, label_probabilities
from similarity_finder.metrics import brier_score, calibration_error
from protocols import Caches, Protocol, photographs, train
from quality import as_logits, evenly, methods
import omniglot

here = Path(__file__).parent
header = ['protocol', 'dataset', 'method', 'seed', 'fit', 'said', 'measure', 'value']
default, classifier = 'default, 24 epochs, kept', 'classifier softmax, 24 epochs'
protocols = ['known', 'new', 'together', 'known, even', 'new, even', 'together, even', 'characters']


def told(p, right):
    "What probabilities of single answers are worth"
    out = {'right': right.mean(), 'promised': p.mean(), 'calibration error': calibration_error(p, right), 'Brier score': brier_score(p, right)}
    return out | ({'AUC of right answers': roc_auc_score(right, p)} if 0 < right.sum() < len(right) else {})


def answers(s, q, g, pairs, names, labels):
    "Probability and truth of the best match as a pair, of its label, and of the most probable label, for each query"
    row, first, column = np.arange(len(q)), s.argmax(1), {l: i for i, l in enumerate(names)}
    right, best = g[first] == q, labels.argmax(1)
    return {'first image, as a pair': (pairs[row, first], right), 'first image, its label': (labels[row, [column[l] for l in g[first]]], right), 'most probable label': (labels[row, best], np.array(names, object)[best] == q)}


def crossed(s, q, g, seed, own=None, **kwargs):
    "Answers by fits that have not seen the query, or not its label"
    same = (q[:,None] == g[None])[s > -np.inf].mean()
    return answers(s, q, g, cross_calibrated(s, q, g, same, seed=seed, own=own, **kwargs), *cross_identified(s, q, g, seed=seed, own=own, **kwargs))


def by_learned(s, q, g, learned, seed):
    "Answers to all queries by fits to those of learned labels: learned ones each half by the other, the others by all"
    same = (q[:,None] == g[None])[s > -np.inf].mean()
    a, b = s[learned], s[~learned]
    out = {'learned': answers(a, q[learned], g, cross_calibrated(a, q[learned], g, same, seed=seed), *cross_identified(a, q[learned], g, seed=seed))}
    c = fit_calibration(a, q[learned], g, same)
    return out | {'new': answers(b, q[~learned], g, c.probability(b), *label_probabilities(b, g, fit_label_temperature(a, q[learned], g, c.temperature)))}


def measured(p, s):
    "{(protocol's part, fit): {said: {measure: value}}}"
    q, g = p.labels[p.query], p.labels[p.gallery]
    at = {o: i for i, o in enumerate(p.gallery)}
    own = np.array([at.get(o, -1) for o in p.query])
    if p.name == 'known': found = {('', 'half'): crossed(s, q, g, p.seed)}
    elif p.name == 'together': found = {(f', {k}', 'learned'): o for k, o in by_learned(s, q, g, np.isin(q, p.labels[p.train]), p.seed).items()}
    else:
        found = {('', 'half'): crossed(s, q, g, p.seed, by='label', folds=2)}
        if p.name == 'new': found |= {('', 'all other breeds'): crossed(s, q, g, p.seed, by='label', folds=len(set(q)))}
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


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--weights', help='ImageNet weights of torchvision mobilenet_v2')
    a.add_argument('--cache', type=Path, help="quality.py's folder")
    a.add_argument('--omniglot', type=Path, help='the folder with images_background_small1.zip and 2')
    a.add_argument('--seeds', type=int, nargs='+', default=list(range(3, 12)), help='of the photographs')
    a.add_argument('--protocols', nargs='+', default=protocols[:-1], choices=protocols)
    a.add_argument('--methods', nargs='+', default=['raw features', default, classifier])
    a.add_argument('--out', type=Path, default=here/'identify.csv')
    a.add_argument('--powers', action='store_true', help="with other powers of the number of a label's images: writes identify_powers.csv")
    a = a.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore', UserWarning) # that there are few pairs
    if a.powers: a.out, a.methods = here/'identify_powers.csv', [f'power {o}' for o in (0, 0.25, 0.5, 0.75, 1)]
    if not a.out.exists(): a.out.write_text(','.join(header)+'\n')
    done = {(r['protocol'].split(', learned')[0].split(', new')[0] if r['protocol'].startswith('together') else r['protocol'], r['method'], r['seed']) for r in csv.DictReader(open(a.out))}
    def note(protocol, dataset, method, seed, values):
        with open(a.out, 'a', newline='') as f:
            csv.writer(f, lineterminator='\n').writerows([protocol + part, dataset, method, seed, fit, said, k, f'{v:.5f}'] for (part, fit), o in values.items() for said, m in o.items() for k, v in m.items())
        print(protocol, dataset, method, seed, {k: {o: {n: round(float(v), 3) for n, v in m.items()} for o, m in d.items()} for k, d in values.items()}, flush=True)

    photographed = [o for o in a.protocols if o != 'characters']
    if photographed:
        labels, encoder, maps = photographs(a.weights, a.cache)
        caches = Caches(encoder, maps, a.cache)
        raw = F.normalize(caches('plain', 0)[0].float().mean((2,3)))
    for protocol in photographed:
        for seed in a.seeds:
            p, even = Protocol(protocol.removesuffix(', even'), labels, seed), protocol.endswith(', even')
            for name in a.methods:
                if (protocol, name, str(seed)) in done or name == classifier and p.name != 'known': continue
                if name == 'raw features': score = as_logits(p, lambda q, g: raw[q] @ raw[g].T)
                else: score, _, info = train(p, caches, **methods[default if a.powers else name])
                if a.powers: identify._power = float(name.removeprefix('power '))
                if name == classifier: of = lambda o: classified(o, info['logits'])
                else: of = lambda o: measured(o, o.scores_of(score))
                note(protocol, 'third', name, seed, mean([of(o) for o in evenly(p)]) if even else of(p))
    if 'characters' in a.protocols:
        sets = {o: omniglot.drawings(a.omniglot/f'images_background_{o}.zip') for o in ('small1', 'small2')}
        for seed in range(3):
            for frm, to in (('small1', 'small2'), ('small2', 'small1')):
                score, _, _ = omniglot.train(*sets[frm], method='ours', seed=seed)
                x, y = sets[to]
                p = Protocol.__new__(Protocol)
                p.name, p.seed, p.labels = 'characters', seed, y.numpy()
                p.query = p.gallery = list(range(len(y)))
                note('characters', f'{frm} to {to}', 'default', seed, measured(p, omniglot.scores_of(score, x).astype(np.float64)))


if __name__ == '__main__': main()
