"Measuring a finder: queries apart from the gallery, bad files counted, and the same numbers as a search gives"
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from similarity_finder.calibrate import Calibration, cross_calibrated, head_calibration, store_calibration
from similarity_finder.data import ImageError, label_func
from similarity_finder.evaluate import Evaluation, calibrate_head, evaluate, label_table, measure_table
from similarity_finder.finder import SimilarityFinder
from similarity_finder.gallery import Gallery
from similarity_finder.identify import label_probabilities
from similarity_finder.metrics import accuracy_at, bootstrap, brier_score, calibration_error, equal_error_rate, map_at_r, recall_at_k, roc_auc
from similarity_finder.scored import Scored, score_gallery, score_queries


@pytest.fixture
def parts(finder, doodles):
    "A gallery of most breeds, and queries of all"
    breeds = sorted(set(map(label_func, doodles)))
    gallery = Gallery.from_files([f for f in doodles[::2] if label_func(f) not in breeds[:3]], finder.encoder, progress=False)
    yield gallery, list(doodles[1::2]), breeds
    store_calibration(Calibration(), finder.encoder.head)


def test_the_numbers_of_a_search(parts):
    gallery, queries, breeds = parts
    e = evaluate(gallery, queries, draws=50, progress=False)
    known = [q for q in queries if label_func(q) not in breeds[:3]]
    for k in (1, 5, 10):
        assert e[f'recall@{k}'] == np.mean([label_func(q) in [m.label for m in gallery.search(q, k=k)] for q in known])
    best = [(q, gallery.search(q, k=1)[0].probability) for q in queries]
    assert e['best_promised'] == pytest.approx(np.mean([p for q, p in best if q in known]), abs=1e-5)
    assert e['rightly_none'] == np.mean([p < 0.5 for q, p in best if q not in known])
    assert e['wrongly_none'] == np.mean([p < 0.5 for q, p in best if q in known])
    assert 'rightly_none' not in evaluate(gallery, known, draws=2, progress=False).table.index
    again = json.loads(json.dumps(e.to_dict(), allow_nan=False))
    assert again['unknown_queries'] == len(queries)-len(known)
    assert again['measures']['map@r'] == dict(e.table.loc['map@r', ['value', 'low', 'high']])


def test_bad_files_are_counted(parts, tmp_path, capsys):
    gallery, queries, _ = parts
    broken, unlabelled = tmp_path/'Moon_Bobtail_77.jpg', tmp_path/'what.jpg'
    broken.write_bytes(queries[0].read_bytes()[:200])
    unlabelled.write_bytes(queries[0].read_bytes())
    files = [broken, unlabelled, *queries, queries[0]]
    e = evaluate(gallery, files, draws=2, progress=False)
    assert len(e.scored.files) == len(queries) # the one that is there twice counts once
    assert {f.name for f, _ in e.scored.skipped} == {broken.name, unlabelled.name}
    assert '2 of' in capsys.readouterr().out and len(e.to_dict()['skipped']) == 2
    with pytest.raises(ImageError): evaluate(gallery, files, draws=2, progress=False, on_error='raise')
    with pytest.raises(ValueError, match='none of 1 files can be used'): evaluate(gallery, [broken], progress=False)


def test_what_cannot_be_measured_is_said(parts, finder, doodles):
    gallery, queries, breeds = parts
    with pytest.raises(ValueError, match='no labels: pass label_func='): evaluate(Gallery.from_files(doodles[:4], finder.encoder, None, progress=False), queries)
    with pytest.raises(ValueError, match='no image of the gallery has a label'):
        evaluate(Gallery.from_files(doodles[:4], finder.encoder, None, progress=False), queries, label_func)
    unknown = [q for q in queries if label_func(q) in breeds[:3]]
    with pytest.raises(ValueError, match='has a label that the gallery has'): evaluate(gallery, unknown, progress=False)
    with pytest.raises(ValueError, match='no same pairs to calibrate with'): calibrate_head(gallery.head, score_queries(gallery, unknown, progress=False))
    with pytest.raises(ValueError, match='threshold, a probability'): evaluate(gallery, queries, threshold=50)
    one = Gallery.from_files([f for f in doodles if label_func(f) == breeds[5]][:3], finder.encoder, progress=False)
    alone = evaluate(one, [f for f in doodles if label_func(f) == breeds[5]][3:], progress=False, draws=20) # nothing to tell apart, and nothing else to find
    assert np.isnan([alone[o] for o in ('roc_auc','equal_error_rate','pair_accuracy','calibration_error_half')]).all() and alone['recall@1'] == 1


