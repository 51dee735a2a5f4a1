"""Windows of pictures in batches on the devices."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from simclr_jax import parallel


def in_batches(cut: np.ndarray, rows: int, mesh: Mesh) -> Iterator[jax.Array]:
    """Yields windows `[n, ...]` in batches of `rows`, the last one filled up, on the devices."""
    for start in range(0, len(cut), rows):
        some = cut[start : start + rows]
        batch = np.zeros((rows, *cut.shape[1:]), cut.dtype)
        batch[: len(some)] = some
        yield jax.device_put(batch, parallel.batch_sharding(mesh))
