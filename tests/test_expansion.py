"A search with neighbours is two products of matrices, and a query of the gallery is treated as if it were not there"
import numpy as np
import pytest
import torch
from similarity_finder.calibrate import Calibration
from similarity_finder.expansion import best_neighbours, expanded


def by_definition(z, among, k, c):
    "The weighted mean of the logits of all pairs between two neighbourhoods, from the formula in the docs"
    def weights(logits):
        w = np.zeros_like(logits)
        for i, row in enumerate(logits):
            for j in np.argsort(-row)[:min(k, np.isfinite(row).sum())]: w[i, j] = 0.5/(1 + np.exp(-(row[j]/c.temperature + c.shift - np.log(c.prior/(1-c.prior)) - np.log(9))))
        return w
    others = among.copy()
    np.fill_diagonal(others, -np.inf)
    of_gallery, of_query = np.eye(len(among)) + weights(others), weights(z)
    total = (z + of_query @ among) @ of_gallery.T
    return total/(1 + of_query.sum(1, keepdims=True))/of_gallery.sum(1)


def ask(z, among, k, c, **kwargs): return expanded(torch.tensor(z), best_neighbours(torch.tensor(among), k+1), lambda i: torch.tensor(among)[i], k, calibration=c, **kwargs).numpy()


@pytest.mark.parametrize('n', [1, 2, 3, 9])
@pytest.mark.parametrize('k', [1, 3, 20])
@pytest.mark.parametrize('c', [Calibration(), Calibration(2.5, -1., 0.3)])
def test_formula(n, k, c):
    rng = np.random.default_rng(n + k)
    z, among = rng.normal(0, 4, (4, n)), rng.normal(0, 4, (n, n)) # of a network that need not be symmetric
    assert np.allclose(ask(z, among, k, c), by_definition(z, among, k, c), atol=1e-12)


@pytest.mark.parametrize('n', [2, 3, 9])
def test_query_in_gallery(n):
    rng, c = np.random.default_rng(n), Calibration()
    among = rng.normal(0, 4, (n, n))
    for i in range(n):
        rest = [j for j in range(n) if j != i]
        without = ask(among[i:i+1, rest], among[np.ix_(rest, rest)], 3, c)
        assert np.allclose(ask(among[i:i+1], among, 3, c, itself=[i])[:, rest], without, atol=1e-12)


def test_several_at_once():
    rng, c = np.random.default_rng(0), Calibration()
    among = rng.normal(0, 4, (9, 9))
    z, own = np.concatenate([among[:3], rng.normal(0, 4, (2, 9))]), [0, 1, 2, -1, -1]
    together = ask(z, among, 3, c, itself=own)
    for i in range(5): assert np.allclose(together[i], ask(z[i:i+1], among, 3, c, itself=own[i:i+1])[0], atol=1e-12)


def test_index_keeps_what_a_finder_knows(tmp_path):
    "Images are added from the command line to a finder whose labels come from a table, and which is searched with neighbours"
    from typer.testing import CliRunner
    from similarity_finder.classifier import convnet, create_encoder
    from similarity_finder.command import app
    from similarity_finder.data import TableLabeller
    from similarity_finder.doodle import doodle_pets
    from similarity_finder.encode import PairEncoder
    from similarity_finder.finder import SimilarityFinder
    from similarity_finder.gallery import Gallery
    from similarity_finder.head import PairHead
    from similarity_finder.preprocess import Preprocess
    from similarity_finder.siamese import SiameseModel
    from similarity_finder.store import read_description
    import similarity_finder.cli
    files = doodle_pets(n=4, size=96, progress=False)[:8]
    (tmp_path/'labels.csv').write_text('file,kind\n' + ''.join(f'{f.name},{i % 2}\n' for i, f in enumerate(files)))
    prep = Preprocess.from_dict(dict(size=[64, 64], method='squish', pad_mode='zeros', resample=2, div=255., mean=[0.5]*3, std=[0.25]*3))
    torch.manual_seed(0)
    encoder = PairEncoder(SiameseModel(create_encoder(convnet, pretrained=False), PairHead(256, 16)).eval(), prep)
    place = tmp_path/'finder'
    SimilarityFinder.from_parts(None, Gallery.from_files(files[:6], encoder, TableLabeller(tmp_path/'labels.csv', 'kind'), progress=False)).expand(2).save(place)
    labels = read_description(place)['labels']
    for f in files[6:]:
        done = CliRunner().invoke(app, ['index', str(place), str(f)])
        assert done.exit_code == 0, done.output
        assert read_description(place)['labels'] == labels
    found = SimilarityFinder.load(place)
    assert len(found.gallery) == 8 and found.gallery.expansion.near.idxs.shape == (8, 3) # of all that are there now, without another search for them
    assert found.gallery.labels[-1] == '1'
