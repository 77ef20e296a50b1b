"Properties that make the library what it is, on random heads and real encoder families"
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18, squeezenet1_0

from similarity_finder.cam import background_methods, encoder_maps, image_methods, pair_maps
from similarity_finder.evidence import cam_methods, exact_maps, hirescam_maps, place_matrix
from similarity_finder.classifier import create_encoder, n_channels
from similarity_finder.faithfulness import map_agreement, scrambled
from similarity_finder.head import PairHead
from similarity_finder.siamese import SiameseModel


def shake(model):
    "Weights and statistics as different from their start as training makes them"
    for m in model.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_mean.uniform_(-0.3, 0.3); m.running_var.uniform_(0.5, 1.5)
            m.weight.data.uniform_(0.5, 1.5); m.bias.data.uniform_(-0.3, 0.3)
        if isinstance(m, PairHead) and m.delta is not None: m.delta.data.uniform_(-0.5, 0.5)
    return model.eval()


@pytest.fixture(scope='module', params=[resnet18, mobilenet_v2, squeezenet1_0], ids=lambda o: o.__name__)
def encoder(request):
    torch.manual_seed(0)
    encoder = shake(create_encoder(request.param, pretrained=False)).train()
    with torch.no_grad():
        for _ in range(80): encoder(patches(8)) # statistics that fit the weights, or deep layers die out
    return encoder.eval()


def patches(n, size=(64, 64)):
    "Images that differ as photographs do: coloured patches, not noise"
    return nn.functional.interpolate(torch.rand(n,3,4,4), size=size)


@pytest.mark.parametrize('pool', ['concat', 'avg', 'max'])
@pytest.mark.parametrize('metric', [True, False, 'source classes'])
def test_maps_and_intercept_sum_to_the_logit(encoder, pool, metric):
    torch.manual_seed(1)
    model = SiameseModel(encoder, shake(PairHead(n_channels(encoder), 24, pool, metric=bool(metric))))
    if metric == 'source classes': model.head.add_source(torch.randn(30, model.head.nf), torch.randn(30), range(0, 30, 2), torch.rand(15)/30, beta=8.)
    x1, x2 = patches(3, (64,96)), patches(3, (64,96))
    with torch.no_grad():
        logit = model(x1, x2)
        A, B = model.encoder(x1), model.encoder(x2)
    for method in ('exact', 'hirescam', 'sharp'):
        maps = pair_maps(model, x1, x2, method)
        total = maps.a.sum((1,2)) + maps.b.sum((1,2)) + maps.intercept
        torch.testing.assert_close(total, logit, atol=1e-4, rtol=1e-5)
    if metric:
        va, vb = model.head.vectors(A), model.head.vectors(B)
        torch.testing.assert_close(place_matrix(model.head, A, B).sum((1,2)), model.head.alpha*(va.e*vb.e).sum(1), atol=1e-4, rtol=1e-5)


