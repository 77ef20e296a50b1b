"What the pages of the docs that tell of quality share: the measured runs and their names, means with spreads and intervals, tables in Markdown, and what was aimed at"
from pathlib import Path
import pandas as pd
from scipy.stats import t as student

here = Path(__file__).parent
measured, recipe = (pd.read_csv(here/f'{o}.csv') for o in ('quality', 'recipe'))
measured['run'] = measured.dataset + ' ' + measured.seed.astype(str)
ours = 'default, 24 epochs, kept'
both_new, mixed = f'{ours}, both new 3', f'{ours}, mixed 0.5' # two new images have that in common; the blocks are taken back by one half
mixed_both_new = f'{mixed}, both new 3'
names = {'pixels': 'Pixels', 'raw features': 'Raw features', 'raw features and votes': 'Raw features and votes', 'classifier features, 24 epochs': 'Classifier', 'classifier softmax, 24 epochs': "Classifier's certainty", 'article, 24 epochs': 'Article',
         'SupCon, 24 epochs': 'SupCon', 'SupCon, 24 epochs at 2e-4': 'SupCon, slower', 'SupCon, 24 epochs, mixed': 'SupCon, mixed',
         'MultiSimilarity, 24 epochs': 'MultiSimilarity', 'MultiSimilarity, 24 epochs at 2e-4': 'MultiSimilarity, slower', 'article, all pairs, 24 epochs': 'Article, all pairs',
         'default, 24 epochs': 'Ours, not held', 'default, 24 epochs at 2e-4': 'Ours, slower, not held', 'default, 24 epochs, mixed': 'Ours, mixed', 'SupCon, 24 epochs, held 0.2': 'Ours, held, metric term alone',
         'default, 24 epochs, held 0.2': 'Ours, held', 'default, 24 epochs, held 0.3': 'Ours, held more', 'default, 24 epochs, held': 'Ours, held and mixed', 'SupCon, 24 epochs, kept': 'Our default, metric term alone', 'MultiSimilarity, 24 epochs, kept': 'Our recipe, MultiSimilarity',
         'default, 24 epochs, kept, mixed 0.3': 'Ours, mixed by 0.3', mixed: 'Ours, mixed by one half', mixed_both_new: 'Ours, mixed by one half, both new', both_new: 'Ours, both new', ours: 'Our default'}
protocols = {'known': 'Known breeds', 'new': 'New breeds', 'known, even': 'Known breeds, evenly', 'new, even': 'New breeds, evenly', 'characters': 'New characters'}
splits = 9 # of photographs: seeds 3 to 11
pets = ('known', 'new', 'known, even', 'new, even')
together = {'together': 'Together', 'together, even': 'Together, evenly'} # learned and new breeds in one gallery; measures of these end in ', learned' or ', new'
measures = {'auc': 'AUC', 'recall@1': 'R@1', 'map@r': 'MAP@R'}
rivals = [m for m in names if m == ours or not names[m].startswith('Our') and 'softmax' not in m] # what is not ours, and the default
other_loss = 'MultiSimilarity, 24 epochs, kept' # in our recipe: a rival where that is said

_drawn = measured.protocol == 'characters' # of one length and rate
measured.loc[_drawn, 'method'] = measured.method[_drawn].map(lambda o: ours if o == 'default' else f'{o}, 24 epochs' if f'{o}, 24 epochs' in names else o)
quality = measured[_drawn | ((measured.dataset == 'third') & measured.method.isin(names))]
better = measured[measured.dataset == 'EfficientNet-Lite2'] # an encoder that knew more
left_out, in_gallery, in_both = (pd.read_csv(here/f'new_labels{o}.csv') for o in ('', '_gallery', '_together')) # percentages for labels that were not learned: without an image of them, with those in the gallery, and where the gallery has learned labels as well
identified, identified_shapes = (pd.read_csv(here/f'identify{o}.csv') for o in ('', '_shapes')) # how sure the first image and the label are
fresh = measured[measured.dataset == 'fresh'] # splits that nothing was measured on before the recipe was as it is


