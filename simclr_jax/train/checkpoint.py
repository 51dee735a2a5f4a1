"""Orbax behind one door: asynchronous saves of the train state, the last few kept."""

import pathlib

import jax
import orbax.checkpoint as ocp

from simclr_jax.train.state import TrainState


def checkpoint_path(workdir: str) -> str:
    """Returns where a workdir keeps its checkpoints."""
    if '://' in workdir:
        return f'{workdir.rstrip("/")}/checkpoints'
    return str(pathlib.Path(workdir).absolute() / 'checkpoints')  # Orbax wants an absolute path


class Checkpoints:
    """The checkpoints of one workdir, each the whole `TrainState` after that many steps."""

    def __init__(self, workdir: str, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(checkpoint_path(workdir), options=options)

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Starts saving; returns when the state may be donated, and writes in the background."""
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, abstract_state: TrainState) -> TrainState:
        """Reads a checkpoint into the shapes, types and shardings of `abstract_state`."""
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract_state))

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def abstract_like(tree, sharding: jax.sharding.Sharding):
    """Returns `tree` as `ShapeDtypeStruct`s with the given sharding."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
