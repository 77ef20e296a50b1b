"One of many files that cannot be used, or that is named twice, neither ends a run nor goes unsaid"
import os
import shutil
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from similarity_finder.admissible import units
from similarity_finder.balance import covariates_of
from similarity_finder.cluster import cluster
from similarity_finder.data import ImageError, LabelError, ask_each, each_once, label_func, open_image, usable_files
from similarity_finder.doodle import doodle_label
from similarity_finder.duplicates import duplicates
from similarity_finder.evaluate import evaluate
from similarity_finder.faithfulness import background_reliance
from similarity_finder.finder import SimilarityFinder
from similarity_finder.gallery import Gallery
from similarity_finder.match import match, match_within
from similarity_finder.propagate import propagate
from similarity_finder.scanner import site_reliance
from similarity_finder.scored import score_gallery
from similarity_finder.show import draw_matches, draw_reasons


@pytest.fixture
def bad(tmp_path, doodles):
    "A file that is no image, and an image without a label"
    broken, nameless = tmp_path/f'{label_func(doodles[0])}_999.jpg', tmp_path/'nameless.png'
    broken.write_bytes(b'no image')
    Image.new('RGB', (64, 64), 'red').save(nameless)
    return broken, nameless


def other_name(f): return Path(os.path.relpath(f))


def test_each_once(doodles):
    a, b = doodles[:2]
    assert each_once(f for f in [a, b, other_name(a), str(b)]) == [a, b]
    assert each_once([other_name(a), a]) == [other_name(a)]
    for one in (a, str(a.parent)):
        with pytest.raises(ValueError, match='is a list of image files'): each_once(one)
    assert list(usable_files([a, other_name(a), b, b]).files) == [a, b] # so nothing that is held out is learned from


def test_ask_each(doodles):
    a, b, c = doodles[:3]
    def tell(f):
        if f == a: raise LabelError('whose?')
        if f == b: raise ImageError(b, 'torn')
        return f.name
    assert ask_each([a, b, c, other_name(c)], tell) == ({c: c.name}, [(a, 'whose?'), (b, 'torn')])
    with pytest.raises(ZeroDivisionError): ask_each([a], lambda f: 1/0) # a mistake of the function's is not a file's


def test_a_folder_where_a_list_is_meant(finder, doodles):
    for call in (lambda f: Gallery.from_files(f, finder.encoder), finder.gallery.add, lambda f: match(finder, f, doodles[:2]), lambda f: usable_files(f)):
        for folder in (doodles[0].parent, str(doodles[0].parent)):
            with pytest.raises(ValueError, match='image_files'): call(folder)


def test_a_labeller_that_gives_none(finder, doodles, capsys):
    how = lambda f: None if Path(f) == doodles[0] else label_func(f)
    assert list(usable_files(doodles[:3], how).files) == doodles[1:3]
    assert '1 of 3 files cannot be used' in capsys.readouterr().out
    assert Gallery.from_files(doodles[:2], finder.encoder, how, progress=False).labels[0] is None # an image may be searched for without one


def test_names_that_no_file_can_have(finder, doodles):
    for name in ('x'*5000 + '.jpg', 'x\0.jpg'):
        with pytest.raises(ImageError): open_image(name)
        assert len(finder.search([doodles[0], name], k=2)[0]) == 2
        assert len(Gallery.from_files([doodles[0], name], finder.encoder, label_func, progress=False)) == 1


def test_open_images_that_cannot_be_read(finder, doodles, tmp_path):
    cut = tmp_path/'Maine_1.png'
    Image.effect_noise((200, 200), 60).save(cut)
    cut.write_bytes(cut.read_bytes()[:3000])
    found = finder.search([doodles[0], Image.open(cut), doodles[1]], k=2)
    assert [len(o) for o in found] == [2, 0, 2] and 'damaged' in found[1].none


