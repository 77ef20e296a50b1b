"Few images, relative paths, empty galleries, options without what they are for: nothing is lost or ignored without a word"
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from similarity_finder.calibrate import Calibration, head_calibration, store_calibration
from similarity_finder.classifier import classifier_dls, convnet
from similarity_finder.cli import app
from similarity_finder.data import label_func, labeller, parent_label, usable_files
from similarity_finder.evaluate import measure_table
from similarity_finder.finder import SimilarityFinder
from similarity_finder.gallery import Gallery
from similarity_finder.metrics import bootstrap, recall_at_k
from similarity_finder.pairs import siamese_dls
from similarity_finder.scored import Scored, score_queries


@pytest.mark.parametrize('n', [10, 40])
def test_few_images_are_a_batch(doodles, n):
    "fastai leaves a batch out that is not full: of fewer images than a batch nothing would be learned"
    some = doodles[::3][:n]
    for dls in (classifier_dls(some, size=32, num_workers=0), siamese_dls(some, pairs='sampled', size=32, bs=64, num_workers=0)):
        assert len(dls.train) == 1 and dls.train.bs == len(dls.train_ds) == n - int(0.2*n)


def test_nothing_to_train_on(doodles):
    for make in (classifier_dls, lambda files, **kwargs: siamese_dls(files, pairs='sampled', **kwargs)):
        with pytest.raises(ValueError, match='leaves none of 10 files to train on'): make(doodles[:10], splitter=lambda f: ([], list(range(len(f)))), size=32, num_workers=0)


def test_a_folder_is_a_label_however_it_is_named(finder, doodles, tmp_path, monkeypatch):
    for f in doodles[:16]:
        (tmp_path/label_func(f)).mkdir(exist_ok=True)
        shutil.copy(f, tmp_path/label_func(f))
    first, other = sorted(o.name for o in tmp_path.iterdir())[:2]
    monkeypatch.chdir(tmp_path/first)
    files = [*sorted(Path('.').glob('*.jpg')), *sorted(Path(f'../{other}').glob('*.jpg'))]
    right = [first if f.parent == Path('.') else other for f in files]
    assert len(files) > 4 and len(set(right)) == 2
    gallery = Gallery.from_files(files, finder.encoder, parent_label, progress=False)
    assert gallery.labels == score_queries(gallery, files, progress=False).labels == usable_files(files, parent_label).labels == right


def test_a_new_gallery_on_disk_stays_there(finder, doodles, tmp_path):
    gallery = Gallery.open(tmp_path/'large', finder.encoder, memory=False, create=True)
    gallery.add(doodles[:5], progress=False)
    assert gallery.vectors is None and len(gallery) == 5
    half = Gallery.open(tmp_path/'half', finder.encoder, create=True, dtype=torch.float16)
    half.add(doodles[:5], progress=False)
    assert half.vectors.u.dtype == torch.float16
    query = doodles[7]
    assert half.search(query, k=5) == Gallery.open(tmp_path/'half', finder.encoder).search(query, k=5)


def test_what_a_finder_was_kept_with_stays(finder, doodles, tmp_path):
    finder.save(tmp_path/'finder', info=dict(measures=dict(accuracy=0.9)))
    again = SimilarityFinder.load(tmp_path/'finder')
    again.calibrate(prior=0.1)
    again.save(tmp_path/'finder')
    again.save(tmp_path/'copy')
    for place in ('finder', 'copy'): assert SimilarityFinder.load(tmp_path/place).gallery.info == dict(measures=dict(accuracy=0.9))
    again.save(tmp_path/'copy', info={})
    assert SimilarityFinder.load(tmp_path/'copy').gallery.info == {}


def test_a_trained_finder_outlives_what_follows(doodles, monkeypatch):
    import similarity_finder.train as train
    def fails(*args, **kwargs): raise RuntimeError('out of memory')
    monkeypatch.setattr(train, 'score_new_labels', fails)
    with pytest.warns(UserWarning, match='not measured on new labels: out of memory'):
        trained = train.train_finder(doodles[::3], arch=convnet, pretrained=False, size=32, epochs=1, siamese_epochs=1, num_workers=0, progress=False, new_labels=2)
    assert len(trained.finder.gallery) == len(doodles[::3])


def test_few_queries_count_in_the_interval_of_a_gallery():
    "Two labels of three images each, and 54 images alone with theirs: six can be right, not sixty"
    labels = ['a']*3 + ['b']*3 + [f'alone {i}' for i in range(54)]
    same = np.array(labels)[:,None] == np.array(labels)
    z = np.where(same, 5., -5.) + np.random.default_rng(0).normal(0, 0.5, same.shape)
    np.fill_diagonal(z, -np.inf)
    scored = Scored([str(i) for i in range(60)], labels, z, labels, [], own=np.arange(60))
    inside = measure_table(scored, Calibration(prior=same[z > -np.inf].mean()))
    drawn = bootstrap(recall_at_k, z[:6], labels[:6], labels)
    assert tuple(inside.loc['recall@1', ['value', 'low', 'high']]) == pytest.approx(drawn) and drawn.low < 0.7
    assert inside.loc['recall@1_by_label', 'low'] == pytest.approx(2/(2+1.96**2), abs=1e-3) # of two labels


