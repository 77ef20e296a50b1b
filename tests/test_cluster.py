"Clusters, labels from a handful, copies: against brute force and planted answers"
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from similarity_finder.cluster import average_linkage, cluster, group, with_neighbours
from similarity_finder.duplicates import duplicates
from similarity_finder.encode import PairEncoder
from similarity_finder.gallery import Gallery
from similarity_finder.head import PairHead, PairVectors
from similarity_finder.pairs_matrix import pair_matrix, pair_neighbours
from similarity_finder.preprocess import Preprocess
from similarity_finder.propagate import propagate
from similarity_finder.siamese import SiameseModel
from similarity_finder.table import Rows


def gallery_of(vectors, head, names=None):
    n, zeros = len(vectors), np.zeros(len(vectors), np.int64)
    names = [f'/pets/{i:04}.jpg' for i in range(n)] if names is None else names
    return Gallery(PairEncoder(SiameseModel(nn.Identity(), head), Preprocess.from_dict({})), Rows(names, [None]*n, zeros, zeros, vectors), label_func=None)


def planted(sizes, noise=0.6, seed=0):
    "Vectors that scatter around a direction for each group; the logit is 10 cosine - 5"
    g = torch.Generator().manual_seed(seed)
    head = PairHead(32, 2).eval()
    head.w.weight.data.zero_(); head.w.bias.data.fill_(-5.); head.log_alpha.data.fill_(np.log(10))
    y = np.repeat(np.arange(len(sizes)), sizes)
    e = F.normalize(F.normalize(torch.randn(len(sizes), 32, generator=g))[y] + noise*F.normalize(torch.randn(len(y), 32, generator=g)))
    return gallery_of(PairVectors(torch.zeros(len(y), 2), torch.zeros(len(y), 2), e), head, [f'/pets/{k}_{i}.jpg' for i, k in enumerate(y)])


@pytest.mark.parametrize('kwargs', [{}, {'symmetric': False}, {'metric': False}])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_matrix_is_what_the_model_says(kwargs, dtype):
    torch.manual_seed(1)
    head = PairHead(5, 12, **kwargs).eval()
    head.bn2.running_mean.uniform_(0, 1); head.bn2.running_var.uniform_(0.5, 2); head.temperature.fill_(1.7); head.prior_shift.fill_(-0.4)
    maps = torch.randn(17, 5, 2, 3)
    model = SiameseModel(nn.Identity(), head).eval()
    with torch.no_grad():
        vectors = PairVectors(*(o.to(dtype) for o in head.vectors(maps)))
        z = torch.stack([model(m[None].expand(17, -1, -1, -1), maps) for m in maps])
    p = head.probability((z + z.T)/2).numpy() # a group has no first and second image
    for memory in (1, 500, 1e9):
        m = pair_matrix(gallery_of(vectors, head), memory=memory)
        assert np.array_equal(m, m.T)
        np.testing.assert_allclose(1/(1 + np.exp(-m)), p, atol=1e-5 if dtype == torch.float32 else 3e-3)


def test_a_finder_of_images(finder):
    "The matrix of a gallery that was encoded from images is what a search shows"
    m = pair_matrix(finder.gallery)
    files = list(finder.gallery.files)
    for i in (0, 7, 50):
        for match in finder.search(files[i], k=4): assert abs(m[i, files.index(match.file)] - match.logit) < 1e-3


def test_groups_are_average_linkage_by_brute_force():
    "Against an implementation that does what the definition says"
    rng = np.random.default_rng(3)
    x = rng.normal(size=(9, 9)); odds = (x + x.T)/2
    for threshold in (0.3, 0.5, 0.6):
        cut, groups = np.log(threshold/(1-threshold)), [[i] for i in range(9)]
        while len(groups) > 1:
            mean, a, b = max((odds[np.ix_(a, b)].mean(), i, j) for (i, a), (j, b) in itertools.combinations(enumerate(groups), 2))
            if mean < cut: break
            groups = [g for i, g in enumerate(groups) if i not in (a, b)] + [groups[a] + groups[b]]
        found = group(odds, threshold)
        assert {frozenset(g) for g in groups} == {frozenset(np.flatnonzero(found == k)) for k in set(found)}
    assert len(average_linkage(odds)[0]) == 8


