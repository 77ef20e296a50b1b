"What quality.py and recipe.py share: the photographs as cached maps, who is held out, how a network is trained on the maps, and what is measured"
import copy, hashlib, json, random, time
from functools import partial
from collections import Counter
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from torch import nn
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.data.transforms import TrainTestSplitter
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from fastai.torch_core import params, set_seed
from fastai.vision.learner import create_head
from sklearn.metrics import roc_auc_score
from torchvision.models import mobilenet_v2
from similarity_finder.blocks import last_blocks
from similarity_finder.classifier import add_normalize, create_encoder
from similarity_finder.data import label_func, pets
from similarity_finder.head import PairHead, PairVectors, cat_vectors, off_diagonal, source_votes, summarise
from similarity_finder.losses import PairLoss, contrastive, distillation
from similarity_finder.metrics import map_at_r, recall_at_k
from similarity_finder.pairs import class_batches, siamese_dls
from similarity_finder.siamese import Views
from similarity_finder.votes import _helpful, _let_vote

here = Path(__file__).parent
adamw = partial(OptimWrapper, opt=torch.optim.AdamW, fused=True, eps=1e-5, betas=(0.9, 0.99)) # as fastai's, with less work on a CPU
def uncached(encoder): return 5 if encoder.recipe['arch'] == 'torchvision:mobilenet_v2' else 2 # how many of its last blocks are not part of its cached maps: of MobileNetV2 (of 19) more than learn by default


def maps_of(dl, blocks):
    "The output of some blocks for all images of a loader, as float16"
    with torch.no_grad(): return torch.cat([blocks(b[0].as_subclass(torch.Tensor)).half() for b in dl]).as_subclass(torch.Tensor)


def views_of(x, blocks, bs=64):
    "Cached maps (V, N, ...) through further blocks"
    with torch.no_grad(): return torch.stack([torch.cat([blocks(o.float()).half() for o in v.split(bs)]) for v in x])


def photographs(weights, folder, n_views=6, arch=mobilenet_v2, size=224):
    "Labels, encoder, and cached maps: 'plain' (1, N, C, h, w) and 'aug' (n_views, N, C, h, w), augmented as in training"
    files = pets()
    encoder = create_encoder(arch, weights=weights).eval()
    fname = Path(folder)/f'maps_{14 if arch is mobilenet_v2 else arch}_{n_views}.pt'
    if fname.exists(): return [label_func(f) for f in files], encoder, torch.load(fname)
    dls = siamese_dls(files, splitter=lambda f: (list(range(len(f))), list(range(16))), size=size, num_workers=0)
    add_normalize(dls, arch)
    kw, blocks = dict(shuffle=False, drop_last=False, bs=32, cls=TfmdDL), last_blocks(encoder, uncached(encoder))[0]
    set_seed(0, reproducible=True)
    with dls.train_ds.set_split_idx(1): plain = maps_of(TfmdDL.new(dls.valid, dls.train_ds, **kw), blocks)[None] # 1: not augmented
    maps = {'plain': plain, 'aug': torch.stack([maps_of(TfmdDL.new(dls.train, dls.train_ds, **kw), blocks) for _ in range(n_views)])}
    fname.parent.mkdir(parents=True, exist_ok=True)
    torch.save(maps, fname)
    return [label_func(f) for f in files], encoder, maps


def known_split(labels, seed):
    "A quarter of each breed's images held out: the queries; the others are the gallery"
    train, valid = TrainTestSplitter(0.25, random_state=seed, stratify=labels)(labels)
    return list(train), list(valid)


def new_split(labels, seed, share=1/3):
    "A third of the breeds held out of all training: a third of those with many images and a third of the others"
    n, rng, held = Counter(labels), random.Random(seed), []
    for group in ([b for b in n if n[b] > 100], [b for b in n if n[b] <= 100]): held += rng.sample(sorted(group), round(share*len(group)))
    return [i for i, l in enumerate(labels) if l not in held], [i for i, l in enumerate(labels) if l in held]


def open_split(labels, seed):
    "New breeds and a quarter of the others' images held out: queries of breeds that the gallery has, and of breeds that it has not"
    known, new = new_split(labels, seed)
    train, valid = known_split([labels[i] for i in known], seed)
    return [known[i] for i in train], [known[i] for i in valid] + new


