"Which label a query has: Bayes' rule and cohesion by hand, nothing that depends on order or shift, a fit that has not seen what it is measured on, and a temperature that is kept"
import json

import numpy as np
import pytest
import torch

from similarity_finder.calibrate import Calibration, fit_calibration, store_calibration
from similarity_finder.data import label_func
from similarity_finder.evaluate import evaluate
from similarity_finder.finder import SimilarityFinder
from similarity_finder.gallery import Gallery
from similarity_finder.identify import among, cross_identified, fit_label_temperature, label_probabilities
from similarity_finder.scored import score_gallery, score_queries
from similarity_finder.store import read_description


def test_bayes_rule():
    "One image a label, logits normal about +1 for same pairs and about -1 for different ones: their log odds are 2 z"
    rng = np.random.default_rng(0)
    z = rng.normal(size=(5, 4))
    density = lambda x, mean: np.exp(-(x-mean)**2/2)
    for q, p in zip(z, label_probabilities(z, list('abcd'), temperature=0.5)[1]):
        joint = [np.prod([density(x, 1 if i == right else -1) for i, x in enumerate(q)]) for right in range(4)] # each label could be the right one
        assert p == pytest.approx(joint/np.sum(joint))


def test_what_does_not_matter():
    rng = np.random.default_rng(1)
    z, g = rng.normal(size=(6, 9))*3, np.array(list('abcabcaab'))
    z[2, g == 'b'] = -np.inf # one query is compared with no b
    names, p = label_probabilities(z, g, 1.3)
    assert names == ['a', 'b', 'c'] and p.sum(1) == pytest.approx(1) and p[2, 1] == 0
    order = rng.permutation(9)
    again, q = label_probabilities(z[:, order], g[order], 1.3)
    assert np.allclose(p, q[:, [again.index(l) for l in names]])
    assert np.allclose(p, label_probabilities(torch.tensor(z + rng.normal(size=(6, 1))), torch.tensor(['abc'.index(l) for l in g]), 1.3)[1]) # a shift for each query; tensors
    more = np.c_[z, rng.normal(size=(6, 2))] # images without a label, or left out
    assert np.allclose(p, label_probabilities(more, [*g, None, None], 1.3)[1])
    more[:, 9:] = -np.inf
    assert np.allclose(p, label_probabilities(more, [*g, 'a', 'c'], 1.3)[1])
    twice = label_probabilities(np.c_[z, z], [*g, *g], 1.3)[1] # every image twice: the odds of all labels grow alike
    assert np.allclose(p, twice)


def symmetric(rng, g, apart=2):
    "Logits of a gallery with itself"
    z = rng.normal(size=(len(g), len(g))) + apart*(g[:, None] == g[None])
    return z + z.T


def by_hand(x, g, z, t, own=None):
    "P(label) of one query, from its logits, the gallery's labels and logits, in plain loops; without image `own`"
    there = [i for i in range(len(g)) if g[i] is not None and i != own]
    names = list(dict.fromkeys(l for l in g if l is not None))
    of = {l: [i for i in there if g[i] == l] for l in names}
    mean = {l: np.mean([z[i, j] for i in at for j in at if i != j]) for l, at in of.items() if len(at) > 1}
    middle = np.mean(list(mean.values())) if mean else 0
    odds = []
    for l, at in of.items():
        n, c = len(at), (len(at)-1)/(len(at)+2)*(mean[l]-middle) if l in mean else 0
        odds.append(sum(np.exp(x[i]/t) for i in at if x[i] > -np.inf)/np.sqrt(max(sum(x[i] > -np.inf for i in at), 1)*np.exp(c/t)))
    return names, np.array(odds)/np.sum(odds)


def test_cohesion_by_hand():
    rng = np.random.default_rng(5)
    for _ in range(20):
        g = list(rng.choice(['a', 'b', 'c', 'd', None], 9))
        if all(l is None for l in g): continue
        z, x, t = symmetric(rng, np.array(g, object)), rng.normal(size=9), rng.uniform(0.5, 2)
        names, p = label_probabilities(x[None], g, t, among(z, g))
        assert names == by_hand(x, g, z, t)[0] and p[0] == pytest.approx(by_hand(x, g, z, t)[1])
        own = np.where(np.arange(9) == 3, -np.inf, z[3])
        if any(l is not None for i, l in enumerate(g) if i != 3): assert label_probabilities(own[None], g, t, among(z, g), [3])[1][0] == pytest.approx(by_hand(own, g, z, t, 3)[1])


