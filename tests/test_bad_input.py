"Each kind of bad input is a clear error or a counted skip"
import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from similarity_finder.data import ImageError, LabelError, label_func, open_image
from similarity_finder.finder import SimilarityFinder


def jpeg(size=(80, 60)):
    out = io.BytesIO()
    Image.effect_noise(size, 60).convert('RGB').save(out, 'jpeg')
    return out.getvalue()


@pytest.fixture
def bad(tmp_path):
    "One file of each kind, all named like pets: kind -> (file, what the message says)"
    huge = Image.new('1', (20_000, 20_000)) # 400 million pixels in a few kilobytes
    kinds = {'missing': (None, 'no such file'), 'empty': (b'', 'the file is empty'), 'truncated': (jpeg()[:600], 'damaged or truncated'),
             'text': (b'<html>not found</html>', 'not an image'), 'huge': (huge, 'pixels')}
    out = {}
    for kind, (data, says) in kinds.items():
        f = tmp_path/f'Maine_{kind}_1.{"png" if kind == "huge" else "jpg"}'
        if isinstance(data, bytes): f.write_bytes(data)
        elif data is not None: data.save(f)
        out[kind] = (f, says)
    return out


KINDS = ['missing', 'empty', 'truncated', 'text', 'huge']


@pytest.mark.parametrize('kind', KINDS)
def test_as_a_query(finder, bad, kind):
    f, says = bad[kind]
    for call in (finder.predict, finder.search, lambda q: finder.explain(q, finder.gallery.files[0])):
        with pytest.raises(ImageError, match=says) as e: call(f)
        assert f.name in str(e.value)


@pytest.mark.parametrize('how', [{}, {'mass': 0.9}])
def test_among_other_queries(finder, doodles, bad, capsys, how):
    files = [doodles[0], *(f for f, _ in bad.values()), doodles[1]]
    found = finder.search(files, k=3, **how)
    assert [ms.query for ms in found] == files # each in its place
    assert [len(ms) for ms in found] == [3, 0, 0, 0, 0, 0, 3]
    for q, ms in ((doodles[0], found[0]), (doodles[1], found[-1])): assert [m.file for m in ms] == [m.file for m in finder.search(q, k=3, **how)]
    for ms, (f, says) in zip(found[1:-1], bad.values()): assert ms.error.fname == f and says in ms.none
    assert '5 of 7 files cannot be used' in capsys.readouterr().out
    for stop in (dict(fn=files, on_error='raise'), dict(fn=files[1:-1])): # asked to stop, or nothing left
        with pytest.raises(ImageError): finder.search(**stop, k=3, **how)


def test_in_the_gallery_they_are_counted_and_skipped(finder, doodles, bad, capsys):
    files = [doodles[0], *(f for f, _ in bad.values()), doodles[1]]
    mixed = SimilarityFinder(finder.clearn, finder.slearn, files, progress=False)
    assert list(mixed.gallery.files) == [doodles[0], doodles[1]]
    assert {f.name: r for f, r in mixed.gallery.skipped}.keys() == {f.name for f, _ in bad.values()}
    assert '5 of 7 files cannot be used' in capsys.readouterr().out
    with pytest.raises(ImageError, match=r"\d of 7 files cannot be used"):
        SimilarityFinder(finder.clearn, finder.slearn, files, progress=False, on_error='raise')
    assert mixed.search(doodles[0], k=5)[0].file == doodles[1] # and the rest works


@pytest.mark.parametrize('pairs', ['all', 'sampled'])
def test_in_training_they_are_counted_and_skipped(doodles, bad, pairs, capsys):
    from similarity_finder.pairs import siamese_dls
    dls = siamese_dls([*doodles[:40], *(f for f, _ in bad.values())], size=32, bs=8, pairs=pairs, num_workers=0)
    assert len(dls.train_ds) + len(dls.valid_ds) == 40
    assert '5 of 45 files cannot be used' in capsys.readouterr().out
    dls.one_batch()


def test_a_name_without_a_label(finder, doodles, tmp_path):
    with pytest.raises(LabelError, match='holiday.jpg'): label_func('holiday.jpg')
    nameless = tmp_path/'holiday.jpg'
    nameless.write_bytes(doodles[0].read_bytes())
    mixed = SimilarityFinder(finder.clearn, finder.slearn, [doodles[1], nameless], progress=False)
    assert [f.name for f, _ in mixed.gallery.skipped] == ['holiday.jpg']
    assert mixed.search(nameless, k=1)[0].file == doodles[1] # a query needs no label


def test_empty_list(finder):
    with pytest.raises(ValueError, match='the gallery is empty'): SimilarityFinder(finder.clearn, finder.slearn, [], progress=False)
    from similarity_finder.classifier import classifier_dls
    from similarity_finder.pairs import siamese_dls
    for make in (classifier_dls, siamese_dls):
        with pytest.raises(ValueError, match='the list is empty'): make([])