def test_images_of_the_gallery_are_pointed_out(parts):
    gallery, queries, _ = parts
    with pytest.warns(UserWarning, match='2 of 3 queries are images of the gallery'): s = score_queries(gallery, [*gallery.files[:2], queries[-1]], progress=False)
    assert (s.logits == -np.inf).sum() == 2 and s.logits[0, 0] == s.logits[1, 1] == -np.inf


@pytest.mark.filterwarnings('ignore:these logits')
def test_calibrating_moves_no_match(parts, tmp_path):
    gallery, queries, _ = parts
    f = SimilarityFinder.from_parts(None, gallery)
    before = f.search(queries[9], k=7)
    done = f.calibrate(queries, progress=False)
    assert np.allclose(head_calibration(gallery.head), done.calibration, rtol=1e-5)
    assert done == f.calibrate(queries, progress=False)._replace(before=done.before) # same seed, same result
    after = f.search(queries[9], k=7)
    assert [(m.file, m.logit) for m in after] == [(m.file, m.logit) for m in before]
    loaded = SimilarityFinder.load(f.save(tmp_path/'f'))
    assert loaded.search(queries[9], k=7) == after
    half = f.calibrate(prior=0.5)
    assert half.prior == pytest.approx(0.5) and half.temperature == pytest.approx(done.calibration.temperature)
    limit = f.threshold_at(queries, fpr=0.2, progress=False)
    shown = f.search(queries, k=10**6, min_probability=limit.score)
    assert np.mean([any(m.label != label_func(q) for m in ms) for q, ms in zip(queries, shown)]) == limit.fpr <= 0.2


def test_too_few_to_be_halved(parts):
    "Two queries: one half has no other to learn from where same pairs are missing, and nothing is invented"
    gallery, queries, _ = parts
    known = [q for q in queries if label_func(q) in gallery.labels][:1]
    with pytest.warns(UserWarning, match='calibrated with'): done = calibrate_head(gallery.head, score_queries(gallery, known, progress=False), draws=5)
    assert np.isnan(done.after.value) and np.isfinite(done.calibration).all()


def test_the_error_on_other_labels(parts):
    "It is that of the labels left out of the fit in turn, an interval over labels; not measured where there is one label, or on request"
    gallery, queries, breeds = parts
    scored = score_queries(gallery, queries, progress=False)
    known = scored.rows(scored.known)
    pair = known.labels, known.gallery_labels
    done = calibrate_head(gallery.head, scored, draws=50)
    p = cross_calibrated(known.logits, *pair, folds=min(5, len(set(known.labels))), by='label')
    assert done.other_labels == bootstrap(calibration_error, p, *pair, draws=50, groups=known.labels) and 'on labels left out of the fit' in repr(done)
    half = calibrate_head(gallery.head, scored, prior=0.5, draws=2)
    assert half.other_labels.value == calibration_error(cross_calibrated(known.logits, *pair, prior=0.5, folds=5, by='label'), *pair, prior=0.5)
    counted = calibrate_head(gallery.head, scored, draws=2, unknown=True) # their labels are parted like the others
    p = cross_calibrated(scored.logits, scored.labels, scored.gallery_labels, folds=5, by='label')
    assert counted.other_labels.value == calibration_error(p, scored.labels, scored.gallery_labels) and len(scored.labels) > len(known.labels)
    one, two = (np.isin(scored.labels, sorted(set(known.labels))[:n]) for n in (1, 2))
    for o in (calibrate_head(gallery.head, scored, draws=2, label_folds=0), calibrate_head(gallery.head, scored.rows(one), draws=2)):
        assert np.isnan(o.other_labels.value) and 'left out' not in repr(o)
    assert np.isfinite(calibrate_head(gallery.head, scored.rows(two), draws=2).other_labels.value) # the gallery has more labels, to be different from
    for n in (1, -3):
        with pytest.raises(ValueError, match=f'2 or more, or 0 for none, not {n}'): calibrate_head(gallery.head, scored, label_folds=n)


def test_nothing_similar_is_shown_as_that(parts, tmp_path):
    gallery, queries, _ = parts
    f = SimilarityFinder.from_parts(None, gallery)
    store_calibration(Calibration(1., -50., 0.01), gallery.head)
    nothing = f.search(queries[0], min_probability=0.5)
    assert nothing == [] and 'none of these is similar: the best match has P(same) 0.0%' in repr(nothing)
    assert nothing.save(tmp_path/'none.png').stat().st_size > 3000
    assert [len(m) for m in f.search(queries[:2], min_probability=0.5)] == [0, 0]
    with pytest.raises(ValueError, match='min_probability lies between'): f.search(queries[0], min_probability=2)