def test_a_copy_changes_little():
    "Of a label with one image, and of one with many"
    for n in (1, 8):
        g = ['a']*n + ['b']*8 + ['c']*8
        z = symmetric(np.random.default_rng(6), np.array(g), 3)
        x = np.random.default_rng(7).normal(size=len(g))
        before = label_probabilities(x[None], g, 1., among(z, g))[1][0, 0]
        at = [0, *range(len(g))] # the first one twice, with a logit like that of an image with itself
        copy = np.array(z[np.ix_(at, at)])
        copy[0, 1] = copy[1, 0] = 12.
        after = label_probabilities(x[at][None], ['a', *g], 1., among(copy, ['a', *g]))[1][0, 0]
        assert abs(np.log(after/(1-after)) - np.log(before/(1-before))) < 1.


def test_fit_is_of_maximum_likelihood():
    rng = np.random.default_rng(2)
    g = list('aabbccdd')
    q = rng.choice(list('abcd'), 300)
    z = 2.5*(rng.normal(size=(300, 8)) + 1.5*(q[:, None] == np.array(g)[None]))
    found = fit_label_temperature(z, q, g, start=2.5)
    names, _ = label_probabilities(z, g)
    column = np.array([names.index(l) for l in q])
    def posterior(t): return -np.log(label_probabilities(z, g, t)[1][np.arange(300), column]).sum() + np.log(t/2.5)**2/(2*0.5**2)
    assert all(posterior(found) < posterior(found*k) for k in (0.95, 1.05))
    assert fit_label_temperature(10*z, q, g, start=25) == pytest.approx(10*found, rel=1e-3) # in the units of the logits
    assert fit_label_temperature(z, q, g, start=2.5) == found
    assert fit_label_temperature(z, q, g) == pytest.approx(fit_label_temperature(z, q, g, start=fit_calibration(z, q, g).temperature)) # from the temperature of pairs


@pytest.mark.parametrize('start', [None, 1.3])
def test_fit_with_cohesion(start):
    "Queries that are in the gallery, among others; those of other labels, and images without one, tell nothing"
    rng = np.random.default_rng(8)
    g = np.array(list('aaabbbbccdddd'))
    z = symmetric(rng, g)
    x = np.r_[np.where(np.eye(13, dtype=bool), -np.inf, z), rng.normal(size=(20, 13))]
    q = [*g, *rng.choice(list('abcd'), 20)]
    x[13:] += 2*(np.array(q)[13:, None] == g[None])
    own = [*range(13), *[-1]*20]
    t = fit_label_temperature(x, q, g, start, among(z, g), own)
    first = start or fit_calibration(x, q, g).temperature
    def posterior(t): return -sum(np.log(p[names.index(l)]) for o, l, i in zip(x, q, own) for names, p in [by_hand(o, list(g), z, t, i)]) + np.log(t/first)**2/(2*0.5**2)
    assert all(posterior(t) < posterior(t*k) for k in (0.97, 1.03))
    more = np.c_[np.r_[x, rng.normal(size=(9, 13)) + 6], rng.normal(size=(42, 2))]
    wide = np.pad(z, (0, 2))
    assert fit_label_temperature(more, [*q, *['newt']*9], [*g, None, None], start, among(wide, [*g, None, None]), [*own, *[-1]*9]) == pytest.approx(t)


