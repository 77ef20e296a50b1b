"Matching: the assignment is the best there is, limits are never broken, and the order of files does not matter"
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from similarity_finder.admissible import log_odds, units
from similarity_finder.assign import assign, pair_up
from similarity_finder.balance import balance, covariates_of, love_plot, smd, variance_ratio
from similarity_finder.match import match, match_within


def by_permutations(logits, allowed):
    "Most pairs, then the largest sum: every injection of treated into controls and places for nobody"
    n, m = logits.shape
    best = (0, 0.)
    for cols in itertools.permutations(range(m + n), n):
        pairs = [(i, j) for i, j in enumerate(cols) if j < m]
        if all(allowed[i, j] for i, j in pairs): best = max(best, (len(pairs), sum(logits[i, j] for i, j in pairs)))
    return best


def value(pairs, logits): return len(pairs), sum(logits[i, j] for i, j in pairs)


@pytest.mark.parametrize('seed', range(12))
def test_one_to_one_equals_permutations(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 4), rng.integers(1, 5)
    logits, allowed = rng.normal(0, 5, (n, m)), rng.random((n, m)) < 0.6
    best = by_permutations(logits, allowed)
    i, j = allowed.nonzero()
    for found in (assign(logits, allowed), assign(sparse.coo_array((logits[i, j], (i, j)), shape=(n, m)))):
        assert value(found, logits) == pytest.approx(best)
        assert all(allowed[i, j] for i, j in found) and len(set(found[:, 1])) == len(found)


@pytest.mark.parametrize('seed', range(8))
def test_one_to_k(seed):
    "As many first controls as possible, then as many second ones, then the largest sum: against all ways"
    rng, k = np.random.default_rng(seed), 2
    logits, allowed = rng.normal(0, 5, (3, 4)), rng.random((3, 4)) < 0.7
    def promise(pairs):
        n = np.bincount([i for i, _ in pairs], minlength=3)
        return (*((n > c).sum() for c in range(k)), round(float(sum(logits[i, j] for i, j in pairs)), 6))
    ways = []
    for owners in itertools.product((None, 0, 1, 2), repeat=4): # who has each control
        pairs = [(o, j) for j, o in enumerate(owners) if o is not None]
        if all(allowed[p] for p in pairs) and max((owners.count(i) for i in range(3))) <= k: ways.append(pairs)
    assert promise(assign(logits, allowed, k).tolist()) == max(map(promise, ways))


def test_dense_and_sparse_agree_when_large():
    rng = np.random.default_rng(0)
    logits, allowed = rng.normal(0, 5, (120, 200)), rng.random((120, 200)) < 0.03
    i, j = allowed.nonzero()
    for k in (1, 3):
        a, b = assign(logits, allowed, k), assign(sparse.coo_array((logits[i, j], (i, j)), shape=logits.shape), k=k)
        assert value(a, logits) == pytest.approx(value(b, logits))
        np.testing.assert_array_equal(a, b) # real numbers: there are no ties


def test_pairs_within_a_group_are_disjoint_and_best():
    rng = np.random.default_rng(1)
    z = rng.normal(0, 3, (8, 8))
    z = z + z.T
    def perfect(left):
        if not left: yield []; return
        first, *rest = left
        for p in rest:
            for more in perfect([o for o in rest if o != p]): yield [(first, p), *more]
    found = pair_up(z)
    assert sorted(found.ravel()) == list(range(8))
    assert value(found, z)[1] == pytest.approx(max(value(p, z)[1] for p in perfect(list(range(8)))), abs=1e-4)


def cohort_table(files, rng):
    return pd.DataFrame(dict(file=[f.name for f in files], age=rng.integers(20, 90, len(files)).astype(float), sex=rng.choice(['f', 'm'], len(files)),
                             site=rng.choice(['a', 'b', None], len(files))))


@pytest.mark.parametrize('seed', range(6))
def test_limits_are_never_broken(finder, doodles, seed):
    rng = np.random.default_rng(seed)
    files = [doodles[i] for i in rng.permutation(len(doodles))]
    treated, controls, table = files[:30], files[30:80], cohort_table(files, rng)
    z = log_odds(finder.gallery, units(finder.gallery, treated, progress=False), units(finder.gallery, controls, progress=False))
    caliper, k = float(1/(1+np.exp(-np.quantile(z, rng.uniform(0.2, 0.8))))), int(rng.integers(1, 4))
    done = match(finder, treated, controls, caliper=caliper, exact=['sex', 'site'], within=dict(age=9), covariates=table, k=k, progress=False, dense_up_to=0 if seed % 2 else 10**9)
    p = done.pairs
    assert len(p) > 0
    assert (p.p_same >= caliper).all()
    assert (p.sex_treated == p.sex_control).all() and (p.site_treated == p.site_control).all()
    assert ((p.age_treated - p.age_control).abs() <= 9).all()
    assert not p.control.duplicated().any() and (p.treated.value_counts() <= k).all()
    assert set(p.treated) | set(done.unmatched.treated) == set(map(str, treated)) and not set(p.treated) & set(done.unmatched.treated)
    rows = table.set_index('file')
    for name, reason in zip(done.unmatched.treated, done.unmatched.reason): # each reason is true
        me = rows.loc[Path(name).name]
        like = [c for c in controls if rows.sex[c.name] == me.sex and rows.site[c.name] == me.site]
        if 'missing' in reason: assert pd.isna(me.site)
        elif reason == 'no control with the same sex and the same site': assert not like
        elif reason.endswith('age within 9'): assert like and not any(abs(rows.age[c.name] - me.age) <= 9 for c in like)
        else: assert any(abs(rows.age[c.name] - me.age) <= 9 for c in like)


