"Calibration finds what there is to find, stays finite when there is nothing, and survives being saved"
import warnings

import numpy as np
import pytest
import torch

from similarity_finder.calibrate import Calibration, cross_calibrated, fit_calibration, head_calibration, store_calibration, threshold_at
from similarity_finder.head import PairHead
from similarity_finder.metrics import calibration_error


def drawn(temperature, shift, n=(200, 100), seed=0):
    "Logits, and truths that are drawn with the probabilities they mean"
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 4, size=n)
    return z, rng.random(n) < Calibration(temperature, shift).probability(z)


@pytest.mark.parametrize('temperature, shift', [(1, 0), (3, -2), (0.5, 1), (10, -4)])
def test_finds_what_was_put_in(temperature, shift):
    z, same = drawn(temperature, shift)
    got = fit_calibration(z, same)
    assert np.isclose(got.temperature, temperature, rtol=0.15) and np.isclose(got.shift, shift, atol=0.15)
    assert np.isclose(got.prior, same.mean())
    assert np.isclose(got.probability(z).mean(), same.mean(), atol=1e-3) # as many as there were
    moved = fit_calibration(5*z+7, same) # another scale and zero of the logits: the same probabilities
    assert np.allclose(moved.probability(5*z+7), got.probability(z), atol=1e-4)


def test_weights_repeat_queries():
    z, same = drawn(2, -1, (20, 30))
    w = np.random.default_rng(0).integers(3, size=20)
    again = np.repeat(np.arange(20), w)
    assert np.allclose(fit_calibration(z, same, weights=w), fit_calibration(z[again], same[again]), atol=1e-4)


def test_tensors_and_left_out_pairs():
    z, same = drawn(2, -1, (20, 30))
    out = np.random.default_rng(1).random(z.shape) < 0.2
    masked = np.where(out, -np.inf, z)
    got = fit_calibration(masked, same)
    assert np.allclose(got, fit_calibration(z[~out], same[~out]), atol=1e-5)
    assert np.allclose(got, fit_calibration(torch.tensor(masked), torch.tensor(same)))
    assert ((got.probability(masked) == -np.inf) == out).all()


@pytest.mark.filterwarnings('ignore:calibrated with')
@pytest.mark.parametrize('n', [1, 2, 5, 50])
def test_separable_pairs_stay_finite(n):
    for size in (1e-3, 1., 1e3): # of the logits
        z, same = np.r_[np.linspace(1, 2, n), -np.linspace(1, 2, n)]*size, np.r_[np.ones(n), np.zeros(n)]
        got = fit_calibration(z, same)
        p = got.probability(z)
        assert np.isfinite(got).all() and (np.diff(p[np.argsort(z)]) > 0).all()
        assert 0.5 < p[:n].min() and p[:n].max() < 1 - 0.2/(n+2) # never surer than n pairs allow


@pytest.mark.filterwarnings('ignore:calibrated with')
def test_nothing_to_find():
    with pytest.warns(UserWarning, match='do not tell same from different'): got = fit_calibration(np.zeros(100), np.arange(100) < 30)
    assert np.isclose(got.probability(0.), 0.3, atol=0.01)
    with pytest.warns(UserWarning, match='do not tell same from different'): got = fit_calibration(-np.arange(100.), np.arange(100) >= 50)
    assert got.temperature > 0 and np.allclose(got.probability(-np.arange(100.)), 0.5, atol=0.02)
    with pytest.warns(UserWarning, match='calibrated with 3 pairs of the same class'): fit_calibration(np.arange(10.), np.arange(10) > 6)
    for truth, kind in ((np.ones(4), 'different'), (np.zeros(4), 'same')):
        with pytest.raises(ValueError, match=f'none of 4 pairs is of the {kind} class'): fit_calibration(np.arange(4.), truth)
    with pytest.raises(ValueError, match='prior, the share of same pairs'): fit_calibration([1., 0.], [1, 0], prior=0)


def test_a_prior_is_counted_by_weights():
    "Fitting for a prior is fitting to pairs repeated until they have it"
    z, same = drawn(2, -1, (40, 50))
    z, same = z.ravel(), same.ravel()
    more = np.r_[z, np.tile(z[~same], 4)], np.r_[same, np.tile(same[~same], 4)]
    assert np.allclose(fit_calibration(z, same, prior=more[1].mean())[:2], fit_calibration(*more)[:2], atol=0.02) # but for Platt's targets


