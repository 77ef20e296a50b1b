"Both networks learn: far better than chance on held-out doodles, and the same seed gives the same numbers"
import pytest
import torch

from similarity_finder.classifier import convnet
from similarity_finder.doodle import doodle_pets
from similarity_finder.train import train_finder

tiny = dict(arch=convnet, pretrained=False, size=64, num_workers=0, progress=False)


@pytest.mark.slow
def test_learns_the_doodles():
    "Fifteen breeds, seed 42: chance is 1/15 for the classifier and 1/2 for the balanced pair accuracy and the AUC"
    finder, held_out, measures = train_finder(doodle_pets(n=20, size=96, progress=False), epochs=16, siamese_epochs=4, seed=42, **tiny)
    with finder.slearn.no_bar(): pairs = finder.slearn.validate()[1]
    print(measures, f'pair accuracy {pairs:.3f}')
    assert measures['classifier_accuracy'] > 0.6
    assert pairs > 0.8
    assert measures['pair_auc'] > 0.9
    assert measures['recall@1'] > 0.6


@pytest.mark.slow
def test_same_seed_same_numbers():
    files = doodle_pets(n=8, size=96, progress=False)
    runs = [train_finder(files, epochs=1, siamese_epochs=1, seed=s, **tiny) for s in (0, 0, 1)]
    logits = [o.finder.gallery.scores(o.finder.encoder(files[:1])) for o in runs]
    assert runs[0].measures == runs[1].measures
    assert runs[0].held_out == runs[1].held_out
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
