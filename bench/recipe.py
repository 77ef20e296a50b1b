"""What was tried to train a better similarity on the photographs: writes bench/recipe.csv. What is there already is not trained again.

    FASTAI_HOME=... python bench/recipe.py --weights mobilenet_v2.pth --cache folder

Known and new breeds as in quality.py, seed 0 by default, but the trials up to 'apart, 2e-4' with one mistake: when they were run, the images searched for and among were augmented as in training,
so all their figures are lower than those of quality.py, and can be compared with one another only. Trials that fell behind on one of the two were not always finished on the other.
Those rows were written while the code grew (the later ones without validation after each epoch, which drew batches of its own): a rerun gives other digits.
The trials from 'full' on are without that mistake, with several seeds; the first four of them differ in nothing but what is read from one network, and '4e-4' is 'half' under another name:

    python bench/recipe.py ... --seeds 0 1 2 --trials full half quarter nothing
    python bench/recipe.py ... --seeds 0 1 2 --trials 4e-4 8e-4 "distilled 1, 4e-4" "distilled 0.3, 8e-4" "distilled 1, 8e-4" "distilled 0.3, 18 epochs" "distilled 1, 24 epochs" "distilled 0.5, 24 epochs"
    python bench/recipe.py ... --seeds 3 4 5 --trials 4e-4 "distilled 1, 4e-4" "distilled 0.3, 24 epochs" "distilled 1, 24 epochs" "SupCon, 24 epochs" "SupCon at 2e-4, 24 epochs"
    python bench/recipe.py ... --seeds 0 1 2 3 4 5 --trials raw "head alone" "4e-4, 24 epochs" "two networks, 1:1" "two networks, 2:1" "two networks, 24 epochs"
    python bench/recipe.py ... --seeds 6 7 8 9 10 11 --trials raw "head alone" "2e-4, 24 epochs" "4e-4, 24 epochs" "two networks, 24 epochs" "SupCon, 24 epochs" "SupCon at 2e-4, 24 epochs"

    python bench/recipe.py ... --seeds 0 1 2 --trials "mixed 1" "mixed 0.65" ... "SupCon, mixed 0.65" ... "held 0.2" ... # all from 'mixed 0.5' on
    python bench/recipe.py ... --seeds 0 1 2 --trials "kept, 128 hidden units" "kept, 1024 hidden units" "kept, no dropout" "kept, means only" "kept, maxima only" "kept, weights averaged (EMA 0.98)" "kept, from a classifier" # these last
    python bench/recipe.py ... --seeds 12 13 14 15 16 17 --protocols new --trials raw "held 0.1, mixed" "kept, 0.1 to 0.3" ...

'The default' of the first trials is the one of 12 epochs at 4e-4. What followed, 24 epochs at 2e-4, then at 4e-4 with the weights mixed, then at 8e-4 held to the source classes, is in quality.py. The last group, from 'mixed 0.5' on, learned from views drawn anew.
A network that several trials share is trained once, so their CPU seconds, which would tell who came first, are left out.
"""
import argparse, csv, time
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from protocols import Caches, Protocol, photographs, told, train