@pytest.mark.parametrize('neighbours', [0, 2])
@pytest.mark.parametrize('limit', [12_000, 15])
def test_planted_groups_come_back_in_any_order(neighbours, limit):
    g = planted([12, 9, 7, 1])
    kw = dict(neighbours=neighbours, limit=limit, k=28)
    c = cluster(g, **kw)
    assert [{f.name[0] for f in c[k]} for k in range(3)] == [{'0'}, {'1'}, {'2'}]
    assert [f.name[0] for f in c[-1]] == ['3']
    for seed in range(3):
        order = random.Random(seed).sample(range(len(g)), len(g))
        again = cluster(Gallery(g.encoder, g.rows.take(order), label_func=None), **kw)
        assert again.files == c.files and np.array_equal(again.labels, c.labels) and again.medoids == c.medoids


def test_parts_are_exact_without_neighbours():
    "Noisy groups that touch: clustering the connected parts one by one gives what clustering all at once does"
    for seed in range(4):
        g = planted([8]*6, noise=1.1, seed=seed)
        whole, parts = cluster(g, neighbours=0, min_size=1), cluster(g, neighbours=0, min_size=1, limit=47, k=47)
        assert np.array_equal(whole.labels, parts.labels)


def test_threshold_is_monotone():
    "At a higher threshold clusters only split; without neighbours and with"
    g = planted([8]*5, noise=1.2, seed=1)
    for neighbours in (0, 2):
        before = None
        for t in (0.05, 0.2, 0.5, 0.8, 0.95, 0.999):
            labels = cluster(g, t, neighbours=neighbours, min_size=1).labels
            if before is not None: assert all(len(set(before[labels == k])) == 1 for k in set(labels))
            before = labels
    counts = [len(cluster(g, n_clusters=n, min_size=1)) for n in (1, 3, 7, 40)]
    assert counts == [1, 3, 7, 40]


def test_an_image_like_no_other_stays_alone():
    "Its neighbours have no weight, so they cannot drag it into their group"
    odds = np.full((6, 6), 4., dtype=np.float32)
    odds[5] = odds[:, 5] = -8
    odds[5, 5] = 9
    np.testing.assert_allclose(with_neighbours(odds, 2)[5, :5], -8, atol=0.05)
    assert list(group(with_neighbours(odds, 2))).count(group(with_neighbours(odds, 2))[5]) == 1


def test_half_precision_leaves_the_groups():
    g = planted([20, 15, 10, 10, 1], noise=0.9, seed=2)
    assert np.array_equal(cluster(g).labels, cluster(g, dtype=np.float16).labels)


def test_neighbours_are_the_best_of_the_matrix():
    g = planted([6, 5, 4], noise=1.)
    near, full = pair_neighbours(g, 3, memory=1), pair_matrix(g)
    i, j = near.nonzero()
    np.testing.assert_allclose(np.asarray(near[i, j]).ravel(), full[i, j], atol=1e-4)
    np.fill_diagonal(full, -np.inf)
    for r in range(15): assert set(np.argsort(-full[r])[:3]) <= set(near[r].indices)


