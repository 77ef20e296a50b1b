"Processes that are killed at any moment, and processes that read while another writes"
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import similarity_finder
from similarity_finder.encode import PairEncoder
from similarity_finder.finder import SimilarityFinder
from similarity_finder.gallery import Gallery
from similarity_finder.store import load_finder
from similarity_finder.table import GalleryTable, StoreError

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='there is no SIGKILL here')]


@pytest.fixture(scope='module')
def processes():
    "Processes that start quickly: the modules are loaded once, before any thread runs"
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['similarity_finder.finder'])
    return context


def kill(process, ready, seconds):
    "SIGKILL, some time after the process says that it is ready; True if it was still busy"
    assert ready.wait(600)
    process.join(seconds)
    busy = process.is_alive()
    if busy: os.kill(process.pid, signal.SIGKILL)
    process.join()
    return busy


def say(log, text):
    "Report, so that it is known whatever happens next"
    with open(log, 'a') as f:
        f.write(text+'\n')
        f.flush()
        os.fsync(f.fileno())


def add_files(place, files, log, ready):
    torch.set_num_threads(1)
    gallery = SimilarityFinder.load(place).gallery
    ready.set()
    for i in range(0, len(files), 12):
        gallery.add(files[i:i+12], bs=4, commit_every=4, progress=False)
        for f in files[i:i+12]: say(log, str(f))


@pytest.mark.slow(100)
def test_killed_while_adding(finder, doodles, tmp_path, processes):
    "What was reported done is there, nothing is there twice, no vector is wrong, and the next run goes on"
    place, log, rng = tmp_path/'finder', tmp_path/'log', random.Random(0)
    SimilarityFinder.from_parts(finder.classifier, Gallery(finder.encoder)).save(place)
    truth, files, kills, sizes = finder.gallery, list(doodles), 0, []
    def start():
        ready = processes.Event()
        p = processes.Process(target=add_files, args=(place, files, log, ready))
        p.start()
        return p, ready
    for _ in range(40):
        p, ready = start()
        if not kill(p, ready, rng.uniform(0, 0.6)):
            assert p.exitcode == 0
            if kills >= 6: break
            load_finder(place)[1].remove(files) # a quick machine: from the beginning
            log.unlink()
            sizes.clear()
            continue
        kills += 1
        g = load_finder(place)[1]
        said = log.read_text().split() if log.exists() else []
        assert set(said) <= set(g.rows.paths)
        assert len(set(g.rows.paths)) == len(g)
        sizes.append(len(g))
        if not len(g): continue
        idxs = [truth.index(f) for f in g.files]
        for a, b in zip(g.vectors, truth.vectors.rows(idxs)): assert torch.allclose(a, b, atol=1e-4)
        if kills == 12: break
    assert kills >= 6, 'the process was hardly ever killed: the test proves nothing'
    if p.exitcode: # killed each time before the end: the last run is left alone
        p, _ = start()
        p.join()
    assert p.exitcode == 0, 'the work was never finished'
    assert sizes == sorted(sizes) # each run goes on from the one before
    assert set(load_finder(place)[1].files) == set(files)


def save_again_and_again(place, ready):
    torch.set_num_threads(1)
    classifier, gallery = load_finder(place)
    rows = gallery.rows
    ready.set()
    while True:
        with torch.no_grad(): classifier.model[1][-1].weight.mul_(-1)
        again = Gallery(gallery.encoder, rows, gallery.label_func) # in memory: saving writes it all
        SimilarityFinder.from_parts(classifier, again).save(place, info={'sign': classifier.model[1][-1].weight[0, 0].sign().item()})


@pytest.mark.slow(90)
def test_killed_while_saving(finder, doodles, tmp_path, processes):
    "The folder holds the finder from before or the one from after, whole"
    place, rng, seen = tmp_path/'finder', random.Random(1), set()
    gallery = Gallery.from_files(doodles[:20], finder.encoder, progress=False)
    SimilarityFinder.from_parts(finder.classifier, gallery).save(place)
    expected = gallery.search(doodles[50], k=20)
    first = finder.classifier.model[1][-1].weight.detach().cpu().clone()
    for i in range(40):
        ready = processes.Event()
        p = processes.Process(target=save_again_and_again, args=(place, ready))
        p.start()
        assert kill(p, ready, rng.uniform(0, 0.6 + i/10)) # longer and longer, for slow machines
        classifier, g = load_finder(place)
        assert g.search(doodles[50], k=20) == expected
        sign = (classifier.model[1][-1].weight.cpu()/first).flatten()
        assert torch.equal(sign.abs(), torch.ones_like(sign)) and len(sign.unique()) == 1
        seen.add(sign[0].item())
        if i >= 9 and len(seen) == 2: break
    assert seen == {1., -1.}, 'no save ever came through: the test proves nothing'
    SimilarityFinder.from_parts(classifier, g).save(place) # and the next one leaves nothing behind
    assert len(list(place.glob('*.safetensors'))) == 2 and not list(place.glob('.*.part'))


def test_a_removal_that_was_cut_off_is_finished_by_the_next_save(finder, doodles, tmp_path):
    "An old table has lost its manifests, as when a save is killed while it tidies up"
    place = tmp_path/'finder'
    gallery = Gallery.from_files(doodles[:5], finder.encoder, progress=False)
    SimilarityFinder.from_parts(None, gallery).save(place)
    old = next((place/'gallery').glob('gallery_*.lance'))
    half = old.with_name('gallery_00000000_00000000.lance')
    shutil.copytree(old, half)
    shutil.rmtree(half/'_versions')
    SimilarityFinder.from_parts(None, Gallery(gallery.encoder, gallery.rows, gallery.label_func)).save(place)
    assert not half.exists() and len(SimilarityFinder.load(place).gallery) == 5


