"Source classes, from the file of a pretrained network to a finder that is saved, read, searched and explained"
import copy

import pytest
import torch
from torch import nn

from similarity_finder import siamese, votes as voting
from similarity_finder.blocks import KeptBlocks
from similarity_finder.cam import encoder_maps
from similarity_finder.classifier import classifier_dls, classifier_learner, convnet, evaluating, source_names
from similarity_finder.doodle import doodle_pets
from similarity_finder.evidence import exact_maps
from similarity_finder.finder import SimilarityFinder
from similarity_finder.pairs import siamese_dls
from similarity_finder.preprocess import Preprocess


@pytest.fixture(scope='module')
def files(): return doodle_pets(n=4, size=64, progress=False)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    "A file as a pretrained network has it: its last layer tells 1000 classes"
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp('weights')/'convnet.pth'
    torch.save(convnet().state_dict(), file)
    return file


@pytest.fixture(scope='module')
def learners(files, weights):
    with pytest.MonkeyPatch.context() as m:
        m.setattr(siamese, '_helpful', lambda *args, **kwargs: True) # whatever classes with random weights are worth
        m.setattr(voting, '_known', lambda head, *args, **kwargs: (torch.eye(3, head.nf), (-1., -0.99))) # nothing is new
        clearn = classifier_learner(classifier_dls(files, size=64, bs=16, num_workers=0), convnet, weights=weights)
        slearn = siamese.siamese_learner(siamese_dls(files, size=64, bs=16, num_workers=0), encoder=clearn.model[0], n_hidden=8)
        with slearn.no_bar(), slearn.no_logging(): slearn.fit_head(1, 1e-3, blocks=2, views=1, n_vote=100, vote=(0.5,0.6))
    return clearn, slearn


def test_votes_are_in_what_is_searched_saved_and_explained(files, learners, tmp_path):
    finder = SimilarityFinder(*learners, files, progress=False)
    model = finder.slearn.model
    assert model.head.n_source == 100 and finder.gallery.vectors.e.shape[1] == model.head.nf + 100
    found = finder.search(files[0], k=5)
    with evaluating(model), torch.no_grad(): pairs = [finder.slearn.siampredict((files[0], m.file)) for m in found]
    assert [m.probability for m in found] == pytest.approx([p.probability for p in pairs], abs=1e-5)
    finder.save(tmp_path/'finder')
    again = SimilarityFinder.load(tmp_path/'finder')
    assert [(m.file, m.probability) for m in again.search(files[0], k=5)] == [(m.file, m.probability) for m in found]
    x = torch.rand(2, 3, 64, 64, device=finder.slearn.dls.device)
    with evaluating(model): maps = exact_maps(model.head, *encoder_maps(model, x[:1], x[1:]))
    assert maps.residual().abs().max() < 1e-4
    fingerprint = finder.gallery.encoder.fingerprint
    model.head.source_kept = model.head.source_kept.flip(0)
    assert finder.gallery.encoder.fingerprint != fingerprint # other votes are other vectors
    model.head.source_kept = model.head.source_kept.flip(0)


def test_an_explanation_says_what_both_look_like(files, learners):
    finder = SimilarityFinder(*learners, files, progress=False)
    head = finder.slearn.model.head
    why = finder.explain(files[0], files[1])
    t = why.looks_like(4)
    assert len(t) == 6 and list(t.index[-2:]) == ['all other classes (96)', 'taken off for every pair'] and set(t.index[:4]) <= set(source_names(1000))
    a, b = (finder.gallery.vectors.e[[finder.gallery.files.index(f)], head.nf:] for f in files[:2])
    assert t['log-odds'].iloc[:-1].sum() == pytest.approx((head.alpha*(a*b).sum()/head.temperature).item(), rel=1e-4) # what votes bring in
    assert (t['log-odds'].iloc[:4].diff().dropna() <= 0).all() and ((0 <= t) & (t <= 1))[['query', 'match']].iloc[:-1].all(axis=None)
    silent = copy.deepcopy(finder.slearn.model).eval()
    silent.head.drop_source()
    x = finder.encoder.prep(files[:2])
    with torch.no_grad(): assert t['log-odds'].sum() == pytest.approx((why.logit - silent(x[:1], x[1:]).item())/head.temperature.item(), abs=1e-4) # and all that they change
    other = finder.explain(files[0], files[1], against=files[2])
    assert other.votes.logit.tolist() == pytest.approx((why.votes.logit - finder.explain(files[0], files[2]).votes.logit).tolist(), abs=1e-4)