def test_propagation_abstains():
    g = planted([9, 8, 7, 1])
    c = cluster(g)
    pick = lambda k, n: [f for f in c.files if f.name.startswith(f'{k}_')][:n]
    told = propagate(c, {f: 'a' for f in pick(0, 2)} | {f: 'b' for f in pick(1, 1)})
    by_group = {k: {l for f, l in zip(told.files, told.labels) if f.name[0] == k} for k in '0123'}
    assert by_group == {'0': {'a'}, '1': {'b'}, '2': {None}, '3': {None}}
    assert c.names == ['a', 'b', None]
    assert {l for l in propagate(c, {pick(0, 1)[0]: 'a'}).labels} == {'a', None} # one class alone is no reason to use it
    relabelled = propagate(c, {pick(0, 1)[0]: 'b', pick(1, 1)[0]: 'a'}) # names mean nothing
    assert [{'a': 'b', 'b': 'a'}.get(l) for l in relabelled.labels] == propagate(c, {pick(0, 1)[0]: 'a', pick(1, 1)[0]: 'b'}).labels
    many = propagate(c, {f: 'a' for f in pick(0, 8)} | {pick(1, 1)[0]: 'b'})
    last = next(i for i, f in enumerate(many.files) if f == [o for o in c.files if o.name.startswith('0_')][8])
    assert many.labels[last] == 'a' and many.confidence[last] < 1


@pytest.mark.slow(40)
def test_copies_across_a_split(finder, doodles, tmp_path):
    copies = []
    for i, f in enumerate(doodles[::15]):
        im = Image.open(f).convert('RGB')
        w, h = im.size
        im = [im, im.resize((w*3//4, h*3//4)), im.crop((3, 2, w, h-3))][i % 3]
        copies.append(tmp_path/f'copy_{i}.jpg')
        im.save(copies[-1], quality=80)
    g = Gallery.from_files([*doodles, *copies], finder.encoder, label_func=None, progress=False)
    found = duplicates(g, test=copies, probability=0.)
    assert {frozenset(map(Path, x)) for x in found.groups} == {frozenset(p) for p in zip(copies, map(Path, doodles[::15]))}
    assert len(duplicates(g, test=doodles[1:15], probability=0.)) == 0
    assert all(p.correlation >= 0.95 for p in found.pairs)
    same = duplicates(g, probability=0.)
    assert {frozenset(x) for x in same.groups} == {frozenset(x) for x in found.groups} # breed mates are no copies
    broken = copies[0]
    broken.write_bytes(b'no image')
    from similarity_finder.duplicates import _pyramid
    _pyramid.cache_clear()
    with pytest.raises(ValueError, match='copy_0'): duplicates(g, probability=0., on_error='raise')
    assert len(duplicates(g, probability=0.)) == len(copies)-1


def test_pictures_of_a_gallery_with_a_lost_file(finder, doodles, tmp_path):
    "The sheet, the map and the page are drawn all the same"
    import shutil
    from similarity_finder.cli_cluster import clusters_page
    files = [Path(shutil.copy(f, tmp_path)) for f in doodles[:12]]
    odd = tmp_path/'a <b> & "c".jpg'
    shutil.copy(doodles[20], odd)
    c = cluster(Gallery.from_files([*files, odd], finder.encoder, label_func=None, progress=False), n_clusters=2, min_size=1)
    files[0].unlink()
    c.show(); c.show_map(method='tsne')
    page = clusters_page(c, tmp_path/'sub'/'page.html').read_text()
    assert 'no such file' in page and '<b>' not in page and '&lt;b&gt;' in page


def test_errors():
    g = planted([4, 4])
    c = cluster(g)
    for call, says in [(lambda: cluster(g, 1.), 'between 0 and 1'), (lambda: cluster(g, n_clusters=9), 'number of images, 8'), (lambda: cluster(planted([1])), 'at least two'),
                       (lambda: pair_matrix(g, dtype=np.float64), 'float32 or float16'), (lambda: pair_neighbours(g, -1), 'at least 1'),
                       (lambda: propagate(c, {}), 'no labels'), (lambda: propagate(c, {'x.jpg': 'a'}), r'first: x\.jpg'), (lambda: duplicates(g, test=[]), 'both sides'),
                       (lambda: c.why(0), 'cluster a finder')]:
        with pytest.raises(ValueError, match=says): call()