def together_split(labels, seed):
    "A quarter of each breed's images held out, of new breeds as well: queries among the images that were learned from and the other images of the new breeds, which have labels but were not learned from"
    train, held = open_split(labels, seed)
    new = [i for i in held if labels[i] not in {labels[j] for j in train}]
    there, asked = known_split([labels[i] for i in new], seed)
    return train, [i for i in held if i not in set(new)] + [new[i] for i in asked], train + [new[i] for i in there]


class Protocol:
    "Training images, queries and gallery, as indices"
    def __init__(self, name, labels, seed):
        self.name, self.seed, self.labels = name, seed, np.array(labels)
        self.train, self.query, *gallery = dict(known=known_split, new=new_split, open=open_split, together=together_split)[name](labels, seed)
        self.gallery = gallery[0] if gallery else self.query if name == 'new' else self.train
        vocab = sorted(set(self.labels[self.train]))
        self.y = torch.tensor([vocab.index(l) if l in vocab else -1 for l in labels])

    def scores_of(self, score):
        "Scores of all queries against the gallery, itself left out; `score` takes two lists of indices"
        s = np.asarray(torch.as_tensor(score(self.query, self.gallery)), dtype=np.float64).copy()
        s[np.array(self.query)[:,None] == np.array(self.gallery)[None]] = -np.inf
        return s

    def by_kind(self, s):
        "The measures of queries of breeds that were learned, and of new ones"
        kinds = {'learned': (learned := np.isin(self.labels[self.query], self.labels[self.train])), 'new': ~learned}
        return {f'{k}, {kind}': v for kind, rows in kinds.items() for k, v in self.measures(s[rows], self.labels[self.query][rows]).items()}

    def measures(self, s, q=None):
        "AUC, R@k and MAP@R, each query weighing the same; and with each breed weighing the same"
        q, g = self.labels[self.query] if q is None else q, self.labels[self.gallery]
        keep, same = s > -np.inf, q[:,None] == g[None]
        out = {'auc': roc_auc_score(same[keep], s[keep]), **{f'recall@{k}': recall_at_k(s, q, g, k) for k in (1, 5, 10)}, 'map@r': map_at_r(s, q, g)}
        by = {b: [f(s[q == b], q[q == b], g) for f in (recall_at_k, map_at_r)] for b in sorted(set(q))}
        return out | {f'{k} by breed': np.mean([v[i] for v in by.values()]) for i, k in enumerate(('recall@1', 'map@r'))}


class Still(nn.Module):
    "Blocks whose batch statistics stay as they are"
    def __init__(self, m): super().__init__(); self.m = m
    def forward(self, x): return self.m(x)
    def train(self, mode=True): return super().train(False)


class Net(nn.Module):
    "The encoder's last blocks and a head; `forward` gives all pairs of a batch"
    def __init__(self, tail, head, n_classes=0, nf=1280, drop=0.5):
        super().__init__()
        self.tail, self.head = tail, head
        self.cls = nn.Sequential(nn.Dropout(drop), nn.Linear(nf, n_classes)) if n_classes else None
    def forward(self, x):
        A = self.tail(x)
        if self.training and self.before is not None: # how much the images resembled each other
            with torch.no_grad(): before = self.before[0](x)
            self.was = F.normalize(before.mean((2,3)))
            if self.source: self.moved = distillation(A, before, *self.source)
        if isinstance(self.head, PairHead):
            v = self.head.vectors(A, self.detach)
            out, self.e = self.head.all_logits(PairVectors(v.u, v.v, v.e.detach()) if self.apart else v), v.e # the loss asks for `e`
        else: out = self.head(A)
        return (out, self.cls(A.mean((2,3)))) if self.cls is not None else out
    before = source = None # the tail as it was, in a list: none of its weights is the network's; and the scores of the classes that the encoder was pretrained on
    detach = apart = False # the article's term, and the metric term's cross-entropy, pass no gradient on to the encoder


class Average(Callback):
    "Exponential moving average of the weights from some share of the training on; the average is kept at the end"
    order = 90
    def __init__(self, decay=0.99, start=0.): self.decay, self.start = decay, start
    def before_fit(self): self.avg = None
    def after_batch(self):
        if not self.training or self.pct_train < self.start: return
        if self.avg is None: self.avg, self.n = copy.deepcopy(self.model.state_dict()), 1
        else:
            self.n += 1
            d = min(self.decay, 1-1/self.n)
            for k, v in self.model.state_dict().items():
                if v.is_floating_point(): self.avg[k].lerp_(v, 1-d)
                else: self.avg[k].copy_(v)
    def after_fit(self):
        if self.avg is not None: self.model.load_state_dict(self.avg)


