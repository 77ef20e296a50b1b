"The measures agree with other people's code, with weights and with repetition, and the intervals hold what they promise"
import numpy as np
import pytest
import torch
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss, roc_auc_score, roc_curve

from similarity_finder import metrics as m

of_scores = [m.roc_auc, m.equal_error_rate, m.accuracy_at, m.recall_at_k, m.map_at_r]
of_probabilities = [m.brier_score, m.calibration_error]


def made_up(seed=0, Q=30, G=50, classes=6, ties=False):
    "Logits of queries with a gallery, same pairs higher; some pairs left out"
    rng = np.random.default_rng(seed)
    q, g = rng.integers(classes, size=Q), rng.integers(classes, size=G)
    z = rng.normal(size=(Q, G)) + 1.2*(q[:, None] == g[None])
    if ties: z = z.round()
    z[rng.random(z.shape) < 0.05] = -np.inf
    return z, q, g


def sigmoid(z): return np.where(z > -np.inf, 1/(1+np.exp(-z)), -np.inf)


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('seed', range(5))
def test_pairs_against_sklearn(seed, ties):
    z, q, g = made_up(seed, ties=ties)
    keep = z > -np.inf
    same, flat = (q[:, None] == g[None])[keep], z[keep]
    assert np.isclose(m.roc_auc(z, q, g), roc_auc_score(same, flat))
    fpr, tpr, _ = roc_curve(same, flat, drop_intermediate=False)
    assert np.isclose(m.equal_error_rate(z, q, g), brentq(lambda x: 1 - x - interp1d(fpr, tpr)(x), 0, 1), atol=1e-6)
    assert np.isclose(m.accuracy_at(z, q, g, threshold=0.5), balanced_accuracy_score(same, flat >= 0.5))
    assert np.isclose(m.accuracy_at(z, q, g, balanced=False), accuracy_score(same, flat >= 0))
    assert np.isclose(m.brier_score(sigmoid(z), q, g), brier_score_loss(same, sigmoid(flat)))
    for prior in (0.5, 0.03): # weights that make a share `prior` of the pairs same
        w = np.where(same, prior/same.mean(), (1-prior)/(1-same.mean()))
        assert np.isclose(m.brier_score(sigmoid(z), q, g, prior=prior), brier_score_loss(same, sigmoid(flat), sample_weight=w))


@pytest.mark.parametrize('equal', ['width', 'mass'])
def test_bins_against_sklearn(equal):
    z, q, g = made_up()
    keep = z > -np.inf
    same, p = (q[:, None] == g[None])[keep], sigmoid(z)[keep]
    table = m.reliability(sigmoid(z), q, g, equal=equal, draws=50)
    if equal == 'width':
        share, mean = calibration_curve(same, p, n_bins=15)
        assert np.allclose(table['same'], share) and np.allclose(table.p, mean)
    else: assert table.pairs.max() - table.pairs.min() <= 2
    assert table.pairs.sum() == keep.sum()
    assert np.isclose(m.calibration_error(sigmoid(z), q, g, equal=equal), (table.pairs*(table.p-table['same']).abs()).sum()/keep.sum())


def test_a_prior_weighs_the_pairs():
    "Pairs of both kinds repeated until a share of them is same: as with that prior"
    p, same = np.array([.9, .6, .3, .35, .1, .8]), np.array([1, 1, 1, 0, 0, 0])
    more = np.r_[p[:3], np.tile(p[3:], 4)], np.r_[same[:3], np.tile(same[3:], 4)]
    for f in of_probabilities: assert np.isclose(f(p, same, prior=0.2), f(*more))
    a, b = m.reliability(p, same, prior=0.2, draws=20), m.reliability(*more, draws=20)
    assert np.allclose(a[['low', 'high', 'p', 'same']], b[['low', 'high', 'p', 'same']])