@pytest.mark.parametrize('by', ['query', 'label'])
def test_measured_on_what_it_has_not_seen(by):
    rng = np.random.default_rng(3)
    g = np.array(list('aabbccddeeff'))
    q = rng.choice(list('abcdef'), 60)
    z = rng.normal(size=(60, 12)) + 2*(q[:, None] == g[None])
    names, p = cross_identified(z, q, g, folds=3, by=by)
    if by == 'query': parts = [np.random.default_rng(42).permutation(60) % 3 == k for k in range(3)]
    else:
        labels = list(dict.fromkeys(q))
        parts = [np.isin(q, [l for l, r in zip(labels, np.random.default_rng(42).permutation(6)) if r % 3 == k]) for k in range(3)]
    for part in parts:
        hidden = np.isin(g, q[part]) if by == 'label' else np.zeros(12, bool)
        t = fit_label_temperature(np.where(hidden, -np.inf, z)[~part], q[~part], g)
        assert np.allclose(p[part], label_probabilities(z[part], g, t)[1])
        touched = np.where(part[:, None] | hidden[None], 5*z, z) # whatever has to do with them
        assert np.allclose(cross_identified(touched, q, g, folds=3, by=by)[1][part], label_probabilities(touched[part], g, t)[1])
        near = symmetric(np.random.default_rng(9), g)
        other = np.where(hidden[:, None] | hidden, 5*near, near)
        t = fit_label_temperature(z[np.ix_(~part, ~hidden)], q[~part], g[~hidden], None, among(near[np.ix_(~hidden, ~hidden)], g[~hidden])) # as if they were not there
        assert np.allclose(cross_identified(z, q, g, folds=3, by=by, among=among(other, g))[1][part], label_probabilities(z[part], g, t, among(other, g))[1])


def test_a_query_of_the_gallery_is_no_part_of_its_fit():
    rng = np.random.default_rng(4)
    g = np.array(list('aabbccdd')*3)
    z = symmetric(rng, g)
    np.fill_diagonal(z, -np.inf)
    own, near = np.arange(24), among(z, g)
    p = cross_identified(z, g, g, folds=4, own=own, among=near)[1]
    part = np.random.default_rng(42).permutation(24) % 4 == 0
    rest = np.flatnonzero(~part)
    t = fit_label_temperature(z[np.ix_(rest, rest)], g[rest], g[rest], None, among(z[np.ix_(rest, rest)], g[rest]), np.arange(len(rest))) # as if they were not there
    assert np.allclose(p[part], label_probabilities(z[part], g, t, near, own[part])[1], atol=1e-6)
    touched = np.where(part[:, None] | part[None], z*3, z) # pairs with them, asked from either side
    assert np.allclose(cross_identified(touched, g, g, folds=4, own=own, among=among(touched, g))[1][part], label_probabilities(touched[part], g, t, among(touched, g), own[part])[1], atol=1e-6)


@pytest.fixture
def parts(finder, doodles):
    gallery = Gallery.from_files(doodles[::2], finder.encoder, progress=False)
    yield SimilarityFinder.from_parts(finder.classifier, gallery), list(doodles[1::2])
    store_calibration(Calibration(), finder.encoder.head)


def test_calibrating_fits_it_and_a_folder_keeps_it(parts, tmp_path):
    f, queries = parts
    assert f.gallery.label_temperature == f.gallery.calibration.temperature # until it is fitted
    f.calibrate(queries, progress=False)
    fitted = f.gallery.label_temperature
    assert fitted == f.gallery.fitted_label_temperature != f.gallery.calibration.temperature
    e = evaluate(f.gallery, queries, draws=2, progress=False)
    told = f.identify(queries, progress=False)
    assert e['identified'] == np.mean([o.label == label_func(q) for o, q in zip(told, queries)])
    assert e['identified_promised'] == pytest.approx(np.mean([o.probability for o in told]), abs=1e-4)
    f.save(tmp_path/'kept')
    again = SimilarityFinder.load(tmp_path/'kept')
    assert again.gallery.label_temperature == fitted
    for memory in (True, False):
        for a, b in zip(told[:5], SimilarityFinder.load(tmp_path/'kept', memory=memory).identify(queries[:5], progress=False)):
            assert [c.label for c in a] == [c.label for c in b] and [c.probability for c in a] == pytest.approx([c.probability for c in b], abs=1e-4)
    assert json.loads((tmp_path/'kept'/'finder.json').read_text())['label_temperature'] == fitted


def test_a_finder_from_before_there_was_one(parts, tmp_path):
    import similarity_finder.store as store
    f, queries = parts
    f.save(tmp_path/'old')
    d = {k: v for k, v in read_description(tmp_path/'old').items() if k not in ('label_temperature', 'sha256')}
    (tmp_path/'old'/'finder.json').write_text(json.dumps(d | dict(sha256=store._digest(store._canonical(d)))))
    again = SimilarityFinder.load(tmp_path/'old')
    assert again.gallery.fitted_label_temperature is None and again.gallery.label_temperature == again.gallery.calibration.temperature
    assert again.identify(queries[0]).label is not None


