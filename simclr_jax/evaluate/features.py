"""Features of every example of a split, extracted once."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from simclr_jax import parallel
from simclr_jax.augment.pixels import normalize_images
from simclr_jax.methods.base import Tree

RAW_PIXELS_SIZE = 32  # larger images are shrunk to this for the raw-pixel baseline


@dataclasses.dataclass(frozen=True)
class Features:
    """One split.

    Attributes:
      values: name to float32 `[n, dim]`: 'encoder' and, as baselines, 'untrained', 'raw_pixels'.
      labels: `[n]` int32; -1 where there is none.
      index: `[n]` int64, each example's place in its source.
    """

    values: dict[str, np.ndarray]
    labels: np.ndarray
    index: np.ndarray


def extract_features(
    encoder,
    variables: dict[str, Tree],
    batches: Iterator[dict[str, np.ndarray]],
    mesh: Mesh,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    raw_pixels: bool,
) -> Features:
    """Runs the encoder in evaluation mode over `batches`; padding is dropped by its mask.

    Args:
      encoder: the linen module.
      variables: name of the feature to the variables of the encoder that makes it.
      batches: `image` `[batch, 1, height, width, channel]` uint8, `label`, `index`, `mask`.
      mesh: the devices.
      mean: subtracted from pixels in [0, 1].
      std: divides them.
      raw_pixels: whether the pixels themselves are a feature too.
    """
    replicated = parallel.replicated(mesh)

    def apply(variables, images):
        normalized = normalize_images(images[:, 0], mean, std)
        values = {
            name: encoder.apply(tree, normalized, train=False) for name, tree in variables.items()
        }
        if raw_pixels:
            values['raw_pixels'] = _shrink(normalized).reshape(len(normalized), -1)
        return values

    step = jax.jit(
        apply, in_shardings=(replicated, parallel.batch_sharding(mesh)), out_shardings=replicated
    )
    values, rest = [], []
    for batch in batches:
        arrays = parallel.put_batch(batch, mesh)
        values.append(step(variables, arrays.pop('image')))
        rest.append(parallel.to_host(arrays))
        if len(values) > 1:  # leave one batch in flight
            values[-2] = jax.device_get(values[-2])
    values[-1] = jax.device_get(values[-1])
    rest = {name: np.concatenate([batch[name] for batch in rest]) for name in rest[0]}
    real = rest['mask'] > 0
    names = [*variables, 'raw_pixels'] if raw_pixels else variables  # jit has sorted them
    return Features(
        {name: np.concatenate([batch[name] for batch in values])[real] for name in names},
        rest['label'][real],
        rest['index'][real],
    )


def _shrink(images: jax.Array) -> jax.Array:
    count, height, width, channels = images.shape
    if max(height, width) <= RAW_PIXELS_SIZE:
        return images
    size = min(RAW_PIXELS_SIZE, height), min(RAW_PIXELS_SIZE, width)
    return jax.image.resize(images, (count, *size, channels), 'linear', antialias=True)
