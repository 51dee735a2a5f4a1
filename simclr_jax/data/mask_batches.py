"""Batches of crops of pictures with masks to train on, made ahead by threads, without TensorFlow.

What a batch holds is a function of the seed and the step alone: the order is that of `order.py`,
and what is drawn for a row is drawn from (seed, step, row). So a run that goes on has the batches
of one that never stopped, whatever the number of threads and processes.

The changes are those that mmsegmentation makes for DINOv2's linear probe: RandomResize, RandomCrop,
RandomFlip and PhotoMetricDistortion (mmseg/datasets/transforms/transforms.py).
"""

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from PIL import Image

from simclr_jax.data import mask_distort, order
from simclr_jax.data.masks import MaskSource

_TRIES = 10  # crops drawn, at most, after one that is nearly all of one class
_BYTES_AHEAD = 2**27  # of batches that are made before they are asked for
_MOST_AHEAD = 8  # batches
_STREAM = 0x5E6  # beside the seed: no other draws are like these
T = TypeVar('T')


def train_batches(
    source: MaskSource,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    total_steps: int,
    size: int,
    rows: np.ndarray | slice | None = None,
    scale: tuple[float, float] = (0.5, 2.0),
    resize: int = 0,
    flip: bool = True,
    distort: bool = True,
    fill: Sequence[int] = (124, 116, 104),
    most: float = 0.75,
    workers: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of steps `start_step` to `total_steps - 1`.

    A batch holds `image` `[batch, 1, size, size, channel]` uint8, `label` `[batch, size, size]`
    int32, -1 for pixels that are ignored, and `index` `[batch]` int64. A batch of more pictures
    than there are has some of them several times.

    Args:
      source: the pictures and masks.
      seed: of the order and of what is drawn.
      batch_size: of the global batch.
      start_step: the first step; nothing before it is read.
      total_steps: where the stream ends.
      size: height and width of a crop, in pixels.
      rows: which rows of the global batch to make; all where None.
      scale: the least and the most that the shorter side is made longer by.
      resize: the shorter side before that, in pixels; 0 for the picture's own.
      flip: whether one crop in two is mirrored.
      distort: whether the picture's colours are changed.
      fill: the pixel, `[channel]` or one number, 0 to 255, right of and below a picture that is
        smaller than the crop; its label is -1.
      most: the largest share of a crop's labelled pixels that one class should have; after
        `_TRIES` further crops the last one is taken, as in mmsegmentation.
      workers: threads; 0 for as many as there are processors.

    Raises:
      RunError: a file is no longer what it was.
    """
    rows = np.arange(batch_size)[slice(None) if rows is None else rows]
    copies = -(-batch_size // source.num_examples)
    fill = np.broadcast_to(np.asarray(fill, np.uint8), [source.channels])

    def indices_of(step: int) -> np.ndarray:
        total = source.num_examples * copies
        return order.batch_indices(seed, step, batch_size, total)[rows] % source.num_examples

    def make(place: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        step, row, index = place
        rng = np.random.default_rng([_STREAM, seed % 2**64, step, row])
        picture, labels = source.read(index)
        return crop(
            picture,
            labels,
            rng,
            size=size,
            scale=scale,
            resize=resize,
            flip=flip,
            distort=distort,
            fill=fill,
            most=most,
        )

    def places() -> Iterator[tuple[int, int, int]]:
        for step in range(start_step, total_steps):
            for row, index in zip(rows.tolist(), indices_of(step).tolist(), strict=True):
                yield step, row, index

    bytes_ = size * size * (source.channels + 4)
    ahead = max(2, min(_MOST_AHEAD * len(rows), _BYTES_AHEAD // bytes_))
    made = _ahead(make, places(), ahead, workers)
    for step in range(start_step, total_steps):
        pairs = [next(made) for _ in rows]
        yield {
            'image': np.stack([picture for picture, _ in pairs])[:, None],
            'label': np.stack([labels for _, labels in pairs]),
            'index': indices_of(step),
        }


def whole(
    source: MaskSource, indices: Iterable[int] | None = None, workers: int = 0
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields `(index, picture, labels)`, as `source.read` returns them, in order, read ahead.

    Args:
      source: the pictures and masks.
      indices: which ones; all, once, where None.
      workers: threads; 0 for as many as there are processors.

    Raises:
      RunError: a file is no longer what it was.
    """
    indices = range(source.num_examples) if indices is None else indices
    largest = source.largest[0] * source.largest[1] * (source.channels + 4)
    ahead = max(2, min(64, _BYTES_AHEAD // largest))
    return _ahead(lambda index: (int(index), *source.read(int(index))), indices, ahead, workers)


def crop(
    picture: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    size: int,
    scale: tuple[float, float],
    resize: int,
    flip: bool,
    distort: bool,
    fill: np.ndarray,
    most: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a random crop of a picture uint8 `[h, w, channel]` and of its labels `[h, w]`.

    The arguments are those of `train_batches`; the results are `[size, size, channel]` uint8 and
    `[size, size]` int32.
    """
    height, width, channels = picture.shape
    side = (resize or min(height, width)) * (scale[0] + rng.random() * (scale[1] - scale[0]))
    ratio = side / min(height, width)
    # What the picture becomes; only what the crop shows is made of it.
    tall, wide = (max(1, round(length * ratio)) for length in (height, width))
    rows, columns = min(size, tall), min(size, wide)
    y, x, small = choose(labels, (tall, wide), (rows, columns), rng, most)
    box = [x * width / wide, y * height / tall, (x + columns) * width / wide]
    box.append((y + rows) * height / tall)
    image = Image.fromarray(picture[..., 0] if channels == 1 else picture)
    box = tuple(min(edge, end) for edge, end in zip(box, (width, height) * 2, strict=True))
    image = image.resize((columns, rows), Image.Resampling.BILINEAR, box)
    shown = np.asarray(image).reshape(rows, columns, channels)
    if flip and rng.random() < 0.5:
        shown, small = shown[:, ::-1], small[:, ::-1]
    if distort:
        shown = mask_distort.distort(shown, rng)
    if (rows, columns) == (size, size):
        return np.ascontiguousarray(shown), np.ascontiguousarray(small)
    padded = np.empty((size, size, channels), np.uint8)
    padded[:] = fill
    padded[:rows, :columns] = shown
    padded_labels = np.full((size, size), -1, np.int32)
    padded_labels[:rows, :columns] = small
    return padded, padded_labels


def choose(
    labels: np.ndarray,
    whole: tuple[int, int],
    shape: tuple[int, int],
    rng: np.random.Generator,
    most: float,
) -> tuple[int, int, np.ndarray]:
    """Draws where a crop of `shape` is in a picture that is made `whole` high and wide.

    Returns:
      Its top and left, and its labels, int32 of `shape`.
    """
    for _ in range(_TRIES + 1):
        y, x = (int(rng.integers(0, w - s + 1)) for w, s in zip(whole, shape, strict=True))
        down, across = (
            _nearest(start, count, made, length)
            for start, count, made, length in zip((y, x), shape, whole, labels.shape, strict=True)
        )
        small = labels[down[:, None], across]
        if most >= 1:
            break
        counts = np.bincount(small[small >= 0])
        counts = counts[counts > 0]
        if len(counts) > 1 and counts.max() / counts.sum() < most:
            break
    return y, x, small


def _nearest(start: int, count: int, made: int, length: int) -> np.ndarray:
    """Of `count` pixels from `start` on, among `made` of `length` ones: which each one is."""
    centers = 2 * np.arange(start, start + count) + 1  # in halves: whole numbers do not round
    return centers * length // (2 * made)


def _ahead(function: Callable[..., T], items: Iterable, ahead: int, workers: int) -> Iterator[T]:
    """Yields `function(item)` in order, of which at most `ahead` are begun before asked for."""
    executor = ThreadPoolExecutor(workers or os.cpu_count())
    waiting: collections.deque[Future] = collections.deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also where nobody asks for more
        executor.shutdown(wait=False, cancel_futures=True)