# once more, the networks that learn from as many images: the default whose head learns on from two views, and the rivals two epochs longer, under the names of those above
today, longer = f'{ours}, two views', {'SupCon, 26 epochs': 'SupCon, 24 epochs', 'MultiSimilarity, 26 epochs': 'MultiSimilarity, 24 epochs'}
once_more = measured[measured.dataset == 'fourth']
_untrained = measured[(measured.dataset == 'third') & (measured.method == 'raw features and votes')].assign(run=lambda o: 'fourth ' + o.seed.astype(str)) # no views, no training: the same in every run
as_many = pd.concat([once_more[once_more.method.isin(['raw features', today, *longer])].assign(method=lambda o: o.method.replace({today: ours, **longer})), _untrained])


def _searched_with_neighbours(q): return q[q.method.str.endswith(', expanded')].assign(method=lambda o: o.method.str.removesuffix(', expanded'))
in_company, fresh_company = _searched_with_neighbours(measured[measured.dataset == 'third']), _searched_with_neighbours(fresh) # the same methods, searched with neighbours


def runs(protocol, measure, of=quality):
    "Values of a measure: a row for each run, a column for each method"
    q = of[(of.protocol == protocol) & (of.measure == measure)]
    return q.pivot(index='run', columns='method', values='value')[[o for o in names if o in set(q.method)]]


def mean_and_spread(x): return f'{x.mean():.3f} ± {x.std():.3f}'


def interval(x):
    "Of the mean, 95 %"
    half = student.ppf(0.975, len(x)-1)*x.std()/len(x)**0.5
    return x.mean()-half, x.mean()+half


def markdown(first, columns, lines):
    "A table; each line is a list of cells"
    return '\n'.join('| ' + ' | '.join(map(str, o)) + ' |' for o in [[first, *columns], ['---']*(len(columns)+1), *lines])


def rows(t, first=''):
    "A data frame as a table"
    return markdown(first, t.columns, ([i, *r] for i, r in zip(t.index, t.values)))


def by_method(protocol, measures, methods=names, of=quality):
    "Means and spreads of some measures, a dict of their labels, for those methods that have any"
    r = {label: runs(protocol, m, of) for m, label in measures.items()}
    some = [m for m in methods if any(m in o for o in r.values())]
    return rows(pd.DataFrame({label: [mean_and_spread(x) if m in o and len(x := o[m].dropna()) else '' for m in some] for label, o in r.items()}, index=[names[m] for m in some]))


def differences(measures, rivals, which=('known', 'new'), of=quality):
    "How far the default is ahead of some methods, run by run"
    def cell(p, m, k):
        r = runs(p, m, of)
        if k not in r: return ''
        d = (r[ours]-r[k]).dropna()
        low, high = interval(d)
        return f'{d.mean():+.4f} ({low:+.4f} to {high:+.4f})'
    return markdown('our default, against', [names[k] for k in rivals], ([f'{protocols[p]}: {label}', *(cell(p, m, k) for k in rivals)] for m, label in measures.items() for p in which))


def hindsight(protocol, measure, of=quality, lowest=False):
    "What a choice of the method with hindsight would give, on each split anew: the lowest value, or the gain over raw features; pixels, which tell nothing, are not chosen"
    r = runs(protocol, measure, of).drop(columns='pixels', errors='ignore').dropna()
    return r.min(axis=1) if lowest else r.drop(columns='raw features').max(axis=1) - r['raw features']


def by_protocol(protocol, measures, methods=rivals):
    "A table of some measures, under the name of its protocol"
    return f'**{protocols[protocol]}**\n\n' + by_method(protocol, measures, methods)


def said(x, sign='', digits=3):
    "Mean and 95 % interval"
    return '{:{f}} ({:{f}} to {:{f}})'.format(x.mean(), *interval(x), f=f'{sign}.{digits}f')


