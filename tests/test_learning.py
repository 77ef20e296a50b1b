"Both networks learn: far better than chance on held-out doodles, and the same seed gives the same numbers"
import pytest
import torch

from similarity_finder.classifier import convnet
from similarity_finder.doodle import doodle_pets
from similarity_finder.losses import pair_accuracy
from similarity_finder.train import doodle_finder, train_finder

tiny = dict(arch=convnet, pretrained=False, size=64, num_workers=0, progress=False)


@pytest.mark.slow(200)
def test_learns_the_doodles():
    "Fifteen breeds, seed 42: chance is 1/15 for the classifier and the first match, and 1/2 for the balanced pair accuracy and the AUC"
    finder, held_out, measures = doodle_finder(progress=False)
    labels = [finder.gallery.label_func(f) for f in held_out]
    pairs = pair_accuracy(finder.encoder.head.all_logits(finder.encoder(held_out)), torch.tensor([sorted(set(labels)).index(l) for l in labels]))
    print(measures, f'pair accuracy {pairs:.3f}')
    assert measures['classifier_accuracy'] > 0.75
    assert pairs > 0.85
    assert measures['pair_auc'] > 0.97
    assert measures['recall@1'] > 0.8


@pytest.mark.slow(60)
def test_same_seed_same_numbers():
    files = doodle_pets(n=8, size=96, progress=False)
    runs = [train_finder(files, epochs=1, siamese_epochs=1, seed=s, **tiny) for s in (0, 0, 1)]
    logits = [o.finder.gallery.scores(o.finder.encoder(files[:1])) for o in runs]
    assert runs[0].measures == runs[1].measures
    assert runs[0].held_out == runs[1].held_out
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_labels_that_are_left_out_have_no_part_in_the_training(monkeypatch, doodles, finder):
    "Whoever scores a label has not seen it; what is compared is compared as that network does, and images of two trainings are not"
    from similarity_finder import train
    from similarity_finder.data import label_func
    learned = []

    def pretend(files, *args, **kwargs):
        learned.append({label_func(f) for f in files})
        return train.Trained(finder, [], {})
    monkeypatch.setattr(train, 'train_finder', pretend)
    scored = train.score_new_labels(doodles, parts=3, most=4, seed=1, progress=False)
    everything = {label_func(f) for f in doodles}
    assert len(learned) == 3 and all(len(o) >= 2 for o in learned)
    assert sorted(l for o in learned for l in everything - o) == sorted(everything) # each is left out once
    training = [next(i for i, o in enumerate(learned) if l not in o) for l in scored.labels]
    v = finder.encoder(scored.files)
    expected = finder.gallery.head.all_logits(v).detach().double().numpy()
    for i in range(len(scored.files)):
        for j in range(len(scored.files)):
            if i == j or training[i] != training[j]: assert scored.logits[i, j] == -float('inf')
            else: assert abs(scored.logits[i, j] - expected[i, j]) < 1e-4
    assert all(scored.labels.count(l) == 4 for l in everything)


def test_an_image_that_cannot_be_opened_is_left_out_of_new_labels(monkeypatch, doodles, finder, tmp_path, capsys):
    from similarity_finder import train
    bad = tmp_path/'Moon_Bobtail_99.jpg'
    bad.write_bytes(b'no picture')
    monkeypatch.setattr(train, 'train_finder', lambda *args, **kwargs: train.Trained(finder, [], {}))
    scored = train.score_new_labels([bad, *doodles], parts=2, most=8, progress=False)
    assert bad not in scored.files and [f for f, _ in scored.skipped] == [bad] and '1 of' in capsys.readouterr().out
    with pytest.raises(ValueError, match='99.jpg'): train.score_new_labels([bad, *doodles], parts=2, progress=False, on_error='raise')


@pytest.mark.slow(30)
def test_what_is_said_of_new_images_arrives(monkeypatch, doodles):
    "From `train_finder` to `fit_head`, with blocks that learn or without, and to the trainings without some labels"
    from similarity_finder import train
    from similarity_finder.siamese import SiameseLearner
    got = []
    class Enough(Exception): pass
    def stop(self, *args, both_new=None, **kwargs):
        got.append(both_new)
        raise Enough
    monkeypatch.setattr(SiameseLearner, 'fit_head', stop)
    monkeypatch.setattr(train, 'classifier_learner', lambda dls, arch, pretrained, *args, **kwargs: classifier_learner(dls, arch, False, None, **kwargs))
    from similarity_finder.classifier import classifier_learner
    from torchvision.models import mobilenet_v2
    small = dict(arch=mobilenet_v2, size=32, epochs=1, bs=8, n_hidden=8, num_workers=0, progress=False)
    for blocks in (0, 2):
        with pytest.raises(Enough): train.train_finder(doodles, blocks=blocks, both_new=2.5, **small)
    monkeypatch.setattr(train, '_fit_last', lambda *args: None)
    monkeypatch.setattr(train, 'score_new_labels', stop)
    with pytest.raises(Enough): train.train_finder(doodles, new_labels=2, both_new=1.5, **small)
    assert got == [2.5, 2.5, 1.5]


def test_the_command_passes_on_what_it_is_told(monkeypatch, doodles, tmp_path):
    from similarity_finder import train
    from similarity_finder.cli import app
    from typer.testing import CliRunner
    got = {}
    def stop(files, how, *args, **kwargs):
        got.update(kwargs)
        raise ValueError('enough')
    monkeypatch.setattr(train, 'train_finder', stop)
    for f in doodles[:2]: (tmp_path/f.name).write_bytes(f.read_bytes())
    done = CliRunner().invoke(app, ['train', str(tmp_path), '--out', str(tmp_path/'finder'), '--mix', '0.5', '--both-new', '2', '--new-labels', '3', '--blocks', '1', '--seed', '7'])
    assert done.exit_code == 1 and 'enough' in done.output
    assert {k: got[k] for k in ('mix', 'both_new', 'new_labels', 'blocks', 'seed')} == dict(mix=0.5, both_new=2., new_labels=3, blocks=1, seed=7)