def test_with_neighbours_it_has_its_own(parts, tmp_path):
    f, queries = parts
    f.calibrate(queries, progress=False)
    alone = f.gallery.label_temperature
    f.expand(2)
    assert f.gallery.label_temperature == f.gallery.calibration.temperature # not fitted yet
    f.calibrate(queries, progress=False)
    assert f.gallery.label_temperature == f.gallery.expansion.fitted_label_temperature
    assert f.gallery.fitted_label_temperature == pytest.approx(alone) # of pairs, the same queries again
    f.save(tmp_path/'kept')
    again = SimilarityFinder.load(tmp_path/'kept')
    assert again.gallery.label_temperature == f.gallery.label_temperature
    assert again.expand(0).gallery.label_temperature == f.gallery.fitted_label_temperature


def test_one_label(parts, finder, doodles):
    _, queries = parts
    one = [f for f in doodles if label_func(f) == label_func(doodles[0])]
    f = SimilarityFinder.from_parts(None, Gallery.from_files(one[:-1], finder.encoder, progress=False))
    assert [(c.label, c.probability, c.images) for c in f.identify(one[-1])] == [(label_func(one[0]), 1., len(one)-1)]
    assert f.identify(one[-1], exclude=one).none == 'no images to compare with'


def test_a_gallery_that_asks_itself(parts):
    f, _ = parts
    gallery = f.gallery
    near = gallery.among()
    z = gallery.scores(gallery.vectors).double().numpy()
    again = among(z, gallery.labels)
    assert all((a == b).all() for a, b in zip(near.places, again.places)) and all(np.allclose(a, b, atol=1e-4) for a, b in zip(near.logits, again.logits))
    inside = list(gallery.files[:5])
    z[np.arange(len(z)), np.arange(len(z))] = -np.inf
    names, p = label_probabilities(z[:5], gallery.labels, gallery.label_temperature, again, range(5))
    for o, q in zip(f.identify(inside, k=99, progress=False), p): assert [c.probability for c in o] == pytest.approx([q[names.index(c.label)] for c in o], abs=1e-4)
    scored = score_gallery(gallery)
    e = evaluate(gallery, scored, draws=2, progress=False)
    asked = f.identify(scored.files, progress=False)
    assert e['identified'] == np.mean([o.label == l for o, l in zip(asked, scored.labels)])
    assert e['identified_promised'] == pytest.approx(np.mean([o.probability for o in asked]), abs=1e-4)


def test_what_is_remembered_follows_the_gallery(parts):
    f, queries = parts
    gallery = f.gallery
    def told():
        z = gallery.scores(gallery.encode(queries[0])).double().numpy()
        names, p = label_probabilities(z, gallery.labels, gallery.label_temperature, among(gallery.scores(gallery.vectors), gallery.labels))
        found = {c.label: c.probability for c in gallery.identify(queries[0])}
        assert found == pytest.approx(dict(zip(names, p[0])), abs=1e-4)
        return found
    seen = [told()]
    for change in (lambda: f.calibrate(queries[1:], progress=False), lambda: gallery.remove(gallery.files[:5]), lambda: gallery.add(queries[1:9], progress=False), lambda: gallery.refresh(label_func=lambda o: str(o)[-5], progress=False)):
        change()
        seen.append(told())
        assert seen[-1] != seen[-2]


def test_calibrating_goes_by_cohesion(parts):
    f, queries = parts
    scored = score_queries(f.gallery, queries, progress=False)
    f.calibrate(queries, progress=False)
    pair = scored.logits, scored.labels, scored.gallery_labels, f.gallery.calibration.temperature
    assert f.gallery.label_temperature == pytest.approx(fit_label_temperature(*pair, scored.among, scored.own), rel=1e-6) != pytest.approx(fit_label_temperature(*pair), rel=1e-6)


def test_an_open_image_and_a_query_of_the_gallery(parts):
    from similarity_finder.data import open_image
    f, queries = parts
    inside = f.gallery.files[0]
    told = f.identify(inside, k=10**6)
    assert sum(c.images for c in told) == len(f.gallery)-1 # it says nothing of itself
    opened = f.identify(open_image(inside), k=10**6)
    assert sum(c.images for c in opened) == len(f.gallery)
    assert told.best == f.search(inside, k=1)[0]
