"""Going on from weights: what a run's encoder starts from, and what of the config follows from it.

The file decides on the architecture and on how pixels are normalized. The run keeps a copy in its
workdir, and the checksum in its config: later commands need neither the flag nor the file.
"""

from typing import Any

from etils import epath
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.config import (
    ARCHITECTURE_FIELDS,
    FINETUNE,
    SCRATCH,
    SEGMENT,
    START_FIELDS,
    ConfigError,
    as_flags,
    flatten,
)
from simclr_jax.config_auto import parse_saved
from simclr_jax.config_checks import validate
from simclr_jax.models.factory import VITS
from simclr_jax.weights import native
from simclr_jax.weights.description import Weights, checksum
from simclr_jax.weights.loading import read_weights
from simclr_jax.workdir.claim import START

_OF_RESNETS = ('model.stem', 'model.padding', 'model.width', 'model.sk_ratio')
_NOTHING = ('', SCRATCH)  # to start from
SHOWN = 12  # digits of a checksum


def settle(config: ConfigDict, workdir: str, *, trains: bool) -> tuple[ConfigDict, list[str]]:
    """Sets what follows from `start.encoder`, or from what the run in `workdir` started from.

    Args:
      config: as `config_loading.load` returns it; it is not changed.
      workdir: of the run, which may not be there yet.
      trains: whether the run is to go on. Then the file, if it is still there, has to be the one
        that the run began with.

    Returns:
      The config, and lines on what was set and why.

    Raises:
      ConfigError: there are no such weights; what they hold is not what was given, or not what the
        run began with.
    """
    given = config.start.given
    config = config.copy_and_resolve_references()
    config.start.given = ()
    saved = epath.Path(workdir) / 'config.json'
    if saved.exists():
        return _as_begun(config, parse_saved(saved.read_text()), given, workdir, trains), []
    if config.start.encoder in _NOTHING:
        return config, []
    path, weights = config.start.encoder, read_weights(config.start.encoder)
    found = _check(path, weights, config.start.checksum)
    decided = _decided(weights)
    differ = [
        f'{field}={_of(config, field)!r}: {_name(path)} has {value!r}; leave it out'
        for field, value in decided.items()
        if field in given
        and field in ARCHITECTURE_FIELDS
        and _of(config, field) not in (value, 'auto')
    ]
    if differ:
        raise ConfigError('\n'.join(differ))
    size = weights.preprocess.size
    # For segmentation, positions are interpolated.
    own_size = weights.architecture.positions == 'learned' and config.method != SEGMENT
    if own_size and config.data.image_size != size:
        if 'data.image_size' not in config.auto:
            raise ConfigError(
                f'data.image_size={config.data.image_size}: {_name(path)} has learned positions, '
                f'which are for pictures of {size} pixels; give --config.data.image_size={size}'
            )
        decided['data.image_size'] = size
    if config.method == FINETUNE and 'data.image_size' in config.auto:
        decided['data.image_size'] = size  # as the encoder knows them
    lines = [
        f'{field}={_of(config, field)} as given; {_name(path)} has {value}'
        for field, value in decided.items()
        if field in given and field in ('data.mean', 'data.std') and _of(config, field) != value
    ]
    decided = {field: value for field, value in decided.items() if field not in given}
    layout = weights.origin.get('layout', 'simclr_jax')
    lines.append(
        f'starting from {path} ({layout}, checksum {found[:SHOWN]}), which decides '
        f'{as_flags(decided)}'
    )
    settled = _with(config, decided | {'start.checksum': found})
    try:
        validate(settled)
    except ConfigError as error:
        raise ConfigError(f'{error}\n{lines[-1]}') from error
    return settled, lines


