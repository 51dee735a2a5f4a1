"""Rows that a host holds, read in blocks and spread over the devices without a second copy."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simclr_jax import parallel

MAX_BLOCK = 2**24  # values of a block of rows: 64 MiB of float32


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of `values` `[row, ...]`, which stay where they are until a slice is asked for.

    Attributes:
      values: the array.
      index: `[n]`, which rows, in which order.
      transform: from any of the rows `[m, ...]` to what is read in their place.
    """

    values: np.ndarray
    index: np.ndarray
    transform: Callable[[np.ndarray], np.ndarray] = lambda rows: rows

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.index), *self.values.shape[1:])

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.transform(self.values[self.index[rows]])

    def take(self, rows: slice | np.ndarray) -> 'Rows':
        """Returns some of them, also without reading."""
        return dataclasses.replace(self, index=self.index[rows])


def local_mesh() -> Mesh:
    """Returns a mesh of the devices of this process alone."""
    return parallel.make_mesh(jax.local_devices())


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yields the rows of an array of this shape in order, a block at a time."""
    size = _block_rows(shape)
    for start in range(0, shape[0], size):
        yield slice(start, min(start + size, shape[0]))


def put_rows(rows: np.ndarray | Rows, padded: int, mesh: Mesh) -> jax.Array:
    """Returns a global array `[padded, ...]`, spread over the devices of `mesh` by rows.

    Every process has all the rows on its host and puts those of its own devices there, a block at a
    time: the host holds no second copy. Rows past the last are zeros.

    Args:
      rows: `[row, ...]`, the same in every process.
      padded: number of rows of the result, a multiple of the number of devices.
      mesh: the devices.
    """
    shape, sharding = (padded, *rows.shape[1:]), parallel.batch_sharding(mesh)
    shards = []
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        start, stop, _ = index[0].indices(padded)
        shards.append(_put_shard(rows, start, stop, device))
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def _put_shard(rows: np.ndarray | Rows, start: int, stop: int, device: jax.Device) -> jax.Array:
    end = max(start, min(stop, len(rows)))
    size = _block_rows((stop - start, *rows.shape[1:]))
    if stop - start <= size:
        part = rows[start:end]
        missing = stop - start - len(part)
        if missing:
            part = np.pad(part, ((0, missing),) + ((0, 0),) * (part.ndim - 1))
        return jax.device_put(part, device)
    dtype = rows[0:0].dtype
    shard = jnp.zeros((stop - start, *rows.shape[1:]), dtype, device=device)
    for first in range(start, end, size):
        first = max(start, min(first, end - size))  # all blocks have one shape, if they can
        part = jax.device_put(rows[first : min(first + size, end)], device)
        # Waits, so that no more than a block is on its way.
        shard = jax.block_until_ready(_write(shard, part, first - start))
    return shard


@partial(jax.jit, donate_argnums=0)
def _write(shard: jax.Array, part: jax.Array, start: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(shard, part, start, axis=0)


def _block_rows(shape: tuple[int, ...]) -> int:
    return max(1, MAX_BLOCK // max(1, math.prod(shape[1:])))