def test_what_is_left_out_and_where_to_look_hold_for_the_whole_list(finder, doodles):
    q, l = doodles[0], label_func(doodles[0])
    for how in ({}, {'mass': 1.}):
        a, b = finder.search([q, q], k=3, exclude=iter(doodles[:5]), labels=iter([l]), **how)
        assert a == b and not {m.file for m in a} & set(doodles[:5]) and {m.label for m in a} <= {l}
        assert finder.search(q, k=3, exclude=a[0].file, **how)[0].file != a[0].file # one file
        for queries in (q, [q, q]):
            with pytest.raises(ValueError, match="no images labelled 'typo'"): finder.search(queries, labels='typo', **how)


def test_units_are_files_whatever_they_are_called(finder, doodles, bad, capsys):
    assert len(units(finder.gallery, [doodles[0], other_name(doodles[0]), doodles[1]], progress=False).names) == 2
    with pytest.raises(ValueError, match='treated and control at once'): match(finder, doodles[:2], [other_name(doodles[1]), doodles[2]], progress=False)
    assert len(match_within(finder, [doodles[0], other_name(doodles[0]), doodles[1]], progress=False)) == 1
    u = units(finder.gallery, [*doodles[:3], bad[1]], groups=label_func, progress=False) # one whose patient is not told
    assert sum(map(len, u.files)) == 3 and list(u.lost) == [str(bad[1])]
    assert '1 of 4 files cannot be used' in capsys.readouterr().out
    with pytest.raises(ImageError, match='nameless'): units(finder.gallery, [*doodles[:3], bad[1]], groups=label_func, progress=False, on_error='raise')


def test_a_table_that_is_about_other_files(doodles):
    table = pd.DataFrame({'file': ['x.png', 'y.png'], 'age': [1, 2]})
    with pytest.raises(ValueError, match=r'none of 2 files \(first'): covariates_of(doodles[:2], table)
    some = covariates_of(doodles[:2], pd.DataFrame({'file': [str(doodles[0])], 'age': [3]}))
    assert some.age[0] == 3 and np.isnan(some.age[1])


def test_reliance(finder, doodles, bad, capsys):
    files = [*doodles[::5], doodles[0]]
    mask = lambda f: (torch.arange(64) < 32).expand(64, 64)
    plain, with_bad = (background_reliance(finder, o, mask, progress=False) for o in (files[:-1], [*files, *bad]))
    assert f'2 of {len(files)+1} files cannot be used' in capsys.readouterr().out # one of the others is there twice
    assert with_bad.images == plain.images == len(files)-1 and with_bad.auc == pytest.approx(plain.auc)
    with pytest.raises(ImageError): background_reliance(finder, [*files, *bad], mask, progress=False, on_error='raise')
    site = lambda f: 'AB'[doodles.index(f) % 2] if f in doodles else 'A'
    some = doodles[::7]
    alone, more = (site_reliance(finder, o, site, permutations=9, progress=False) for o in (some, [*some, other_name(some[0]), *bad]))
    assert more == alone
    with pytest.raises(ImageError, match='nameless'): site_reliance(finder, [*some, *bad], site, progress=False, on_error='raise')


def test_against_typical_images_some_of_which_are_gone(finder, doodles, tmp_path):
    copies = [Path(shutil.copy(f, tmp_path/f.name)) for f in doodles[:20]]
    g = Gallery.from_files(copies, finder.encoder, label_func, progress=False)
    f = SimilarityFinder.from_parts(None, g)
    whole = f.explain(copies[0], copies[1], against='typical', seed=1)
    for o in copies[2:6]: o.unlink()
    with pytest.warns(UserWarning, match='others stand in'): left = f.explain(copies[0], copies[1], against='typical', seed=1)
    assert (whole.n_others, left.n_others) == (16, 14) # of 18 others, four are gone
    said = f.explain(copies[0], copies[1], against=copies[6:])
    for a, b in zip(left.evidence, said.evidence): assert a == pytest.approx(b, abs=1e-4)
    c = cluster(f, progress=False)
    for o in copies:
        if o.exists(): o.unlink()
    fig = c.why(int(np.bincount(c.labels[c.labels >= 0]).argmax())) # all that it would show is gone
    rows = len(fig.axes)//4
    assert sum('no such file' in t.get_text().replace('\n', ' ') for ax in fig.axes for t in ax.texts) == rows > 0
    plt.close(fig)