@pytest.mark.parametrize('seed', range(3))
def test_retrieval_against_pytorch_metric_learning(seed):
    accuracy_calculator = pytest.importorskip('pytorch_metric_learning.utils.accuracy_calculator')
    distances = pytest.importorskip('pytorch_metric_learning.distances')
    inference = pytest.importorskip('pytorch_metric_learning.utils.inference')
    rng = np.random.default_rng(seed)
    q, g = np.r_[rng.integers(7, size=39), 99], rng.integers(7, size=60) # nothing is of class 99
    centres = rng.normal(size=(100, 8))
    e, f = (torch.nn.functional.normalize(torch.tensor(centres[o] + rng.normal(size=(len(o), 8))).float(), dim=1) for o in (q, g))
    calc = accuracy_calculator.AccuracyCalculator(include=('precision_at_1', 'mean_average_precision_at_r'), k='max_bin_count',
                                                  knn_func=inference.CustomKNN(distances.CosineSimilarity()))
    theirs = calc.get_accuracy(e, torch.tensor(q), f, torch.tensor(g))
    assert np.isclose(m.recall_at_k(e @ f.T, q, g), theirs['precision_at_1'])
    assert np.isclose(m.map_at_r(e @ f.T, q, g), theirs['mean_average_precision_at_r'])


@pytest.mark.parametrize('f', of_scores + of_probabilities, ids=lambda f: f.__name__)
@pytest.mark.parametrize('ties', [False, True])
def test_weights_repeat_queries(f, ties):
    z, q, g = made_up(ties=ties)
    if f in of_probabilities: z = sigmoid(z)
    w = np.random.default_rng(1).integers(4, size=(5, len(q)))
    again = [np.repeat(np.arange(len(q)), o) for o in w]
    assert np.allclose(f(z, q, g, weights=w), [f(z[i], q[i], g) for i in again])
    assert np.isclose(f(z, q, g, weights=w[0]), f(z, q, g, weights=w)[0])
    assert np.isclose(f(z, q, g, weights=7*np.ones(len(q))), f(z, q, g)) # everything seven times


@pytest.mark.parametrize('f', of_scores + of_probabilities, ids=lambda f: f.__name__)
def test_tensors_lists_and_truths(f):
    z, q, g = made_up()
    if f in of_probabilities: z = sigmoid(z)
    value = f(z, q, g)
    assert isinstance(value, float)
    assert np.isclose(value, f(torch.tensor(z, requires_grad=True), torch.tensor(q), torch.tensor(g)))
    assert np.isclose(value, f(z.tolist(), [str(o) for o in q], [str(o) for o in g]))
    assert np.isclose(value, f(z, q[:, None] == g[None]))
    if f not in (m.recall_at_k, m.map_at_r):
        keep = z > -np.inf
        assert np.isclose(value, f(z[keep], (q[:, None] == g[None])[keep]))
        assert np.isclose(f(torch.tensor(z).bfloat16(), q, g), value, atol=0.02)


@pytest.mark.slow
def test_the_interval_holds_the_truth():
    "Queries of many a draw from one population: about 95 % of the intervals hold its mean"
    rng, hits, n = np.random.default_rng(0), 0, 200
    for i in range(n):
        ease = rng.random(60) # each query has its own probability of being right, over all its pairs: 0.5 on average
        same = np.tile([1, 0], (60, 10)).astype(bool)
        right = rng.random(same.shape) < ease[:, None]
        got = m.bootstrap(m.accuracy_at, np.where(right == same, 1., -1.), same, draws=300, seed=i)
        hits += got.low <= 0.5 <= got.high
    assert 0.89 < hits/n < 0.99, hits/n


def test_groups_are_drawn_together():
    "Queries that agree within their group are no more than one query each; a group alone has no interval"
    right = np.array([[1.], [0.], [1.], [1.], [0.]])
    def mean(s, weights=None): return float(s[:,0].mean()) if weights is None else weights @ s[:,0]/weights.sum(1)
    one = m.bootstrap(mean, right, draws=400)
    many = m.bootstrap(mean, np.repeat(right, 7, 0), draws=400, groups=np.repeat(list('abcde'), 7))
    assert many == pytest.approx(one)
    alone = m.bootstrap(m.accuracy_at, np.array([[1., -1.], [1., 1.]]), np.array([[1, 0], [1, 0]]), groups=['a', 'a'])
    assert alone.value == pytest.approx(0.75) and np.isnan(alone.low)
    with pytest.raises(ValueError, match='groups are of 2 queries, one each, not of 1'): m.bootstrap(m.accuracy_at, np.array([[1.], [2.]]), np.array([[1], [0]]), groups=['a'])


