"""Leaves of the outputs in notebooks what a reader should see: no progress bars that a carriage return overwrote, and no warnings.

    python .ci/tidy.py nbs/02_siamese.ipynb ... # after nbdev-test --save
"""
import sys
import nbformat


def shown(text):
    "What a terminal shows in the end"
    lines = [o.rstrip('\r').split('\r')[-1].rstrip() for o in text.split('\n')]
    return ''.join(f'{o}\n' for o in lines if o and '█' not in o and '|---' not in o)


for path in sys.argv[1:]:
    nb = nbformat.read(path, 4)
    for cell in nb.cells:
        if cell.cell_type != 'code': continue
        for o in cell.outputs:
            if o.output_type == 'stream' and '\r' in o.text: o.text = shown(o.text)
        cell.outputs = [o for o in cell.outputs if not (o.output_type == 'stream' and (o.name == 'stderr' or not o.text))]
    nbformat.write(nb, path)
