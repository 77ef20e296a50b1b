"Training from cached maps: the same as training on the images where nothing is random, and the same seed gives the same weights"
import copy

import pytest
import torch
from torch import nn

from similarity_finder.blocks import KeptBlocks, last_blocks
from similarity_finder.classifier import convnet, create_encoder
from similarity_finder.doodle import doodle_pets
from similarity_finder.head import PairHead
from similarity_finder.losses import PairLoss, contrastive
from similarity_finder.pairs import siamese_dls
from similarity_finder.siamese import SiameseModel, siamese_learner
from similarity_finder.store import build_encoder, describe_encoder


@pytest.fixture(scope='module')
def files(): return doodle_pets(n=4, size=64, progress=False)


def learner(files, **kwargs):
    torch.manual_seed(0)
    return siamese_learner(siamese_dls(files, size=64, bs=16, num_workers=0), encoder=create_encoder(convnet, pretrained=False), n_hidden=8, **kwargs)


def test_same_seed_same_weights(files):
    first = learner(files)
    runs = [copy.deepcopy(first.model.state_dict()) for _ in range(3)]
    for state, seed in zip(runs, (1, 1, 2)):
        learn = learner(files)
        learn.model.load_state_dict(first.model.state_dict())
        learn.fit_head(1, 1e-2, blocks=2, views=1, lr_blocks=1e-2, seed=seed)
        state.update(learn.model.state_dict())
    same = lambda a, b: all(torch.equal(a[k], b[k]) for k in a)
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_head_learns_on_from_two_views(files):
    "After the blocks' weights are mixed, two views of each image go through them once more, however many there are (one, if there is one); and the held-out images"
    def encoded(views, mix):
        learn, n = learner(files), []
        last_blocks(learn.model.encoder, 2)[1][0].register_forward_hook(lambda m, x, out: n.append(len(x[0])))
        with learn.no_bar(), learn.no_logging(): learn.fit_head(1, views=views, mix=mix, blocks=2)
        return sum(n), len(learn.dls.train_ds), len(learn.dls.valid_ds)
    for views, again in ((0, 1), (1, 2), (3, 2)):
        mixed, images, held_out = encoded(views, 0.5)
        assert mixed - encoded(views, 1)[0] == again*images + held_out


@pytest.mark.slow(25)
def test_more_blocks_learn_slower(files):
    "Not held, two blocks or fewer learn at 4e-4; three at two thirds of that"
    def trained(**kwargs):
        learn = learner(files)
        with learn.no_bar(), learn.no_logging(): learn.fit_head(1, 1e-2, views=0, seed=1, **kwargs)
        return learn.model.state_dict()
    for blocks, rate in ((1, 4e-4), (2, 4e-4), (3, 4e-4*2/3)):
        by_default, said, other = trained(blocks=blocks), trained(blocks=blocks, lr_blocks=rate), trained(blocks=blocks, lr_blocks=2*rate)
        assert all(torch.equal(by_default[k], said[k]) for k in said)
        assert not all(torch.equal(other[k], said[k]) for k in said)


def test_gradient_of_cached_maps():
    "The last blocks get the gradient that they get in the whole network"
    torch.manual_seed(0)
    model = SiameseModel(create_encoder(convnet, pretrained=False), PairHead(256, 8, p=(0, 0)))
    x, y = torch.rand(6, 3, 64, 64), torch.tensor([0, 0, 1, 1, 2, 2])
    def gradients(f):
        model.zero_grad()
        model.head.train()
        PairLoss()(f(), y).backward()
        return [o.grad.clone() for o in model.encoder[3].parameters()]
    model.train()
    model.encoder.eval()
    first, last = last_blocks(model.encoder, 2)
    with torch.no_grad(): maps = first(x)
    whole = gradients(lambda: model(x))
    cached = SiameseModel(last, model.head).train()
    last.eval()
    for a, b in zip(whole, gradients(lambda: cached(maps))): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def gradients(apart, w, loss):
    "At the encoder and at the head's first layer, with `w` as weights of the article's term"
    model = SiameseModel(nn.Conv2d(3, 4, 1), PairHead(4, 8, p=(0, 0), apart=apart))
    torch.manual_seed(0)
    for o in model.parameters(): nn.init.normal_(o)
    nn.init.constant_(model.head.log_alpha, 0.)
    nn.init.constant_(model.head.w.weight, w)
    loss(model.train()(torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)))).backward()
    return model.encoder.weight.grad, model.head.U.weight.grad


def test_metric_term_and_the_rest_learn_apart():
    "The encoder's gradient is that of the contrastive loss, whatever the article's term; the head's is that of the cross-entropy"
    y = torch.tensor([0, 0, 1, 1])
    both, other = (gradients(True, w, lambda out: PairLoss()(out, y)) for w in (5., 1.))
    torch.testing.assert_close(both[0], other[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(both[0], gradients(True, 5., lambda out: contrastive(out[1], y))[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(both[1], gradients(True, 5., lambda out: PairLoss()(out[0], y))[1], rtol=1e-4, atol=1e-6)
    together = [gradients(False, w, lambda out: PairLoss()(out, y))[0] for w in (5., 1.)]
    assert not torch.allclose(*together, rtol=1e-2, atol=1e-4)


def test_another_loss_trains_all_terms(files):
    "A loss of one's own gets logits alone, and the encoder learns by it"
    seen = []
    def loss(logits, y): seen.append(logits.shape); return PairLoss()(logits, y)
    learn = learner(files, loss_func=loss)
    learn.unfreeze()
    before = [o.clone() for o in learn.model.encoder.parameters()]
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    assert seen and all(len(o) == 2 for o in seen)
    assert not all(torch.equal(a, b) for a, b in zip(before, learn.model.encoder.parameters()))


def test_order_of_cosines_is_what_counts():
    "The contrastive loss falls when an image of the class comes nearer, and rises when another does"
    y, cosines = torch.tensor([0, 0, 1]), torch.zeros(3, 3)
    def with_(i, j, v): c = cosines.clone(); c[i,j] = c[j,i] = v; return contrastive(c, y).item()
    assert with_(0, 1, 0.1) < with_(0, 1, 0) < with_(0, 2, 0.1)


def test_blocks_of_a_timm_network_learn_and_are_read_again(files, tmp_path):
    "Of a network that timm writes as one piece: its last two blocks change and no other, and what becomes of them can be saved"
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    torch.save(timm.create_model('resnet10t').state_dict(), tmp_path/'weights.pth')
    learn = siamese_learner(siamese_dls(files, size=64, bs=16, num_workers=0), 'resnet10t', weights=tmp_path/'weights.pth', n_hidden=8)
    was = copy.deepcopy(learn.model.encoder.state_dict())
    with learn.no_bar(), learn.no_logging(): learn.fit_head(1, 1e-2, blocks=2, lr_blocks=1e-2, vote=0)
    changed = {'.'.join(k.split('.')[:3]) for k, v in learn.model.encoder.state_dict().items() if not torch.equal(v, was[k])}
    assert changed == {'model.layer3.0', 'model.layer4.0'}
    encoder, x = KeptBlocks(learn.model.encoder, 2).eval(), torch.rand(2, 3, 64, 64)
    with torch.device('meta'): read = build_encoder(describe_encoder(encoder)).eval() # without weights, as a saved finder builds it
    read.load_state_dict(encoder.state_dict(), assign=True)
    with torch.no_grad(): torch.testing.assert_close(read(x), encoder(x))
