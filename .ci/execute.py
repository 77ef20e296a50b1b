"""Executes notebooks in a kernel, as Jupyter and Colab do, but for cells marked `#| eval: false`; with --save, keeps their outputs.

    python .ci/execute.py [--save] [--cwd FOLDER] notebook.ipynb ...

nbdev-test runs notebooks in its own shell, which has no progress tables; this is for those that train.
"""
import argparse, re
from pathlib import Path
import nbformat
from nbclient import NotebookClient


class Client(NotebookClient):
    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if re.search(r'^#\| *eval: *false', cell.source, re.M): return cell
        return await super().async_execute_cell(cell, cell_index, **kwargs)


p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('notebooks', nargs='+', type=Path)
p.add_argument('--cwd', type=Path, help="where to execute; by default the notebook's folder")
p.add_argument('--save', action='store_true')
p.add_argument('--timeout', type=int, default=1800, help='seconds a cell may take')
a = p.parse_args()
for f in a.notebooks:
    nb = nbformat.read(f, 4)
    Client(nb, timeout=a.timeout, kernel_name='python3', resources={'metadata': {'path': str(a.cwd or f.parent)}}).execute()
    for c in nb.cells: # warnings of other libraries are not for the reader
        if c.cell_type == 'code': c.outputs = [o for o in c.outputs if o.output_type != 'stream' or o.name != 'stderr']
    if a.save: nbformat.write(nb, f)
    print('executed', f)
