"Shared by all tests: no display, doodles drawn once, and where the photographs lie if they are there"
import os
from pathlib import Path

import matplotlib
import pytest

matplotlib.use('Agg')
shared = Path(os.environ.get('SIMILARITY_FINDER_SHARED', Path(__file__).resolve().parents[2]/'shared'))


def pytest_collection_modifyitems(items):
    "The slowest first: else one worker is left with the longest when the others are done"
    def seconds(item):
        mark = item.get_closest_marker('slow')
        return 0 if mark is None else mark.args[0] if mark.args else 30
    items.sort(key=seconds, reverse=True)


@pytest.fixture(scope='session')
def doodles():
    from similarity_finder.doodle import doodle_pets
    return doodle_pets(n=8, size=96, progress=False)


@pytest.fixture(scope='session')
def finder(doodles):
    "Two networks with random weights: enough for everything that does not depend on having learned"
    from similarity_finder.classifier import classifier_dls, classifier_learner, convnet
    from similarity_finder.finder import SimilarityFinder
    from similarity_finder.pairs import siamese_dls
    from similarity_finder.siamese import siamese_learner
    clearn = classifier_learner(classifier_dls(doodles, size=64, num_workers=0), convnet, pretrained=False)
    slearn = siamese_learner(siamese_dls(doodles, size=64, num_workers=0), convnet, pretrained=False, n_hidden=32)
    return SimilarityFinder(clearn, slearn, doodles, progress=False)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt
    plt.close('all')
