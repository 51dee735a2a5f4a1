"""The views of a run's first images, and the parameters that were drawn for each."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.augment import jax_draws, jax_ops
from simclr_jax.data import sources

_IMAGES = 8  # rows of the sheet


def first_views(
    config: ConfigDict, source: sources.Source
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, list[dict[str, np.ndarray]]]:
    """The first examples of the run's first batch.

    Returns:
      The indices of their records `[n]`; the images `[height, width, channel]` uint8, as stored
      or, with the 'jax' backend, as they lie in their canvas; their views
      `[n, view, size, size, channel]` uint8; for each view the parameters drawn `[n, ...]`, with
      the crop's `box` `[n, 4]` (y, x, height, width) in pixels of the image.
    """
    make = _made_on_device if config.augment.backend == 'jax' else _made_on_host
    return make(config, source, config_lib.view_recipes(config), min(_IMAGES, config.batch_size))


def _made_on_host(config, source, recipes, count):
    from simclr_jax.augment import tf_draws  # these import TensorFlow
    from simclr_jax.data import pipeline

    batch = next(
        pipeline.train_batches(
            source,
            recipes,
            seed=config.seed,
            batch_size=config.batch_size,
            image_size=config.data.image_size,
            start_step=0,
            total_steps=1,
            rows=slice(0, count),
        )
    )
    originals = pipeline.read_whole_images(source, batch['index'])
    heights, widths = np.transpose([image.shape[:2] for image in originals])
    drawn = []
    for recipe, parameters in zip(
        recipes,
        pipeline.draw_parameters(recipes, config.seed, 0, config.batch_size),
        strict=True,
    ):
        parameters = {name: values[:count] for name, values in parameters.items()}
        parameters['box'] = tf_draws.crop_boxes(recipe, parameters, heights, widths)
        drawn.append({name: np.asarray(values) for name, values in parameters.items()})
    return batch['index'], originals, batch['image'], drawn


def _made_on_device(config, source, recipes, count):
    from simclr_jax.data import pipeline  # imports TensorFlow

    batch = next(
        pipeline.canvas_batches(
            source,
            seed=config.seed,
            batch_size=config.batch_size,
            start_step=0,
            total_steps=1,
            rows=slice(0, count),
        )
    )

    @jax.jit
    def made(batch):
        views = jax_ops.make_views(
            batch,
            recipes,
            seed=config.seed,
            step=0,
            image_size=config.data.image_size,
            dtype=config.augment.dtype,
        )
        drawn = []
        for view, recipe in enumerate(recipes):
            keys = jax_draws.view_keys(config.seed, 0, view, batch['index'])
            parameters = jax_draws.sample_parameters(recipe, keys)
            heights, widths = batch['size'].astype(jnp.float32).T
            parameters['box'] = jax_draws.crop_boxes(recipe, parameters, heights, widths)
            drawn.append(parameters)
        return jnp.round(views * 255).astype(jnp.uint8), drawn

    views, drawn = jax.device_get(made({name: batch[name] for name in ('image', 'size', 'index')}))
    originals = [image[:h, :w] for image, (h, w) in zip(batch['image'], batch['size'], strict=True)]
    return batch['index'], originals, views, drawn
