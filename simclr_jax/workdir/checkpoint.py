"""Checkpoints: written by Orbax in the background, verified before they are trusted.

`checkpoints/<step>/` has the layout of Orbax's `CheckpointManager` and a list of the checksums of
its files, written last. The empty file `<step>.saving` stands beside it until then, so that a save
cut short by a kill is not taken for damage.
"""

import contextlib
import errno
import functools
import logging
import os
import pathlib
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from simclr_jax import parallel
from simclr_jax.config import RunError
from simclr_jax.workdir import checksums

Tree = Any  # a pytree of arrays

_MAX_FAILURES = 3  # saves in a row
_GOES_ON = 'the run goes on and tries again at the next checkpoint'


def checkpoint_path(workdir: str) -> str:
    """Returns where a workdir keeps its checkpoints."""
    if '://' in workdir:
        return f'{workdir.rstrip("/")}/checkpoints'
    return str(pathlib.Path(workdir).absolute() / 'checkpoints')  # Orbax wants an absolute path


class Checkpoints:
    """The checkpoints of one workdir, each a whole train state after that many steps."""

    def __init__(self, workdir: str, keep: int):
        self._path = epath.Path(checkpoint_path(workdir))
        self._keep = keep
        # Items are saved under names; CheckpointManager's name for an only one is 'default'.
        options = _alone()
        handler = ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=options)
        )
        self._checkpointer = ocp.AsyncCheckpointer(handler, multiprocessing_options=options)
        self._executor = ThreadPoolExecutor(1)
        self._saving: tuple[int, Future | None] | None = None
        self._failures = 0
        _silence_orbax()

    def latest_step(self) -> int | None:
        """Returns the step of the newest whole checkpoint; None where nothing was saved yet.

        Every file is read and compared with its checksum. Where one is damaged it is named on
        stderr and the checkpoint before it is looked at, as where a killed process left one
        unfinished.

        Raises:
          RunError: checkpoints are there, but none is whole, or they cannot be read.
        """
        step, problems, unreadable = -1, [], None
        if parallel.is_main_process():
            try:
                step, problems = self._newest_whole()
            except OSError as error:
                unreadable = error
        numbers = [-1 if step is None else step, len(problems), int(unreadable is not None)]
        step, damaged, failed = parallel.from_main_process(numbers)
        if failed:
            reason = f': {unreadable}' if unreadable else '; the first process says why'
            raise RunError(
                f'{self._path}: cannot be read{reason}. Nothing was changed; mend that and give '
                'the same command again'
            ) from unreadable
        if step >= 0:
            return step
        if damaged:
            names = '\n'.join(f'  {problem}' for problem in problems)
            raise RunError(
                f'{self._path}: no checkpoint there is whole; nothing was changed. Bring one back '
                f'from a copy, or give another --workdir to start anew\n{names}'
            )
        return None

    def _newest_whole(self) -> tuple[int | None, list[str]]:
        """The newest whole step, and what is wrong with newer ones that were once complete."""
        problems = []
        for step in sorted(self._steps(), reverse=True):
            found = checksums.damage(self._path / str(step))
            if not found:
                return step, problems
            if self._marker(step).exists():
                _warn(f'checkpoint {step} is not used: its save was cut short')
                continue
            problems += found
            for problem in found:
                _warn(f'checkpoint {step} is not used: {problem}')
        return None, problems

    def save(self, step: int, state: Tree, first: Callable[[], None] = lambda: None) -> None:
        """Starts saving; returns when the state may be donated, and writes in the background.

        The first process writes, since every process holds the whole state. All of them call this
        at the same steps and learn how it went: a save that fails in one process has failed in all.
        A save that fails, now or in the background, is a warning; the next call tries again.

        Args:
          step: of the state.
          state: what is saved.
          first: what has to be on disk before it; where it raises, the save has failed.

        Raises:
          RunError: the third save in a row failed.
        """
        self._settle()
        if self._agreed(step, first) and self._agreed(step, lambda: self._begin(step, state)):
            future = None
            if parallel.is_main_process():
                future = self._executor.submit(self._finish, step)
            self._saving = step, future

    def _agreed(self, step: int, work: Callable[[], None]) -> bool:
        """Does `work` in every process; returns whether it went well in all of them."""
        problem = None
        try:
            work()
        except Exception as error:  # Orbax and TensorStore raise many kinds
            problem = error
            _warn(f'{self._failure(step, error)}; {_GOES_ON}')
        return self._count(step, problem)

    def _begin(self, step: int, state: Tree) -> None:
        if not parallel.is_main_process():
            return
        self._remove_unfinished()
        self._path.mkdir(parents=True, exist_ok=True)
        self._marker(step).touch()
        self._checkpointer.save(
            self._path / str(step),
            ocp.args.Composite(default=ocp.args.StandardSave(parallel.own_copy(state))),
            force=True,  # what has this name is damaged: latest_step() went past it
        )

    def wait(self) -> bool:
        """Waits for the save under way; returns whether the last one is on disk."""
        self._settle()
        return not self._failures

    def save_and_wait(
        self, step: int, state: Tree, first: Callable[[], None] = lambda: None
    ) -> None:
        """As `save`, at once again where that fails; returns when it is on disk.

        Raises:
          RunError: the third save in a row failed.
        """
        self.save(step, state, first)
        while not self.wait():
            self.save(step, state, first)

    def restore(self, step: int, abstract_state: Tree) -> Tree:
        """Reads a checkpoint into the shapes, types and shardings of `abstract_state`."""
        items = ocp.args.Composite(default=ocp.args.StandardRestore(abstract_state))
        return self._checkpointer.restore(self._path / str(step), items)['default']

    def restore_some(self, step: int, choose: Callable[[Tree], Tree]) -> Tree:
        """Reads parts of a checkpoint as NumPy arrays, by what the checkpoint says of itself.

        Args:
          step: of the checkpoint.
          choose: takes the whole state as nested dicts, whose leaves have a shape and a type, and
            returns those of them that are read, in their places.
        """
        options = _alone()
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
        with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
            item = self._path / str(step) / 'default'
            tree = choose(checkpointer.metadata(item).item_metadata.tree)
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
            how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            arguments = ocp.args.PyTreeRestore(shapes, restore_args=how, partial_restore=True)
            return checkpointer.restore(item, args=arguments)

    def close(self) -> None:
        """Waits for the save under way, in this process alone: the others may be gone."""
        if self._saving and self._saving[1]:
            self._saving[1].exception()  # _finish has said what it is
        self._saving = None
        self._executor.shutdown()
        self._checkpointer.close()

    def _steps(self) -> list[int]:
        if not self._path.exists():
            return []
        return [int(path.name) for path in self._path.iterdir() if path.name.isdigit()]

    def _marker(self, step: int) -> epath.Path:
        return self._path / f'{step}.saving'

    def _finish(self, step: int) -> None:
        """Runs in the background: waits for the files, seals them, removes what is too old."""
        try:
            self._checkpointer.wait_until_finished()
            checksums.write(self._path / str(step))
            self._marker(step).unlink()
            steps = sorted(self._steps())
            # Later ones are damaged: the run has gone back to before them.
            keep = [other for other in steps if other <= step][-self._keep :]
            for other in steps:
                if other not in keep:
                    _remove(self._path / str(other))
        except Exception as error:  # said now: the next save may be an hour away
            _warn(f'{self._failure(step, error)}; {_GOES_ON}')
            raise

    def _settle(self) -> None:
        """Waits for the save under way."""
        if self._saving is None:
            return
        (step, future), self._saving = self._saving, None
        if self._count(step, future.exception() if future else None):
            self._failures = 0

    def _count(self, step: int, problem: BaseException | None) -> bool:
        """Returns whether no process has a problem; counts the failure where one has.

        Raises:
          RunError: it was the third in a row.
        """
        if parallel.everywhere(problem is None):
            return True
        self._failures += 1
        if self._failures >= _MAX_FAILURES:
            text = f'saving step {step} in {self._path} failed in another process, which says why'
            raise RunError(
                f'{self._failure(step, problem) if problem else text}. That was the third time in '
                'a row; make room or mend the permissions and give the same command again: what '
                'was saved before is whole'
            ) from problem
        return False

    def _failure(self, step: int, error: BaseException) -> str:
        return f'saving step {step} in {self._path} failed: {_reason(error)}'

    def _remove_unfinished(self) -> None:
        """Makes room: removes what killed and failed saves left behind."""
        paths = list(self._path.iterdir()) if self._path.exists() else ()
        for path in paths:
            unfinished = path.name.isdigit() and not (path / checksums.NAME).exists()
            if unfinished or '.orbax-checkpoint-tmp' in path.name:
                with contextlib.suppress(OSError):  # a failed save may still be writing there
                    _remove(path)
        for path in paths:
            if path.name.endswith('.saving'):
                path.unlink()