def test_cross_calibration_is_honest():
    "Each query's probabilities do not depend on its own truths"
    z, same = drawn(2, -1, (20, 30))
    p = cross_calibrated(z, same)
    for i in (0, 7):
        other = same.copy()
        other[i] = ~other[i]
        assert np.allclose(cross_calibrated(z, other)[i], p[i])
    assert calibration_error(p, same) < calibration_error(Calibration().probability(z), same)
    with pytest.raises(ValueError, match='1 queries cannot be parted'): cross_calibrated(z[:1], same[:1])


def test_images_that_ask_one_another():
    "A pair is there from either side; those that ask have no part in their fit, neither as queries nor in the gallery"
    rng = np.random.default_rng(0)
    q, own = np.arange(24) % 3, np.r_[np.arange(20), [-1]*4] # four queries are not in the gallery
    g = q[:20]
    z = np.where(q[:,None] == g[None], 2, -1) + rng.normal(size=(24, 20))
    z[np.arange(20), np.arange(20)] = -np.inf
    p, part = cross_calibrated(z, q, g, folds=4, own=own), np.random.default_rng(42).permutation(24) % 4
    share = (np.equal.outer(q, g).sum()-20)/(24*20-20)
    for k in range(4):
        rows, columns = part == k, ~np.isin(np.arange(20), own[part == k])
        assert np.allclose(p[rows], fit_calibration(z[~rows][:,columns], q[~rows], g[columns], share).probability(z[rows]))
        other = np.where(~rows[:,None] & columns[None], z, rng.normal(size=z.shape)*9) # all that those who ask are part of
        changed = cross_calibrated(other, q, g, share, folds=4, own=own)[rows]
        assert np.allclose(changed, fit_calibration(z[~rows][:,columns], q[~rows], g[columns], share).probability(other[rows]))
        assert not np.allclose(cross_calibrated(other, q, g, share, folds=4)[rows], changed) # without `own` they have a part


def test_a_label_left_out_has_no_part_in_its_fit():
    "Whatever the logits of its images are, as queries and in the gallery, what is asked of it gets the probabilities that the others fit; and for the same share of same pairs"
    rng = np.random.default_rng(0)
    q, g = np.repeat(['a', 'b', 'c', 'd'], 5), np.repeat(['b', 'd', 'a', 'c', 'e'], 6) # 'e' asks nothing
    z = np.where(q[:,None] == g[None], 2, -1) + rng.normal(size=(20, 30))
    p = cross_calibrated(z, q, g, folds=4, by='label')
    touched = (q[:,None] == 'a') | (g[None] == 'a')
    other = np.where(touched, rng.normal(size=z.shape)*9, z)
    changed = cross_calibrated(other, q, g, folds=4, by='label')
    share = (q[:,None] == g[None]).mean()
    for label in 'abcd':
        rows, without = q == label, fit_calibration(z[np.ix_(q != label, g != label)], q[q != label], g[g != label], prior=share)
        assert np.allclose(p[rows], without.probability(z[rows]), atol=1e-6)
        assert np.allclose(changed[rows], without.probability(other[rows]), atol=1e-6) == (label == 'a') # the fits of the others have seen what was changed
    assert np.allclose(p, cross_calibrated(z, q, g, share, folds=4, by='label')) and (cross_calibrated(np.where(touched, -np.inf, z), q, g, folds=2, by='label') == -np.inf).sum() == touched.sum()
    names = dict(a='a', b=1, c=(1, 2), d=2.5, e='1') # labels of any type
    assert np.allclose(p, cross_calibrated(z, [names[o] for o in q], [names[o] for o in g], folds=4, by='label'))
    two = np.isin(q, ['a', 'b'])
    with pytest.raises(ValueError, match='without one of 2 parts of the labels: none of .* is of the different class'): cross_calibrated(z[np.ix_(two, np.isin(g, ['a', 'b']))], q[two], g[np.isin(g, ['a', 'b'])], by='label')
    with pytest.raises(ValueError, match='4 labels cannot be parted in 5'): cross_calibrated(z, q, g, folds=5, by='label')
    with pytest.raises(ValueError, match="by='label' needs the labels"): cross_calibrated(z, z > 0, by='label')


