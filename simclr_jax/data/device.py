"""`data.cache='device'`: a data set as uint8 in device memory, read once, without TensorFlow.

The same batches as `pipeline.py`'s, drawn by index where the data already is.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simclr_jax import parallel
from simclr_jax.augment import jax_ops
from simclr_jax.augment.recipe import ViewRecipe
from simclr_jax.config import ConfigError, RunError
from simclr_jax.data import example, order, pictures
from simclr_jax.data.sources import Source

_GROUP = 256  # records read at once
_FILES = 8  # files read at once: they may be large
_SHARE = 0.5  # of a device's memory that the data may take


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Every example: `images` `[n, *canvas]` uint8, `sizes` `[n, 2]`, `labels` `[n]`, or -1."""

    images: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray


def _decode(source: Source, index: int, record: bytes) -> tuple[np.ndarray, int]:
    """Returns the picture in the canvas' size, and the label, of the record that was read."""
    height, width, channels = source.canvas_shape
    while True:
        encoded, label, orientation = example.parse(record)
        how = {'intensity': source.intensity, 'turn': orientation != 1}
        try:
            return pictures.decode(encoded, channels, max(height, width), **how), label
        except Exception as reason:  # Pillow's decoders raise anything on damage
            if source.leave_out is None:
                raise RunError(f'record {index} cannot be decoded: {reason}') from reason
            source.leave_out(index, str(reason))
            (record,) = source.read([index])


@functools.cache
def load(source: Source) -> Arrays:
    """Reads and decodes a source whole, once.

    Raises:
      ConfigError: it takes more than half of a device's memory.
    """
    shape = (source.num_examples, *source.canvas_shape)
    limit = (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit')
    if limit and np.prod(shape, dtype=np.int64) > _SHARE * limit:
        raise ConfigError(
            f"data.cache='device': {np.prod(shape, dtype=np.int64) / 2**30:.1f} GiB of pictures do "
            f"not fit into half of a device's {limit / 2**30:.1f} GiB; use data.cache='none'"
        )
    images = np.zeros(shape, np.uint8)
    sizes = np.zeros((len(images), 2), np.int32)
    labels = np.full(len(images), -1, np.int32)

    def fill(start: int) -> None:
        indices = range(start, min(start + group, len(images)))
        for i, record in zip(indices, source.read(indices), strict=True):
            image, labels[i] = _decode(source, i, record)
            sizes[i] = image.shape[:2]
            images[i, : image.shape[0], : image.shape[1]] = image

    group = _FILES if source.from_files else _GROUP
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        list(executor.map(fill, range(0, len(images), group)))
    return Arrays(images, sizes, labels)


def train_batches(
    source: Source,
    mesh: Mesh,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    total_steps: int,
    rows: np.ndarray | slice | None = None,
    drop_remainder: bool = True,
) -> Iterator[dict[str, jax.Array]]:
    """Yields what `pipeline.canvas_batches` does, as global arrays on the mesh."""
    rows = np.arange(batch_size)[slice(None) if rows is None else rows]
    arrays = load(source)
    everywhere, split = parallel.replicated(mesh), parallel.batch_sharding(mesh)
    data = {'image': arrays.images, 'size': arrays.sizes}
    if source.label_names is not None:
        data['label'] = arrays.labels
    data = {
        name: jax.make_array_from_process_local_data(everywhere, values, values.shape)
        for name, values in data.items()
    }

    @functools.partial(jax.jit, in_shardings=(everywhere, split), out_shardings=split)
    def take(data, index):
        return {name: values[index] for name, values in data.items()} | {'index': index}

    for step in range(start_step, total_steps):
        index = order.batch_indices(seed, step, batch_size, source.num_examples, drop_remainder)[
            rows
        ]
        yield take(data, parallel.put_batch({'index': index.astype(np.int32)}, mesh)['index'])


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    rows: np.ndarray | slice | None = None,
    workers: int = 0,
    **how,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields what `pipeline.eval_batches` does."""
    del workers  # nothing is left to do in parallel
    rows = np.arange(batch_size)[slice(None) if rows is None else rows]
    arrays = load(source)
    for start in range(0, source.num_examples, batch_size):
        positions = np.arange(start, start + batch_size)[rows]
        index = np.minimum(positions, source.num_examples - 1)
        yield {
            'image': read_images(source, index, **how)[:, None],
            'index': index,
            'mask': (positions < source.num_examples).astype(np.float32),
            'label': arrays.labels[index],
        }


def read_images(
    source: Source,
    indices: np.ndarray,
    *,
    image_size: int,
    crop: float = 1.0,
    interpolation: str = 'bicubic',
    antialias: bool = False,
) -> np.ndarray:
    """Returns what `pipeline.read_images` does."""
    arrays = load(source)
    images, sizes = arrays.images[indices], arrays.sizes[indices]
    if crop == 1 and images.shape[1:3] == (image_size, image_size) and (sizes == image_size).all():
        return images
    recipe = ViewRecipe(interpolation=interpolation, antialias=antialias)
    return np.asarray(_central_views(images, sizes, image_size, crop, recipe))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _central_views(
    images: jax.Array, sizes: jax.Array, image_size: int, crop: float, recipe: ViewRecipe
) -> jax.Array:
    side = jnp.round(sizes.min(axis=1).astype(jnp.float32) * crop)
    y, x = ((sizes[:, axis] - side) // 2 for axis in (0, 1))
    boxes = jnp.stack([y, x, side, side], axis=1)
    most = pictures.MAX_ALIASED_RATIO * image_size
    recipes = [recipe]
    if min(images.shape[1:3]) * crop > most:  # some may be that large
        recipes.append(dataclasses.replace(recipe, antialias=True))
    views = jax_ops.crop_and_resize(
        images, sizes.astype(jnp.float32), [boxes] * len(recipes), tuple(recipes), image_size
    )
    shown = jnp.where((side > most)[:, None, None, None], views[:, -1], views[:, 0])
    return jnp.round(shown).astype(jnp.uint8)
