"Floors on real photographs, where a folder with them lies beside the repository or is named by SIMILARITY_FINDER_SHARED"
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import shared

root = Path(__file__).resolve().parent.parent
photographs = shared/'fastai/data/oxford-iiit-pet/images'
weights = shared/'weights/mobilenet_v2-imagenet.pth'


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    "What the benchmark measures with a more hasty classifier and fewer maps than it does for the record: (what, measure) -> value"
    if not (photographs.is_dir() and weights.is_file()): pytest.skip(f'no photographs in {shared}')
    out = tmp_path_factory.mktemp('bench')/'pets.csv'
    done = subprocess.run([sys.executable, root/'bench/pets.py', '--weights', weights, '--classifier-size', '160', '--epochs', '3', '30',
                           '--maps', '40', '--out', out],
                          env=os.environ | {'FASTAI_HOME': str(shared/'fastai')}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with open(out, newline='') as f: rows = {(r['what'], r['measure']): float(r['value']) for r in csv.DictReader(f)}
    for k, v in rows.items(): print(*k, v)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize('what, measure, floor', [
    ('classifier, known breeds', 'accuracy', 0.75), ('siamese, known breeds', 'auc', 0.96), ('siamese, new breeds', 'auc', 0.95),
    ('predict(compare_n=15)', 'right_breed', 0.75)])
def test_floor(measured, what, measure, floor): assert measured[what, measure] >= floor


@pytest.mark.slow
def test_evidence_lies_on_the_animal(measured):
    "More of the positive evidence than an even spread would put there; and the exact maps leave nothing unexplained"
    assert measured['maps, exact', 'energy'] > measured['maps, exact', 'uniform'] + 0.1
    assert measured['maps, exact', 'residual'] < 1e-3