def test_pictures_of_whatever_there_is(finder, doodles, bad, tmp_path):
    queries = [doodles[0], bad[0], Image.open(doodles[1]), tmp_path/'gone.jpg']
    fig = draw_matches(finder.search(queries, k=2))
    assert sum('cannot be opened' in t.get_text() for ax in fig.axes for t in ax.texts) == 2
    plt.close(fig)
    fig = draw_reasons(finder, queries)
    said = [t.get_text().replace('\n', ' ') for ax in fig.axes for t in ax.texts]
    assert [sum(why in o for o in said) for why in ('not an image', 'no such file')] == [1, 1]
    assert [bool(ax.images) for ax in fig.axes[:16:4]] == [True, False, True, False]
    plt.close(fig)
    with pytest.raises(ValueError, match='list is empty'): draw_matches([])
    with pytest.raises(ValueError, match='list is empty'): draw_reasons(finder, [])


def test_a_foreign_file_among_doodles(finder, doodles, bad):
    with pytest.raises(LabelError, match='not listed|table of traits'): doodle_label('ears')(bad[1])
    assert len(Gallery.from_files([*doodles[:2], bad[1]], finder.encoder, doodle_label('ears'), progress=False)) == 2


def test_a_file_under_two_names_or_of_elsewhere(finder, doodles):
    g = Gallery.from_files(doodles[:6], finder.encoder, label_func, progress=False)
    assert len(score_gallery(g, iter([doodles[0], other_name(doodles[0]), doodles[1]]), progress=False).files) == 2
    with pytest.warns(UserWarning, match='1 of 3 files in `test` are not in the gallery'): duplicates(g, test=doodles[:2] + [doodles[9]], progress=False)
    c = cluster(g, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        propagate(c, {doodles[0]: 'a', other_name(doodles[0]): 'a', doodles[1]: 'b'})
    with pytest.raises(ValueError, match='one file has two labels'): propagate(c, {doodles[0]: 'a', other_name(doodles[0]): 'b'})


def test_controls_without_an_image_are_told(finder, doodles, bad):
    m = match(finder, doodles[:2], [*doodles[40:44], bad[0]], progress=False)
    assert list(m.lost) == [str(bad[0])] and '2 of 4 controls not used; 1 more have no usable image' in repr(m)


def test_a_drive_that_is_not_there(finder, doodles, tmp_path):
    copies = [Path(shutil.copy(f, tmp_path/f.name)) for f in doodles[:3]]
    g = Gallery.from_files(copies, finder.encoder, label_func, progress=False)
    copies[0].unlink()
    assert g.refresh(progress=False).removed == 1
    for f in copies[1:]: f.unlink()
    with pytest.raises(ValueError, match='none of the 2 files of this gallery is there'): g.refresh(progress=False)
    assert len(g) == 2 # and can still be searched
    assert g.refresh(doodles[5:7], progress=False).removed == 2 # what is wanted instead has been said


def test_an_evaluation_outlives_a_file(finder, doodles, tmp_path):
    copies = [Path(shutil.copy(f, tmp_path/f.name)) for f in doodles[:40]]
    g = Gallery.from_files(copies, finder.encoder, label_func, progress=False)
    copies[3].unlink()
    with pytest.warns(UserWarning, match='class filter of predict is not measured'): e = evaluate(g, score_gallery(g, progress=False), classifier=finder.clearn)
    assert 'filter_misses' not in e.table.index and len(e.scored.files) == 40