def test_nothing_usable(finder, bad):
    with pytest.raises(ValueError, match='none of 5 files can be used'):
        SimilarityFinder(finder.clearn, finder.slearn, [f for f, _ in bad.values()], progress=False)


def test_a_class_without_gallery_images(finder, doodles):
    from similarity_finder.classifier import predict_class
    cls = predict_class(doodles[0], finder.clearn)
    others = [f for f in doodles if label_func(f) != cls][:5]
    with pytest.raises(ValueError, match=f"looks like '{cls}'.*no other image of that label"):
        SimilarityFinder(finder.clearn, finder.slearn, others, progress=False).predict(doodles[0])
    only = [f for f in doodles if predict_class(f, finder.clearn) == label_func(f)][:1]
    if only: # the query is the only one of its class
        with pytest.raises(ValueError, match='no other image of that label'):
            SimilarityFinder(finder.clearn, finder.slearn, only, progress=False).predict(only[0])


@pytest.mark.parametrize('n', [0, -3])
def test_compare_n_below_one(finder, doodles, n):
    with pytest.raises(ValueError, match=f'at least 1, not {n}'): finder.predict(doodles[0], compare_n=n)
    with pytest.raises(ValueError, match=f'at least 1, not {n}'): finder.search(doodles[0], k=n)


def test_similar_cams_before_predict(finder, doodles):
    fresh = SimilarityFinder(finder.clearn, finder.slearn, doodles[:3], progress=False)
    with pytest.raises(RuntimeError, match='call predict'): fresh.similar_cams()


def test_a_failed_prediction_keeps_the_last_one(finder, doodles, bad):
    finder.predict(doodles[0], show=False)
    before = finder.preds, finder.fns, finder.idx
    with pytest.raises(ImageError): finder.predict(bad['truncated'][0])
    assert (finder.preds, finder.fns, finder.idx) == before
    finder.similar_cams()


def test_every_mode_that_pillow_writes(tmp_path):
    for mode, ext in [('1','png'), ('L','png'), ('LA','png'), ('P','gif'), ('RGBA','png'), ('CMYK','jpg'), ('I;16','png'), ('F','tiff'), ('YCbCr','jpg')]:
        f = tmp_path/f'm.{ext}'
        Image.new(mode, (7, 5)).save(f)
        im = open_image(f)
        assert (im.mode, tuple(im.size)) == ('RGB', (7, 5)), mode


@pytest.mark.slow
def test_a_bare_import_does_not_pay_for_torch():
    code = "import sys, similarity_finder; assert 'torch' not in sys.modules and 'fastai' not in sys.modules; assert 'SimilarityFinder' in dir(similarity_finder)"
    subprocess.run([sys.executable, '-c', code], check=True)
    code = "from similarity_finder import SimilarityFinder; print(SimilarityFinder.__module__)"
    assert subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout.strip() == 'similarity_finder.finder'


def test_unknown_attribute():
    import similarity_finder
    with pytest.raises(AttributeError, match='Nothing'): similarity_finder.Nothing
    for name in similarity_finder.__all__: assert getattr(similarity_finder, name) is not None


def numbered(f):
    "The doodles' labels as numbers, as a table may have them"
    from similarity_finder.data import label_func
    from similarity_finder.draw import DOODLE_BREEDS
    return sorted(DOODLE_BREEDS).index(label_func(f))


def test_labels_that_are_numbers_do_as_well_as_text(doodles, finder):
    from similarity_finder.classifier import classifier_dls, classifier_learner, convnet
    from similarity_finder.data import label_func
    from similarity_finder.finder import SimilarityFinder
    from similarity_finder.pairs import siamese_dls
    clearn = classifier_learner(classifier_dls(doodles, numbered, size=64, num_workers=0), convnet, pretrained=False)
    assert set(clearn.dls.vocab) == {str(numbered(f)) for f in doodles}
    siamese_dls(doodles, numbered, size=64, num_workers=0, pairs='sampled').one_batch()
    named = SimilarityFinder(clearn, finder.slearn, doodles[:60:2], numbered, progress=False)
    asked, kw = doodles[1:60:2], dict(progress=False, num_workers=0, draws=20)
    with_names = SimilarityFinder(finder.clearn, finder.slearn, doodles[:60:2], label_func, progress=False)
    for measure in ('recall@1', 'map@r', 'roc_auc'): assert named.evaluate(asked, **kw)[measure] == with_names.evaluate(asked, **kw)[measure]
    one = numbered(doodles[0])
    assert {m.label for m in named.search(asked[0], labels=one)} == {m.label for m in named.search(asked[0], labels=[one])} == {str(one)}


