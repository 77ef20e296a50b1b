"""Measures maps on drawings whose parts are known: writes bench/parts.csv.

    python bench/parts.py [--seeds 42 0 1 --networks patchnet "twice as long" "nothing hidden" convnet]

Finders of doodle pets that have learned ears, or coats; each held-out drawing is explained together with its best match of the same ears (coat). Energy is the share of the positive
evidence on the part that carries the label, pointing whether the strongest place lies on it, 'near' whether on it or within 3 % of the image's side (the pointing game
is played with a tolerance of 15 pixels on photographs of some 500: tolerance=15 in github.com/ruthcfong/pointing_game); means over both images of the pairs, for `exact`, `sharp` and `expected` (which counts from 48 images of the gallery) those of each label as well ('pointing, floppy'). Networks: 'patchnet' sees 19 x 19 of 96 pixels,
and each trait of its drawings is by lot; 'twice as long' is the same, trained for twice as many epochs; 'nothing hidden' is the same, trained without hiding patches of the drawings; 'convnet' (first seed only) sees 75 of 64, and its drawings are of breeds. 'activation', 'centre' and 'uniform' as in explain.py.
"""
import argparse, csv, random
from pathlib import Path
import numpy as np
from scipy.ndimage import binary_dilation
from explain import of_head
from common import here
from similarity_finder.cam import encoder_maps, expected_maps, image_methods
from similarity_finder.doodle import doodle_label, doodle_masks
from similarity_finder.faithfulness import energy_inside, pointing_game
from similarity_finder.places import place_shift
from similarity_finder.train import doodle_finder

ways = {k: f for k, f in of_head.items() if k not in ('mean maximum', 'weights')}


def wider(mask): return binary_dilation(mask, iterations=round(0.03*len(mask)))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, nargs='+', default=(42, 0, 1))
    p.add_argument('--networks', nargs='+', default=('patchnet', 'twice as long', 'nothing hidden', 'convnet'))
    p.add_argument('--out', type=Path, default=here/'parts.csv')
    a = p.parse_args()
    with open(a.out, 'w', newline='') as f: csv.writer(f).writerow(('network', 'seed', 'label', 'method', 'measure', 'value', 'n'))
    for network, seed in [(n, o) for n in a.networks for o in (a.seeds[:1] if n == 'convnet' else a.seeds)]:
        for label in ('ears', 'coat'):
            longer = dict(epochs=48, siamese_epochs=16) if network == 'twice as long' else {}
            finder, held_out, measures = doodle_finder(label, seed=seed, progress=False, mixed=network != 'convnet', erase=network in ('patchnet', 'twice as long'), **longer)
            shift = place_shift(finder.model.encoder)
            out, prep, model, how = {}, finder.encoder.prep, finder.model, doodle_label(label)
            for k in ('classifier_accuracy', 'pair_auc', 'recall@1'): out['-', k] = [measures[k]]
            background = prep(random.Random(seed).sample(list(finder.gallery.files), 48))
            for q in held_out:
                m = finder.search(q, 1, labels=how(q))[0].file
                x = prep([q, m])
                masks = [prep.mask(doodle_masks(o)[label]).numpy() for o in (q, m)]
                A, B = encoder_maps(model, x[:1], x[1:])
                maps = {k: f(model.head, A, B).placed(shift) for k, f in ways.items()} | {k: image_methods[k](model, x[:1], x[1:]) for k in ('fine', 'sharp', 'pixels')}
                maps['expected'] = expected_maps(model, x[:1], x[1:], background)
                for k, o in maps.items():
                    for c, mask in zip((o.a[0], o.b[0]), masks):
                        for what, v in (('energy', energy_inside(c, mask)), ('pointing', pointing_game(c, mask)), ('near', pointing_game(c, wider(mask)))):
                            out.setdefault((k, what), []).append(v)
                            if k in ('exact', 'sharp', 'expected') and what != 'energy': out.setdefault((k, f'{what}, {how(q)}'), []).append(v)
                for mask in masks:
                    for what in ('energy', 'pointing'): out.setdefault(('uniform', what), []).append(mask.mean())
                    out.setdefault(('uniform', 'near'), []).append(wider(mask).mean())
            with open(a.out, 'a', newline='') as f:
                for (k, what), v in out.items():
                    v = np.asarray(v, dtype=float)
                    csv.writer(f).writerow((network, seed, label, k, what, f'{np.nanmean(v):.4f}', len(v)))
                    print(network, seed, label, k, what, f'{np.nanmean(v):.4f}', flush=True)


if __name__ == '__main__': main()