def test_votes_are_part_of_the_logit(files, learners):
    "Taken out again, what is missing is their cosine times its weight"
    model = learners[1].model
    x = torch.rand(6, 3, 64, 64, device=learners[1].dls.device)
    with evaluating(model), torch.no_grad():
        A = model.encoder(x)
        v = nn.functional.normalize(model.head.votes(A, A.new_zeros(len(A))).mean(1))
        beta = (model.head.alpha*model.head.source_ratio).item()
        state, with_votes = {k: v.clone() for k, v in model.head.state_dict().items()}, model.head(A)
        missing = with_votes - (beta*(v @ v.T) - model.head.source_shift) - model.head.drop_source()(A)
        assert missing.abs().max() < 1e-5*beta
        model.head.load_state_dict(state)
        torch.testing.assert_close(model.head(A), with_votes)


def test_training_again_starts_without_votes(files, learners):
    "And with those of the head where the encoder has no source classes, as in a finder that was read"
    slearn = learners[1]
    source, slearn.model.encoder.source = slearn.model.encoder.source, None
    weight = slearn.model.head.source_weight.clone()
    with pytest.MonkeyPatch.context() as m, slearn.no_bar(), slearn.no_logging():
        m.setattr(siamese, '_helpful', lambda *args, **kwargs: True)
        slearn.fit_head(1, 1e-3, n_vote=10)
    assert slearn.model.head.n_source == 10 and torch.equal(slearn.model.head.source_weight, weight)
    slearn.model.encoder.source = source
    with slearn.no_bar(), slearn.no_logging(): slearn.fit_head(1, 1e-3, vote=0)
    assert slearn.model.head.n_source == 0


def test_head_alone_lets_vote_too(files, learners, monkeypatch, capsys):
    "The encoder is left as it is: votes are taken while its maps are at hand"
    monkeypatch.setattr(siamese, '_helpful', lambda *args, **kwargs: True)
    slearn = learners[1]
    with slearn.no_bar(), slearn.no_logging(): slearn.fit_head(1, 1e-3, views=1)
    assert not capsys.readouterr().out # in silence
    head = slearn.model.head
    assert head.n_source == 512
    with evaluating(slearn.model), torch.no_grad(): votes = head.votes(slearn.model.encoder(Preprocess.of(slearn.dls)(list(slearn.dls.train_ds.items))), torch.zeros(len(slearn.dls.train_ds), device=slearn.dls.device)).mean(1)
    torch.testing.assert_close(votes.mean(0), head.source_mean, atol=1e-5, rtol=1e-3)


def test_where_nothing_tells_what_is_new_it_is_said(learners, monkeypatch):
    slearn = copy.deepcopy(learners[1])
    with pytest.raises(ValueError, match='both_new takes votes that count more on new images'): slearn.fit_head(1, 1e-3, both_new=3., vote=0.2)
    with pytest.raises(ValueError, match='both_new, what two new images have'): slearn.fit_head(1, 1e-3, both_new=-1.)
    for module, name, value, said in ((siamese, '_helpful', lambda *args, **kwargs: False, 'no source classes vote'), (voting, '_known', lambda *args, **kwargs: None, 'do not tell new images')):
        with monkeypatch.context() as m, slearn.no_bar(), slearn.no_logging():
            m.setattr(siamese, '_helpful', lambda *args, **kwargs: True)
            m.setattr(module, name, value)
            with pytest.warns(UserWarning, match=said): slearn.fit_head(1, 1e-3, both_new=3.)
        assert not slearn.model.head.shares_novelty