def test_queries_without_a_label_are_skipped(doodles, finder):
    "They are not taken for queries of labels that the gallery has not"
    from similarity_finder.data import label_func
    from similarity_finder.scored import score_queries
    gallery = finder.gallery
    for none in (None, float('nan')):
        with pytest.warns(UserWarning, match='images of the gallery'):
            scored = score_queries(gallery, doodles[:6], lambda f: none if f == doodles[2] else label_func(f), progress=False, num_workers=0)
        assert [f for f, _ in scored.skipped] == [doodles[2]] and len(scored.files) == 5 and scored.known.all()


def test_a_file_whose_name_is_not_utf8_is_skipped(doodles, finder, tmp_path):
    import shutil
    from similarity_finder.gallery import Gallery
    bad = tmp_path/'Marble_Lyn\udce9_1.jpg'
    try: shutil.copy(doodles[0], bad)
    except OSError: pytest.skip('this file system has no such names')
    gallery = Gallery.from_files([doodles[0], bad], finder.encoder, progress=False, num_workers=0)
    assert len(gallery) == 1 and 'not valid UTF-8' in gallery.skipped[0][1]
    gallery.save(tmp_path/'kept')


def test_a_link_does_not_hide_that_a_query_is_in_the_gallery(doodles, finder, tmp_path):
    from similarity_finder.scored import score_queries
    from similarity_finder.gallery import Gallery
    (tmp_path/'link').symlink_to(doodles[0].parent)
    there = tmp_path/'link'/doodles[0].name
    assert finder.gallery.index(there) == finder.gallery.index(doodles[0])
    assert there.resolve() not in {m.file for m in finder.search(there, k=3)}
    (tmp_path/'alone.jpg').symlink_to(doodles[0])
    assert finder.gallery.index(tmp_path/'alone.jpg') == finder.gallery.index(doodles[0])
    by_link = Gallery.from_files([there], finder.encoder, progress=False, num_workers=0) # and the other way round
    assert by_link.index(doodles[0]) == 0 and by_link.index(doodles[1]) is None
    with pytest.warns(UserWarning, match='1 of 1 queries are images of the gallery'): assert score_queries(finder.gallery, [there], progress=False, num_workers=0).own.tolist() == [finder.gallery.index(doodles[0])]


def test_a_mask_is_not_read_as_places(doodles, finder):
    import torch
    gallery, mask = finder.gallery, np.zeros(len(finder.gallery), bool)
    mask[[5, 7]] = True
    query = gallery.encode(doodles[0])
    assert torch.equal(gallery.scores(query, mask), gallery.scores(query)[:, [5, 7]])
    assert torch.equal(gallery.scores(query, torch.from_numpy(mask)), gallery.scores(query, [5, 7]))
    assert torch.equal(gallery.scores(query, pd.Series([5, 7], index=[10, 20])), gallery.scores(query, [5, 7])) # as a table gives them


def test_an_object_that_is_no_image_stops_nothing(doodles, finder):
    from similarity_finder.data import ImageError
    good, bad = finder.gallery.search([doodles[0], None], k=1, progress=False, num_workers=0)
    assert good[0].file and isinstance(bad, ImageError) and 'but NoneType' in str(bad)


def test_a_gallery_of_one_label_is_measured(doodles, finder):
    "What tells same from different is not a number there; the rest is"
    from similarity_finder.data import label_func
    from similarity_finder.evaluate import evaluate
    from similarity_finder.gallery import Gallery
    alone = [f for f in doodles if label_func(f) == label_func(doodles[0])]
    gallery = Gallery.from_files(alone[:4], finder.encoder, progress=False, num_workers=0)
    e = evaluate(gallery, alone[4:] + [f for f in doodles if f not in alone][:5], progress=False, num_workers=0, draws=20)
    assert np.isnan(e['roc_auc']) and e['recall@1'] == 1 and 0 <= e['rightly_none'] <= 1


def test_too_many_queries_are_drawn_by_seed(doodles, finder, monkeypatch):
    from similarity_finder import scored
    from similarity_finder.gallery import Gallery
    gallery = Gallery.from_files(doodles[::2], finder.encoder, progress=False, num_workers=0)
    monkeypatch.setattr(scored, '_most_pairs', 5*len(gallery))
    def asked(seed):
        with pytest.warns(UserWarning, match='5 of 40 images are queries, drawn by lot'): return scored.score_queries(gallery, doodles[1:80:2], progress=False, num_workers=0, seed=seed).files
    assert asked(1) == asked(1) != asked(2) and asked(1) == sorted(asked(1))


@pytest.mark.slow
def test_a_training_that_cannot_be_calibrated_says_so(doodles):
    "Each image has a label of its own: nothing held out has a partner"
    from similarity_finder.classifier import convnet
    from similarity_finder.train import train_finder
    with pytest.warns(UserWarning, match='not calibrated'):
        trained = train_finder(doodles[:12], lambda f: f.stem, convnet, False, size=32, epochs=1, siamese_epochs=1, num_workers=0, progress=False)
    assert np.isnan(trained.measures['recall@1'])
    with pytest.raises(ValueError, match='epochs, how often'): train_finder(doodles[:12], epochs=0, progress=False)
