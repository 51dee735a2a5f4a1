"""Features of every example of a split, extracted once."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from simclr_jax import parallel
from simclr_jax.augment.pixels import normalize_images
from simclr_jax.methods.base import Tree

RAW_PIXELS_SIZE = 32  # larger images are shrunk to this for the raw-pixel baseline


@dataclasses.dataclass(frozen=True)
class Features:
    """One split, in the order of its source.

    Attributes:
      values: name to float32 `[n, dim]`: 'encoder' and, as baselines, 'untrained', 'raw_pixels'.
      labels: `[n]` int32; -1 where there is none.
      index: `[n]` int64, each example's place in its source, ascending.
    """

    values: dict[str, np.ndarray]
    labels: np.ndarray
    index: np.ndarray


def extract_features(
    encoders: dict[str, nn.Module],
    variables: dict[str, Tree],
    batches: Iterator[dict[str, np.ndarray]],
    mesh: Mesh,
    *,
    num_examples: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    raw_pixels: bool,
) -> Features:
    """Runs encoders in evaluation mode over `batches`; padding is dropped by its mask.

    Every process keeps all features, in one array each that is made beforehand.

    Args:
      encoders: name of the feature to the linen module that makes it.
      variables: name of the feature to what that module is applied with.
      batches: `image` `[batch, 1, height, width, channel]` uint8, `label`, `index`, `mask`.
      mesh: the devices.
      num_examples: of the source; each is in one batch.
      mean: subtracted from pixels in [0, 1].
      std: divides them.
      raw_pixels: whether the pixels themselves are a feature too.

    Raises:
      ValueError: an example is in no batch.
    """
    step = make_extraction(encoders, mesh, mean=mean, std=std, raw_pixels=raw_pixels)
    values = {}
    labels, seen = np.full(num_examples, -1, np.int32), np.zeros(num_examples, bool)

    def keep(features, rest):
        # A slice of TPUs may interleave its processes' rows: only `index` tells the order.
        real = rest['mask'] > 0
        index = rest['index'][real]
        labels[index], seen[index] = rest['label'][real], True
        for name, rows in jax.device_get(features).items():
            if name not in values:
                values[name] = np.empty((num_examples, *rows.shape[1:]), np.float32)
            values[name][index] = rows[real]

    in_flight = None
    for batch in batches:
        arrays = parallel.put_batch(batch, mesh)
        features = step(variables, arrays.pop('image'))
        if in_flight:
            keep(*in_flight)
        in_flight = features, parallel.to_host(arrays)
    if in_flight:
        keep(*in_flight)
    if not seen.all():
        raise ValueError(f'{np.sum(~seen)} of the {num_examples} examples are in no batch.')
    names = [*variables, 'raw_pixels'] if raw_pixels else variables  # jit has sorted them
    return Features({name: values[name] for name in names}, labels, np.arange(num_examples))


def make_extraction(
    encoders: dict[str, nn.Module],
    mesh: Mesh,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    raw_pixels: bool,
):
    """Returns the jitted function from variables, as `extract_features` takes them, and images.

    Images are `[batch, 1, height, width, channel]` uint8, spread over `mesh`; every device gets all
    features `[batch, dim]`, by name. The function of the same arguments is the same one, so that it
    is compiled once for several sets of variables.
    """
    return _extraction(tuple(encoders.items()), mesh, tuple(mean), tuple(std), raw_pixels)


@functools.lru_cache(maxsize=8)
def _extraction(encoders, mesh, mean, std, raw_pixels):
    modules = dict(encoders)

    def apply(variables, images):
        normalized = normalize_images(images[:, 0], mean, std)
        values = {
            name: modules[name].apply(tree, normalized, train=False)
            for name, tree in variables.items()
        }
        if raw_pixels:
            values['raw_pixels'] = _shrink(normalized).reshape(len(normalized), -1)
        return values

    replicated = parallel.replicated(mesh)
    return jax.jit(
        apply, in_shardings=(replicated, parallel.batch_sharding(mesh)), out_shardings=replicated
    )


def _shrink(images: jax.Array) -> jax.Array:
    count, height, width, channels = images.shape
    if max(height, width) <= RAW_PIXELS_SIZE:
        return images
    size = min(RAW_PIXELS_SIZE, height), min(RAW_PIXELS_SIZE, width)
    return jax.image.resize(images, (count, *size, channels), 'linear', antialias=True)
