"The tutorial runs in an empty folder against the built wheel, as in Colab"
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent


@pytest.mark.slow(260)
def test_tutorial_with_the_wheel(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != 'FASTAI_HOME'} | {'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': str(tmp_path/'site')}
    def run(*args, cwd=root):
        done = subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout
    source = tmp_path/'source' # building in place would leave files behind
    shutil.copytree(root/'similarity_finder', source/'similarity_finder', ignore=shutil.ignore_patterns('__pycache__'))
    for f in ('pyproject.toml', 'setup.py', 'settings.ini', 'README.md', 'LICENSE'): shutil.copy(root/f, source)
    run('-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', str(tmp_path/'wheel'), str(source))
    wheel, = (tmp_path/'wheel').glob('similarity_finder-*.whl')
    run('-m', 'pip', 'install', '-q', '--no-deps', '--target', str(tmp_path/'site'), str(wheel))
    empty = tmp_path/'empty'
    empty.mkdir()
    where = run('-c', 'import similarity_finder as s; print(s.__file__)', cwd=empty).strip()
    assert Path(where).is_relative_to(tmp_path/'site')
    run(str(root/'.ci/execute.py'), '--cwd', str(empty), str(root/'nbs/tutorials/pets.ipynb'))