def silent(learn, n_epoch, lr, **kw):
    learn._do_epoch_validate = lambda *a, **k: None # what is held out is for the end
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(n_epoch, lr, **kw)


def features(tail, x, bs=64):
    "Maps at the encoder's output as the head needs them: their maxima and means"
    with torch.no_grad(): return torch.cat([summarise(tail(o.float())) for o in x.split(bs)])


def told(tail, x, source, bs=64):
    "The same, and the mean votes of the classes that the encoder was pretrained on"
    with torch.no_grad(): return [torch.cat(o) for o in zip(*((summarise(A), source_votes(A, *source).mean(1)) for A in (tail(o.float()) for o in x.split(bs))))]


class Metric(nn.Module):
    "The embedding of the metric-learning losses: the mean-pooled map times a matrix that starts as the identity, as in our metric term"
    def __init__(self, nf): super().__init__(); self.delta = nn.Parameter(torch.zeros(nf, nf))
    def forward(self, A):
        x = A.mean((2,3))
        return F.normalize(x + 0.1*x @ self.delta.T)


def metric_loss(name):
    "SupCon, or MultiSimilarity with its miner, of pytorch-metric-learning, as they come"
    from pytorch_metric_learning import losses, miners
    if name == 'supcon': return losses.SupConLoss()
    loss, mine = losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner()
    return lambda e, y: loss(e, y, mine(e, y))


def cosine_distillation(cosines, before, tau=0.1):
    "How far a batch's resemblances are from what they were before the training: the mean divergence of the softmaxes of its cosines, as in arXiv 2009.08348, equation 2"
    others = ~torch.eye(len(cosines), dtype=torch.bool)
    now, was = ((o[others].view(len(o), -1)/tau).log_softmax(1) for o in (cosines, before))
    return F.kl_div(now, was, log_target=True, reduction='batchmean')


def sampled_pairs(labels, n, rng):
    "As the article: n images at random, then a partner for each, of the same class or of another with equal chance"
    by = {}
    for i, l in enumerate(labels): by.setdefault(l, []).append(i)
    first = rng.sample(range(len(labels)), n)
    def partner(i):
        mates = [j for j in by[labels[i]] if j != i]
        if mates and rng.random() < 0.5: return rng.choice(mates)
        return rng.choice(by[rng.choice([l for l in by if l != labels[i]])])
    return first + [partner(i) for i in first]


default = dict(loss='pairs', tail=2, views='both', bs=64, k=4, epochs=12, lr=1e-3, lr_enc=4e-4, n_hidden=512, drop=(0.25,0.5), pool='concat', share=0.5, metric=True, symmetric=True, lwf=0., vote=0., own=True, # how much the source classes' probabilities are held, and the shares of their votes, as in `fit_head`; with or without the votes of the blocks as they were on what is new
               both=0., # what two new images have in the logit from that alone
               still=True, ema=0., ema_start=0., wd=0.1, ce=0., smooth=0., pct_start=0.25, hard=0., rank=0., rank_e=0., pairs_e=0., detach=False, apart=False, zero=True, tau=0.1, distill=0.,
               warm=False, # the blocks start as a classifier of the labels has trained them, for as long
               mix=1., again=1/2, again_views=None) # how much of the trained blocks there is in their mean with what they were (1: all of it); then the head learns again, for this share of the epochs, from so many views of each image (None: all)


class Caches:
    "Cached maps at any depth, kept in a folder"
    def __init__(self, encoder, maps, folder):
        self.encoder, self.source, self.maps, self.folder, self.done, self.deepest = nn.Sequential(*(m for o in last_blocks(encoder, 2) for m in o)), encoder.source, maps, Path(folder), {}, uncached(encoder)
    def blocks(self, tail): return self.encoder[len(self.encoder) - (len(last_blocks(self.encoder, tail)[1]) if tail else 0):]
    def make(self, view, tail):
        if tail: return views_of(self.maps[view], self.blocks(self.deepest)[:-len(self.blocks(tail))])
        return torch.stack([features(self.blocks(2), v) for v in self(view, 2)])
    def __call__(self, view, tail):
        if view == 'both': return torch.cat([self('plain', tail), self('aug', tail)])
        if (view, tail) not in self.done:
            fname = self.folder/f'{view}_{tail}_{len(self.maps[view])}.pt'
            if tail < self.deepest and not fname.exists(): torch.save(self.make(view, tail), fname)
            self.done[view, tail] = torch.load(fname) if tail < self.deepest else self.maps[view]
        return self.done[view, tail]


