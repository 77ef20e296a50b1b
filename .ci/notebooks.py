"""Tests all notebooks as nbdev-test does, the slowest first, so that no worker is left alone with one of them at the end; each in a process of its own, for notebooks patch classes that others use.

    python .ci/notebooks.py [--workers N]
"""
import argparse, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor, as_completed
from nbdev.config import get_config
from nbdev.doclinks import nbglob

slow = ['cheat', 'labels_decide', '02_siamese', '07_train', 'few_labels', '01_classifier', 'from_article', '05_finder', '07_show', '04_scan'] # in order
elsewhere = ['pets'] # executed by tests/test_tutorial.py, with the wheel


def test(file):
    "Whether a notebook passes, and the seconds it took; what it says is printed if it does not"
    start = time.time()
    done = subprocess.run(['nbdev-test', str(file), '--n-workers', '0'], capture_output=True, text=True)
    if done.returncode: print(done.stdout, done.stderr, flush=True)
    return not done.returncode, time.time()-start


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--workers', type=int, default=2)
    files = {f.stem: f.absolute() for f in sorted(nbglob(get_config().nbs_path, as_path=True)) if f.stem not in elsewhere}
    if unknown := [o for o in slow if o not in files]: sys.exit(f'no notebooks: {unknown}')
    failed, names = [], slow + [o for o in files if o not in slow]
    with ThreadPoolExecutor(p.parse_args().workers) as pool:
        jobs = {pool.submit(test, files[o]): o for o in names}
        for i, job in enumerate(as_completed(jobs), 1):
            passed, seconds = job.result()
            if not passed: failed.append(jobs[job])
            print(f'{i}/{len(jobs)} {jobs[job]}: {seconds:.0f} s{"" if passed else ", FAILED"}', flush=True)
    if failed: sys.exit('Failed: ' + ', '.join(failed))
