"""How many of the encoder's blocks should learn, and how fast? The library's own recipe (`fit_head`) on the splits that it was chosen on: writes bench/depth.csv. What is there already is not measured again.

    FASTAI_HOME=... python bench/depth.py --weights mobilenet_v2.pth [--settings "2 blocks" "9 blocks, 2e-4"] [--processes 12]

New breeds of seeds 0 to 2 and 12 to 17, known ones of seeds 0 to 2. Made for a GPU, one process for each split: its images and their six augmented views are drawn once, kept as float16, and the same for all settings.
'seconds' are those of `fit_head`, the first of a split with the drawing of the views, all processes at work at once. The rows there were written by an earlier form of this script, with the same settings and measures.
"""
import argparse, csv, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import torch, torch.nn.functional as F
from fastai.data.core import TfmdDL
from fastai.torch_core import set_seed
from torchvision.models import mobilenet_v2
from common import here
from protocols import Protocol
from similarity_finder import siamese
from similarity_finder.classifier import evaluating
from similarity_finder.data import label_func, pets
from similarity_finder.encode import PairEncoder
from similarity_finder.head import PairVectors, cat_vectors
from similarity_finder.pairs import siamese_dls

settings = {'raw features': None, '2 blocks': {}, '5 blocks': {'blocks': 5, 'lr_blocks': 8e-4}, '5 blocks, 4e-4': {'blocks': 5, 'lr_blocks': 4e-4}, '9 blocks, 4e-4': {'blocks': 9, 'lr_blocks': 4e-4}, '5 blocks, mixed 0.6': {'blocks': 5, 'lr_blocks': 8e-4, 'mix': 0.6},
            '9 blocks, 2e-4': {'blocks': 9, 'lr_blocks': 2e-4}, '15 blocks, 2e-4': {'blocks': 15, 'lr_blocks': 2e-4}, '5 blocks, held 0.3': {'blocks': 5, 'lr_blocks': 8e-4, 'distill': 0.3}}
splits = [('new', s) for s in (0, 1, 2, 12, 13, 14, 15, 16, 17)] + [('known', s) for s in (0, 1, 2)]


def keep_views():
    "Draw the views of a split once: every `fit_head` asks for the same loaders in the same order, and decoding takes longer than training on a GPU"
    drawn, bar = {}, siamese._bar
    def replay(learn, dl):
        if not isinstance(dl, TfmdDL): return bar(learn, dl)
        learn.asked = getattr(learn, 'asked', 0)+1
        if learn.asked not in drawn: drawn[learn.asked] = [(x.half(), y) for x, y in dl]
        return [(x.float(), y) for x, y in drawn[learn.asked]]
    siamese._bar = replay


def one(protocol, seed, names, weights):
    "The rows of one split"
    torch.set_num_threads(1)
    keep_views()
    files = pets()
    p = Protocol(protocol, [label_func(f) for f in files], seed)
    dls = siamese_dls(files, splitter=lambda _: (p.train, p.query), size=224, bs=32, seed=seed, num_workers=0)
    rows, images, device = [], None, torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    for name in names:
        set_seed(seed, reproducible=True)
        learn = siamese.siamese_learner(dls, mobilenet_v2, weights=weights, seed=seed)
        model, on, seconds = learn.model, next(learn.model.parameters()).device, 0.
        if images is None:
            prep = PairEncoder(model.eval(), dls).prep
            images = [prep(files[i:i+32]).half() for i in range(0, len(files), 32)]
        if settings[name] is None:
            with evaluating(model), torch.no_grad(): raw = F.normalize(torch.cat([model.encoder(x.to(on).float()).mean((2, 3)).cpu() for x in images]))
            score = lambda q, g: raw[q] @ raw[g].T
        else:
            start = time.perf_counter()
            with learn.no_bar(), learn.no_logging(): learn.fit_head(24, 1e-3, bs=64, views=6, seed=seed, **{'blocks': 2, **settings[name]})
            seconds = time.perf_counter()-start
            with evaluating(model), torch.no_grad(): vectors = cat_vectors([PairVectors(*(o.float().cpu() for o in model.vectors(x.to(on).float()))) for x in images])
            head = model.head.cpu().eval()
            def score(q, g):
                with torch.no_grad(): return torch.cat([head.all_logits(vectors.rows(q[i:i+16]), vectors.rows(g)) for i in range(0, len(q), 16)])
        rows += [(name, protocol, seed, k, f'{v:.5f}', device) for k, v in (p.measures(p.scores_of(score)) | ({'seconds': seconds} if seconds else {})).items()]
    return rows


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    a.add_argument('--settings', nargs='+', default=list(settings), choices=settings)
    a.add_argument('--processes', type=int, default=12, help='splits at a time')
    a.add_argument('--out', type=Path, default=here/'depth.csv')
    a = a.parse_args()
    if not a.out.exists(): a.out.write_text('setting,protocol,seed,measure,value,device\n')
    done = {(r['setting'], r['protocol'], int(r['seed'])) for r in csv.DictReader(open(a.out))}
    todo = [(*s, names) for s in splits if (names := [n for n in a.settings if (n, *s) not in done])]
    with ProcessPoolExecutor(a.processes, get_context('spawn'), max_tasks_per_child=1) as pool:
        for rows in pool.map(one, *zip(*(o + (a.weights,) for o in todo))):
            with open(a.out, 'a', newline='') as f: csv.writer(f, lineterminator='\n').writerows(rows)
            print(*(r for r in rows if r[3] in ('auc', 'map@r', 'recall@1')), sep='\n', flush=True)


if __name__ == '__main__': main()
