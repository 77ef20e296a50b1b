"Find the most similar image in a collection, with a probability, and see why."
__version__ = "0.1.0"

# Public names and the modules they live in. They are loaded when first used, so that `import similarity_finder`
# does not pay for torch and fastai.
_lazy = {'SimilarityFinder': 'finder', 'Gallery': 'gallery', 'image_files': 'data', 'labeller': 'data', 'label_func': 'data', 'parent_label': 'data', 'open_image': 'data',
         'pets': 'data', 'doodle_pets': 'doodle', 'draw_doodle': 'draw', 'classifier_dls': 'classifier', 'classifier_learner': 'classifier', 'predict_class': 'classifier',
         'siamese_dls': 'pairs', 'SiameseImage': 'pairs', 'SiameseTransform': 'pairs', 'PairHead': 'head', 'SiameseModel': 'siamese',
         'siamese_learner': 'siamese', 'pair_maps': 'cam', 'show_cam': 'cam', 'train_finder': 'train'}
__all__ = ['__version__', *_lazy]

def __getattr__(name):
    if name not in _lazy: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    return getattr(import_module(f'{__name__}.{_lazy[name]}'), name)

def __dir__(): return sorted({*globals(), *__all__})
