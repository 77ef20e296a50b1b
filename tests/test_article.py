"The article's loop, written plainly, against `SimilarityFinder` on the same two-logit model"
import random

import pytest
import torch
from fastai.vision.learner import create_head
from torch import nn

from similarity_finder.classifier import convnet, create_encoder, evaluating, predict_class
from similarity_finder.data import label_func
from similarity_finder.finder import SimilarityFinder
from similarity_finder.preprocess import Preprocess
from similarity_finder.siamese import SiameseModel


class ArticleModel(nn.Module):
    "One encoder for both images, their maps put together, and a head with two logits: different, same"
    def __init__(self, encoder, head):
        super().__init__()
        self.encoder, self.head = encoder, head
    def forward(self, x1, x2): return self.head(torch.cat([self.encoder(x1), self.encoder(x2)], 1))


class ArticleLearner:
    "What the finder needs of a siamese learner: the model and its data"
    def __init__(self, model, dls): self.model, self.dls = model, dls


@pytest.fixture(scope='module')
def article(finder):
    torch.manual_seed(0)
    model = ArticleModel(create_encoder(convnet, pretrained=False), create_head(256*2, 2))
    for m in model.modules(): # as if trained: statistics and weights that differ from channel to channel
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_mean.uniform_(-0.2, 0.2); m.running_var.uniform_(0.5, 1.5); m.weight.data.uniform_(0.5, 1.5); m.bias.data.uniform_(-0.2, 0.2)
    return ArticleLearner(model.eval().to(finder.slearn.dls.device), finder.slearn.dls)


def loop(article, clearn, fn, files, compare_n):
    "Compare with the first `compare_n` files of the predicted class, one forward pass each"
    cls = predict_class(fn, clearn)
    candidates = [f for f in files if label_func(f) == cls and f != fn][:compare_n]
    preds = []
    for f in candidates:
        with torch.no_grad(), evaluating(article.model): logits = article.model(Preprocess.of(article.dls)([fn]), Preprocess.of(article.dls)([f]))
        preds.append(logits.softmax(1)[0,1].item())
    best = max(range(len(preds)), key=preds.__getitem__)
    return candidates[best], preds


@pytest.mark.parametrize('seed', range(4))
def test_same_file_and_same_probability(article, finder, doodles, seed):
    rng = random.Random(seed)
    gallery = [f for l in finder.lbl2files for f in rng.sample(list(finder.lbl2files[l]), 4)]
    query = rng.choice(doodles)
    ours = SimilarityFinder(finder.clearn, article, gallery, progress=False)
    best = ours.predict(query, compare_n=3, show=False)
    expected, preds = loop(article, finder.clearn, query, gallery, 3)
    assert best == expected
    assert ours.preds == pytest.approx(preds, abs=1e-5)
    assert len(preds) == 3 and max(preds)-min(preds) > 1e-4 # the comparison can tell them apart


def test_the_librarys_own_class_takes_the_articles_head(article, finder, doodles):
    model = SiameseModel(article.model.encoder, article.model.head)
    with torch.no_grad():
        x = Preprocess.of(article.dls)(doodles[:2])
        assert torch.equal(model(x[:1], x[1:]), article.model(x[:1], x[1:]))


def test_fastai_learner_with_the_articles_model(article, finder, doodles):
    "An article's learner, a plain fastai one, can score a pair"
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    learn = Learner(finder.slearn.dls, article.model, loss_func=CrossEntropyLossFlat())
    x = Preprocess.of(article.dls)(doodles[:2])
    with torch.no_grad(), evaluating(article.model): expected = article.model(x[:1], x[1:]).softmax(1)[0,1].item()
    assert learn.siampredict(doodles[:2]).probability == pytest.approx(expected, abs=1e-5)
