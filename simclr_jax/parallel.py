"""The mesh, its one axis and the shardings: the only file that names a mesh axis.

The batch is sharded over every device, the train state is replicated. Semantics are global: under
`jax.jit` a mean over the batch axis is a mean over all devices of all processes.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.config import ConfigError

DATA_AXIS = 'data'

Tree = Any  # a pytree of arrays


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh over `devices`, by default every device of every process.

    A process's devices lie beside each other on it. `jax.make_mesh` follows the wires of a TPU
    instead, which interleaves its hosts, and takes no more than one slice. One axis over all
    devices gains nothing from that: its collectives are among all of them, in any order.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    # Auto axes: the compiler places what no annotation says.
    return Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array whose first axis is the batch."""
    return NamedSharding(mesh, P(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def check_batch_size(field: str, batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError where `batch_size` does not divide evenly over the mesh."""
    devices = mesh.devices.size
    if batch_size % devices:
        lower = batch_size // devices * devices
        near = f'{lower} or {lower + devices}' if lower else f'{devices}'
        raise ConfigError(
            f'{field}={batch_size}: is not divisible by the {devices} devices; use {near}'
        )


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Returns the rows of a global batch that this process reads: those of its devices, rising.

    They are what `put_batch` takes, and need not be beside each other.
    """
    shards = batch_sharding(mesh).devices_indices_map((batch_size,))
    mine = jax.process_index()
    places = [index for device, (index,) in shards.items() if device.process_index == mine]
    return np.sort(np.concatenate([np.arange(batch_size)[place] for place in places]))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of this process's `local_rows`, unless they are global already."""
    sharding = batch_sharding(mesh)
    return {
        name: rows
        if isinstance(rows, jax.Array)
        else jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }


def to_host(tree: Tree) -> Tree:
    """Returns the global arrays of `tree` whole, as NumPy arrays, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def own_copy(tree: Tree) -> Tree:
    """Returns replicated arrays as what one process can write down without the others.

    Where it is one of several, this is a copy in NumPy arrays; where it is alone, `tree` itself.
    """
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda array: np.array(array.addressable_data(0)), tree)


def everywhere(ok: bool) -> bool:
    """Returns, in every process, whether `ok` holds in all of them; each has to call it."""
    if jax.process_count() == 1:
        return ok
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array([ok]), tiled=True).all())


def all_texts(text: str) -> list[str]:
    """Returns the texts of all processes, by their number; every one has to call it."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    own = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(own)]), tiled=True)
    padded = np.zeros((1, max(lengths.max(), 1)), np.uint8)
    padded[0, : len(own)] = own
    rows = multihost_utils.process_allgather(padded, tiled=True)
    return [row[:n].tobytes().decode() for row, n in zip(rows, lengths, strict=True)]


def from_main_process(numbers: list[int]) -> list[int]:
    """Returns the first process's numbers in every process, so that all decide alike."""
    if jax.process_count() == 1:
        return numbers
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(np.array(numbers, np.int32)).tolist()


def is_main_process() -> bool:
    """Whether this process writes metrics, reports and messages."""
    return jax.process_index() == 0
