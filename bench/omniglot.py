"Omniglot for quality.py: two sets of five alphabets, trained on one and tested on the other, with a small convnet from scratch"
import io, math, random, time, zipfile
import numpy as np, torch, torch.nn.functional as F
from PIL import Image
from torch import nn
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.torch_core import default_device, params, set_seed
from sklearn.metrics import roc_auc_score
from similarity_finder.head import PairHead
from similarity_finder.metrics import map_at_r, recall_at_k
from similarity_finder.pairs import class_batches
from similarity_finder.losses import PairLoss, contrastive
from protocols import Metric, Net, adamw, metric_loss, sampled_pairs


def drawings(fname, size=28):
    "Images (N, 1, size, size), ink 1 on 0, and the character of each"
    x, y = [], []
    with zipfile.ZipFile(fname) as z:
        for o in sorted(n for n in z.namelist() if n.endswith('.png')):
            im = Image.open(io.BytesIO(z.read(o))).convert('L').resize((size, size), Image.BOX)
            x.append(1-np.asarray(im, dtype=np.float32)/255)
            y.append(o.rsplit('/', 1)[0])
    vocab = sorted(set(y))
    return torch.tensor(np.stack(x))[:,None], torch.tensor([vocab.index(o) for o in y])


def turned(x, y):
    "Characters turned by 90, 180 and 270 degrees are characters of their own (Santoro et al. 2016, arXiv 1605.06065, section 4)"
    return torch.cat([torch.rot90(x, k, (2,3)) for k in range(4)]), torch.cat([y + k*(y.max()+1) for k in range(4)])


def wobble(x, degrees=12, shift=0.1, scale=0.15, shear=0.15):
    "A random affine map of each image"
    r = lambda s: (2*torch.rand(len(x))-1)*s
    a, s, h = r(math.radians(degrees)), 1+r(scale), r(shear)
    m = torch.stack([torch.stack([s*a.cos(), s*(h*a.cos()-a.sin()), r(shift)], 1), torch.stack([s*a.sin(), s*(h*a.sin()+a.cos()), r(shift)], 1)], 1)
    return F.grid_sample(x, F.affine_grid(m, x.shape, align_corners=False), align_corners=False)


def conv4(width=64, n_in=1):
    "Four blocks of convolution, batch normalisation, ReLU and pooling (Vinyals et al. 2016, arXiv 1606.04080, section 4.1)"
    def block(i, o, pool): return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), *([nn.MaxPool2d(2)] if pool else []))
    w = (width, width, 2*width, 2*width) if isinstance(width, int) else width
    return nn.Sequential(*[block(i, o, k < 3) for k, (i, o) in enumerate(zip((n_in,)+tuple(w), w))])


class Batches:
    "Batches of images, wobbled on the CPU"
    def __init__(self, x, y, bs, idxs): self.x, self.y, self.bs, self.idxs, self.n, self.device = x, y, bs, idxs, len(y), default_device()
    def __len__(self): return len(self.y)//self.bs
    def __iter__(self):
        for b in np.array_split(self.idxs(), len(self)): yield wobble(self.x[b]).to(self.device), self.y[b].to(self.device)
    def to(self, device): return self
    dataset = property(lambda self: self.y)


def train(x, y, method='ours', seed=0, epochs=12, bs=128, k=4, lr=1e-2, width=48, n_hidden=64, wd=0.05, turn=True, p=(0., 0.2)):
    "Trains on drawings (N, 1, h, w) of characters `y`, on a GPU if there is one; gives `score(images, images)`"
    set_seed(seed, reproducible=True)
    if turn: x, y = turned(x, y)
    enc = conv4(width).to(memory_format=torch.channels_last)
    nf = [m for m in enc.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features
    labels, rng, pair = y.tolist(), random.Random(seed), PairLoss()
    if method == 'classifier':
        model = nn.Sequential(enc, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(nf, int(y.max())+1)))
        loss = lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1)
    elif method in ('supcon', 'ms'): model, loss = nn.Sequential(enc, Metric(nf)), metric_loss(method)
    else:
        head = PairHead(nf, n_hidden, p=p, metric=method == 'ours', symmetric=method == 'ours')
        model, loss = nn.Sequential(enc, head), pair
        if method == 'ours': # as `siamese_learner` does
            b = class_batches(labels, bs, k, random.Random(0))[:bs]
            with torch.no_grad(): head.fit_metric(head.vectors(enc.eval()(x[b])).e, y[b])
            enc.train()
            net = Net(enc, head)
            net.detach, net.apart, model.forward = True, True, net.forward
            loss = lambda z, t: pair(z, t) + contrastive(net.e @ net.e.T, t)
    if method == 'sampled':
        model.forward = lambda x: model[1](*model[0](x).chunk(2))
        loss = lambda z, t: pair(z, (t[:len(t)//2] == t[len(t)//2:]).long())
    def idxs():
        if method == 'sampled': return [i for _ in range(len(y)//bs) for i in sampled_pairs(labels, bs//2, rng)]
        if method == 'classifier': return rng.sample(range(len(y)), len(y)//bs*bs)
        return class_batches(labels, bs, k, rng)
    dl = Batches(x, y, bs, idxs)
    learn = Learner(DataLoaders(dl, dl), model, loss_func=loss, opt_func=adamw, wd=wd, splitter=lambda m: [params(m)])
    model.to(dl.device)
    start = time.time()
    with learn.no_bar(), learn.no_logging():
        learn._do_epoch_validate = lambda *a, **k: None # there is nothing held out
        learn.fit_one_cycle(epochs, lr)
    seconds = time.time()-start
    model.eval()
    if method == 'ours': head.damp() # as `train_finder` does
    @torch.no_grad()
    def vectors(x): return torch.cat([model[0](o.to(dl.device)) for o in x.split(256)])
    @torch.no_grad()
    def score(a, b):
        A, B = vectors(a), vectors(b)
        if method in ('classifier', 'supcon', 'ms'):
            f = (lambda o: F.normalize(o.mean((2,3)))) if method == 'classifier' else model[1]
            return (f(A) @ f(B).T).cpu()
        va, vb = head.vectors(A), head.vectors(B)
        return torch.cat([head.all_logits(va.rows(slice(i, i+16)), vb).cpu() for i in range(0, len(a), 16)])
    return score, model, dict(seconds=seconds, images=epochs*len(dl)*bs)


def scores_of(score, x):
    "Scores of all drawings with each other, itself left out"
    s = np.asarray(torch.as_tensor(score(x, x)), dtype=np.float32).copy()
    np.fill_diagonal(s, -np.inf)
    return s


def measures(s, y, ways=20, episodes=400, seed=0):
    "AUC of all pairs, MAP@R and R@1 of each drawing among all others; accuracy of telling 20 characters apart by one drawing of each"
    i, j = np.triu_indices(len(y), 1)
    same = (y[:,None] == y[None]).numpy()[i,j]
    out = {'auc': roc_auc_score(same, s[i,j]), 'map@r': map_at_r(s, y, y), 'recall@1': recall_at_k(s, y, y)}
    rng, by = random.Random(seed), {}
    for k, l in enumerate(y.tolist()): by.setdefault(l, []).append(k)
    right = 0
    for _ in range(episodes):
        pairs = [rng.sample(by[c], 2) for c in rng.sample(sorted(by), ways)]
        q, g = map(list, zip(*pairs))
        right += (s[np.ix_(q, g)].argmax(1) == np.arange(ways)).sum()
    return out | {'one-shot accuracy': right/episodes/ways}