def fitted(photographs, both=0):
    "Errors on new labels: a row for each split, columns for what was fitted to and for the measure; with what two new images have from that alone"
    return left_out[(left_out.photographs == photographs) & (left_out['both new'] == both)].pivot(index='seed', columns=['fitted to', 'measure'], values='value')


def fitted_together(photographs, both=0):
    "The same where the gallery has learned and new labels: columns for what was fitted to, for the queries, and for the measure"
    return in_both[(in_both.photographs == photographs) & (in_both['both new'] == both)].pivot(index='seed', columns=['fitted to', 'queries', 'measure'], values='value')


def fitted_in_gallery(photographs, seeds=(3, 11)):
    "The same where the gallery has labelled images of them, so many of each (a string: a number, or 'half')"
    q = in_gallery[(in_gallery.photographs == photographs) & in_gallery.seed.between(*seeds)]
    return q.pivot(index='seed', columns=['images', 'fitted to', 'measure'], values='value')


answers = {'first image, as a pair': 'first image, P(same)', 'first image, its label': 'first image, P(its label)', 'most probable label': 'most probable label, P(label)'}
asked = {'known': ('Known breeds', 'half'), 'new': ('New breeds', 'all other breeds'), 'known, even': ('Known breeds, evenly', 'half'), 'new, even': ('New breeds, evenly', 'all other breeds'), 'together, learned': ('Together, learned breeds', 'learned'), 'together, new': ('Together, new breeds', 'learned'),
         'together, even, learned': ('Together, evenly, learned breeds', 'learned'), 'together, even, new': ('Together, evenly, new breeds', 'learned'), 'characters': ('New characters', 'half')} # and what their probabilities were fitted to
asked = {k: v for k, v in asked.items() if k in set(identified.protocol)}


def answered(protocol, said, method=ours, fit=None, of=identified):
    "What is said of single answers: a row for each run, a column for each measure"
    q = of[(of.protocol == protocol) & (of.said == said) & (of.method == ('default' if protocol == 'characters' else method)) & (of.fit == (fit or asked[protocol][1]))]
    return q.pivot(index=['dataset', 'seed'], columns='measure', values='value')


def standing(protocol, measure, more=(), of=quality):
    "Whether the default is first or level (True) or not, against all methods that are not ours and some more; and the closest of those that it is behind, or level with, or ahead of"
    r = runs(protocol, measure, of)
    lead = {m: o for m in [*rivals, *more] if m in r and m != ours and len(o := (r[ours]-r[m]).dropna()) > 1}
    if not lead: return None, 'not measured'
    behind = {m: o for m, o in lead.items() if interval(o)[1] < 0}
    level = {m: o for m, o in lead.items() if interval(o)[0] <= 0 <= interval(o)[1]}
    worst = behind or level or lead
    m = min(worst, key=lambda o: worst[o].mean())
    return not behind, f'{"behind" if behind else "level" if level else "first"}: {said(lead[m], "+", 4)} to {names[m]}'


def held(x, limit, sign):
    "Whether values are at least (sign 1) or at most (-1) a limit: surely (True), on average (None), or not; and their mean and interval"
    worse = interval(x)[0 if sign > 0 else 1]
    return sign*(worse-limit) >= 0 or (None if sign*(x.mean()-limit) >= 0 else False), said(x)


def gain(protocol, least, of=quality, measure='map@r'): return held(((r := runs(protocol, measure, of))[ours] - r['raw features']).dropna(), least, 1)
def at_most(protocol, measure, most, of=quality): return held(runs(protocol, measure, of)[ours].dropna(), most, -1)


def targets(lines):
    "A table of aims; each line is what was aimed at, whether it was met, and what was measured"
    return markdown('target', ['', 'measured'], ([t, 'met' if ok else '**missed**' if ok is False else 'met on average', v] for t, ok, v in lines))
