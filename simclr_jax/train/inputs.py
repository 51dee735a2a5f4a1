"""What a run's train step is fed with."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import parallel
from simclr_jax.data import folder_index, mask_batches, splits
from simclr_jax.methods.base import is_dense
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
    if is_dense(run.method):
        return _crops(run, options)
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


def _crops(run: Run, options: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """Crops of pictures and of their masks."""
    config, segment = run.config, run.config.segment
    del options['drop_remainder']
    return mask_batches.train_batches(
        run.source,
        **options,
        size=config.data.image_size,
        scale=tuple(segment.scale),
        resize=segment.resize,
        flip=segment.flip,
        distort=segment.distort,
        most=segment.most_of_one,
        fill=average_colour(config.data.mean, run.source.image_shape[-1]),
        workers=config.data.workers,
    )


def average_colour(mean: Sequence[float], channels: int) -> tuple[int, ...]:
    """Returns the pixel, 0 to 255, that is nearly 0 when it is normalized with `mean`."""
    return tuple(np.rint(255 * np.broadcast_to(mean, channels)).astype(int).tolist())


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