def test_a_threshold_does_what_it_says_when_it_is_typed(finder, doodles, tmp_path):
    gallery = Gallery.from_files(doodles[::2], finder.encoder, progress=False)
    kept = head_calibration(gallery.head)
    store_calibration(Calibration(200., 3e-5, 0.5), gallery.head) # all P(same) close together
    queries = list(doodles[1::2])
    SimilarityFinder.from_parts(None, gallery).save(tmp_path/'finder')
    (tmp_path/'images').mkdir()
    for f in queries: shutil.copy(f, tmp_path/'images')
    store_calibration(kept, gallery.head) # the head is shared
    done = CliRunner().invoke(app, ['evaluate', str(tmp_path/'finder'), str(tmp_path/'images'), '--fpr', '0.2', '--no-picture'])
    assert done.exit_code == 0, done.output
    said = done.stdout.strip().splitlines()[-1]
    least, promised = float(said.split()[-1]), float(said.split('on: ')[1].split('%')[0])
    assert 0 < promised <= 20
    found = SimilarityFinder.load(tmp_path/'finder').search(queries, k=10**6, min_probability=least)
    assert np.mean([any(m.label != label_func(q) for m in ms) for q, ms in zip(queries, found)]) == pytest.approx(promised/100, abs=6e-4)


def test_a_finder_that_is_sure_of_everything_has_no_threshold(finder, doodles, tmp_path):
    gallery = Gallery.from_files(doodles[::2], finder.encoder, progress=False)
    kept = head_calibration(gallery.head)
    store_calibration(Calibration(1., 1000., 0.5), gallery.head) # all P(same) are 100 %
    SimilarityFinder.from_parts(None, gallery).save(tmp_path/'finder')
    store_calibration(kept, gallery.head)
    (tmp_path/'images').mkdir()
    for f in doodles[1::2]: shutil.copy(f, tmp_path/'images')
    done = CliRunner().invoke(app, ['evaluate', str(tmp_path/'finder'), str(tmp_path/'images'), '--fpr', '0.2', '--no-picture'])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().splitlines()[-1] == f'No P(same) keeps to --fpr 0.2: of {len(doodles[1::2])} images, more than that have a wrong match at 100 %'


@pytest.mark.parametrize('args, says', [
    (['match', 'F', '--treated', 'a', '--controls', 'b', '--neighbours', '1'], '--neighbours is for pairs within one group'),
    (['match', 'F', '--treated', 'a', '-k', '3'], '-k, how many controls'), (['match', 'F', '--treated', 'a', '--key', 'patient'], '--key is a column of --covariates'),
    (['cluster', 'F', '--min-confidence', '0.7'], '--min-confidence is for --given')])
def test_options_without_what_they_are_for(tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    for o in 'Fab': (tmp_path/o).mkdir()
    (tmp_path/'a'/'x_1.jpg').touch(); (tmp_path/'b'/'y_1.jpg').touch()
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 1 and says in done.output


def test_the_seed_of_the_demo_is_of_the_drawings_too(tmp_path, monkeypatch):
    import similarity_finder.doodle as doodle
    asked = []
    def draw(**kwargs):
        asked.append(kwargs['seed'])
        raise ValueError('drawn enough')
    monkeypatch.setattr(doodle, 'doodle_pets', draw)
    CliRunner().invoke(app, ['demo', '--seed', '7', '--out', str(tmp_path/'demo')])
    assert asked == [7]


def test_a_prior_that_the_head_cannot_keep(finder):
    kept = head_calibration(finder.gallery.head)
    for prior in (1-1e-8, 1e-50):
        with pytest.raises(ValueError, match='lies between 0 and 1'): finder.calibrate(prior=prior)
    assert head_calibration(finder.gallery.head) == kept


def test_tables_in_another_encoding(tmp_path):
    (tmp_path/'LABELS.CSV').write_text('file,label\na_1.jpg,cat\n')
    assert labeller(tmp_path/'LABELS.CSV')('a_1.jpg') == 'cat'
    from similarity_finder.balance import covariates_of
    (tmp_path/'t.csv').write_text('file,age\nBärchen_1.jpg,4\n', encoding='latin-1')
    with pytest.raises(ValueError, match=r't\.csv cannot be read as a csv table in UTF-8'): covariates_of(['a'], tmp_path/'t.csv')


def test_a_quote_too_many_names_the_table(tmp_path):
    "Not closed, it would swallow the rows that follow, and their files would have no label"
    (tmp_path/'t.csv').write_text('file,label\n"a_1.jpg,cat\nb_1.jpg,dog\n')
    with pytest.raises(ValueError, match=r't\.csv cannot be read as a csv table in UTF-8: unexpected end'): labeller(tmp_path/'t.csv')
    (tmp_path/'t.csv').write_text('file,label\n"a,1.jpg","a ""tabby"" cat"\n')
    assert labeller(tmp_path/'t.csv')('a,1.jpg') == 'a "tabby" cat'