def train(p, caches, **cfg):
    "Train on the protocol's training images; gives `score(queries, gallery)`, and the network"
    c = {**default, **cfg}
    set_seed(p.seed, reproducible=True)
    tr = torch.tensor(p.train)
    x, y = caches(c['views'], c['tail'])[:,tr], p.y[tr]
    plain = caches('plain', c['tail'])[0]
    tail = copy.deepcopy(caches.blocks(c['tail'])) if c['tail'] else nn.Identity()
    for o in tail.parameters(): o.requires_grad_(True)
    tail = tail.to(memory_format=torch.channels_last)
    if c['still']: tail = Still(tail)
    nf, bs = caches.source[0].shape[1], min(c['bs'], len(tr))
    embed, classify = c['loss'] in ('supcon', 'ms'), c['loss'] == 'classifier'
    head = Metric(nf) if embed else create_head(nf, int(y.max())+1) if classify else PairHead(nf, c['n_hidden'], c['pool'], c['drop'], metric=c['metric'], symmetric=c['symmetric'])
    net = Net(tail, head, int(y.max())+1 if c['ce'] else 0, nf)
    net.detach, net.apart = c['detach'] or c['apart'], c['apart']
    if c['distill'] or c['lwf']: net.before = [copy.deepcopy(tail)]
    if c['lwf']: net.source = caches.source
    if c['vote']:
        untouched, seen = copy.deepcopy(tail), told(tail, plain, caches.source)
        if not _helpful(*(o[tr] for o in seen), y, p.seed): c['vote'] = 0
        voters = seen[1][tr].pow(2).mean(0).topk(512).indices
    before = copy.deepcopy(tail.state_dict())
    if c['warm']:
        tail.load_state_dict(train(p, caches, loss='classifier', epochs=c['epochs'])[1].tail.state_dict())
        set_seed(p.seed, reproducible=True)
    if c['metric'] and c['zero'] and isinstance(head, PairHead): nn.init.zeros_(head.w.weight)
    labels, rng, k = y.tolist(), random.Random(p.seed), c['k']
    if c['loss'] == 'sampled':
        net.forward = lambda x: head(*tail(x).chunk(2))
        idxs = lambda: [i for _ in range(len(labels)//bs) for i in sampled_pairs(labels, bs//2, rng)]
    else: idxs = lambda: class_batches(labels, bs, k, rng)
    pair = PairLoss()
    base = metric_loss(c['loss']) if embed else partial(F.cross_entropy, label_smoothing=0.1) if classify else (lambda z, y: pair(z, (y[:len(y)//2] == y[len(y)//2:]).long())) if c['loss'] == 'sampled' else \
           smooth_loss(c['smooth'], c['hard'], c['rank'])
    def held(): return c['lwf']*net.moved if c['lwf'] and net.before is not None else 0
    def loss(out, y):
        if c['rank_e'] or c['pairs_e'] or c['distill']: # of the metric term
            cosines, l = net.e @ net.e.T, base(out, y)
            if c['rank_e']: l = l + c['rank_e']*contrastive(cosines, y, c['tau'])
            if c['pairs_e']: l = l + c['pairs_e']*pair(start_e[0]*cosines + start_e[1], y)
            if c['distill']: l = l + c['distill']*cosine_distillation(cosines, net.was @ net.was.T)
            return l + held()
        if not isinstance(out, tuple): return base(out, y) + held()
        return base(out[0], y) + c['ce']*F.cross_entropy(out[1], y, label_smoothing=0.1)
    cbs = [Average(c['ema'], c['ema_start'])] if c['ema'] else []
    def fit(x, n_epoch, lr):
        dl = DataLoader(Views(x, y, p.seed), bs=bs, drop_last=True, num_workers=0, get_idxs=idxs)
        silent(Learner(DataLoaders(dl, dl), net, loss_func=loss, opt_func=adamw, wd=c['wd'], cbs=cbs, splitter=lambda m: [o for o in [params(m.tail)] if o] + [params(m.head) + (params(m.cls) if m.cls is not None else [])],
                       train_bn=False), n_epoch, lr, pct_start=c['pct_start'])
    if c['loss'] == 'pairs' and c['metric']:
        with torch.no_grad():
            i = class_batches(labels, bs, k, random.Random(0))[:bs]
            head.eval(); head.fit_metric(head.vectors(tail.eval()(plain[tr[i]].float())).e, y[i])
            start_e = head.alpha.item(), head.w.bias.item() # slope and shift of the cosines as they are
    start, key = time.process_time(), hashlib.sha256(json.dumps([p.name, p.seed, list(map(int, p.train)), {k: v for k, v in cfg.items() if k not in ('share', 'vote', 'own', 'both', 'mix', 'again', 'again_views')}], sort_keys=True).encode()).hexdigest()[:12]
    fname = caches.folder/f'net_{p.name}_{p.seed}_{key}.pt' # trained once
    if (kept := fname.exists()): net.load_state_dict(torch.load(fname))
    else:
        fit(x, c['epochs'], np.array([c['lr_enc'], c['lr']]) if c['tail'] else c['lr'])
        torch.save(net.state_dict(), fname)
    if c['mix'] < 1:
        kept = False
        tail.load_state_dict({k: torch.lerp(before[k], v, c['mix']) if v.is_floating_point() else v for k, v in tail.state_dict().items()})
        set_seed(p.seed, reproducible=True)
        net.before, c = None, {**c, 'distill': 0.} # there is nothing left to forget
        net.eval()
        net.tail, x = nn.Identity(), torch.stack([features(tail, v) for v in x[:c['again_views']]])
        rng.seed(p.seed) # the same batches, whether the first training has just run or was read
        fit(x, round(c['again']*c['epochs']), c['lr'])
        net.tail = tail
    seconds = time.process_time()-start
    net.eval()
    if isinstance(head, PairHead): head.damp(c['share']) # nothing to damp without a metric term
    encode = net.tail
    if c['vote']:
        if embed: # what the loss has trained, as the metric term of a head without anything else
            head = PairHead(nf, 1).eval()
            head.delta.data, head.log_alpha.data = net.head.delta.data, torch.zeros(())
        A, votes = told(net.tail, plain, caches.source)
        if not c['own']: encode = lambda o: torch.cat([net.tail(o), untouched(o)], 1)
        _let_vote(head, A[tr], votes[tr], y, caches.source, voters, c['vote'] if isinstance(c['vote'], tuple) else (c['vote'],)*2, p.seed, c['both'])
    elif embed or classify: A = features(net.tail, plain) if c['tail'] else plain
    with torch.no_grad():
        if classify or embed and not c['vote']:
            e = net.head(A.float()) if embed else F.normalize(net.head[:-1](A.float()))
            score = lambda q, g: e[q] @ e[g].T
        else:
            vec = cat_vectors([head.vectors(encode(o.float())) for o in plain.split(64)])
            score = lambda q, g: torch.cat([head.all_logits(vec.rows(q[i:i+16]), vec.rows(g)) for i in range(0, len(q), 16)])
    def scored(q, g, both=True):
        "Scores; without what two new images have in common, if wished"
        with torch.no_grad():
            z = score(q, g)
            return z if both or not c['both'] else z - head.alpha*(vec.e[q,nf+head.n_source:] @ vec.e[g,nf+head.n_source:].T)
    info = dict(seconds=seconds, images=c['epochs']*(len(tr)//bs*bs) + (x.shape[0]*x.shape[1] if c['mix'] < 1 else 0), kept=kept)
    if classify:
        with torch.no_grad(): logits = net.head(A.float())
        info |= dict(predicted=np.array(sorted(set(p.labels[p.train])))[logits.argmax(1).numpy()], sure=logits.softmax(1).amax(1).numpy(), logits=logits)
    return scored, net, info


def smooth_loss(smooth=0., hard=0., rank=0.):
    "`PairLoss` with the targets smoothed, with harder pairs weighing more (focal), or with the supervised contrastive loss of the logits added"
    def f(z, y):
        full = z.float()
        z, same = off_diagonal(full, y)
        t = torch.where(same, 1-smooth, smooth).float()
        l = F.binary_cross_entropy_with_logits(z, t, reduction='none')
        if hard:
            w = (torch.sigmoid(z.detach()) - same.float()).abs()**hard
            l = l*w
            return (l[same].sum()/w[same].sum().clamp_min(1e-6) + l[~same].sum()/w[~same].sum().clamp_min(1e-6))/2
        out = (l[same].mean() + l[~same].mean())/2
        return out + rank*contrastive(full, y, 1.) if rank else out
    return f
