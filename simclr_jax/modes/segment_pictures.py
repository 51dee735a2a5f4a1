"""Pictures with masks, read ahead, and their windows in batches on the devices."""

import collections
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from simclr_jax import parallel
from simclr_jax.data.masks import MaskSource

_AHEAD = 4  # pictures that are read before they are asked for


def read_ahead(
    source: MaskSource, indices: Sequence[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields index, picture and labels of some pictures in order, read by another thread."""
    with ThreadPoolExecutor(1) as executor:
        pending = collections.deque()
        for index in indices:
            pending.append((index, executor.submit(source.read, index)))
            if len(pending) > _AHEAD:
                index, future = pending.popleft()
                yield index, *future.result()
        for index, future in pending:
            yield index, *future.result()


def in_batches(cut: np.ndarray, rows: int, mesh: Mesh) -> Iterator[jax.Array]:
    """Yields windows `[n, ...]` in batches of `rows`, the last one filled up, on the devices."""
    for start in range(0, len(cut), rows):
        some = cut[start : start + rows]
        batch = np.zeros((rows, *cut.shape[1:]), cut.dtype)
        batch[: len(some)] = some
        yield jax.device_put(batch, parallel.batch_sharding(mesh))
