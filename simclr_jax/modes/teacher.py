"""The teacher of a distillation: later commands on the run need neither the flag nor the file.

The run keeps a copy in its workdir, and the checksum in its config.
"""

from etils import epath
from ml_collections import ConfigDict

from simclr_jax.config import DISTILL, ConfigError
from simclr_jax.config_auto import parse_saved
from simclr_jax.modes import start
from simclr_jax.train.teacher import check_one_label, read_teacher
from simclr_jax.weights import native
from simclr_jax.weights.description import Weights, checksum
from simclr_jax.workdir.claim import TEACHER


def settle(config: ConfigDict, workdir: str) -> tuple[ConfigDict, list[str]]:
    """Sets what follows from `distill.teacher`, or from what the run in `workdir` learns from.

    Returns:
      The config, and lines on what was set and why.

    Raises:
      ConfigError: there is no such classifier, or it is not the one that the run began with.
    """
    if config.method != DISTILL:
        return config, []
    config = config.copy_and_resolve_references()
    path = epath.Path(workdir) / 'config.json'
    saved = parse_saved(path.read_text()) if path.exists() else {}
    begun, wanted = saved.get('distill.teacher', ''), saved.get('distill.checksum', '')
    named = config.distill.teacher
    config.distill.teacher = named or begun
    wanted = wanted or config.distill.checksum
    if saved and named in ('', begun):
        config.distill.checksum = wanted
        return config, []
    if not named:
        return config, []  # whoever needs one says so
    weights = read_teacher(named)
    found = checksum(weights)
    if wanted not in ('', found):
        raise ConfigError(
            f'distill.teacher={named!r} has the checksum {found}, but '
            f'{f"the run in {workdir} began with" if saved else "wanted is"} {wanted}; bring back '
            'the file that was there, or name another workdir'
        )
    config.distill.checksum = found
    names = weights.classifier.names
    line = f'learning from {named} ({weights.architecture.encoder}, {len(names)} labels, checksum '
    return config, [] if saved else [line + f'{found[: start.SHOWN]})']


def read(config: ConfigDict, workdir: str) -> Weights:
    """Returns what a run learns from: the copy in its workdir, or the file.

    Raises:
      ConfigError: it is not there, cannot be read, or is not what the run began with.
    """
    path, copy = config.distill.teacher, epath.Path(workdir) / TEACHER
    if copy.exists() and checksum(weights := native.read(copy)) == config.distill.checksum:
        check_one_label(path, weights)
        return weights
    weights = read_teacher(path)
    if (found := checksum(weights)) != config.distill.checksum:
        raise ConfigError(
            f'distill.teacher={path!r} has the checksum {found}, but the run in {workdir} began '
            f'with {config.distill.checksum}; bring back the file that was there'
        )
    return weights


def keep(workdir: str, weights: Weights) -> None:
    """Keeps a copy for later commands on the run.

    Raises:
      ConfigError: the workdir cannot be written.
    """
    start.keep(workdir, weights, TEACHER)
