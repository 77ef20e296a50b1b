"""Asks pytorch-grad-cam, torch-cam and captum for the maps of both images of a pair: writes bench/others.csv.

    pip install grad-cam torchcam captum
    python bench/others.py [--label ears --pairs 32]

The network is the siamese network of `doodle_finder(label)`, the pairs are held-out drawings and their best matches of the same label, all in one batch. Each
library is used as its documentation says, on the encoder's last layer. Three ways to write the same network (the logits are equal):

- `encoder called twice`: `head(encoder(x1), encoder(x2))`, the usual siamese network;
- `one call for both`: the images go through the encoder as one batch of 2N, as in `SiameseModel.forward`;
- `a layer for each image`: called twice, but each image's map then passes an `nn.Identity` of its own, which is hooked in the encoder's place.

What comes back is compared with the Grad-CAM of each image, computed from the head with a variable for each map: Pearson's correlation over places, mean and
least over the pairs. Both images show an animal in about the middle, so the maps of the two images are somewhat alike: see the rows of `none`.
"""
import argparse
from importlib.metadata import version
import numpy as np, torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM as PytorchGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torchcam.methods import GradCAM as TorchCAM
from common import here, write_csv
from similarity_finder.evidence import gradcam_maps
from similarity_finder.train import doodle_finder


class Siamese(nn.Module):
    "The network in one of three ways; the output is (N, 1), as the libraries want a column for each class"
    def __init__(self, model, way):
        super().__init__()
        self.encoder, self.head, self.way = model.encoder, model.head, way
        self.first, self.second = nn.Identity(), nn.Identity()
    def forward(self, x1, x2):
        if self.way == 'one call for both': A, B = self.encoder(torch.cat([x1, x2])).chunk(2)
        else: A, B = self.encoder(x1), self.encoder(x2)
        if self.way == 'a layer for each image': A, B = self.first(A), self.second(B)
        return self.head(A, B)[:,None]


class WithPartner(nn.Module):
    "pytorch-grad-cam calls `model(input_tensor)`: the second images have to wait in the model"
    def __init__(self, siamese, x2): super().__init__(); self.siamese, self.x2 = siamese, x2
    def forward(self, x1): return self.siamese(x1, self.x2)


def pytorch_grad_cam(siamese, layer, x1, x2):
    with PytorchGradCAM(model=WithPartner(siamese, x2), target_layers=[layer]) as cam:
        return torch.from_numpy(cam(input_tensor=x1, targets=[ClassifierOutputTarget(0)]*len(x1)))

def torch_cam(siamese, layer, x1, x2):
    with TorchCAM(siamese, target_layer=layer) as extractor:
        return extractor(class_idx=0, scores=siamese(x1, x2))[0]

def captum(siamese, layer, x1, x2): return LayerGradCam(siamese, layer).attribute((x1, x2), target=0)[:,0].detach()


def correlations(maps, true):
    "Of each map with the true one, treated alike"
    if maps.shape[-1] != true.shape[-1]: true = F.interpolate(true[:,None], size=maps.shape[-2:], mode='bilinear', align_corners=False)[:,0]
    a, b = (o.flatten(1).double() for o in (maps, true))
    ok = (a.std(1) > 0) & (b.std(1) > 0) # a map may have no positive place
    return np.array([np.corrcoef(x, y)[0,1] for x, y in zip(a[ok], b[ok])])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--pairs', type=int, default=32)
    p.add_argument('--label', default='ears', help='the trait that the finder has learned')
    a = p.parse_args()
    n = a.pairs
    finder, held_out, _ = doodle_finder(a.label, progress=False)
    queries = held_out[:n]
    label = finder.gallery.label_func
    n = len(queries)
    matches = [finder.search(q, k=1, labels=label(q))[0].file for q in queries]
    model = finder.model.eval().requires_grad_() # the weights of a finder that was read from a folder are frozen, and the libraries go backwards through them
    x1, x2 = finder.encoder.prep(queries), finder.encoder.prep(matches)
    with torch.no_grad(): A, B, logits = model.encoder(x1), model.encoder(x2), model(x1, x2)
    true = gradcam_maps(model.head, A, B)
    rows = []
    def note(library, way, layer, which, maps, relu):
        t = [o.clamp_min(0) if relu else o for o in (true.a, true.b)]
        c = [correlations(maps, o) for o in t]
        is_of = ' and '.join(f'image {i+1}' for i, o in enumerate(c) if o.min() > 0.9999) or 'neither'
        versions = {'pytorch-grad-cam': 'grad-cam', 'torch-cam': 'torchcam', 'captum': 'captum'}
        rows.append((library, version(versions[library]) if library in versions else '', torch.__version__.split('+')[0], way, layer, which, len(queries), *maps.shape[1:],
                     *(f'{f(o):.4f}' for o in c for f in (np.mean, np.min)), is_of))
        print(*rows[-1], sep=' | ', flush=True)
    for relu in (True, False):
        note('none', 'Grad-CAM, ' + ('positive part' if relu else 'signed'), '', 'of image 1', true.a.clamp_min(0) if relu else true.a, relu)
        note('none', 'Grad-CAM, ' + ('positive part' if relu else 'signed'), '', 'of image 2', true.b.clamp_min(0) if relu else true.b, relu)
    for way in ('encoder called twice', 'one call for both', 'a layer for each image'):
        siamese = Siamese(model, way).eval()
        with torch.no_grad(): assert torch.allclose(siamese(x1, x2)[:,0], logits, atol=1e-4)
        layers = dict(first=siamese.first, second=siamese.second) if way == 'a layer for each image' else dict(encoder=siamese.encoder)
        for library, f, relu in (('pytorch-grad-cam', pytorch_grad_cam, True), ('torch-cam', torch_cam, True), ('captum', captum, False)):
            for name, layer in layers.items():
                maps = f(siamese, layer, x1, x2)
                parts = maps.split(n)
                for i, part in enumerate(parts): note(library, way, name, f'{i+1} of {len(parts)}', part, relu)
    write_csv(here/'others.csv', ('library', 'version', 'torch', 'network', 'hooked layer', 'map', 'pairs', 'height', 'width', 'correlation with image 1, mean', 'with image 1, least',
                                  'correlation with image 2, mean', 'with image 2, least', 'it is the map of'), rows)


if __name__ == '__main__': main()
