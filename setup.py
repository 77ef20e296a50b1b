"Hands what settings.ini lists to pip; pyproject.toml holds everything else."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

cfg = ConfigParser()
cfg.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

setup(install_requires=cfg['requirements'].split(),
      extras_require={k.removesuffix('_requirements'): v.split() for k, v in cfg.items() if k.endswith('_requirements')},
      entry_points={'console_scripts': cfg['console_scripts'].split(),
                    'nbdev': ['similarity_finder=similarity_finder._modidx:d']})