@pytest.mark.parametrize('seed', range(10))
def test_labels_that_the_gallery_has_are_in_all_parts(seed):
    "Few of many: no fit is without same pairs"
    rng = np.random.default_rng(seed)
    q, g = np.r_[np.repeat([0, 1], 4), np.arange(2, 40)], np.repeat([0, 1], 5)
    z = np.where(q[:,None] == g[None], 1, -1) + rng.normal(size=(len(q), 10))
    assert np.isfinite(cross_calibrated(z, q, g, by='label', seed=seed)).all()


@pytest.mark.parametrize('per', ['pair', 'query'])
def test_thresholds_keep_to_the_rate(per):
    rng = np.random.default_rng(0)
    for ties in (False, True):
        z, same = rng.normal(size=(50, 40)), rng.random((50, 40)) < 0.1
        if ties: z = z.round(1)
        false = z[~same] if per == 'pair' else np.where(same, -np.inf, z).max(1)
        for fpr in (0, 0.02, 0.1, 0.5, 0.99):
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                got = threshold_at(z, same, fpr=fpr, per=per)
            assert got.fpr == (false >= got.score).mean() <= fpr
            lower = np.nextafter(np.sort(false[false < got.score])[::-1][0], np.inf) if (false < got.score).any() else None
            if lower is not None: assert (false >= np.nextafter(lower, -np.inf)).mean() > fpr # one false score lower, too many pass
            assert got.n == len(false)


def test_what_cannot_be_seen_is_not_claimed():
    z, same = np.arange(10.), np.arange(10) > 4
    with pytest.warns(UserWarning, match='cannot be seen in 5 different pairs'): got = threshold_at(z, same, fpr=0.01)
    assert got.fpr == 0 and got.score > 4 and got.tpr == 1
    with pytest.raises(ValueError, match='fpr, the share'): threshold_at(z, same, fpr=1)
    with pytest.raises(ValueError, match="per is 'pair' or 'query'"): threshold_at(z, same, per='image')
    with pytest.raises(ValueError, match='none of 2 pairs is of the same class'): threshold_at([1., 2.], [0, 0])


def test_in_the_head():
    head, c = PairHead(4, 2), Calibration(2.5, -1.5, 0.04)
    store_calibration(c, head)
    z = torch.linspace(-9, 9, 50)
    assert np.allclose(head.probability(z).numpy(), c.probability(z), atol=1e-6)
    assert np.allclose(head.probability(z, prior=0.3).numpy(), c.at_prior(0.3).probability(z), atol=1e-5)
    other = PairHead(4, 2)
    other.load_state_dict(head.state_dict())
    assert np.allclose(head_calibration(other), c)
    old = {k: v for k, v in PairHead(4, 2).state_dict().items() if k != 'prior'} # before it was kept
    other.load_state_dict(old)
    assert head_calibration(other) == Calibration()


def test_nothing_is_encoded_again(finder, doodles, tmp_path):
    "Calibration is saved with a finder; its gallery stays as it is"
    from similarity_finder.finder import SimilarityFinder
    before, head = finder.encoder.fingerprint, finder.encoder.head
    found = finder.search(doodles[3], k=5)
    try:
        store_calibration(Calibration(3., -2., 0.05), head)
        assert finder.encoder.fingerprint == before
        finder.gallery.check()
        again = finder.search(doodles[3], k=5)
        assert [(m.file, m.logit) for m in again] == [(m.file, m.logit) for m in found]
        assert again[0].probability == pytest.approx(float(Calibration(3., -2.).probability(found[0].logit)), abs=1e-5)
        loaded = SimilarityFinder.load(SimilarityFinder.from_parts(None, finder.gallery).save(tmp_path/'f'))
        assert np.allclose(head_calibration(loaded.encoder.head), (3., -2., 0.05))
        assert loaded.search(doodles[3], k=5) == again
    finally:
        store_calibration(Calibration(), head)
        finder.gallery.table = None


def test_a_threshold_between_two_neighbouring_numbers_keeps_its_rate():
    "Nothing lies between them, and the mean of the two is rounded to one or the other"
    for low in (1., np.nextafter(1, 2)): # rounding to even goes down after one of these, up after the other
        high = np.nextafter(low, 2)
        with pytest.warns(UserWarning, match='cannot be seen'): t = threshold_at([low, high], [0, 1], fpr=0)
        assert (t.score, t.fpr, t.tpr) == (high, 0, 1)