def test_order_does_not_matter(finder, doodles):
    rng = np.random.default_rng(0)
    treated, controls, table = list(doodles[:25]), list(doodles[25:70]), cohort_table(doodles, rng)
    args = dict(exact='sex', covariates=table, progress=False)
    one = match(finder, treated, controls, k=2, **args)
    for _ in range(3):
        again = match(finder, [treated[i] for i in rng.permutation(25)], [controls[i] for i in rng.permutation(45)], k=2, **args | dict(covariates=table.sample(frac=1, random_state=1)))
        pd.testing.assert_frame_equal(again.pairs, one.pairs)
        pd.testing.assert_frame_equal(again.balance, one.balance)
    group = match_within(finder, treated, **args)
    pd.testing.assert_frame_equal(match_within(finder, treated[::-1], **args).pairs, group.pairs)
    assert (group.pairs.sex_first == group.pairs.sex_second).all()


def test_scores_are_the_finders_own(finder, doodles):
    "P(same) of a pair is what search says of it, from the gallery or encoded anew"
    done = match(finder, doodles[:5], doodles[40:60], progress=False)
    for t, c, p in zip(done.pairs.treated, done.pairs.control, done.pairs.p_same):
        found = {str(m.file): m.probability for m in finder.search(t, k=len(doodles))}
        assert found[c] == pytest.approx(p, abs=1e-5)
    assert done.explain(0).probability == pytest.approx(done.pairs.p_same[0], abs=1e-4)


def test_patients_with_several_images(finder, doodles):
    "The log-odds of two patients are the mean over their images"
    one, two = units(finder.gallery, doodles[:12], progress=False), units(finder.gallery, doodles[:12], lambda f: str(int(f.stem.split('_')[-1]) % 3), progress=False)
    z, place = log_odds(finder.gallery, one, one), {n: i for i, n in enumerate(one.names)}
    mean = np.array([[z[np.ix_([place[str(f)] for f in a], [place[str(f)] for f in b])].mean() for b in two.files] for a in two.files])
    np.testing.assert_allclose(log_odds(finder.gallery, two, two), mean, atol=1e-4)


def test_smd_against_a_table_by_hand():
    "Ages 50, 60, 70 against 40, 50, 60, 70; two of three women against one of four"
    t, c = pd.DataFrame(dict(age=[50, 60, 70], sex=['f', 'f', 'm'])), pd.DataFrame(dict(age=[40, 50, 60, 70], sex=['m', 'f', 'm', 'm']))
    b = balance(t, c, [(0, 1), (1, 2)]).set_index('covariate')
    age_sd = ((100 + 500/3)/2)**0.5
    sex_sd = ((2/9 + 3/16)/2)**0.5
    assert b.smd['age'] == pytest.approx((60-55)/age_sd)
    assert b.smd['sex: m'] == pytest.approx((1/3 - 3/4)/sex_sd)
    assert b.smd_after['age'] == pytest.approx(0)
    assert b.smd_after['sex: m'] == pytest.approx((0 - 1/2)/sex_sd)
    assert b.variance_ratio['age'] == pytest.approx(0.6) and b.variance_ratio_after['age'] == pytest.approx(1)
    assert np.isnan(b.variance_ratio['sex: m'])


def test_smd_does_not_depend_on_units_or_order():
    rng = np.random.default_rng(0)
    t, c = rng.normal(1, 2, 50), rng.normal(0, 3, 80)
    assert smd(10*t+3, 10*c+3) == pytest.approx(smd(t, c)) == pytest.approx(-smd(c, t)) == pytest.approx(smd(t[::-1], c[::-1]))
    assert variance_ratio(t, c) == pytest.approx(np.var(t, ddof=1)/np.var(c, ddof=1))


def test_love_plot_marks_a_tenth(finder):
    t, c = pd.DataFrame(dict(age=[50, 60, 70])), pd.DataFrame(dict(age=[40, 50, 60, 70]))
    ax = love_plot(balance(t, c, [(0, 1), (1, 2), (2, 3)]))
    assert any(list(line.get_xdata()) == [0.1, 0.1] for line in ax.lines)
    assert [x.get_offsets()[0][0] for x in ax.collections if len(x.get_offsets())][-1] == pytest.approx(0) # after


def test_covariates_keep_names_that_are_numbers(tmp_path):
    (tmp_path/'t.csv').write_text('patient,age\n007,50\n7,60\n')
    assert covariates_of(['7', '007'], tmp_path/'t.csv', 'patient').age.tolist() == [60, 50]