@pytest.mark.parametrize('shift', [18., 200.])
def test_a_threshold_keeps_its_rate_where_probabilities_are_nearly_one(parts, shift):
    "Where float32 has 1 for every pair, search still shows wrong images for as many queries as `threshold_at` has measured; where float64 has, for none"
    gallery, queries, _ = parts
    f = SimilarityFinder.from_parts(None, gallery)
    store_calibration(Calibration(1., shift, 0.5), gallery.head)
    t = f.threshold_at(queries, fpr=0.1, progress=False)
    shown = f.search(queries, k=len(gallery), min_probability=t.score)
    wrong = [any(m.label != label_func(q) for m in ms) for q, ms in zip(queries, shown)]
    assert t.n == len(queries) and np.mean(wrong) == pytest.approx(t.fpr) and t.fpr <= 0.1
    assert (t.fpr > 0 and any(shown)) if shift == 18 else not any(shown)


def test_a_filter_hides_only_what_a_query_could_find(parts):
    "A query whose label the gallery has not cannot be hidden from; the others are, wherever the classifier is wrong"
    gallery, queries, breeds = parts
    scored = score_queries(gallery, queries, progress=False)
    some = np.flatnonzero(scored.known)[0]
    said = [l if i != some else breeds[0] for i, l in enumerate(scored.labels)]
    table = measure_table(scored, Calibration(), said, draws=2)
    assert table.value['filter_misses'] == pytest.approx(1/scored.known.sum())
    assert measure_table(scored, Calibration(), scored.labels, draws=2).value['filter_misses'] == 0


def test_another_prior_is_compared_at_that_prior(parts):
    gallery, queries, _ = parts
    scored = score_queries(gallery, queries, progress=False)
    known = scored.rows(scored.known)
    store_calibration(Calibration(2., -1., 0.05), gallery.head)
    before = calibration_error(Calibration(2., -1., 0.05).at_prior(0.5).probability(known.logits), known.labels, known.gallery_labels, prior=0.5)
    assert calibrate_head(gallery.head, scored, prior=0.5, draws=2).before.value == pytest.approx(before)


