"""The mesh, its one axis and the shardings: the only file that names a mesh axis.

The batch is sharded over every device, the train state is replicated. Semantics are global: under
`jax.jit` a mean over the batch axis is a mean over all devices of all processes.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.config import ConfigError, RunError

DATA_AXIS = 'data'
_DAYS = 7 * 24 * 3600 * 1000  # milliseconds
T = TypeVar('T')

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


def put_everywhere(tree: Tree, mesh: Mesh) -> Tree:
    """Returns arrays that every device holds whole; every process gives the same ones."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x, np.shape(x)), tree
    )


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


_made = itertools.count()  # names what `made_by_main_process` waits for, alike in all processes


def made_by_main_process(
    make: Callable[[], T], pack: Callable[[T], bytes], unpack: Callable[[bytes], T]
) -> T:
    """Returns what `make` does in the first process, in every process; the others wait for it.

    It may take hours: the others ask the coordinator, as a collective would give up.

    Raises:
      ConfigError, RunError: `make` raised it in the first process.
    """
    if jax.process_count() == 1:
        return make()
    from jax._src import distributed  # there is no public way to its client
    from jax.experimental import multihost_utils

    client = distributed.global_state.client
    key, made, error, packed = f'simclr_jax/made/{next(_made)}', None, None, b''
    if is_main_process():
        answer = {'size': 0}
        try:
            made = make()
            packed = pack(made)
            answer['size'] = len(packed)
        except (ConfigError, RunError) as raised:
            error = raised
            answer |= {'error': str(raised), 'config': isinstance(raised, ConfigError)}
        client.key_value_set(key, json.dumps(answer))
    answer = json.loads(client.blocking_key_value_get(key, _DAYS))
    if 'error' in answer:
        raise error or (ConfigError if answer['config'] else RunError)(answer['error'])
    bytes_ = np.frombuffer(packed, np.uint8) if packed else np.zeros(answer['size'], np.uint8)
    packed = multihost_utils.broadcast_one_to_all(bytes_)
    return made if is_main_process() else unpack(packed.tobytes())


def wait_for_all() -> None:
    """Waits until all processes have come here, days if need be; a collective would give up."""
    if jax.process_count() > 1:
        from jax._src import distributed  # there is no public way to its client

        client = distributed.global_state.client
        client.wait_at_barrier(f'simclr_jax/all/{next(_made)}', _DAYS)


def least(number: float) -> float:
    """Returns the least of the processes' numbers, as float32, in every process."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return float(multihost_utils.process_allgather(np.float32(number)).min())


_GRACE = 5.0  # seconds
_ERRORS = 'simclr_jax/errors/'  # where processes of one run find why another one has ended


def tell_others(error: str) -> None:
    """Leaves word for the other processes of why this one ends; they may be about to find it gone.

    The first process waits a moment for them to do the same: JAX aborts them when it ends.
    """
    from jax._src import distributed  # there is no public way to its client

    with contextlib.suppress(Exception):  # the coordinator may be gone
        distributed.global_state.client.key_value_set(f'{_ERRORS}{jax.process_index()}', error)
    if is_main_process():
        deadline = time.monotonic() + _GRACE
        while len(told_by_all()) < jax.process_count() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)  # from their word to their end


def told_by_all() -> list[str]:
    """Returns why processes of this run have ended, as far as they told."""
    from jax._src import distributed

    try:
        told = distributed.global_state.client.key_value_dir_get(_ERRORS)
    except Exception:  # the coordinator is gone
        return []
    return [f'process {key.rpartition("/")[2]}: {error}' for key, error in sorted(told)]


def is_main_process() -> bool:
    """Whether this process writes metrics, reports and messages."""
    return jax.process_index() == 0
