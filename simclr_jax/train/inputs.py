"""What a run's train step is fed with."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import parallel
from simclr_jax.data import folder_index, splits
from simclr_jax.train.setup import Run

_SHEET_PAIRS = 8  # augmented pairs kept for the report


def train_batches(run: Run, start: int) -> Iterator[dict[str, np.ndarray | jax.Array]]:
    """Yields the batches from step `start` on, from where the config says they come."""
    config = run.config
    options = {
        'seed': config.seed,
        'batch_size': config.batch_size,
        'start_step': start,
        'total_steps': run.length.total_steps,
        'rows': parallel.local_rows(config.batch_size, run.mesh),
        'drop_remainder': config.data.drop_remainder,
    }
    # A batch of more pictures than there are has some of them several times, in other views.
    source = splits.at_least(run.source, config.batch_size)
    if config.data.cache == 'device':
        from simclr_jax.data import device

        return device.train_batches(source, run.mesh, **options)
    from simclr_jax.data import pipeline  # imports TensorFlow

    options['workers'] = config.data.workers
    if run.augment:
        return pipeline.canvas_batches(source, **options)
    recipes = config_lib.view_recipes(config)
    return pipeline.train_batches(source, recipes, image_size=config.data.image_size, **options)


def for_step(batch: dict[str, Any], run: Run) -> dict[str, Any]:
    """Returns the parts of a batch that the train step takes."""
    return {name: batch[name] for name in run.abstract_batch()}


def sheet(batch: dict[str, Any], run: Run, step: int) -> np.ndarray:
    """Returns a few augmented pairs of a batch, uint8."""
    if not run.augment:
        return batch['image'][:_SHEET_PAIRS]
    few = {name: _first_rows(batch[name]) for name in ('image', 'size', 'index')}
    return np.asarray(jnp.round(jax.jit(run.augment)(few, step) * 255), np.uint8)


def _first_rows(rows: np.ndarray | jax.Array) -> np.ndarray:
    """Returns the first rows of this process."""
    if isinstance(rows, jax.Array):
        shards = sorted(rows.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        rows = np.concatenate([np.asarray(shard.data) for shard in shards])
    return rows[:_SHEET_PAIRS]


def check_bad(run: Run) -> None:
    """Raises ConfigError where too many pictures have become unreadable during the run."""
    source, data = run.source, run.config.data
    folder_index.check_bad(source.bad, source.num_files, data.path, data.max_bad_fraction)
