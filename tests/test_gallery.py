"A gallery's answers are those of the network, whatever was added, removed, saved or kept in half precision"
import copy
import math
import random
import shutil

import pytest
import torch
from fastai.vision.learner import create_head
from torch import nn

from similarity_finder import scan
from similarity_finder.classifier import evaluating
from similarity_finder.data import label_func
from similarity_finder.encode import PairEncoder
from similarity_finder.finder import SimilarityFinder
from similarity_finder.gallery import Gallery
from similarity_finder.head import PairHead, PairVectors
from similarity_finder.preprocess import Preprocess
from similarity_finder.scan import can_compile, pair_scan, scan_weights
from similarity_finder.siamese import SiameseModel
from similarity_finder.table import Rows


@pytest.fixture(scope='module')
def encoder(finder): return finder.encoder


@pytest.fixture
def gallery(encoder, doodles): return Gallery.from_files(doodles[:60], encoder, progress=False)


def brute_force(finder, query, files):
    "One forward pass of the siamese network for each pair"
    prep, model = Preprocess.of(finder.slearn.dls), finder.slearn.model
    x = prep([query])
    with torch.no_grad(), evaluating(model): logits = {f: model(x, prep([f]))[0] for f in files}
    return {f: (z[1] - z[0] if z.ndim else z).item() for f, z in logits.items()} # the article's head gives two: "different" and "same"


@pytest.fixture(scope='module', params=['article', 'one order', 'symmetric', 'calibrated'])
def trained(request, finder, doodles):
    "A finder whose statistics differ from unit to unit, as training leaves them: with the article's head, or with ours"
    torch.manual_seed(0)
    slearn = copy.deepcopy(finder.slearn)
    if request.param == 'article': slearn.model = SiameseModel(slearn.model.encoder, create_head(2*slearn.model.head.nf, 2, lin_ftrs=[32]).to(slearn.dls.device))
    for m in slearn.model.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_mean.uniform_(-0.3, 0.3); m.running_var.uniform_(0.5, 1.5)
            m.weight.data.uniform_(0.5, 1.5); m.bias.data.uniform_(-0.3, 0.3)
    head = slearn.model.head
    if request.param != 'article': head.symmetric = request.param != 'one order'; head.w.weight.data.mul_(5); head.delta.data.uniform_(-0.5, 0.5)
    if request.param == 'calibrated': head.temperature.fill_(1.7); head.prior_shift.fill_(-0.4)
    return request.param, SimilarityFinder(finder.clearn, slearn, doodles, progress=False)


def test_search_equals_brute_force(trained, doodles):
    kind, finder = trained
    for query in (doodles[0], doodles[77]):
        expected = brute_force(finder, query, [f for f in doodles if f != query])
        found = finder.search(query, k=10**6)
        assert {m.file for m in found} == expected.keys() and len(found) == len(expected)
        assert torch.tensor(list(expected.values())).std() > 0.02 # or else all answers would do
        assert all(expected[a.file] - expected[b.file] > -1e-4 for a, b in zip(found, found[1:]))
        for m in found:
            z = expected[m.file]
            assert m.logit == pytest.approx(z, abs=1e-4)
            assert m.probability == pytest.approx(1/(1 + math.exp(-(z/1.7 - 0.4 if kind == 'calibrated' else z))), abs=1e-5)


@pytest.mark.parametrize('memory', [True, False])
@pytest.mark.parametrize('seed', range(3))
def test_any_order_of_adding_and_removing(gallery, encoder, doodles, tmp_path, memory, seed):
    "A random walk of changes, on disk, ends where a gallery made afresh begins"
    rng, held = random.Random(seed), set()
    album = Gallery.open(tmp_path/'album', encoder, create=True, memory=memory)
    for _ in range(6):
        some = rng.sample(list(doodles), 15)
        if rng.random() < 0.6: album.add(some, progress=False, commit_every=4, bs=4); held |= set(some)
        elif held & set(some): album.remove(held & set(some)); held -= set(some)
        assert set(album.files) == held
    fresh = Gallery.from_files(sorted(held), encoder, progress=False)
    query = encoder([doodles[3]])
    for g in (album, Gallery.open(tmp_path/'album', encoder)):
        a, b = (dict(zip(map(str, o.files), o.scores(query)[0].tolist())) for o in (g, fresh))
        assert a.keys() == b.keys()
        assert all(a[f] == pytest.approx(b[f], abs=1e-5) for f in a)
        assert {str(f): l for f, l in zip(g.files, g.labels)} == {str(f): label_func(f) for f in held}


def test_adding_then_removing_leaves_every_score(gallery, doodles, encoder):
    query = encoder(doodles[70:73])
    before = gallery.scores(query)
    gallery.add(doodles[60:80], progress=False)
    gallery.remove(doodles[60:80])
    assert torch.equal(gallery.scores(query), before)


