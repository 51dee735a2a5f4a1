"""From the config to a data set."""

import importlib
import types

from ml_collections import ConfigDict

from simclr_jax.data import sources


def open_split(config: ConfigDict, split: str) -> sources.Source:
    """Opens a split of the config's data set."""
    data = config.data
    return sources.open_source(
        data.dataset,
        data.data_dir,
        split,
        path=data.path,
        max_bad_fraction=data.max_bad_fraction,
        canvas=data.canvas,
    )


def reader(config: ConfigDict) -> types.ModuleType:
    """Returns the module that reads batches and images: one that needs no TensorFlow, if it can."""
    module = 'device' if config.data.cache == 'device' else 'pipeline'
    return importlib.import_module(f'simclr_jax.data.{module}')
