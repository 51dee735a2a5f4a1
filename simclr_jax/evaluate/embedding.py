"""A vector for each of many pictures: threads decode, the device computes, parts go to the disk."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from simclr_jax.config import RunError
from simclr_jax.data.listing import Listing, Picture
from simclr_jax.evaluate.parts import ROWS, Part, Parts
from simclr_jax.progress import Progress
from simclr_jax.weights.encoder import Encoder
from simclr_jax.weights.views import Unreadable, view_of

_TASK = 16  # pictures that a thread decodes at once
_AHEAD = 3  # batches that are decoded before they are asked for
_SHOWN = 0.1  # seconds between two times that the progress is shown


class Batch(NamedTuple):
    """Decoded pictures of one part.

    Attributes:
      part: number of the part.
      numbers: of the pictures.
      views: uint8 `[batch_size, size, size, channel]`; a bad picture, and what fills up the batch,
        is black.
      labels: `[batch]`, -1 for none.
      bad: place in the batch, to the reason.
    """

    part: int
    numbers: range
    views: np.ndarray
    labels: np.ndarray
    bad: dict[int, str]


def embed(
    listing: Listing,
    encoder: Encoder,
    parts: Parts,
    missing: Sequence[int],
    *,
    forward: Callable[[np.ndarray], jax.Array] | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    before: int = 0,
) -> int:
    """Makes the vectors of some parts and saves them.

    A vector depends on its picture, and by rounding on its place in a batch. Batches are cut by the
    pictures' numbers, also past bad ones: so a run that goes on makes the same bits.

    Args:
      listing: the pictures.
      encoder: makes the vectors.
      parts: where they are saved.
      missing: numbers of the parts to make.
      forward: makes something else of views, `[batch, dim]`, such as logits; the features of
        `encoder` where None.
      workers: threads that decode; 0 for one a core.
      progress: shows how many pictures are done.
      before: pictures that were done before, for `progress`.

    Returns:
      How many pictures were looked at.

    Raises:
      RunError: the folder has gone, or a vector is not finite.
      OSError: a part cannot be written.
    """
    seen, bad, start, kept = 0, 0, time.monotonic(), []
    due, total = 0.0, before + parts.count(missing)

    def keep(batch: Batch, features: jax.Array) -> None:
        nonlocal seen, bad, kept, due
        vectors = np.asarray(jax.device_get(features), np.float32)[: len(batch.numbers)]
        kept.append((batch, vectors))
        seen, bad = seen + len(batch.numbers), bad + len(batch.bad)
        if batch.numbers.stop == parts.numbers(batch.part).stop:
            parts.save(batch.part, _part(kept, listing))
            kept = []
        if progress and (time.monotonic() > due or before + seen == total):
            due = time.monotonic() + _SHOWN
            rate = seen / max(time.monotonic() - start, 1e-9)
            progress.update(
                before + seen, {'images_per_second': rate} | ({'bad': bad} if bad else {})
            )

    in_flight = None
    for batch in _decode(listing, encoder, parts, missing, workers or os.cpu_count() or 1):
        features = (forward or encoder.forward)(batch.views)
        if in_flight:
            keep(*in_flight)
        in_flight = batch, features
    if in_flight:
        keep(*in_flight)
    return seen


def _part(batches: Sequence[tuple[Batch, np.ndarray]], listing: Listing) -> Part:
    rows, labels, vectors, bad = [], [], [], {}
    for batch, made in batches:
        good = np.ones(len(batch.numbers), bool)
        good[list(batch.bad)] = False
        numbers = np.array(batch.numbers, np.int64)
        finite = np.isfinite(made).all(axis=1)
        if not (finite | ~good).all():
            name = listing.file(int(numbers[good & ~finite][0]))
            raise RunError(
                f'{name}: the encoder makes a vector of it that is not finite; its weights are '
                'those of a training that diverged, or are read in the wrong way'
            )
        rows.append(numbers[good])
        labels.append(batch.labels[good])
        vectors.append(made[good])
        bad |= {int(numbers[place]): why for place, why in sorted(batch.bad.items())}
    return Part(np.concatenate(rows), np.concatenate(labels), np.concatenate(vectors), bad)


def _decode(
    listing: Listing, encoder: Encoder, parts: Parts, missing: Sequence[int], workers: int
) -> Iterator[Batch]:
    """Yields the batches of the parts that are missing, decoded by threads, some ahead."""
    waiting: deque[tuple[Batch, list[Future]]] = deque()
    size = _batch_size(encoder)
    executor = ThreadPoolExecutor(workers)
    try:
        for part in missing:
            everything = parts.numbers(part)
            for start in range(0, len(everything), size):
                numbers = everything[start : start + size]
                waiting.append(_begin(executor, listing, encoder, part, numbers))
                if len(waiting) > _AHEAD:
                    yield _finish(*waiting.popleft())
        while waiting:
            yield _finish(*waiting.popleft())
    finally:  # what is left would be decoded before the process ends
        executor.shutdown(wait=False, cancel_futures=True)


def _begin(
    executor: ThreadPoolExecutor, listing: Listing, encoder: Encoder, part: int, numbers: range
) -> tuple[Batch, list[Future]]:
    side, channels = encoder.preprocess.size, encoder.preprocess.channels
    views = np.zeros((_batch_size(encoder), side, side, channels), np.uint8)
    batch = Batch(part, numbers, views, np.full(len(numbers), -1, np.int32), {})

    def decode(start: int) -> None:
        some = numbers[start : start + _TASK]
        for place, picture in enumerate(listing.read(some), start):
            _view(batch, place, picture, encoder)

    return batch, [executor.submit(decode, i) for i in range(0, len(numbers), _TASK)]


def _view(batch: Batch, place: int, picture: Picture, encoder: Encoder) -> None:
    if picture.why:
        batch.bad[place] = picture.why
        return
    try:
        batch.views[place] = view_of(picture.encoded, encoder.preprocess)
        batch.labels[place] = picture.label
    except Unreadable as error:
        batch.bad[place] = str(error)


def _finish(batch: Batch, futures: Sequence[Future]) -> Batch:
    for future in futures:
        future.result()
    return batch


def features_of(encoder: Encoder, views: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the vectors of a few views, `[n, dim]` float32, by the program that `embed` runs."""
    size, made = _batch_size(encoder), []
    for start in range(0, len(views), size):
        some = np.stack(views[start : start + size])
        filled = np.pad(some, ((0, size - len(some)), (0, 0), (0, 0), (0, 0)))
        made.append(np.asarray(encoder.forward(filled))[: len(some)])
    return np.concatenate(made)


def _batch_size(encoder: Encoder) -> int:
    """Returns how many pictures go at once: no more than a part has, for each device as many."""
    devices = max(1, jax.local_device_count())
    return max(devices, min(encoder.batch_size, ROWS // devices * devices))
