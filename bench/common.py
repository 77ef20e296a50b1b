"What several of the scripts need"
import csv, time
from pathlib import Path
import numpy as np, torch
import torchvision
from PIL import Image
from fastai.vision.learner import create_head
from fastcore.parallel import parallel
from torch import nn
from similarity_finder.classifier import classifier_dls, classifier_learner, create_encoder
from similarity_finder.data import image_files, open_image
from similarity_finder.doodle import doodle_pets
from similarity_finder.encode import PairEncoder
from similarity_finder.head import PairHead
from similarity_finder.pairs import siamese_dls
from similarity_finder.preprocess import Preprocess
from similarity_finder.siamese import SiameseLearner, SiameseModel

here = Path(__file__).parent


def timed(f):
    "Seconds that a call takes, and what it gives"
    start = time.perf_counter()
    out = f()
    return time.perf_counter()-start, out


def in_turns(ways, repeat, warm=2, before=0):
    "Median seconds of each of several calls that take turns, so that none has a better moment of the computer than another; the first in turn changes, and each is called `before` times untimed"
    for f in ways.values():
        for _ in range(warm): f()
    times, names = {k: [] for k in ways}, list(ways)
    for i in range(repeat):
        for k in names[i % len(names):]+names[:i % len(names)]:
            for _ in range(before): ways[k]()
            times[k].append(timed(ways[k])[0])
    return {k: float(np.median(v)) for k, v in times.items()}


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
    "A siamese network with random weights, which takes as long as a trained one"
    torch.manual_seed(0)
    encoder = create_encoder(getattr(torchvision.models, arch), pretrained=False)
    with torch.no_grad(): nf = encoder(torch.zeros(2, 3, 64, 64)).shape[1]
    prep = Preprocess.from_dict(dict(size=[size, size], method='crop', pad_mode='reflection', resample=int(Image.BILINEAR), div=255.,
                                     mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]))
    return PairEncoder(SiameseModel(encoder, PairHead(nf)).eval(), prep)


def article_learners(files, label, always, arch, size):
    "Learners with random weights: a classifier that always says the same, and the article's siamese model"
    clearn = classifier_learner(classifier_dls(files, label, size=size, bs=8, num_workers=0), arch, pretrained=False)
    clearn.model[1][-1].weight.data.zero_()
    clearn.model[1][-1].bias = nn.Parameter(torch.tensor([float(o == always) for o in clearn.dls.vocab]))
    encoder = create_encoder(arch, pretrained=False)
    with torch.no_grad(): channels = encoder(torch.zeros(2, 3, 64, 64)).shape[1]
    model = SiameseModel(encoder, create_head(2*channels, 2))
    slearn = SiameseLearner(siamese_dls(files, label, size=size, bs=8, num_workers=0), model, loss_func=nn.CrossEntropyLoss())
    x = Preprocess.of(slearn.dls)(files[:16])
    with torch.no_grad():
        for _ in range(10): model(x[::2][:len(x)//2], x[1::2]) # statistics that fit the weights, so that the probabilities differ
    model.eval(); clearn.model.eval()
    return clearn, slearn