def test_a_first_save_that_is_cut_off_is_said(finder, doodles, tmp_path):
    place = tmp_path/'finder'
    place.mkdir()
    (place/'siamese-0123456789ab.safetensors').write_bytes(b'half')
    with pytest.raises(StoreError, match='cut off'): SimilarityFinder.load(place)
    SimilarityFinder.from_parts(None, Gallery.from_files(doodles[:5], finder.encoder, progress=False)).save(place)
    assert len(SimilarityFinder.load(place).gallery) == 5
    assert not (place/'siamese-0123456789ab.safetensors').exists()


def read_all_the_time(place, fingerprint, log, ready, stop):
    try:
        ready.set()
        while not stop.is_set():
            table = GalleryTable.open(place, fingerprint)
            rows = table.read()[0]
            finite = bool(torch.isfinite(rows.vectors.u).all())
            say(log, json.dumps([len(rows), len(set(rows.paths)), finite]))
    except BaseException as e: say(log, json.dumps(f'{type(e).__name__}: {e}'))


def test_two_read_while_one_writes(finder, doodles, tmp_path, processes):
    "Readers see whole changes only: multiples of five"
    place, logs, stop = tmp_path/'g', [tmp_path/'log0', tmp_path/'log1'], processes.Event()
    gallery = Gallery.open(place, finder.encoder, create=True)
    events = [processes.Event() for _ in logs]
    readers = [processes.Process(target=read_all_the_time, args=(place, gallery.fingerprint, l, e, stop)) for l, e in zip(logs, events)]
    for r in readers: r.start()
    for e in events: assert e.wait(600)
    until = time.time() + 60
    for i in range(0, 60, 5): gallery.add(doodles[i:i+5], progress=False)
    while time.time() < until and not all(l.exists() and len(l.read_text().splitlines()) > 3 for l in logs): # until both have read, more changes
        gallery.remove(doodles[:5])
        gallery.add(doodles[:5], progress=False)
        gallery.table.compact()
    stop.set()
    for r in readers: r.join(60)
    for l in logs:
        seen = [json.loads(o) for o in l.read_text().splitlines()]
        assert len(seen) > 3
        for o in seen:
            assert isinstance(o, list), o # an error of the reader
            assert o[0] % 5 == 0 and o[0] == o[1] and o[2], o


def test_interrupted_from_the_keyboard(finder, doodles, tmp_path, monkeypatch):
    "What was encoded before Ctrl-C is kept, in memory and on disk"
    gallery = Gallery.open(tmp_path/'g', finder.encoder, create=True)
    real, calls = PairEncoder.tensors, []
    def tensors(self, x):
        calls.append(x)
        if len(calls) == 4: raise KeyboardInterrupt
        return real(self, x)
    monkeypatch.setattr(PairEncoder, 'tensors', tensors)
    with pytest.raises(KeyboardInterrupt): gallery.add(doodles[:20], bs=4, commit_every=4, progress=False)
    monkeypatch.undo()
    assert len(gallery) == len(Gallery.open(tmp_path/'g', finder.encoder)) == 12
    assert gallery.add(doodles[:20], progress=False)[:4] == (8, 0, 0, 12)


def test_a_damaged_table_is_said(finder, doodles, tmp_path):
    gallery = Gallery.from_files(doodles[:20], finder.encoder, progress=False).save(tmp_path/'g')
    data = max((tmp_path/'g').rglob('*.lance'), key=lambda f: f.stat().st_size if f.is_file() else 0)
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(StoreError, match='damaged|opened'): Gallery.open(tmp_path/'g', finder.encoder)
    assert gallery.search(doodles[30], k=3) # memory is not affected


elsewhere = """
import json, pickle, sys
import torch
def refuse(*args, **kwargs): raise AssertionError('a learner was made, or a pickle read')
from fastai.learner import Learner
from similarity_finder import SimilarityFinder
Learner.__init__ = pickle.load = pickle.loads = torch.load = refuse
place, query, other = sys.argv[1:4]
finder = SimilarityFinder.load(place)
assert finder.clearn is None and finder.slearn is None
assert not [o for o in ('similarity_finder.train', 'similarity_finder.doodle', 'test_faults') if o in sys.modules]
maps = finder.explain(query, other).maps
print(json.dumps([[[str(m.file), m.logit] for m in finder.search(query, k=99)], str(finder.predict(query, show=False)), maps.a.sum().item()]))
"""


@pytest.mark.slow(45)
def test_a_process_that_has_never_seen_the_training_code(finder, doodles, tmp_path):
    "It searches, predicts and explains as the process that trained did, without learners and without pickle"
    here = SimilarityFinder(finder.clearn, finder.slearn, doodles[:80], progress=False)
    here.save(tmp_path/'f')
    query, other = doodles[85], doodles[3]
    out = subprocess.run([sys.executable, '-c', elsewhere, tmp_path/'f', query, other], capture_output=True, text=True, cwd=tmp_path,
                         env=os.environ | dict(PYTHONPATH=os.pathsep.join([str(Path(similarity_finder.__file__).parents[1]), os.environ.get('PYTHONPATH', '')])))
    assert out.returncode == 0, out.stderr[-2000:]
    found, nearest, evidence = json.loads(out.stdout.splitlines()[-1])
    expected = here.search(query, k=99)
    assert [f for f, _ in found] == [str(m.file) for m in expected]
    assert [z for _, z in found] == pytest.approx([m.logit for m in expected], abs=1e-4)
    assert nearest == str(here.predict(query, show=False))
    assert evidence == pytest.approx(here.explain(query, other).maps.a.sum().item(), abs=1e-4)
