"""What an encoder sees of a picture, made on the host with NumPy: no TensorFlow, no compilation.

The same view as the pipeline's (`decode.central_view`), for pictures of any size.
"""

import functools
from typing import NamedTuple

import numpy as np

from simclr_jax.data import pictures

_ROWS = 8  # of the result that are made by one matrix product
# Factors of a product that OpenBLAS does alone. It would share a larger one among threads of its
# own, of which there is one set: several pictures at once would wait for each other.
_ALONE = 2**18


class _Block(NamedTuple):
    """Some rows of the result: `weights` `[row, source]` times the rows `start` to `stop`."""

    start: int
    stop: int
    weights: np.ndarray


def central_view(
    pixels: np.ndarray,
    *,
    image_size: int,
    crop: float = 1.0,
    interpolation: str = 'bicubic',
    antialias: bool = False,
) -> np.ndarray:
    """Returns the central square of a picture, uint8 `[image_size, image_size, channel]`.

    It equals `tf.image.resize` of the square, up to rounding.

    Args:
      pixels: uint8 `[height, width, channel]`.
      image_size: height and width of the view, in pixels.
      crop: side of the square, as a share of the picture's shorter side.
      interpolation: 'bicubic' or 'bilinear'.
      antialias: whether what is made smaller is averaged over all its pixels; it always is where
        two pixels or more become one.
    """
    height, width, channels = pixels.shape
    side = int(np.round(np.float32(min(height, width)) * np.float32(crop)))
    y, x = (height - side) // 2, (width - side) // 2
    square = pixels[y : y + side, x : x + side]
    if side == image_size:
        return square
    antialias = antialias or side > pictures.MAX_ALIASED_RATIO * image_size
    blocks = _blocks(side, image_size, interpolation, antialias)
    rows = _multiply(blocks, square.reshape(side, -1)).reshape(image_size, side, channels)
    columns = _multiply(blocks, _swap_axes(rows).reshape(side, -1))
    np.rint(columns, out=columns)
    view = columns.clip(0, 255, out=columns).astype(np.uint8)
    return _swap_axes(view.reshape(image_size, image_size, channels))


def _swap_axes(image: np.ndarray) -> np.ndarray:
    """Swaps rows and columns; a pixel is moved whole, which takes half the time."""
    *sides, channels = image.shape
    pixels = image.view(f'V{channels * image.itemsize}').reshape(sides)
    return np.ascontiguousarray(pixels.T).view(image.dtype).reshape(*sides[::-1], channels)


def _multiply(blocks: tuple[_Block, ...], rows: np.ndarray) -> np.ndarray:
    """Resamples the first axis of `rows` `[source, n]` to float32 `[size, n]`."""
    made = np.empty((sum(len(block.weights) for block in blocks), rows.shape[1]), np.float32)
    first = 0
    for start, stop, weights in blocks:
        window = rows[start:stop].astype(np.float32, copy=False)
        columns = max(1, _ALONE // weights.size)
        for left in range(0, window.shape[1], columns):
            part = slice(left, left + columns)
            np.matmul(weights, window[:, part], out=made[first : first + len(weights), part])
        first += len(weights)
    return made


@functools.lru_cache(512)
def _blocks(source: int, size: int, interpolation: str, antialias: bool) -> tuple[_Block, ...]:
    """Returns the weights that resample `source` pixels to `size`, as `jax_ops` has them."""
    scale = np.float32(source / size)
    wide = max(scale, np.float32(1)) if antialias else np.float32(1)  # of the kernel
    centre = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    whole = np.floor(centre)
    fraction = centre - whole
    if interpolation == 'bicubic' and not antialias:
        fraction = np.round(fraction * 1024) / 1024  # TensorFlow's table has 1024 steps
    reach = (2 if interpolation == 'bicubic' else 1) * wide
    firsts = np.arange(0, size, _ROWS)
    length = min(source, int(np.ceil((_ROWS - 1) * scale + 2 * reach)) + 2)
    starts = np.clip(np.floor(centre[firsts] - reach), 0, source - length).astype(int)
    pixel = starts.repeat(_ROWS)[:size, None] + np.arange(length, dtype=np.float32)
    distance = np.abs(pixel - (whole + fraction)[:, None]) / wide
    weights = _kernel(distance, interpolation)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return tuple(
        _Block(start, start + length, weights[first : first + _ROWS])
        for first, start in zip(firsts, starts.tolist(), strict=True)
    )


def _kernel(distance: np.ndarray, interpolation: str) -> np.ndarray:
    if interpolation == 'bilinear':
        return np.maximum(1 - distance, 0)
    near = (1.5 * distance - 2.5) * distance * distance + 1  # Keys (1981), a = -1/2
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