@pytest.mark.slow(45)
@pytest.mark.parametrize('both', [0., 3.])
def test_new_images_are_told_by_votes(files, learners, tmp_path, monkeypatch, both):
    "The votes' share differs from image to image, and what is searched, saved and explained is one and the same"
    slearn = copy.deepcopy(learners[1])
    monkeypatch.setattr(siamese, '_helpful', lambda *args, **kwargs: True)
    monkeypatch.setattr(voting, '_known', lambda head, *args, **kwargs: (torch.eye(3, head.nf), (-1., -0.99)))
    with slearn.no_bar(), slearn.no_logging(): slearn.fit_head(1, 1e-3, blocks=2, views=1, lr_blocks=3e-3, both_new=both)
    head, encoder, source = slearn.model.head, slearn.model.encoder, learners[0].model[0].source
    assert isinstance(encoder, KeptBlocks)
    assert (head.alpha*head.source_both).item() == pytest.approx(3, abs=1e-4) if both else head.source_both is None
    x = Preprocess.of(slearn.dls)(files)
    with evaluating(slearn.model), torch.no_grad():
        A = encoder(x)
        own = nn.functional.normalize(head.project(A[:,:head.nf].mean((2,3))))
        cosines = own @ own[:3].T
        between = cosines.amax(1).quantile(torch.tensor([0.2, 0.8], device=own.device)).tolist()
        head.drop_source().add_source(*(o.to(own.device) for o in source), list(range(50)), None, 2., 0.1, own[:3], between, 20., both)
        novelty = head.novelty(head.vectors(A).e)
        expected = ((between[1]-cosines.amax(1))/(between[1]-between[0])).clamp(0, 1)
        torch.testing.assert_close(novelty, expected, atol=1e-3, rtol=0)
        assert (novelty == 0).any() and (novelty == 1).any() and (novelty[:3] == 0).all()
        now, before = (torch.stack([((o.flatten(1).T @ source[0].to(o).T + source[1].to(o))/2).softmax(1).mean(0)[:50] for o in part]) for part in A.split(head.nf, 1))
        votes = nn.functional.normalize(torch.lerp(now, before, novelty[:,None]))
        assert (now-before).abs().max() > 1e-4
        torch.testing.assert_close(head.vectors(A).e[:,head.nf:head.nf+50], votes*head.vote_weights(novelty)[:,None], atol=1e-5, rtol=0)
        # of two images that are both new, and of no others, the logit tells that as well
        v = head.vectors(A)
        without = head.drop_source().add_source(*(o.to(own.device) for o in source), list(range(50)), None, 2., 0.1, own[:3], between, 20.)
        plain = without.all_logits(without.vectors(A))
        head.drop_source().add_source(*(o.to(own.device) for o in source), list(range(50)), None, 2., 0.1, own[:3], between, 20., both)
        torch.testing.assert_close(head.all_logits(v) - plain, both*novelty[:,None]*novelty, atol=1e-3, rtol=0)
        for i in (novelty.argmin(), novelty.argmax()): # with an image that is not new, and with one that is
            maps = exact_maps(head, A[i].expand(len(A), -1, -1, -1), A)
            assert maps.residual().abs().max() < 1e-4
    with evaluating(slearn.model), torch.no_grad(), torch.autocast(own.device.type, torch.float16): assert slearn.model(x).isfinite().all() # as training with mixed precision validates
    finder = SimilarityFinder(learners[0], slearn, files, progress=False)
    found = finder.search(files[0], k=len(files))
    assert [m.probability for m in found] == pytest.approx([slearn.siampredict((files[0], m.file)).probability for m in found], abs=1e-4) # of this network, cosines that differ by a hundredth are known or new
    torch.testing.assert_close(head.novelty(finder.gallery.vectors.e.to(own.device)), novelty, atol=1e-3, rtol=0) # what the gallery keeps tells it too
    i, j = novelty.topk(2).indices.tolist()
    parts = dict((told := finder.explain(files[i], files[j]))._parts())
    assert sum(parts.values()) == pytest.approx(told.logit, abs=1e-3) and parts.get('both new', 0) == pytest.approx(both*(novelty[i]*novelty[j]).item(), abs=1e-2)
    finder.save(tmp_path/'finder')
    again = SimilarityFinder.load(tmp_path/'finder')
    assert [(m.file, m.probability) for m in again.search(files[0], k=5)] == [(m.file, m.probability) for m in found[:5]]
    fingerprint = finder.gallery.encoder.fingerprint
    for k in ('source_more', *['source_both']*(both > 0)): # all that shapes the vectors
        was = getattr(head, k).clone()
        getattr(head, k).add_(0.01)
        assert finder.gallery.encoder.fingerprint != fingerprint
        getattr(head, k).copy_(was)
    assert finder.gallery.encoder.fingerprint == fingerprint