def read(config: ConfigDict, workdir: str) -> Weights | None:
    """Returns what a run's encoder starts from: the copy in its workdir, or the file.

    Returns:
      None where it starts at random, or where the weights are gone.

    Raises:
      ConfigError: they cannot be read, or are not those that the run began with.
    """
    path, copy = config.start.encoder, epath.Path(workdir) / START
    if path in _NOTHING:
        return None
    if copy.exists() and checksum(weights := native.read(copy)) == config.start.checksum:
        return weights
    if not _exists(path):
        return None
    weights = read_weights(path)
    _check(path, weights, config.start.checksum)
    return weights


def keep(workdir: str, weights: Weights | None, name: str = START) -> None:
    """Keeps a copy, a file of this name, for later commands on the run.

    Raises:
      ConfigError: the workdir cannot be written.
    """
    path = epath.Path(workdir) / name
    if weights is None or not parallel.is_main_process():
        return
    try:
        if not (path.exists() and checksum(native.read(path)) == checksum(weights)):
            native.save(path, weights)
    except OSError as error:
        raise ConfigError(
            f'--workdir={workdir}: cannot be written ({error.strerror}); name another one'
        ) from error


def _as_begun(
    config: ConfigDict, saved: dict[str, Any], given: tuple[str, ...], workdir: str, trains: bool
) -> ConfigDict:
    """The config with what the run in `workdir` has of its start."""
    begun, path = saved.get('start.encoder', ''), config.start.encoder
    if path not in _NOTHING and begun in _NOTHING:
        raise ConfigError(
            f'start.encoder={path!r}: --workdir={workdir} already holds a run, which started at '
            'random; name another workdir'
        )
    if begun in _NOTHING:
        return _with(config, {'start.encoder': path or begun})
    named = path not in ('', begun)
    path = path or begun
    if named or (trains and _exists(path)):  # read although it may be large: a run is larger
        _check(path, read_weights(path), saved['start.checksum'], workdir)
    fields = {name: saved[name] for name in START_FIELDS if name in saved and name not in given}
    fields |= {'start.encoder': path, 'start.checksum': saved['start.checksum']}
    return _with(config, {name: _untied(value) for name, value in fields.items()})


def _decided(weights: Weights) -> dict[str, Any]:
    """Returns the fields that the weights decide, those of the other kind of encoder left out."""
    architecture, preprocess = weights.architecture, weights.preprocess
    fields = {
        field: getattr(architecture, field.removeprefix('model.')) for field in ARCHITECTURE_FIELDS
    }
    for field in ARCHITECTURE_FIELDS[1:]:
        if (field in _OF_RESNETS) == architecture.is_vit:
            del fields[field]
    if architecture.is_vit:
        heads = architecture.num_heads or VITS[architecture.encoder]['num_heads']
        # A ViT may have no other width or ratio than these.
        fields |= {'model.num_heads': heads, 'model.width': 1, 'model.sk_ratio': 0.0}
    return fields | {'data.mean': preprocess.mean, 'data.std': preprocess.std}


def _check(path: str, weights: Weights, wanted: str, workdir: str = '') -> str:
    """Returns the checksum, which has to be the one wanted, if any."""
    found = checksum(weights)
    if wanted not in ('', found):
        run = f'the run in {workdir} began with' if workdir else 'wanted is'
        fix = 'bring back the file that was there'
        if workdir:
            fix += ', or move this one away: the run goes on without it'
        raise ConfigError(f'{_name(path)} has the checksum {found}, but {run} {wanted}; {fix}')
    return found


def _exists(path: str) -> bool:
    """Whether a path is there, or, of a TensorFlow checkpoint, files that begin with it."""
    return epath.Path(path).exists() or epath.Path(f'{path}.index').exists()


def _name(path: str) -> str:
    return f'start.encoder={path!r}'


def _of(config: ConfigDict, field: str) -> Any:
    return flatten(config)[field]


def _untied(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _with(config: ConfigDict, fields: dict[str, Any]) -> ConfigDict:
    """The config with these fields, which the machine no longer chooses."""
    with config.unlocked():
        config.update_from_flattened_dict(
            fields | {'auto': tuple(name for name in config.auto if name not in fields)}
        )
    return config
