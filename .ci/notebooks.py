"""Tests all notebooks as nbdev-test does, the slowest first, so that no worker is left alone with one of them at the end.

    python .ci/notebooks.py [--workers N]
"""
import argparse, sys
from functools import partial
from multiprocessing import get_context
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb
import fastai.vision.all, matplotlib.pyplot, pandas # noqa: what nearly all notebooks import, once for all

slow = ['cheat', 'labels_decide', '02_siamese', '07_train', 'few_labels', '01_classifier', 'from_article', '05_finder', '07_show', '04_scan'] # in order
elsewhere = ['pets'] # executed by tests/test_tutorial.py, with the wheel


def run(name, files, **kw): return name, *test_nb(files[name], **kw)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--workers', type=int, default=2)
    cfg = get_config()
    kw = dict(skip_flags=cfg.tst_flags.split(), basepath=cfg.config_path, cell_timeout=int(cfg.cell_timeout))
    files = {f.stem: f.absolute() for f in sorted(nbglob(cfg.nbs_path, as_path=True)) if f.stem not in elsewhere}
    if unknown := [o for o in slow if o not in files]: sys.exit(f'no notebooks: {unknown}')
    failed, names = [], slow + [o for o in files if o not in slow]
    with get_context('fork').Pool(p.parse_args().workers, maxtasksperchild=1) as pool: # a process each: notebooks patch classes that others use
        for i, (name, passed, seconds) in enumerate(pool.imap_unordered(partial(run, files=files, **kw), names, chunksize=1), 1):
            if not passed: failed.append(name)
            print(f'{i}/{len(names)} {name}: {seconds:.0f} s{"" if passed else ", FAILED"}', flush=True)
    if failed: sys.exit('Failed: ' + ', '.join(failed))
