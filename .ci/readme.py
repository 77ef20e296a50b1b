"Makes README.md (and the pictures in README_files) from nbs/index.ipynb; with --check, fails if they have drifted apart."
import re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent
blob = 'https://github.com/similarity-finder/similarity_finder/blob/main/nbs/'

def convert():
    "The files that the README consists of: name -> bytes"
    nb = nbformat.read(root/'nbs/index.ipynb', 4)
    keep = []
    for cell in nb.cells:
        directives = re.findall(r'^#\| *(\w+)(?:: *(\w+))?', cell.source, re.M)
        if ('hide', '') in directives: continue
        cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
        if cell.cell_type == 'code':
            if ('echo', 'false') in directives: cell.source = ''
            cell.outputs = [o for o in cell.outputs if o.output_type != 'stream' or o.name != 'stderr']
        if cell.source or cell.get('outputs'): keep.append(cell)
    nb.cells, nb.metadata['language_info'] = keep, {'name': 'python'}
    body, resources = MarkdownExporter().from_notebook_node(nb, {'output_files_dir': 'README_files', 'unique_key': 'README'})
    body = re.sub(r'\]\((?!https?:|#)([\w/]+\.ipynb(#[\w-]+)?)\)', rf']({blob}\1)', body)  # links between notebooks
    body = re.sub(r'```python\n\s*```\n*', '', body)
    body = re.sub(r'\n{3,}', '\n\n', body).strip() + '\n'
    return {'README.md': body.encode(), **resources['outputs']}

files = convert()
if '--check' in sys.argv:
    drift = [f for f, data in files.items() if not (root/f).exists() or (root/f).read_bytes() != data]
    drift += [str(p.relative_to(root)) for p in (root/'README_files').glob('*') if str(p.relative_to(root)) not in files]
    if drift: sys.exit(f'{", ".join(drift)}: not what nbs/index.ipynb gives; run python .ci/readme.py')
    print('README.md is what nbs/index.ipynb gives')
else:
    for p in (root/'README_files').glob('*'): p.unlink()
    for f, data in files.items():
        (root/f).parent.mkdir(exist_ok=True)
        (root/f).write_bytes(data)
    print('wrote', ', '.join(files))