def test_a_gallery_of_new_labels_asks_itself(finder, doodles, monkeypatch):
    "Images of labels that the classifier has not learned, each against all others; nothing is encoded, and the numbers are those of a search"
    kind = lambda f: f'{label_func(f)} again' if label_func(f) != label_func(doodles[0]) else label_func(f)
    f = SimilarityFinder.from_parts(finder.classifier, Gallery.from_files(doodles[::2], finder.encoder, kind, progress=False))
    new = [o for o in f.gallery.files if label_func(o) != label_func(doodles[0])]
    assert f.new_label_files() == new and 0 < len(new) < len(f.gallery)
    monkeypatch.setattr(f.encoder, 'encode', lambda *a, **k: pytest.fail('encoded'), raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error') # that they are in the gallery is as it should be
        e = f.evaluate('gallery', draws=20)
        limit = f.threshold_at('gallery', fpr=0.2)
        done = f.calibrate('gallery')
    try:
        assert e.scored.files == new and 'filter_misses' not in e.table.index
        assert e['recall@1'] == np.mean([f.search(o, k=1)[0].label == kind(o) for o in new])
        assert limit.n == len(new) and np.allclose(head_calibration(f.gallery.head), done.calibration, rtol=1e-5)
        of = {o: kind(o) for o in new}
        with pytest.warns(UserWarning, match='images of the gallery'): same = f.calibrate(new, label_func=lambda o: of[o])
        assert same.calibration == done.calibration and same.after == done.after
        p = cross_calibrated(e.scored.logits, e.scored.labels, e.scored.gallery_labels, folds=5, own=np.array([f.gallery.index(o) for o in new]))
        assert done.after.value == calibration_error(p, e.scored.labels, e.scored.gallery_labels)
    finally: store_calibration(Calibration(), finder.encoder.head)
    with pytest.raises(ValueError, match='none of a label that the networks have not learned'): finder.calibrate('gallery')
    with pytest.raises(ValueError, match="label_func is for other files than 'gallery'"): f.evaluate('gallery', kind)
    bare = SimilarityFinder.from_parts(None, f.gallery) # nobody knows what it has learned
    with pytest.warns(UserWarning, match='if the networks have learned from them'): assert bare.evaluate('gallery', draws=2).scored.files == list(f.gallery.files)


def test_only_what_is_new_or_changed_is_encoded(finder, doodles, tmp_path, monkeypatch):
    files = [Path(shutil.copy(o, tmp_path)) for o in doodles[:6]]
    gallery, encoded, encode = Gallery.from_files(files[:4], finder.encoder, progress=False), [], finder.encoder.encode
    shutil.copy(doodles[30], files[1])
    os.utime(files[1], ns=(0, 0))
    files[2].unlink()
    monkeypatch.setattr(finder.encoder, 'encode', lambda fs, *a, **k: encoded.extend(fs) or encode(fs, *a, **k), raising=False)
    got = gallery.encode_files(files, progress=False)
    assert encoded == [files[1], files[2], files[4], files[5]] and got.kept == [0, 1, 3, 4, 5] and [i for i, _ in got.skipped] == [2]
    alone = encode([files[i] for i in got.kept], progress=False).vectors
    for a, b in zip(got.vectors, alone): assert np.allclose(a, b, atol=1e-4) # in the order that was asked for
    assert gallery.encode_files([], progress=False).kept == []


@pytest.fixture
def new_labels(finder, doodles, tmp_path):
    "A finder whose gallery has images of labels that its classifier has not learned, two images without a label, and one label of one image"
    files = [Path(shutil.copy(o, tmp_path)) for o in doodles[:40]]
    gallery = Gallery.from_files(files[2:], finder.encoder, lambda f: 'alone' if f == files[2] else f'new {label_func(f)}', progress=False)
    gallery.label_func = None
    gallery.add(files[:2], progress=False)
    yield SimilarityFinder.from_parts(finder.classifier, gallery)
    store_calibration(Calibration(), finder.encoder.head)


@pytest.mark.filterwarnings('ignore:calibrated with', 'ignore:these logits')
@pytest.mark.parametrize('neighbours', [0, 2])
def test_a_gallery_on_disk_whose_files_are_gone_asks_as_well(new_labels, tmp_path, neighbours):
    f = new_labels.expand(neighbours)
    e = f.evaluate('gallery', draws=2, progress=False)
    assert len(e.scored.files) == 38 and e.scored.known.sum() == 37 and '1 queries are of labels that the gallery has no other image of' in e.about
    known = [o for o, k in zip(e.scored.files, e.scored.known) if k]
    def first(o): return next(m for m in f.search(o, k=5) if m.label is not None).label # images without a label are nobody's match here
    assert e['recall@1'] == np.mean([first(o) == f'new {label_func(o)}' for o in known])
    done, counted = f.calibrate('gallery', progress=False), f.calibrate('gallery', unknown=True, progress=False)
    assert counted.calibration.prior == pytest.approx(done.calibration.prior*37/38)
    f.calibrate('gallery', progress=False)
    e = f.evaluate('gallery', draws=2, progress=False) # neighbours count by what is calibrated
    folder = f.save(tmp_path/'finder')
    for o in f.gallery.files: o.unlink()
    assert f.calibrate('gallery', progress=False).calibration == done.calibration
    for memory in (True, False):
        loaded = SimilarityFinder.load(folder, memory=memory)
        assert (loaded.gallery.vectors is None) != memory
        if neighbours and not memory: continue # neighbours need the vectors in memory
        again = loaded.evaluate('gallery', draws=2, progress=False)
        assert np.allclose(again.scored.logits, e.scored.logits, atol=1e-4) and again.scored.files == e.scored.files


def test_what_cannot_ask_in_its_gallery_is_said(new_labels, finder, doodles, monkeypatch):
    one = SimilarityFinder.from_parts(finder.classifier, Gallery.from_files(doodles[:20:5], finder.encoder, lambda f: f.name, progress=False))
    for ask in (one.evaluate, one.calibrate):
        with pytest.raises(ValueError, match='each of 4 images is the only one of its label'): ask('gallery')
    bare = SimilarityFinder.from_parts(finder.classifier, Gallery.from_files(doodles[:4], finder.encoder, None, progress=False))
    with pytest.raises(ValueError, match='no image of the gallery has a label'): bare.evaluate('gallery')
    with pytest.raises(ValueError, match='is not in the gallery'): score_gallery(new_labels.gallery, [doodles[-1]])
    monkeypatch.setattr('similarity_finder.scored._most_pairs', 40*12)
    with pytest.warns(UserWarning, match='12 of 38 images are queries, drawn by lot: all would make 1,520 pairs'): some = score_gallery(new_labels.gallery)
    with pytest.warns(UserWarning, match='drawn by lot'): assert score_gallery(new_labels.gallery).files == some.files # same seed
    assert some.logits.shape == (12, 40) and evaluate(new_labels.gallery, some, draws=2).scored is some
    new_labels.gallery.remove(new_labels.gallery.files[:1])
    with pytest.raises(ValueError, match='the gallery has changed since'): evaluate(new_labels.gallery, some)


@pytest.mark.filterwarnings('ignore:these logits')
def test_pairs_that_are_asked_from_either_side_count_once(finder, doodles):
    "Four labels of three images are twelve pairs of the same class, not twenty-four; of two images, four"
    breeds = sorted(set(map(label_func, doodles)))[:4]
    files = [o for b in breeds for o in [o for o in doodles if label_func(o) == b][:3]]
    for some, n in ((files, 12), ([o for i, o in enumerate(files) if i % 3], 4)):
        gallery = Gallery.from_files(some, finder.encoder, progress=False)
        with pytest.warns(UserWarning, match='calibrated with') as said: calibrate_head(gallery.head, score_gallery(gallery), draws=2)
        assert [str(o.message).split(':')[0] for o in said if 'calibrated with' in str(o.message)] == [f'calibrated with {n} pairs of the same class, asked from either side']
    store_calibration(Calibration(), gallery.head)


def test_a_file_counts_once_whatever_it_is_called(parts, monkeypatch):
    gallery, queries, _ = parts
    monkeypatch.chdir(queries[0].parent)
    s = score_queries(gallery, [queries[0], queries[0].name, queries[1]], progress=False)
    assert s.files == [queries[0], queries[1]]
    both = gallery.encode_files([gallery.files[3], gallery.files[1], gallery.files[3].name], progress=False)
    assert all((a[0] == a[2]).all() and (a[:2] == b).all() for a, b in zip(both.vectors, gallery.stored([3, 1])))


def test_what_stands_beside_is_asked_like_the_rest():
    "Of labels that its gallery has, by pairs, with pairs of both kinds; the other queries are left out"
    from similarity_finder.calibrate import fit_calibration
    from similarity_finder.evaluate import calibrate_head
    from similarity_finder.head import PairHead
    rng, head = np.random.default_rng(3), PairHead(4, 2)
    def some(q, g): return Scored(list(map(str, q)), q, rng.normal(0, 2, (len(q), len(g))) + np.where(np.array(q)[:, None] == np.array(g)[None], 2, -2), g, [])
    mine, beside = some(['a', 'b']*10, ['a', 'b', 'c']*5), some(['d', 'e', 'nowhere']*8, ['d', 'e']*6)
    known = beside.rows(beside.known)
    assert len(known.files) == 16
    pairs = lambda o: (o.logits, o.labels, o.gallery_labels)
    done = calibrate_head(head, mine, draws=1, beside=beside)
    assert np.allclose(done.calibration, fit_calibration(*pairs(mine), beside=pairs(known)), atol=1e-6)
    assert not np.allclose(done.calibration, calibrate_head(head, mine, draws=1, beside=beside, unknown=True).calibration, atol=1e-2)
    assert not np.allclose(done.calibration, calibrate_head(head, mine, draws=1).calibration, atol=1e-2)
    with pytest.raises(ValueError, match='beside has no pairs of both kinds'): calibrate_head(head, mine, draws=1, beside=some(['d'], ['d', 'd']))
    with pytest.raises(ValueError, match='beside was scored with neighbours'): calibrate_head(head, mine, draws=1, beside=beside._replace(pairs=beside.logits))


def test_every_row_is_what_a_direct_call_gives(gallery_of_made_up):
    "Each row of the table by the measure it is called after, from the same logits"
    scored, calibration = gallery_of_made_up
    t = measure_table(scored, calibration, predicted=['a']*len(scored.files), threshold=0.3, ks=(1, 2), label_temperature=1.5, draws=10)
    k, u = scored.rows(scored.known), scored.rows(~scored.known)
    pair, p, half = (k.labels, k.gallery_labels), calibration.probability(k.logits), calibration.at_prior(0.5).probability(k.logits)
    top, right = p.max(1), [k.gallery_labels[i] == l for i, l in zip(k.logits.argmax(1), k.labels)]
    names, each = label_probabilities(k.logits, k.gallery_labels, 1.5, k.among, k.own)
    said, label_right = each.max(1), [names[i] == l for i, l in zip(each.argmax(1), k.labels)]
    by = label_table(scored, calibration)
    expected = {
        'roc_auc': roc_auc(k.logits, *pair), 'equal_error_rate': equal_error_rate(k.logits, *pair), 'pair_accuracy': accuracy_at(half, *pair, threshold=0.5), 'brier_score': brier_score(p, *pair),
        'calibration_error': calibration_error(p, *pair), 'calibration_error_half': calibration_error(half, *pair, prior=0.5), 'recall@1': recall_at_k(k.logits, *pair), 'recall@2': recall_at_k(k.logits, *pair, k=2),
        'map@r': map_at_r(k.logits, *pair), 'recall@1_by_label': np.mean([np.mean([r for r, l in zip(right, k.labels) if l == o]) for o in set(k.labels)]),
        'map@r_by_label': np.mean([map_at_r(k.logits[np.array(k.labels) == o], [o]*k.labels.count(o), k.gallery_labels) for o in set(k.labels)]),
        'best_promised': top.mean(), 'best_error': calibration_error(top, right), 'identified': np.mean(label_right), 'identified_promised': said.mean(), 'identified_error': calibration_error(said, label_right),
        'filter_misses': np.mean([l != 'a' for l in k.labels]), 'wrongly_none': np.mean(top < 0.3),
        'calibration_error_open': calibration_error(calibration.probability(scored.logits), scored.labels, scored.gallery_labels),
        'unknown_promised': calibration.probability(u.logits).max(1).mean(), 'rightly_none': np.mean(calibration.probability(u.logits).max(1) < 0.3)}
    assert t.value.to_dict() == pytest.approx(expected) and len(set(np.round(list(expected.values()), 6))) > 16 # and hardly two of them are alike
    assert by.promised.to_dict() == pytest.approx({o: np.mean([v for v, l in zip(top, k.labels) if l == o]) for o in set(k.labels)})
    r = Evaluation(t, scored, calibration, 0.3, draws=10).reliability # bin by bin, by a loop
    keep = np.isfinite(k.logits)
    of, truth = np.minimum((p[keep]*15).astype(int), 14), k.same[keep]
    assert r['same'].tolist() == pytest.approx([truth[of == b].mean() for b in np.unique(of)]) and r.p.tolist() == pytest.approx([p[keep][of == b].mean() for b in np.unique(of)])
    assert r.pairs.tolist() == [(of == b).sum() for b in np.unique(of)] and ((r.same_low <= r['same']) & (r['same'] <= r.same_high)).all()


@pytest.fixture
def gallery_of_made_up():
    rng = np.random.default_rng(0)
    labels, of_gallery = list('aaaabbbbbcccdddee'), list('aaabbbbcccccc') + [None]
    logits = rng.normal(size=(len(labels), len(of_gallery))) + 1.5*np.array([[l == g for g in of_gallery] for l in labels])
    logits[:, -1] = -np.inf
    return Scored([Path(f'{i}.jpg') for i in range(len(labels))], labels, logits, of_gallery, []), Calibration(1.3, 1.1, 0.2)


def test_images_that_are_queries_and_gallery_have_wider_intervals():
    "Left out on both sides: the value is that of all, what is left out is in no part of a measure, and a label of one image costs nothing"
    rng = np.random.default_rng(1)
    labels = [str(i % 4) for i in range(40)] + ['alone']
    e = np.eye(5)[[4 if l == 'alone' else int(l) for l in labels]]*2 + rng.normal(size=(41, 5))
    z = e @ e.T
    np.fill_diagonal(z, -np.inf)
    inside = Scored([Path(f'{i}.jpg') for i in range(41)], labels, z, labels, [], own=np.arange(41))
    drawn, left_out = (measure_table(o, Calibration(), draws=200) for o in (inside._replace(own=None), inside))
    assert left_out.value.to_dict() == pytest.approx(drawn.value.to_dict())
    for k in ('roc_auc', 'map@r'): assert left_out.high[k] - left_out.low[k] > 1.2*(drawn.high[k] - drawn.low[k])
    few = ['unknown_promised', 'rightly_none', 'calibration_error_open'] # one image is the only one of its label: without it there is nothing to measure
    assert left_out.low[few].isna().all()
    t = left_out.drop(few)
    assert (t.low <= t.value).all() and (t.value <= t.high).all() and t.low.min() >= 0 and t.high.max() <= 1