def test_subset_labels_and_exclude(gallery, doodles):
    query, everything = doodles[70], gallery.search(doodles[70], k=10**6)
    labels = {label_func(doodles[0]), label_func(doodles[30])}
    out = [m.file for m in everything[:7]]
    assert gallery.search(query, 10**6, labels=labels) == [m for m in everything if m.label in labels]
    assert gallery.search(query, 10**6, exclude=out) == everything[7:]
    assert gallery.search(query, 3, labels=labels, exclude=out) == [m for m in everything[7:] if m.label in labels][:3]
    vectors = gallery.encoder([query])
    assert torch.allclose(gallery.scores(vectors, [5, 0, 59]), gallery.scores(vectors)[:, [5, 0, 59]], atol=1e-5)


@pytest.mark.parametrize('k', [1, 2, 59, 60, 61, 10**9])
def test_k_up_to_and_beyond_the_gallery(gallery, doodles, k):
    assert len(gallery.search(doodles[70], k)) == min(k, 60)
    assert len(gallery.search(doodles[0], k)) == min(k, 59) # not itself


def test_ties_keep_the_order_of_the_gallery(encoder, gallery):
    rows = gallery.rows.take([5, 0, 7, 0, 0, 9, 0, 0, 3])
    rows.paths = [f'/made/up/{i}.jpg' for i in range(9)]
    g = Gallery(encoder, rows)
    for k in (3, 6, 9):
        found = [m.file.name for m in g.search(gallery.vectors.rows([20]), k)[0] if m.file.stem in '13467']
        assert found == ['1.jpg', '3.jpg', '4.jpg', '6.jpg', '7.jpg'][:len(found)]


def test_an_empty_gallery_answers(encoder, doodles, tmp_path):
    for g in (Gallery(encoder), Gallery.open(tmp_path/'x', encoder, create=True, memory=False)):
        assert g.search(doodles[0]) == []
        assert g.scores(encoder(doodles[:2])).shape == (2, 0)


def random_rows(n, n_hidden, n_metric, dtype=torch.float32):
    e = torch.nn.functional.normalize(torch.randn(n, n_metric))
    vectors = PairVectors(*(o.to(dtype) for o in (torch.randn(n, n_hidden), torch.randn(n, n_hidden), e)))
    zeros = torch.zeros(n, dtype=torch.long).numpy()
    return Rows([f'/made/up/{i}.jpg' for i in range(n)], ['x']*n, zeros, zeros, vectors)


@pytest.mark.parametrize('symmetric', [True, False])
@pytest.mark.parametrize('metric', [True, False])
def test_fused_and_half_precision_agree_with_the_head(symmetric, metric):
    "5,000 random images: fused within 1e-3 of the head (the sums have 512 terms), half precision within 2 % of the spread, and the same best"
    torch.manual_seed(0)
    head = PairHead(512, 512, metric=metric, symmetric=symmetric).eval()
    head.bn2.running_mean.uniform_(0, 1)
    head.bn2.running_var.uniform_(0.5, 2)
    g, q = (random_rows(n, 512, 512 if metric else 0).vectors for n in (5000, 3))
    weights = scan_weights(head)
    with torch.no_grad(): expected = torch.cat([head.all_logits(q, g.rows(slice(i, i+500))) for i in range(0, 5000, 500)], 1)
    half = PairVectors(*(o.half() for o in g))
    for fused in (False, True) if can_compile() else (False,):
        full = pair_scan(q, g, weights, fused)
        assert (full - expected).abs().max() < 1e-3
        small = pair_scan(q, half, weights, fused)
        assert (small - expected).abs().max() < 0.02*expected.std()
        assert torch.equal(full.argmax(1), expected.argmax(1))
        assert torch.equal(small.argmax(1), expected.argmax(1))


def test_a_compiler_that_fails_is_said_once(monkeypatch):
    "A compiler alone is not enough: Python's headers may be missing"
    def no_headers(*args): raise RuntimeError('Python.h: no such file')
    q, g = (PairVectors(*(torch.rand(n, 4) for _ in range(3))) for n in (1, 200_000))
    weights = scan_weights(PairHead(4, 4).eval())
    monkeypatch.setattr(scan, '_compiled', lambda: no_headers)
    monkeypatch.setattr(shutil, 'which', lambda name: name)
    can_compile.cache_clear()
    try:
        with pytest.warns(UserWarning, match='Python.h') as said:
            for _ in range(2): assert torch.equal(pair_scan(q, g, weights), pair_scan(q, g, weights, fused=False))
        assert len(said) == 1
        with pytest.raises(RuntimeError, match='Python.h'): pair_scan(q, g, weights, fused=True)
    finally: can_compile.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU here')