def abstract_like(tree, sharding: jax.sharding.Sharding):
    """Returns `tree` as `ShapeDtypeStruct`s with the given sharding."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _remove(folder: epath.Path) -> None:
    (folder / checksums.NAME).unlink(missing_ok=True)  # first: half a folder must not look whole
    folder.rmtree()


def _reason(error: BaseException) -> str:
    """What the file system said, where it did: TensorStore puts a page around it."""
    text = ' '.join(str(error).split())
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)
    said = [os.strerror(number) for number in numbers if os.strerror(number) in text]
    return said[0] if said else f'{type(error).__name__}: {text[:300]}'


def _alone() -> ocp.options.MultiprocessingOptions:
    """What keeps Orbax from waiting for other processes, which may have failed."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f'process{me}'
    )


@functools.cache
def _silence_orbax() -> None:
    """A save that fails is told in a line: keeps hundreds of lines of tracebacks from around it.

    Orbax logs the failure itself, asyncio that nobody waited for some writes, and TensorStore's
    threads come back to an event loop that is closed by then, once a write.
    """
    for name in ('absl', 'asyncio'):
        logging.getLogger(name).addFilter(_is_of_use)
    previous = sys.unraisablehook

    def hook(unraisable) -> None:
        if str(unraisable.exc_value) != 'Event loop is closed':
            previous(unraisable)

    sys.unraisablehook = hook


def _is_of_use(record: logging.LogRecord) -> bool:
    from_orbax = '/orbax/' in record.pathname and record.levelno >= logging.ERROR
    # The last one is said of each item that is read by itself.
    told = 'exception was never retrieved', 'Metadata file does not exist'
    return not from_orbax and not any(text in record.getMessage() for text in told)


def _warn(text: str) -> None:
    print(f'warning: {text}', file=sys.stderr, flush=True)
