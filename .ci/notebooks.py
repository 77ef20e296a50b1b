"""Tests all notebooks as nbdev-test does, the slowest first, so that no worker is left alone with one of them at the end; each in a process of its own, for notebooks patch classes that others use.

    python .ci/notebooks.py [--slow] [--workers N] [NAME ...]
"""
import argparse, multiprocessing, sys, time
from concurrent.futures import ThreadPoolExecutor, as_completed
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb

minutes = ['cheat', 'labels_decide'] # of training from nothing, each: only where they are asked for
slow = [*minutes, '02_siamese', '07_train', 'few_labels', '01_classifier', 'from_article', '05_finder', '07_show', '04_scan'] # in order
elsewhere = ['pets'] # executed by tests/test_tutorial.py, with the wheel


def test(file):
    "Ends the process: with 0 if the notebook passes, else with 1; what is wrong with it, nbdev prints"
    multiprocessing.set_start_method(None, force=True) # loaders start their processes as they do for everybody
    cfg = get_config()
    sys.exit(not test_nb(file, skip_flags=cfg.tst_flags.split(), basepath=cfg.config_path, cell_timeout=cfg.cell_timeout)[0])


def apart(ctx, file):
    "Whether a notebook passes in a process of its own, and the seconds it took"
    start,process = time.time(),ctx.Process(target=test, args=(file,))
    process.start()
    process.join()
    return process.exitcode == 0,time.time()-start


def processes():
    "Starts processes that have what all notebooks import, where the system can: importing takes longer than most notebooks"
    if 'forkserver' not in multiprocessing.get_all_start_methods(): return multiprocessing.get_context('spawn')
    ctx = multiprocessing.get_context('forkserver')
    ctx.set_forkserver_preload(['nbdev.test', 'fastai.vision.all', 'sklearn.metrics', 'sklearn.cluster'])
    return ctx


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', help=f'of notebooks without .ipynb; by default all but {" and ".join(minutes)}')
    p.add_argument('--slow', action='store_true', help='these two as well')
    p.add_argument('--workers', type=int, default=2)
    a = p.parse_args()
    files = {f.stem: f.absolute() for f in sorted(nbglob(get_config().nbs_path, as_path=True)) if f.stem not in elsewhere}
    if unknown := [o for o in slow + a.names if o not in files]: sys.exit(f'no notebooks: {unknown}')
    names = a.names or [o for o in slow + [o for o in files if o not in slow] if a.slow or o not in minutes]
    failed,ctx = [],processes()
    with ThreadPoolExecutor(a.workers) as pool:
        jobs = {pool.submit(apart, ctx, files[o]): o for o in names}
        for i,job in enumerate(as_completed(jobs), 1):
            passed,seconds = job.result()
            if not passed: failed.append(jobs[job])
            print(f'{i}/{len(jobs)} {jobs[job]}: {seconds:.0f} s{"" if passed else ", FAILED"}', flush=True)
    if failed: sys.exit('Failed: ' + ', '.join(failed))