def test_on_a_gpu(gallery, doodles, encoder):
    "The scan where the vectors are, step by step and compiled, gives the numbers of the CPU"
    query = encoder(doodles[70:73])
    expected = gallery.scores(query)
    gallery.to('cuda')
    assert torch.allclose(gallery.scores(query), expected, atol=1e-4)
    assert torch.allclose(gallery.scores(query, [5, 0]), expected[:, [5, 0]], atol=1e-4)
    if can_compile('cuda'): assert torch.allclose(pair_scan(query, gallery.vectors, scan_weights(gallery.head), fused=True).cpu(), expected, atol=1e-4)
    gallery.add(doodles[60:80], progress=False)
    assert gallery.vectors.u.is_cuda and len(gallery.search(doodles[90], k=99)) == 80


def test_an_address_instead_of_a_folder(gallery, encoder, doodles, tmp_path):
    gallery.save(f'file://{tmp_path}/g')
    again = Gallery.open(f'file://{tmp_path}/g', encoder)
    again.remove(doodles[:3])
    assert len(Gallery.open(tmp_path/'g', encoder)) == 57


def test_save_load_search_gives_the_same_ranking(finder, doodles, tmp_path):
    finder = SimilarityFinder(finder.clearn, finder.slearn, doodles[:80], progress=False)
    before = finder.search(doodles[80:90], k=80)
    finder.save(tmp_path/'f')
    loaded = SimilarityFinder.load(tmp_path/'f')
    assert [[m.file for m in o] for o in loaded.search(doodles[80:90], k=80)] == [[m.file for m in o] for o in before]
    assert loaded.search(doodles[80], k=80) == finder.search(doodles[80], k=80)
    assert loaded.predict(doodles[85], show=False) == finder.predict(doodles[85], show=False)
    maps = [o.explain(doodles[85], doodles[3]).maps for o in (loaded, finder)]
    assert torch.allclose(maps[0].a, maps[1].a, atol=1e-5)
    shutil.copytree(tmp_path/'f', tmp_path/'moved') # the folder may be moved
    shutil.rmtree(tmp_path/'f')
    moved = SimilarityFinder.load(tmp_path/'moved').search(doodles[80], k=9)
    assert [m.file for m in moved] == [m.file for m in before[0][:9]]
    assert [m.probability for m in moved] == pytest.approx([m.probability for m in before[0][:9]], abs=1e-6) # sums of other lengths round otherwise


def test_a_changed_query_is_not_taken_for_the_old_one(encoder, doodles, tmp_path):
    mine = tmp_path/'Mine_1.jpg'
    shutil.copy(doodles[0], mine)
    g = Gallery.from_files([mine, *doodles[:5]], encoder, progress=False)
    shutil.copy(doodles[50], mine)
    assert torch.allclose(g.encode(mine).u, encoder([doodles[50]]).u, atol=1e-5)


def test_vectors_that_are_no_numbers_are_refused(finder, doodles):
    import copy
    broken = copy.deepcopy(finder.model)
    broken.head.U.weight.data[0, 0] = float('nan')
    with pytest.raises(ValueError, match='not finite'): Gallery.from_files(doodles[:3], PairEncoder(broken, finder.encoder.prep), progress=False)


def is_pickle(f):
    "Whether a file can be read as a pickle, or as a zip file, which is how torch wraps one; two first bytes may be those of one by chance"
    import pickletools
    import zipfile
    if zipfile.is_zipfile(f): return True
    try: return f.read_bytes()[:1] == b'\x80' and bool([*pickletools.genops(f.read_bytes())])
    except ValueError: return False


def test_a_pickle_is_known_as_one(tmp_path):
    import pickle
    for name, write in dict(a=lambda f: f.write_bytes(pickle.dumps({'a': [1, 2.5]})), b=lambda f: torch.save(torch.ones(3), f), c=lambda f: torch.save(torch.ones(3), f, _use_new_zipfile_serialization=False)).items():
        write(tmp_path/name)
        assert is_pickle(tmp_path/name), name
    (tmp_path/'d').write_bytes(b'\x80\x03\x00\x00' + b'H'*60)
    assert not is_pickle(tmp_path/'d')


def test_no_pickle_in_a_saved_finder(finder, tmp_path):
    SimilarityFinder.from_parts(finder.classifier, Gallery.from_files(finder.gallery.files[:5], finder.encoder, progress=False)).save(tmp_path/'f')
    for f in (tmp_path/'f').rglob('*'):
        if not f.is_file(): continue
        assert f.suffix in ('.json', '.safetensors') or 'gallery' in f.relative_to(tmp_path/'f').parts[0], f
        assert not is_pickle(f), f
