"""Iterates a tf.data pipeline, and ends its threads before Python ends.

Pipelines here call Python (`tf.numpy_function`) to read records. A call that is under way when
Python ends never returns, and whatever deletes the pipeline after that waits for it for ever. So a
pipeline must not outlive the program that reads it, in whatever an error's traceback keeps.
"""

import atexit
import sys
import traceback
import weakref
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

# Batches made before they are asked for: as many as fit, one at least.
_BYTES_AHEAD = 2**28
_MOST_AHEAD = 16

_open: weakref.WeakSet['_Batches'] = weakref.WeakSet()


def iterate(dataset: tf.data.Dataset, workers: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields what `dataset` holds, in order, made ahead by threads of tf.data.

    Args:
      dataset: batches.
      workers: threads for all its calls; 0 lets tf.data choose.
    """
    options = tf.data.Options()
    options.deterministic = True
    if workers:
        options.threading.private_threadpool_size = workers
    size = sum(
        # What is decoded at its own size has no shape beforehand: one batch ahead.
        (spec.shape.num_elements() or _BYTES_AHEAD) * spec.dtype.size
        for spec in tf.nest.flatten(dataset.element_spec)
    )
    ahead = max(1, min(_MOST_AHEAD, _BYTES_AHEAD // size))
    return _Batches(dataset.prefetch(ahead).with_options(options))


class _Batches(Iterator):
    def __init__(self, dataset: tf.data.Dataset):
        self._iterator = dataset.as_numpy_iterator()
        _open.add(self)

    def __next__(self) -> dict[str, np.ndarray]:
        if self._iterator is None:
            raise StopIteration
        before = sys.exception()
        try:
            return next(self._iterator)
        except BaseException as error:
            self.close()
            _forget(error, before)
            raise

    def close(self) -> None:
        """Ends the threads; there are no more batches."""
        self._iterator = None


def _forget(error: BaseException | None, before: BaseException | None) -> None:
    """Takes the pipeline out of the frames that an error keeps, and those that led to it.

    `before` is what the caller was handling already: its frames, and what led to it, are not ours.
    """
    while error is not None and error is not before:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


@atexit.register  # which runs while other threads may still call Python
def _close_all() -> None:
    for batches in list(_open):
        batches.close()
