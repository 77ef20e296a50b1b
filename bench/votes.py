"""What it costs that the source classes vote and that blocks are kept, as after `fit_head` on an encoder from ImageNet: writes bench/votes.csv.

    python bench/votes.py [--archs resnet34 mobilenet_v2 --images 128 --gallery 100000]

'plain': encoder and head as they are without; 'votes': 512 of 1000 classes vote; 'kept': and the encoder's last two blocks run twice, as they are and as they were, as by default. Random weights and images, which do not change the time.
Seconds to encode an image (batches of 64 tensors in memory) and to score one query with a gallery of random vectors; numbers kept of an image; numbers in the weights and buffers of encoder and head. Ways take turns; medians.
"""
import argparse
import torch, torch.nn.functional as F
from common import here, in_turns, random_encoder, write_csv
from similarity_finder.blocks import KeptBlocks
from similarity_finder.encode import PairEncoder
from similarity_finder.head import PairVectors
from similarity_finder.scan import best, pair_scan, scan_weights
from similarity_finder.siamese import SiameseModel


def variants(arch, size):
    "The three encoders, by name"
    out = {}
    for name in ('plain', 'votes', 'kept'):
        made = random_encoder(arch, size)
        model = made.model
        nf = model.head.nf
        if name != 'plain':
            model.head.add_source(torch.randn(1000, nf), torch.randn(1000), range(512), known=F.normalize(torch.randn(25, nf)), between=(0.5, 0.9), more=3.)
        if name == 'kept': model = SiameseModel(KeptBlocks(model.encoder, 2), model.head).eval()
        out[name] = PairEncoder(model, made.prep)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--archs', nargs='+', default=('resnet34', 'mobilenet_v2'))
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--images', type=int, default=128)
    p.add_argument('--gallery', type=int, default=100_000)
    p.add_argument('--repeat', type=int, default=7)
    a = p.parse_args()
    torch.manual_seed(0)
    rows = []
    for arch in a.archs:
        encoders, x = variants(arch, a.size), torch.randn(a.images, 3, a.size, a.size)
        encoding = in_turns({k: lambda o=o: [o.tensors(b) for b in x.split(64)] for k, o in encoders.items()}, a.repeat)
        ways = {}
        for k, o in encoders.items():
            v, w = o.tensors(x[:2]), scan_weights(o.model.head)
            g = PairVectors(*(torch.randn(a.gallery, t.shape[1]) for t in v))
            ways[k] = lambda q=v.rows(slice(1)), g=g, w=w: best(pair_scan(q, g, w)[0], 10)
        scanning = in_turns(ways, 20, before=1)
        for k, o in encoders.items():
            v = o.tensors(x[:2])
            for what, value in (('encoding an image, s', encoding[k]/a.images), (f'scan of {a.gallery}, s', scanning[k]), ('numbers an image', sum(t.shape[1] for t in v)), ('million numbers in the networks', sum(t.numel() for t in o.model.state_dict().values())/1e6)):
                rows.append((arch, torch.get_num_threads(), k, what, f'{value:.6g}'))
                print(*rows[-1], flush=True)
    write_csv(here/'votes.csv', ('arch', 'threads', 'way', 'what', 'value'), rows)


if __name__ == '__main__': main()