def test_all_pairs_equal_pair_by_pair(encoder):
    torch.manual_seed(2)
    model = SiameseModel(encoder, shake(PairHead(n_channels(encoder), 24)))
    x = patches(4)
    with torch.no_grad():
        every = model(x)
        one_by_one = torch.stack([torch.cat([model(x[i:i+1], x[j:j+1]) for j in range(4)]) for i in range(4)])
    torch.testing.assert_close(every, one_by_one, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(every, every.T, atol=1e-5, rtol=1e-5)
    assert every.std() > 1e-2 # they are not all the same number


def test_a_moved_pattern_moves_its_evidence():
    "An encoder that sees each place alone: what is moved in the image is moved in the map"
    torch.manual_seed(3)
    model = shake(SiameseModel(nn.Conv2d(3, 8, 1), PairHead(8, 16)))
    x = torch.rand(1,3,5,5)
    here, there = (exact_maps(model.head, *encoder_maps(model, o, x)) for o in (x, x.roll((1,2), (2,3))))
    torch.testing.assert_close(here.a.roll((1,2), (1,2)), there.a, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(here.b, there.b, atol=1e-5, rtol=1e-4)


def sees_dots(weight):
    "A network each of whose places sees 5 x 5 pixels; the logit rises or falls with the dots there are"
    box = nn.Conv2d(3, 1, 5, padding=2, bias=False)
    head = PairHead(1, 1, 'avg', metric=False).eval()
    for o in (box.weight, head.U.weight, head.V.weight, head.U.bias): nn.init.ones_(o)
    nn.init.constant_(head.w.weight, weight); nn.init.zeros_(head.w.bias)
    return SiameseModel(nn.Sequential(box, nn.ReLU()), head)


@pytest.mark.parametrize('at', [(12,9), (5,16)])
def test_sharp_maps_point_at_the_dot_that_all_places_around_it_see(at):
    "Each place sees 5 x 5 pixels, so 25 places see a dot, and each has a 25th of the evidence; all of it is the dot's doing"
    model, x = sees_dots(1.), torch.zeros(1,3,25,25)
    x[:,:,at[0],at[1]] = 1
    exact, sharp = exact_maps(model.head, *encoder_maps(model, x, x)), pair_maps(model, x, x, 'sharp')
    total = exact.a.sum()
    torch.testing.assert_close(exact.a[0,at[0]-2:at[0]+3,at[1]-2:at[1]+3], (total/25).expand(5, 5))
    torch.testing.assert_close(sharp.a.sum(), total)
    assert divmod(sharp.a[0].argmax().item(), 25) == at
    assert sharp.a[0,at[0]-1:at[0]+2,at[1]-1:at[1]+2].sum() > 0.8*total


@pytest.mark.parametrize('at', [(12,9), (5,16)])
def test_expected_maps_point_at_the_dot_that_is_missing(at):
    "A dot anywhere speaks against; half of the other images have one at one place. The image has none: its even area is evidence for, at that place alone, and no other map finds any"
    model, x, background = sees_dots(-1.), torch.zeros(1,3,25,25), torch.zeros(8,3,25,25)
    background[::2,:,at[0],at[1]] = 1
    expected = pair_maps(model, x, x, 'expected', background=background)
    with torch.no_grad(): loss = model(x, x) - model(background, x.expand(8, -1, -1, -1)).mean()
    assert loss > 0.01
    torch.testing.assert_close(expected.a.sum(), loss[0]/2)
    torch.testing.assert_close(expected.residual(), torch.zeros(1), atol=1e-6, rtol=0)
    assert divmod(expected.a[0].argmax().item(), 25) == at
    assert expected.a[0,at[0]-1:at[0]+2,at[1]-1:at[1]+2].sum() > 0.8*expected.a.sum()
    for method in ('exact', 'hirescam', 'gradcam', *image_methods):
        a = pair_maps(model, x, x, method).a
        torch.testing.assert_close(a, torch.zeros_like(a))


def test_evidence_is_what_occlusion_by_the_average_costs():
    "In a linear head, replacing a place by the average image takes away just its evidence"
    torch.manual_seed(4)
    head = shake(PairHead(4, 6, 'avg', metric=False))
    head.U.bias.data += 50 # all hidden units are on and stay on: the head is linear
    A, B = torch.rand(1,4,2,2), torch.rand(1,4,2,2)
    # both normalisations know the same average, as after training on all pairs
    head.bn_g.running_mean.copy_(head.bn_q.running_mean)
    gone = A.clone()
    gone[:,:,1,0] = head.bn_q.running_mean
    with torch.no_grad(): cost = head(A, B) - head(gone, B)
    torch.testing.assert_close(exact_maps(head, A, B).a[:,1,0], cost, atol=1e-3, rtol=1e-3)
    assert (hirescam_maps(head, A, B).a[:,1,0] - cost).abs() > 1e-2


@pytest.fixture(scope='module')
def small():
    "A network with as many hidden units as channels (which the article's maps need), a pair that is not alike, and other images"
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
    model = SiameseModel(net, PairHead(12, 12))
    model.head.delta.data.uniform_(-0.5, 0.5)
    model.head.w.weight.data.uniform_(-1, 1)
    with torch.no_grad():
        for _ in range(80): model.train()(patches(8, (32,32))) # statistics that fit the weights
    return model.eval(), patches(1, (32,32)), patches(1, (32,32)), patches(4, (32,32))


every = [*cam_methods, *image_methods, *background_methods]


@pytest.mark.parametrize('method', every)
def test_swapped_images_swap_their_maps(small, method):
    model, x1, x2, background = small
    there, back = (pair_maps(model, *o, method, background=background) for o in ((x1, x2), (x2, x1)))
    size = there.a.abs().max().item()
    assert (there.a - there.b).abs().max() > 0.1*size # they are not the same map
    torch.testing.assert_close(there.a, back.b, atol=1e-3*size, rtol=0)
    torch.testing.assert_close(there.b, back.a, atol=1e-3*size, rtol=0)
    torch.testing.assert_close(there.logit, back.logit, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('method', every)
def test_other_weights_give_other_maps(small, method):
    "Maps are of the network, not of the image alone: the same numbers in another order give another map"
    model, x1, x2, background = small
    maps = pair_maps(model, x1, x2, method, background=background)
    assert map_agreement(maps.a[0], maps.a[0]) == pytest.approx(1)
    others = [map_agreement(maps.a[0], pair_maps(scrambled(model, seed), x1, x2, method, background=background).a[0]) for seed in range(8)]
    assert abs(sum(others)/8) < 0.6, others


def test_fine_says_which_encoder_takes_no_other_size(small):
    class OneSize(nn.Module):
        def __init__(self, net): super().__init__(); self.net = net
        def forward(self, x):
            assert x.shape[-1] == 32, 'wrong size'
            return self.net(x)
    model = SiameseModel(OneSize(small[0].encoder), small[0].head).eval()
    with pytest.raises(ValueError, match="'fine' enlarges.*use 'exact' or 'sharp'"): pair_maps(model, small[1], small[2], 'fine')
