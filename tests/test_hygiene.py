"Notebooks and modules contain nothing of the machine that ran them"
import ast
import json
import re
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
private = re.compile(r'/root/|/home/|/work/|/Users/|site-packages')


@pytest.mark.parametrize('path', sorted(root.glob('nbs/**/*.ipynb')), ids=lambda p: p.name)
def test_notebook(path):
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        for o in cell.get('outputs', ()):
            text = ''.join(o.get('text', ())) + ''.join(''.join(v) for k, v in o.get('data', {}).items() if k.startswith('text/'))
            assert not private.search(text), text[:300]
            assert o['output_type'] != 'error'
            assert '\r' not in text, f'overwritten progress bars: python .ci/tidy.py {path.relative_to(root)}'
            if path.name == 'index.ipynb': assert 'fastprogress' not in text, 'the first page shows a training: execute it again, now that the finder is there'


def test_modules():
    for path in root.glob('similarity_finder/*.py'): assert not private.search(path.read_text(encoding='utf-8')), path


@pytest.mark.parametrize('path', sorted(root.glob('nbs/*.ipynb')), ids=lambda p: p.name)
def test_imports_stand_alone(path):
    "nbdev executes every cell with an import when it renders the docs, without the cells before it"
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or re.match(r'#\s*\|\s*export', source) or 'nbdev_export()' in source or source.lstrip().startswith(('%', '!')): continue
        imports = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(ast.parse(source))]
        if any(imports): assert all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source).body), source


def headings(path):
    "The anchors that pandoc makes of a notebook's headings, and of those that nbdev gives to what it documents"
    cells = {kind: '\n'.join(''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == kind) for kind in ('markdown', 'code')}
    plain = [re.sub(r'\[([^\]]*)\]\([^)]*\)|[`*]', r'\1', o) for o in re.findall(r'^#+ +(.+)$', cells['markdown'], re.M)]
    documented = {o.lower() for o in re.findall(r'^(?:def|class) (\w+)', cells['code'], re.M)}
    return documented | {re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', o).strip().lower())) for o in plain}


@pytest.mark.parametrize('path', sorted(root.glob('nbs/**/*.ipynb')), ids=lambda p: p.name)
def test_links_between_pages(path):
    "They name notebooks, so that they lead somewhere on GitHub too, and headings that are there"
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] != 'markdown': continue
        for o in re.findall(r'\]\(([^)\s]+)\)', ''.join(cell['source'])):
            if re.match(r'https?://', o): continue
            name, _, anchor = o.partition('#')
            target = path.parent/name if name else path
            assert target.suffix == '.ipynb' and target.is_file(), o
            if anchor: assert anchor in headings(target), o
