"""What is lost where the learned comparison is replaced by FAISS: flat, IVF and HNSW indexes. Writes bench/approximate.csv.

    pip install faiss-cpu
    FASTAI_HOME=... python bench/approximate.py --weights mobilenet_v2.pth [--crops 5000 --sizes 5000 100000 1000000]

The siamese network is trained on photographs of pets (mobilenet_v2 frozen, head and metric term on all pairs). Queries are 100 photographs held out.
The gallery: crops of the other photographs, then, beyond --crops, mixtures of the vectors of two crops of a breed, drawn at random. (u and v are
affine in the pooled features, so a mixture is what mixed features would give; e is normalised again.) The true ten best are those of the symmetric
score of the pair network. FAISS indexes e, whose inner product is the metric term, trained by the same labels. 'own' is the recall of the ten best
inner products, 'true' that of the ten best pairs, 'breed' the share of the query's breed among the ten; means over the queries, times are medians of
one query at a time. 're-ranked' takes so many best from an index and lets the pair score choose ten. A million images take 16 GB.
"""
import argparse, tempfile
from pathlib import Path
import numpy as np, torch
import torch.nn.functional as F
from torchvision.models import mobilenet_v2
from fastai.data.transforms import TrainTestSplitter
from common import gallery_files, here, timed, write_csv
from similarity_finder.data import label_func, pets
from similarity_finder.encode import PairEncoder
from similarity_finder.head import PairVectors
from similarity_finder.pairs import siamese_dls
from similarity_finder.scan import pair_scan, scan_weights
from similarity_finder.siamese import siamese_learner


def mixtures(vectors, labels, n, seed=0):
    "The vectors, then mixtures of two of a label, n in all; and the label of each"
    rng, labels, vectors = np.random.default_rng(seed), np.asarray(labels[:n]), vectors.rows(slice(n))
    of = {l: np.flatnonzero(labels == l) for l in set(labels)}
    first = rng.integers(len(labels), size=n-len(labels))
    second = np.array([rng.choice(of[labels[i]]) for i in first], dtype=np.int64)
    t = torch.from_numpy(rng.random((len(first), 1), dtype=np.float32))
    out = PairVectors(*(torch.empty(n, o.shape[1]) for o in vectors))
    for o, new in zip(vectors, out):
        new[:len(labels)] = o
        for i in range(0, len(first), 65536): # a piece at a time: a million are large
            s = slice(i, i+65536)
            mixed = t[s]*o[first[s]] + (1-t[s])*o[second[s]]
            new[len(labels)+i:len(labels)+i+len(mixed)] = F.normalize(mixed) if o is vectors.e else mixed
    return out, np.concatenate([labels, labels[first]])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--weights', required=True, help='ImageNet weights of torchvision mobilenet_v2')
    p.add_argument('--crops', type=int, default=10_000)
    p.add_argument('--sizes', type=int, nargs='+', default=(10_000, 100_000))
    p.add_argument('--queries', type=int, default=100)
    p.add_argument('--threads', type=int, default=2)
    a = p.parse_args()
    import faiss # before any work: it may be missing
    torch.set_num_threads(a.threads); faiss.omp_set_num_threads(a.threads)
    rows, files = [], pets()
    split = TrainTestSplitter(0.25, random_state=0, stratify=[label_func(f) for f in files])
    train, valid = split(files)
    slearn = siamese_learner(siamese_dls(files, splitter=split, size=224, bs=32, seed=0, num_workers=2), mobilenet_v2, weights=a.weights, seed=0)
    slearn.fit_head(30, 1e-3, seed=0, vote=0) # vectors of one length, which mixtures then have as well
    encoder, photographs = PairEncoder(slearn.model, slearn.dls), [files[i] for i in train]
    with tempfile.TemporaryDirectory() as folder:
        for f in photographs: (Path(folder)/f.name).symlink_to(f)
        crops = Path(folder)/'crops'
        crops.mkdir()
        found = sorted(Path(folder).glob('*.jpg'))
        crops = gallery_files(a.crops, crops, folder)
        labels = [label_func(found[i % len(found)]) for i in range(a.crops)]
        vectors = encoder.encode(crops).vectors
    asked = [files[i] for i in valid][:a.queries]
    queries = encoder.encode(asked).vectors
    weights = scan_weights(encoder.head)
    for n in a.sizes:
        gallery, breeds = mixtures(vectors, labels, n)
        e, qe = gallery.e.numpy(), queries.e.numpy()
        def note(what, build, seconds, found):
            shares = share(found, own), share(found, true), float(np.mean([breeds[o] == label_func(f) for f, ten in zip(asked, found) for o in ten if o >= 0]))
            rows.append((n, a.threads, what, f'{build:.1f}', f'{seconds:.6f}', *(f'{o:.4f}' for o in shares)))
            print(f'{n:9,} {what:40} built in {build:6.1f} s {seconds*1e3:8.2f} ms a query  own {shares[0]:.3f}  true {shares[1]:.3f}  breed {shares[2]:.3f}', flush=True)
        def rank(i, among):
            "The ten best pairs of a query among some images"
            among = torch.as_tensor(among)
            return among[pair_scan(queries.rows([i]), gallery.rows(among), weights, fused=False)[0].topk(10).indices].tolist()
        def ask(f):
            "Median seconds and the ten best of each query"
            f(0); f(1)
            out = [timed(lambda: f(i)) for i in range(len(qe))]
            return float(np.median([s for s, _ in out])), [o for _, o in out]
        share = lambda found, best: float(np.mean([len({*x} & {*y})/10 for x, y in zip(found, best)]))
        seconds, true = ask(lambda i: pair_scan(queries.rows([i]), gallery, weights, fused=True)[0].topk(10).indices.tolist())
        flat = faiss.IndexFlatIP(e.shape[1])
        flat.add(e)
        flat_seconds, own = ask(lambda i: flat.search(qe[i:i+1], 10)[1][0].tolist())
        note('pair scan (exact)', 0, seconds, true)
        note('FAISS flat', 0, flat_seconds, own)
        del flat
        lists = int(4*n**0.5)
        ivf = faiss.index_factory(e.shape[1], f'IVF{lists},Flat', faiss.METRIC_INNER_PRODUCT)
        sample = e[np.random.default_rng(0).permutation(n)[:40*lists]] # as many as k-means needs
        build, _ = timed(lambda: (ivf.train(sample), ivf.add(e)))
        for probe in (1, 8, 32):
            ivf.nprobe = probe
            s, found = ask(lambda i: ivf.search(qe[i:i+1], 10)[1][0].tolist())
            note(f'FAISS IVF{lists}, {probe} probed', build, s, found)
        for short in (100, 1000):
            s, found = ask(lambda i: rank(i, [o for o in ivf.search(qe[i:i+1], short)[1][0].tolist() if o >= 0]))
            note(f'FAISS IVF{lists}, {probe} probed, {short} re-ranked', build, s, found)
        del ivf
        hnsw = faiss.IndexHNSWFlat(e.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        build, _ = timed(lambda: hnsw.add(e))
        for ef in (16, 64, 256):
            hnsw.hnsw.efSearch = ef
            s, found = ask(lambda i: hnsw.search(qe[i:i+1], 10)[1][0].tolist())
            note(f'FAISS HNSW32, efSearch {ef}', build, s, found)
        del hnsw
        write_csv(here/'approximate.csv', ('images', 'threads', 'index', 'seconds to build', 'seconds a query', 'recall of its own ten best', 'recall of the true ten best', 'of the query\'s breed'), rows)


if __name__ == '__main__': main()