def test_a_bootstrap_without_a_kind_of_pairs():
    "Draws that miss the queries with a same pair say nothing, and are left out; one such query has no interval"
    got = m.bootstrap(m.roc_auc, np.array([[2., 1.], [0., 1.]]), np.array([[1, 0], [0, 0]]))
    assert got.value == 1 and np.isnan([got.low, got.high]).all() # as one query alone
    two = m.bootstrap(m.recall_at_k, np.array([[2., 1.], [2., 1.], [0., 1.]]), np.array([[1, 0], [1, 0], [0, 0]]))
    assert two == pytest.approx((1, 2/(2+1.96**2), 1), abs=1e-3) # all draws that say anything agree, of two queries: Wilson's interval
    z, q, g = made_up()
    blocks = [np.concatenate(list(m.resample(30, 50, seed))) for seed in (1, 1, 2)]
    assert (blocks[0] == blocks[1]).all() and (blocks[0] != blocks[2]).any()


@pytest.mark.parametrize('call, says', [
    (lambda: m.roc_auc([[1., 2.]], ['a', 'b'], ['a', 'b']), '2 queries and 2 gallery images'),
    (lambda: m.roc_auc([1., 2.], [1, 0, 0]), 'the truth of each pair'),
    (lambda: m.roc_auc([1., np.nan], [1, 0]), '1 of 2 scores are not numbers'),
    (lambda: m.equal_error_rate([1., 2.], [1, 1]), 'none of 2 pairs is of the different class'),
    (lambda: m.brier_score([1.2, 0.3], [1, 0]), 'are they logits'),
    (lambda: m.brier_score([0.2, 0.3], [1, 0], prior=1), 'prior, the share of same pairs'),
    (lambda: m.calibration_error([0.2, 0.3], [1, 0], equal='size'), "not in 'size'"),
    (lambda: m.calibration_error([0.2, 0.3], [1, 0], bins=0), 'at least 1, not 0'),
    (lambda: m.calibration_error([-np.inf], [1]), 'no pairs to measure'),
    (lambda: m.map_at_r([[1., 2.]], ['a'], ['a', 'b'], weights=[1, 1]), '1 queries need as many weights, got 2'),
    (lambda: m.filter_misses(['a'], ['a', 'b'], ['a']), '2 queries need as many classes'),
    (lambda: m.bootstrap(m.roc_auc, [1., 2.], [1, 0], level=95), 'level, the confidence')])
def test_what_is_wrong_is_said(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_a_query_without_mates_counts_for_nothing():
    z, q, g = made_up()
    for f in (m.recall_at_k, m.map_at_r): assert f(np.r_[z, [z[0]]], np.r_[q, 99], g) == pytest.approx(f(z, q, g))
    assert np.isnan(m.recall_at_k(z[:2], [99, 99], g))


def test_the_band_of_reweighted_pairs_is_as_wide_as_few_pairs_make_it():
    "One same pair of 37, weighed as one half: a share of one half that rests on hardly four pairs"
    p, same = np.full((37, 1), 0.5), np.arange(37)[:, None] == 0
    row = m.reliability(p, same, prior=0.5, bins=1, draws=20).iloc[0]
    assert row['same'] == pytest.approx(0.5)
    n = 1/(0.5**2/1 + 0.5**2/36) # Kish: (sum of weights)^2 / sum of their squares
    low, high = 0.5 - 1.96*np.sqrt(n*0.25 + 1.96**2/4)/(n + 1.96**2), 0.5 + 1.96*np.sqrt(n*0.25 + 1.96**2/4)/(n + 1.96**2)
    assert row.same_low <= low + 1e-3 and row.same_high >= high - 1e-3
