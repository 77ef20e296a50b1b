"What can be known before the work is said before it, and what was found is told whatever happens afterwards"
import json
import os

import pytest
from typer.testing import CliRunner

from similarity_finder.cli import app


@pytest.fixture(scope='module')
def place(finder, tmp_path_factory):
    "A folder with a finder"
    out = tmp_path_factory.mktemp('finder')/'kept'
    finder.save(out, info=dict(measures={}))
    return out


def run(*args):
    done = CliRunner().invoke(app, [str(o) for o in args])
    return done.exit_code, done.output, done.stdout


@pytest.mark.parametrize('args, says', [
    (('--out', 'file.txt/finder'), 'is a file, not a folder'),
    (('--out', 'new', '--labels', '(['), 'is no regular expression'),
    (('--out', 'new', '--arch', 'resnet18', '--weights', 'file.txt', '--workers', '0', '--size', '32'), 'file.txt cannot be read as weights'),
])
def test_training_that_cannot_be(doodles, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'file.txt').write_text('words')
    code, output, _ = run('train', doodles[0].parent, *args)
    assert code == 1 and says in output and 'Traceback' not in output
    assert not (tmp_path/'new').exists()


def test_a_folder_that_cannot_be_written_to(doodles, tmp_path, monkeypatch):
    monkeypatch.setattr('os.access', lambda path, mode, **kwargs: mode != os.W_OK)
    code, output, _ = run('train', doodles[0].parent, '--out', tmp_path/'new')
    assert code == 1 and 'cannot be written to' in output


@pytest.mark.parametrize('command', ['search', 'identify'])
def test_a_picture_that_cannot_be_drawn_costs_no_answer(place, doodles, tmp_path, command):
    (tmp_path/'taken.png').mkdir()
    code, output, stdout = run(command, place, doodles[0], '--picture', tmp_path/'taken.png', '--workers', '0')
    assert code == 0 and 'warning: no picture' in output and doodles[0].name in stdout
    code, output, _ = run(command, place, doodles[0], '--picture', tmp_path/'a.foo')
    assert code == 1 and "cannot be of the kind 'foo'" in output
    code, output, _ = run(command, place, doodles[0], '--picture', tmp_path/'plain', '--workers', '0')
    assert code == 0 and (tmp_path/'plain.png').exists() and 'plain.png' in output


def test_a_prior_that_is_none_is_refused_at_once(place, doodles):
    code, output, _ = run('evaluate', place, doodles[0].parent, '--calibrate', '--prior', '5')
    assert code == 1 and output == 'error: --prior, a share of pairs, lies between 0 and 1, not 5.0\n'


def test_json_is_json(finder, tmp_path):
    "Also where a measure is not a number"
    finder.save(tmp_path/'kept', info=dict(measures={'recall@1': float('nan')}))
    code, _, stdout = run('info', tmp_path/'kept', '--json')
    def refuse(name): raise ValueError(name)
    assert code == 0 and json.loads(stdout, parse_constant=refuse)['measures'] == {'recall@1': None}


def test_info_says_what_the_percentages_were_fitted_to(finder, doodles, tmp_path):
    finder.save(tmp_path/'kept', info=dict(measures={'recall@1': 0.5}))
    code, output, _ = run('info', tmp_path/'kept')
    assert code == 0 and 'fitted again' not in output and json.loads(run('info', tmp_path/'kept', '--json')[2])['calibration'] == {}
    code, _, stdout = run('evaluate', tmp_path/'kept', *doodles[::4], '--calibrate', '--json', '--workers', '0')
    kept = json.loads(stdout)['calibrated']
    assert code == 0 and kept['queries'] == len(doodles[::4])
    assert json.loads(run('info', tmp_path/'kept', '--json')[2])['calibration'] == kept
    output = run('info', tmp_path/'kept')[1]
    assert f'temperature              {kept["temperature"]:.3f}' in output and 'recall@1                 0.500' in output and 'None' not in output
