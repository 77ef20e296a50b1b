"Find the most similar image in a collection, with a probability, and see why."
__version__ = "0.1.0"

# Public names and the modules they live in. They are loaded when first used, so that `import similarity_finder`
# does not pay for torch and fastai.
_lazy = {'SimilarityFinder': 'finder', 'doodle_pets': 'doodle', 'pets': 'data', 'label_func': 'data', 'open_image': 'data',
         'classifier_dls': 'classifier', 'classifier_learner': 'classifier', 'predict_class': 'classifier',
         'siamese_dls': 'siamese', 'siamese_learner': 'siamese', 'SiameseImage': 'siamese', 'SiameseModel': 'siamese',
         'PairHead': 'siamese'}
__all__ = ['__version__', *_lazy]

def __getattr__(name):
    if name not in _lazy: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    return getattr(import_module(f'{__name__}.{_lazy[name]}'), name)

def __dir__(): return sorted({*globals(), *__all__})
