"""Reading checkpoints of a workdir without its lock: a run may be training there."""

import sys
from collections.abc import Callable

from etils import epath

from simclr_jax import parallel
from simclr_jax.config import ConfigError, RunError
from simclr_jax.workdir import checksums
from simclr_jax.workdir.checkpoint import Checkpoints, Tree, checkpoint_path


def find_step(workdir: str, step: int | None = None) -> int:
    """Returns `step`, or the newest step, of which there is a whole checkpoint.

    Every file is read and compared with its checksum. A checkpoint that is being written, or
    removed, while it is looked at is no damage: it is passed over.

    Raises:
      ConfigError: there is no checkpoint, or none of that step.
      RunError: the one asked for, or every one, is damaged.
    """
    found, problem = -1, None
    if parallel.is_main_process():
        try:
            found = _find(workdir, step)
        except (ConfigError, RunError) as error:
            problem = error
    (found,) = parallel.from_main_process([found])
    if found < 0:
        raise problem or RunError(f'--workdir={workdir}: process 0 found no checkpoint to read')
    return found


def restore(workdir: str, step: int, abstract_state: Tree, *, latest: bool = False) -> Tree:
    """Returns the state of a checkpoint, in the shapes and shardings of `abstract_state`.

    Args:
      workdir: of the run.
      step: a step that `find_step` has found.
      abstract_state: as `Checkpoints.restore` takes it.
      latest: whether a newer one will do where this one has been removed meanwhile.

    Raises:
      ConfigError: the run that trains there has removed the checkpoint.
    """
    return _read(workdir, step, latest, lambda it, step: it.restore(step, abstract_state))


def restore_some(
    workdir: str, step: int, choose: Callable[[Tree], Tree], *, latest: bool = False
) -> Tree:
    """Returns parts of a checkpoint, as `Checkpoints.restore_some`; otherwise as `restore`."""
    return _read(workdir, step, latest, lambda it, step: it.restore_some(step, choose))


def _read(workdir: str, step: int, latest: bool, read: Callable[[Checkpoints, int], Tree]) -> Tree:
    while True:
        checkpoints = Checkpoints(workdir, keep=1)  # keep counts for saves alone
        try:
            state = read(checkpoints, step)
        except Exception:
            if not _is_gone(workdir, step):
                raise
        else:
            # A removal begins with the list of checksums: while it is there, all has been read.
            if not _is_gone(workdir, step):
                return state
        finally:
            checkpoints.close()
        newest = find_step(workdir) if latest else step
        if newest == step:
            raise ConfigError(
                f'--step={step}: was removed while it was read: the run that trains in {workdir} '
                'keeps its last checkpoints only (checkpoint.keep); take a later step'
            )
        step = newest


def _find(workdir: str, step: int | None) -> int:
    path, kept = epath.Path(checkpoint_path(workdir)), _complete_steps(workdir)
    if not kept:
        raise ConfigError(
            f'--workdir={workdir}: holds no checkpoint yet; let --mode=pretrain get further'
        )
    if step is not None and step not in kept:
        raise ConfigError(
            f'--step={step}: there is no checkpoint of that step in {path}; there are '
            f'{", ".join(map(str, kept))}'
        )
    problems = []
    for candidate in [step] if step is not None else reversed(kept):
        try:
            found = checksums.damage(path / str(candidate))
        except OSError as error:
            raise RunError(f'{path / str(candidate)}: cannot be read: {error}') from error
        if not found:
            for damage in problems:
                print(f'warning: checkpoint not used: {damage}', file=sys.stderr, flush=True)
            return candidate
        if (path / str(candidate) / checksums.NAME).exists():
            problems += found
    if not problems:  # all that were there have been removed meanwhile
        return _find(workdir, step)
    if step is None:
        raise RunError(f'{path}: no checkpoint there is whole\n' + _listed(problems))
    raise RunError(f'--step={step}: the checkpoint is damaged\n' + _listed(problems))


def _listed(problems: list[str]) -> str:
    return '\n'.join(f'  {problem}' for problem in problems)


def _complete_steps(workdir: str) -> list[int]:
    path = epath.Path(checkpoint_path(workdir))
    if not path.exists():
        return []
    folders = [folder for folder in path.iterdir() if folder.name.isdigit()]
    return sorted(int(folder.name) for folder in folders if (folder / checksums.NAME).exists())


def _is_gone(workdir: str, step: int) -> bool:
    gone = False
    if parallel.is_main_process():
        path = epath.Path(checkpoint_path(workdir)) / str(step) / checksums.NAME
        gone = not path.exists()
    (gone,) = parallel.from_main_process([int(gone)])
    return bool(gone)
