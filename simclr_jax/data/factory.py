"""From the config to a data set."""

import importlib
import types
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.config import canvas_side
from simclr_jax.data import sources
from simclr_jax.workdir.claim import Held


def open_split(config: ConfigDict, split: str, held: Held | None = None) -> sources.Source:
    """Opens a split of the config's data set; `held` is what it held when the run began."""
    data = config.data
    options = how_to_open(config)
    return sources.open_source(
        data.dataset,
        data.data_dir,
        split,
        path=data.path,
        labels=data.labels,
        held=held,
        **options,
    )


def how_to_open(config: ConfigDict) -> dict[str, Any]:
    """Returns what of the config `sources.open_data` takes for whatever is opened."""
    return {
        'max_bad_fraction': config.data.max_bad_fraction,
        'canvas': canvas_side(config),
        'several_labels': config.data.several_labels,
        'through_canvas': config.augment.backend == 'jax',
    }


def reader(config: ConfigDict) -> types.ModuleType:
    """Returns the module that reads batches and images: one that needs no TensorFlow, if it can."""
    module = 'device' if config.data.cache == 'device' else 'pipeline'
    return importlib.import_module(f'simclr_jax.data.{module}')