here = Path(__file__).parent
apart = {'loss': 'pairs', 'rank_e': 1., 'apart': True}
# name -> (what it is in a few words, settings that differ from `protocols.default`)
trials = {
    'frozen': ('encoder as it is, head on all pairs, 32 images a batch, 30 epochs', {'zero': False, 'tail': 0, 'views': 'plain', 'bs': 32, 'epochs': 30, 'lr_enc': 0.0001}),
    'frozen, 2 views, 10 epochs': ('encoder as it is, 2 augmented views, 10 epochs', {'zero': False, 'tail': 0, 'bs': 32, 'epochs': 10, 'lr_enc': 0.0001}),
    'frozen, 6 views, 40 epochs': ('encoder as it is, 6 augmented views, 128 images a batch, 40 epochs', {'zero': False, 'tail': 0, 'bs': 128, 'epochs': 40, 'lr_enc': 0.0001, 'n_hidden': 256}),
    'frozen, 6 views, 60 epochs': ('the same, 60 epochs', {'zero': False, 'tail': 0, 'bs': 128, 'epochs': 60, 'lr_enc': 0.0001, 'n_hidden': 256}),
    'frozen, 6 views, 3e-3': ('the same, 40 epochs at 3e-3', {'zero': False, 'tail': 0, 'bs': 128, 'epochs': 40, 'lr_enc': 0.0001, 'n_hidden': 256, 'lr': 0.003}),
    '1 block at 1e-3': ('last of 19 blocks at 1e-3 (the head at 1e-3, as in all that follow), 64 images a batch, 15 epochs', {'zero': False, 'tail': 1, 'epochs': 15, 'lr_enc': 0.001, 'n_hidden': 256}),
    '2 blocks at 1e-4': ('last 2 blocks at 1e-4, 15 epochs', {'zero': False, 'epochs': 15, 'lr_enc': 0.0001}),
    '2 blocks at 1e-4, averaged': ('last 2 blocks at 1e-4, 15 epochs, weights averaged (EMA 0.98)', {'zero': False, 'epochs': 15, 'lr_enc': 0.0001, 'n_hidden': 256, 'ema': 0.98}),
    '2 blocks at 1e-4, classification': ('last 2 blocks at 1e-4, 15 epochs, half a cross-entropy of the breeds added', {'zero': False, 'epochs': 15, 'lr_enc': 0.0001, 'ce': 0.5}),
    '2 blocks at 4e-4': ('last 2 blocks at 4e-4, 15 epochs', {'zero': False, 'epochs': 15, 'n_hidden': 256}),
    '2 blocks at 4e-4, 12 epochs': ('the same, 12 epochs', {'zero': False, 'n_hidden': 256}),
    '2 blocks at 1e-3, averaged': ('last 2 blocks at 1e-3, 15 epochs, weights averaged (EMA 0.98)', {'zero': False, 'epochs': 15, 'lr_enc': 0.001, 'n_hidden': 256, 'ema': 0.98}),
    '5 blocks at 4e-4': ('last 5 blocks at 4e-4, 15 epochs', {'zero': False, 'tail': 5, 'epochs': 15, 'n_hidden': 256}),
    'contrast of the logits': ('last 2 blocks at 4e-4, 12 epochs, contrastive loss of the logits added', {'zero': False, 'n_hidden': 256, 'rank': 1.0}),
    'contrast of the logits, 1e-3, averaged': ('the same at 1e-3, weights averaged (EMA 0.98)', {'zero': False, 'lr_enc': 0.001, 'n_hidden': 256, 'rank': 1.0, 'ema': 0.98}),
    'contrast of the metric term': ('last 2 blocks at 4e-4, 12 epochs, contrastive loss of the metric term added', {'zero': False, 'n_hidden': 256, 'rank_e': 1.0}),
    'contrast, apart': ('the same, and the encoder learns from the metric term alone', {'zero': False, 'n_hidden': 256, 'rank_e': 1.0, 'detach': True}),
    '0.3 contrast, apart': ('the same, the contrastive loss weighing 0.3', {'zero': False, 'detach': True, 'rank_e': 0.3}),
    'contrast, apart, 2e-4': ('the same, weighing 1, last 2 blocks at 2e-4', {'zero': False, 'lr_enc': 0.0002, 'detach': True, 'rank_e': 1.0}),
    'apart, three seeds': ('2 blocks at 4e-4, contrastive loss for the metric term and the encoder, cross-entropy for the rest, which starts at nothing', apart),
    'apart, 2e-4': ('the same, 2 blocks at 2e-4', {**apart, 'lr_enc': 0.0002}),
    # the trials above let the article's term count in full, too
    'full': ('in full', apart),
    'half': ('one half: as by default', {**apart, 'share': 0.5}),
    'quarter': ('a quarter', {**apart, 'share': 0.25}),
    'nothing': ('nothing: the cosine of the metric term', {**apart, 'share': 0.}),
    # from here on it counts half: what a distillation of the encoder as it was does to known and to new breeds
    '4e-4': ('4e-4, 12 epochs, none: the default then', {**apart, 'share': 0.5}),
    '8e-4': ('8e-4, 12 epochs, none', {**apart, 'share': 0.5, 'lr_enc': 8e-4}),
    'distilled 1, 4e-4': ('4e-4, 12 epochs, 1', {**apart, 'share': 0.5, 'distill': 1.}),
    'distilled 0.3, 8e-4': ('8e-4, 12 epochs, 0.3', {**apart, 'share': 0.5, 'distill': 0.3, 'lr_enc': 8e-4}),
    'distilled 1, 8e-4': ('8e-4, 12 epochs, 1', {**apart, 'share': 0.5, 'distill': 1., 'lr_enc': 8e-4}),
    'distilled 0.3, 18 epochs': ('8e-4, 18 epochs, 0.3', {**apart, 'share': 0.5, 'distill': 0.3, 'lr_enc': 8e-4, 'epochs': 18}),
    'distilled 1, 24 epochs': ('8e-4, 24 epochs, 1', {**apart, 'share': 0.5, 'distill': 1., 'lr_enc': 8e-4, 'epochs': 24}),
    'distilled 0.5, 24 epochs': ('8e-4, 24 epochs, 0.5', {**apart, 'share': 0.5, 'distill': 0.5, 'lr_enc': 8e-4, 'epochs': 24}),
    '4e-4, 24 epochs': ('4e-4, 24 epochs, none', {**apart, 'share': 0.5, 'epochs': 24}),
    'distilled 0.3, 24 epochs': ('8e-4, 24 epochs, 0.3', {**apart, 'share': 0.5, 'distill': 0.3, 'lr_enc': 8e-4, 'epochs': 24}),
}
trials['2e-4, 24 epochs'] = ('2e-4, 24 epochs, none: later the default, before mixing', {**apart, 'share': 0.5, 'epochs': 24, 'lr_enc': 2e-4})
alone = {**apart, 'share': 0.5, 'tail': 0, 'views': 'plain', 'bs': 32, 'epochs': 30}
trials |= {
    'SupCon, 24 epochs': ('SupCon, 4e-4, 24 epochs', {'loss': 'supcon', 'epochs': 24}),
    'SupCon at 2e-4, 24 epochs': ('SupCon, 2e-4, 24 epochs', {'loss': 'supcon', 'lr_enc': 2e-4, 'epochs': 24}),
    'raw': ('raw features', None),
    'head alone': ('the head alone, 30 epochs', alone),
    'two networks, 1:1': ('the mean of the logits of the default then and of the head alone, each divided by its spread', {**apart, 'share': 0.5, 'beside': alone, 'weight': 1/2}),
    'two networks, 2:1': ('the same, the default counting twice', {**apart, 'share': 0.5, 'beside': alone, 'weight': 1/3}),
    'two networks, 24 epochs': ('the mean of 24 epochs at 4e-4 and of the head alone', {**apart, 'share': 0.5, 'epochs': 24, 'beside': alone, 'weight': 1/2}),
}
trials |= { # weights between those before and after the training, then half as many epochs of the head alone
    **{f'mixed {m}': (f'4e-4, 24 epochs, weights mixed: {m}', {**apart, 'share': 0.5, 'epochs': 24, 'mix': m}) for m in (0.5, 0.6, 0.65, 0.7, 0.8)},
    'mixed 1': ('4e-4, 24 epochs, as trained', trials['4e-4, 24 epochs'][1]),
    'slower, as trained': ('2e-4, 24 epochs, as trained', trials['2e-4, 24 epochs'][1]),
    'SupCon, as trained': ('SupCon, 4e-4, 24 epochs, as trained', trials['SupCon, 24 epochs'][1]),
    'SupCon, slower, as trained': ('SupCon, 2e-4, 24 epochs, as trained', trials['SupCon at 2e-4, 24 epochs'][1]),
    'mixed 0.65, one epoch': ('4e-4, 24 epochs, weights mixed: 0.65, then the head for one epoch', {**apart, 'share': 0.5, 'epochs': 24, 'mix': 0.65, 'again': 1/24}),
    'SupCon, mixed 0.65': ('SupCon, 4e-4, 24 epochs, weights mixed: 0.65', {'loss': 'supcon', 'epochs': 24, 'mix': 0.65}),
    # with these mixtures, too, does something else pay?
    'mixed, 8e-4': ('8e-4, 24 epochs, weights mixed: 0.5', {**apart, 'share': 0.5, 'epochs': 24, 'lr_enc': 8e-4, 'mix': 0.5}),
    'mixed, 48 epochs': ('4e-4, 48 epochs, weights mixed: 0.5', {**apart, 'share': 0.5, 'epochs': 48, 'mix': 0.5, 'again': 1/4}),
    'mixed, distilled': ('8e-4, 24 epochs, distilled 0.3, weights mixed: 0.75', {**apart, 'share': 0.5, 'epochs': 24, 'lr_enc': 8e-4, 'distill': 0.3, 'mix': 0.75}),
    'mixed, colder': ('4e-4, 24 epochs, temperature 0.05, weights mixed: 0.75', {**apart, 'share': 0.5, 'epochs': 24, 'tau': 0.05, 'mix': 0.75}),
    'mixed, warmer': ('4e-4, 24 epochs, temperature 0.2, weights mixed: 0.5', {**apart, 'share': 0.5, 'epochs': 24, 'tau': 0.2, 'mix': 0.5}),
    'mixed, 8 of a breed': ('4e-4, 24 epochs, 8 images of a breed in a batch, weights mixed: 0.75', {**apart, 'share': 0.5, 'epochs': 24, 'k': 8, 'mix': 0.75}),
    'mixed, 128 a batch': ('8e-4, 24 epochs, 128 images a batch, weights mixed: 0.5', {**apart, 'share': 0.5, 'epochs': 24, 'bs': 128, 'lr_enc': 8e-4, 'mix': 0.5}),
}
twice = {**apart, 'share': 0.5, 'mix': 0.25, 'again': 1/4} # beside the network as it was trained, the same network taken back by three quarters
trials |= {f'mixed, beside, {n} epochs': (f'4e-4, {n} epochs: the mean of the logits of the network as trained and mixed, 0.25', {**apart, 'share': 0.5, 'epochs': n, 'beside': {**twice, 'epochs': n}, 'weight': 1/2}) for n in (24, 48)}
held = {**apart, 'share': 0.5, 'epochs': 24, 'lr_enc': 8e-4, 'lwf': 0.2, 'vote': 0.15}
trials |= { # held to what the encoder told of the classes of ImageNet, which vote
    'raw, votes': ('no training: the cosine of features, and of votes for one fifth', {'untrained': 0.2}),
    'held 0.2, mixed': ('8e-4, held 0.2, weights mixed: 0.8, votes 0.15: the default before', {**held, 'mix': 0.8}),
    'held 0.1, mixed': ('8e-4, held 0.1, weights mixed: 0.8, votes 0.15', {**held, 'lwf': 0.1, 'mix': 0.8}),
    **{f'held 0.2, mixed, votes {v}': (f'8e-4, held 0.2, weights mixed: 0.8, votes {v}', {**held, 'mix': 0.8, 'vote': v}) for v in (0., 0.25)},
    **{f'held {d}': (f'8e-4, held {d}, votes 0.15', {**held, 'lwf': d}) for d in (0.1, 0.2, 0.3, 1.)},
    'votes alone': ('4e-4, not held, votes 0.15', {**held, 'lr_enc': 4e-4, 'lwf': 0.}),
    'mixed, votes': ('4e-4, not held, weights mixed: 0.65, votes 0.15', {**held, 'lr_enc': 4e-4, 'lwf': 0., 'mix': 0.65}),
    'SupCon, 8e-4': ('SupCon, 8e-4, 24 epochs, as trained', {'loss': 'supcon', 'epochs': 24, 'lr_enc': 8e-4}),
}
kept = {**held, 'lwf': 0.1, 'mix': 0.8, 'own': False} # on what is new, the votes of the blocks as they were
trials |= {f'kept, {name}': (f'8e-4, held {c.get("lwf", 0.1)}, weights mixed: 0.8, votes {c["vote"][0]}, on what is new {c["vote"][1]} {whose}', {**kept, **c}) for name, whose, c in (
    ('0.1 to 0.3', 'by the blocks as they were: the default', {'vote': (0.1, 0.3)}), ('0.1 to 0.2', 'by the blocks as they were', {'vote': (0.1, 0.2)}), ('0.1 to 0.5', 'by the blocks as they were', {'vote': (0.1, 0.5)}),
    ('held 0.2', 'by the blocks as they were', {'vote': (0.1, 0.3), 'lwf': 0.2}), ('own votes', 'by the same blocks', {'vote': (0.1, 0.3), 'own': True}))}
