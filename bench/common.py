"What several of the scripts need"
import csv, time
from pathlib import Path
import numpy as np, torch
import torchvision
from PIL import Image
from fastcore.parallel import parallel
from similarity_finder.classifier import create_encoder
from similarity_finder.data import image_files, open_image
from similarity_finder.doodle import doodle_pets
from similarity_finder.encode import PairEncoder
from similarity_finder.head import PairHead
from similarity_finder.preprocess import Preprocess
from similarity_finder.siamese import SiameseModel

here = Path(__file__).parent


def timed(f):
    "Seconds that a call takes, and what it gives"
    start = time.perf_counter()
    out = f()
    return time.perf_counter()-start, out


def write_csv(path, header, rows):
    with open(path, 'w', newline='') as f: csv.writer(f).writerows([header, *rows])


def variant(job):
    "One of many different pictures of a file"
    source, target, seed = job
    rng, im = np.random.default_rng(seed), open_image(source)
    w, h = im.size
    x, y = (int(rng.integers(0, o//5+1)) for o in (w, h))
    im = im.resize((500, 375), Image.BILINEAR, (x, y, w-int(rng.integers(0, w//5+1)), h-int(rng.integers(0, h//5+1))))
    (im.transpose(Image.FLIP_LEFT_RIGHT) if rng.integers(2) else im).save(target, quality=90)


def gallery_files(n, folder, photographs=None):
    "n different JPEGs of 500 x 375 pixels, about the size of the Oxford pets, cut and flipped from those in a folder (default: drawn pets)"
    sources = image_files(photographs) if photographs else doodle_pets(n=8, size=375, progress=False)
    jobs = [(sources[i % len(sources)], folder/f'Pet_{i:06}.jpg', i) for i in range(n)]
    parallel(variant, jobs, n_workers=2, progress=False)
    return [t for _, t, _ in jobs]


def random_encoder(arch='resnet34', size=224):
    "A siamese network with random weights and statistics that fit them: as slow as a trained one"
    torch.manual_seed(0)
    encoder = create_encoder(getattr(torchvision.models, arch), pretrained=False)
    with torch.no_grad(): nf = encoder(torch.zeros(2, 3, 64, 64)).shape[1]
    prep = Preprocess.from_dict(dict(size=[size, size], method='crop', pad_mode='reflection', resample=int(Image.BILINEAR), div=255.,
                                     mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]))
    return PairEncoder(SiameseModel(encoder, PairHead(nf)).eval(), prep)
