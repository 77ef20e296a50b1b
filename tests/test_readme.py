"What the README tells people to type exists"
import re
from functools import partial
from pathlib import Path

import pytest

readme = (Path(__file__).resolve().parent.parent/'README.md').read_text(encoding='utf-8')


def test_its_imports_work():
    imports = re.findall(r'^from similarity_finder.* import .*$', readme, re.M)
    assert len(imports) >= 2
    for line in imports: exec(line, {})


@pytest.mark.slow(80)
def test_its_own_images_examples(tmp_path, monkeypatch):
    "Run as they stand, on doodles in a folder for each label; only weights from the network and long training are left out"
    import shutil
    import similarity_finder.classifier as classifier
    import similarity_finder.siamese as siamese
    import similarity_finder.train as train
    from similarity_finder.data import label_func
    from similarity_finder.doodle import doodle_pets
    for f in doodle_pets(n=4, size=96, progress=False):
        (tmp_path/'my_images'/label_func(f)).mkdir(parents=True, exist_ok=True)
        shutil.copy(f, tmp_path/'my_images'/label_func(f))
    shutil.copy(f, tmp_path/'new_image.jpg') # the examples' query
    monkeypatch.chdir(tmp_path)
    fit = siamese.SiameseLearner.fit_head
    monkeypatch.setattr(siamese.SiameseLearner, 'fit_head', lambda self, n_epoch, **kwargs: fit(self, 1, **kwargs))
    for module, name in ((classifier, 'classifier_learner'), (siamese, 'siamese_learner')):
        make = getattr(module, name)
        monkeypatch.setattr(module, name, lambda dls, make=make, **kwargs: make(dls, classifier.convnet, pretrained=False, **kwargs))
    monkeypatch.setattr(train, 'train_finder', partial(train.train_finder, arch=classifier.convnet, pretrained=False, size=64, epochs=1, siamese_epochs=1, num_workers=0, progress=False))
    in_one, by_hand = [o for o in re.findall(r'```python\n(.*?)```', readme, re.S) if 'my_images' in o]
    for code in (in_one, by_hand):
        made = {}
        exec(code, made)
        assert len(made['finder'].gallery) == 60
    assert len(made['SimilarityFinder'].load(tmp_path/'my_finder').search(tmp_path/'new_image.jpg', k=3)) == 3


def test_its_links_lead_to_files():
    "Links to notebooks name the repository, where PyPI can follow them too, and files that are there, with or without a heading behind"
    root = Path(__file__).resolve().parent.parent
    links = [o for o in re.findall(r'\]\(([^)\s]+)\)', readme) if '.ipynb' in o]
    assert len(links) > 10
    for o in links:
        found = re.fullmatch(r'https://(?:github\.com|colab\.research\.google\.com/github)/[\w-]+/[\w-]+/blob/\w+/([\w/]+\.ipynb)(#[\w-]+)?', o)
        assert found and (root/found[1]).is_file(), o