trials |= { # the default with something else in place of its contrastive loss, and with weights that are taken back further
    'kept, cross-entropy': ('the default, cross-entropy of the cosines for the contrastive loss', {**kept, 'vote': (0.1, 0.3), 'rank_e': 0., 'pairs_e': 1.}),
    **{f'kept, mixed {m}': (f'the default, weights mixed: {m}', {**kept, 'vote': (0.1, 0.3), 'mix': m}) for m in (0.5, 0.6, 0.7)}}
trials |= {f'kept, {name}': (f'the default, {name}', {**kept, 'vote': (0.1, 0.3), **c}) for name, c in ( # what of the head and of the training was chosen early, with the recipe of today
    ('128 hidden units', {'n_hidden': 128}), ('1024 hidden units', {'n_hidden': 1024}), ('no dropout', {'drop': (0., 0.)}), ('means only', {'pool': 'avg'}), ('maxima only', {'pool': 'max'}),
    ('weights averaged (EMA 0.98)', {'ema': 0.98}), ('from a classifier', {'warm': True}))}
header = ['trial', 'what', 'protocol', 'seed', 'measure', 'value']


def scores_of(p, caches, changes):
    "Scores of the protocol's pairs by one network, by the untrained encoder, or by two networks"
    if changes is None or 'untrained' in changes:
        raw = F.normalize(caches('plain', 0)[0].float().mean((2,3)))
        if changes:
            g = changes['untrained'] # share of the votes
            raw = torch.cat([(1-g)**0.5*raw, g**0.5*F.normalize(told(caches.blocks(2).eval(), caches('plain', 2)[0], caches.source)[1])], 1)
        return p.scores_of(lambda q, g: raw[q] @ raw[g].T), dict(kept=True)
    changes = {'share': 1., **changes}
    beside, weight = changes.pop('beside', None), changes.pop('weight', 0)
    score, _, info = train(p, caches, **changes)
    s = p.scores_of(score)
    if beside is None: return s, info
    o, pairs = scores_of(p, caches, beside)[0], s > -np.inf
    return np.where(pairs, (1-weight)*s/s[pairs].std() + weight*o/o[pairs].std(), -np.inf), dict(kept=True)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    a.add_argument('--cache', type=Path, required=True, help='a folder for the cached maps (300 MB)')
    a.add_argument('--trials', nargs='+', default=list(trials))
    a.add_argument('--seeds', type=int, nargs='+', default=[0])
    a.add_argument('--protocols', nargs='+', default=['known', 'new'])
    a.add_argument('--views', type=int, default=6, help='augmented views of each image')
    a.add_argument('--out', type=Path, default=here/'recipe.csv')
    a = a.parse_args()
    torch.set_num_threads(1)
    labels, encoder, maps = photographs(a.weights, a.cache, a.views)
    caches, order = Caches(encoder, maps, a.cache), list(trials)
    if not a.out.exists(): a.out.write_text(','.join(header)+'\n')
    for seed in a.seeds:
        for protocol in a.protocols:
            p = Protocol(protocol, labels, seed)
            for name in a.trials:
                what, changes = trials[name]
                if (name, protocol, str(seed)) in {(r['trial'], r['protocol'], r['seed']) for r in csv.DictReader(open(a.out))}: continue
                start = time.process_time()
                scores, info = scores_of(p, caches, changes)
                values = p.measures(scores) | ({} if info['kept'] or order.index(name) >= order.index('mixed 0.5') else {'CPU seconds': time.process_time()-start})
                with open(a.out, 'a', newline='') as f: csv.writer(f).writerows([name, what, protocol, seed, k, f'{v:.5f}'] for k, v in values.items())
                print(name, protocol, seed, {k: round(float(v), 4) for k, v in values.items()}, flush=True)


if __name__ == '__main__': main()
