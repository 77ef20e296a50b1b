"Both networks learn: far better than chance on held-out doodles, and the same seed gives the same numbers"
import pytest
import torch

from similarity_finder.cli import demo_finder
from similarity_finder.doodle import doodle_pets


@pytest.mark.slow
def test_learns_the_doodles():
    "Fifteen breeds, seed 42: chance is 1/15 for the classifier and 1/2 for the balanced pair accuracy and the AUC"
    finder, queries, accuracy, auc = demo_finder(doodle_pets(n=20, size=96, progress=False), epochs=16, siamese_epochs=4, seed=42)
    with finder.slearn.no_bar(): pairs = finder.slearn.validate()[1]
    print(f'classifier {accuracy:.3f}, pair accuracy {pairs:.3f}, AUC {auc:.3f}')
    assert accuracy > 0.6
    assert pairs > 0.8
    assert auc > 0.9


@pytest.mark.slow
def test_same_seed_same_numbers():
    files = doodle_pets(n=8, size=96, progress=False)
    runs = [demo_finder(files, epochs=1, siamese_epochs=1, seed=s) for s in (0, 0, 1)]
    logits = [finder.gallery.scores(finder.encode(files[0])) for finder, *_ in runs]
    assert runs[0][2:] == runs[1][2:]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
