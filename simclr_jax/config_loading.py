"""From a file in `configs/` and the command line to a config, and from one command to the next.

`load` runs before JAX and TensorFlow are imported, so that a mistake is answered within a second.
"""

import ast
import importlib.util
import json
import pathlib
import traceback
from collections.abc import Callable
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from simclr_jax.config import (
    START_FIELDS,
    ConfigError,
    default,
    did_you_mean,
    flatten,
    to_json,
)
from simclr_jax.config_checks import validate

# Sections that may change between two commands on one workdir: they do not touch the training.
FREE_FIELDS = (
    *('data.path', 'data.data_dir', 'data.workers', 'data.max_bad_fraction', 'simclr.eval_layer'),
    *('data.labels', 'data.eval_interpolation', 'data.eval_antialias'),
    *('log', 'checkpoint', 'health'),
    *('eval', 'linear_eval', 'knn'),
    *('finetune.compare', 'finetune.labels_per_class', 'finetune.draws'),
    'finetune.scratch_learning_rate',
    *('start.encoder', 'start.given'),  # what it held is compared by its checksum
    *('distill.teacher', 'distill.labels_alone'),
    *('segment.step', 'segment.memory', 'segment.neighbours', 'segment.temperature'),
)

# Fields that have another name today, for workdirs from before.
_RENAMED = {'data.test_split': 'eval.test_split'}


def load(
    path: str,
    overrides: dict[str, str] | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> ConfigDict:
    """Loads `path`, a Python file with `get_config`, applies `overrides` and validates.

    Args:
      path: a recipe that ships, by its name, as 'simclr_folder', or a file, as 'mine.py'; with
        ':preset' behind it, `get_config('preset')` is called.
      overrides: field to the text given for it, `{'optimizer.learning_rate': '0.2'}`.
      say: takes a line on each value that had to follow from those that were given.

    Raises:
      ConfigError: the file, an override or a value is wrong.
    """
    name, preset = split_preset(path)
    path = find(name)
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if preset and not hasattr(module, 'PRESETS'):
            raise ConfigError(f'--config: {name} takes no preset, but {preset!r} was given')
        if preset and preset not in module.PRESETS:
            raise ConfigError(
                f'--config: {name} has no preset {preset!r}; it has {", ".join(module.PRESETS)}'
            )
        config = module.get_config(preset) if preset else module.get_config()
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's file raises, its line is what they need
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        place = f'{path}:{lines[-1]}' if lines else path
        text = str(error.args[0] if error.args else error).splitlines()[0]
        raise ConfigError(f'{place}: {type(error).__name__}: {text}') from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f'--config: get_config of {path} returns no ConfigDict')
    _check_fields(config, default(), '', path)
    for field, text in (overrides or {}).items():
        override(config, field, text)
        config.auto = tuple(name for name in config.auto if name != field)
    _remember_given(config, overrides or {})
    _shorten_warmup(config, overrides or {}, say)
    validate(config)
    return config


def shipped() -> dict[str, pathlib.Path]:
    """Returns the recipes that come with the library: the name of each, and its file."""
    package = pathlib.Path(__file__).parent
    # In a wheel they are in the package; in the repository, beside it.
    folder = next(
        (d for d in (package / 'configs', package.parent / 'configs') if d.is_dir()), None
    )
    return {path.stem: path for path in sorted(folder.glob('*.py'))} if folder else {}


def find(name: str) -> str:
    """Returns the file of a recipe, which is given by its name or as a file.

    Raises:
      ConfigError: there is none; names the nearest that ship.
    """
    if name.endswith('.py'):
        if pathlib.Path(name).is_file():
            return name
        files = sorted(str(p) for p in pathlib.Path(name).parent.glob('*.py'))
        stem = pathlib.Path(name).stem
        hint = f'; the one that ships is --config={stem}' if stem in shipped() else ''
        raise ConfigError(f'--config: there is no file {name!r}{hint or did_you_mean(name, files)}')
    if name not in shipped():
        hint = did_you_mean(name, shipped()) or f'; it is one of {", ".join(shipped())}'
        raise ConfigError(f'--config={name}: no recipe of that name, nor a FILE.py{hint}')
    return str(shipped()[name])


def load_saved(workdir: str, overrides: dict[str, str] | None = None) -> ConfigDict:
    """Loads the config of the run in `workdir`, applies `overrides` and validates.

    Args:
      workdir: a directory, or an address of a bucket, with the `config.json` of a run.
      overrides: as in `load`; `check_same_run` says later which of them would change the run.

    Raises:
      ConfigError: there is no run, its config cannot be read, or an override or a value is wrong.
    """
    path = epath.Path(workdir) / 'config.json'
    if not path.exists():
        raise ConfigError(
            f'--workdir={workdir}: holds no run; start one with --config=FILE, or name the workdir '
            'of a run'
        )
    config = default()
    fields = flatten(config)
    for field, value in _parse_saved(path.read_text(), workdir).items():
        if field not in fields:
            raise ConfigError(
                f'{path}: {field}: no such field here; the run is of another version of this '
                'library, so name its --config too'
            )
        _set(config, field, _as_type_of(value, fields[field], f'{path}: {field}'))
    for field, text in (overrides or {}).items():
        override(config, field, text)
    _remember_given(config, overrides or {})
    validate(config)
    return config


def split_preset(path: str) -> tuple[str, str]:
    """Splits `configs/name.py:preset`; a drive's colon, as in `C:\\name.py`, splits nothing."""
    drive = path[:2] if path[1:2] == ':' and path[2:3] in ('\\', '/') else ''
    path, _, preset = path[len(drive) :].partition(':')
    return drive + path, preset


def override(config: ConfigDict, field: str, text: str) -> None:
    """Sets the dotted `field` from `text`, parsed as the type that the field has.

    Raises:
      ConfigError: there is no such field, or the text is not of its type.
    """
    fields = flatten(config)
    if field not in fields:
        sections = {name.rpartition('.')[0] for name in fields}
        if field in sections:
            raise ConfigError(f'--config.{field}={text}: {field} is a section; name a field of it')
        raise ConfigError(f'--config.{field}={text}: no such field{did_you_mean(field, fields)}')
    old = fields[field]
    value = text
    if not isinstance(old, str):
        try:
            value = ast.literal_eval({'true': 'True', 'false': 'False'}.get(text, text))
        except (ValueError, SyntaxError):
            value = text
        if isinstance(old, tuple) and not isinstance(value, tuple):
            value = tuple(value) if isinstance(value, list) else (value,)
    _set(config, field, _as_type_of(value, old, f'--config.{field}'))


def _set(config: ConfigDict, field: str, value: Any) -> None:
    section, _, name = field.rpartition('.')
    parent = config
    for key in section.split('.') if section else ():
        parent = parent[key]
    parent[name] = value


def _remember_given(config: ConfigDict, overrides: dict[str, str]) -> None:
    """Notes which fields weights to start from may not set."""
    given = (field for field in START_FIELDS if field in overrides)
    config.start.given = (*config.start.given, *given)


def _shorten_warmup(
    config: ConfigDict, overrides: dict[str, str], say: Callable[[str], object]
) -> None:
    """A tenth of the run, where the recipe's warm-up is longer than the epochs that were given."""
    field, optimizer = 'optimizer.warmup_epochs', config.optimizer
    too_long = optimizer.warmup_epochs >= config.epochs > 0
    if too_long and 'epochs' in overrides and field not in overrides:
        shorter = config.epochs / 10
        say(
            f'{field}={shorter:g}, a tenth of the run, since the recipe warms up for '
            f'{optimizer.warmup_epochs:g} epochs and the run has {config.epochs:g}'
        )
        optimizer.warmup_epochs = shorter


def check_same_run(config: ConfigDict, saved_json: str, workdir: str) -> None:
    """Refuses to continue a run with other settings.

    A field that the run is too old to know has the default.

    Raises:
      ConfigError: naming each field that differs, unless it is in `FREE_FIELDS`; or what is saved
        is no config.
    """
    saved = _parse_saved(saved_json, workdir)
    old, new = json.loads(to_json(default())) | saved, json.loads(to_json(config))
    changed = [
        f'  {field}: {old.get(field, "(absent)")!r} there, {new.get(field, "(absent)")!r} now'
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
        and not any(field == free or field.startswith(free + '.') for free in FREE_FIELDS)
    ]
    if changed:
        raise ConfigError(
            f'--workdir={workdir}: already holds a run with other settings. Choose another '
            f'--workdir, or delete {workdir} to start over. What differs:\n' + '\n'.join(changed)
        )


def _parse_saved(saved_json: str, workdir: str) -> dict[str, Any]:
    try:
        saved = dict(json.loads(saved_json))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f'--workdir={workdir}: its config.json is damaged ({error}); remove that file if the '
            'config given is the one of the run, or give another --workdir'
        ) from error
    return {_RENAMED.get(field, field): value for field, value in saved.items()}


def _check_fields(config: ConfigDict, defaults: ConfigDict, prefix: str, path: str) -> None:
    """Raises ConfigError where a config file made up a field or changed a field's type."""
    for name in config:
        if name not in defaults:
            hint = did_you_mean(prefix + name, flatten(default()))
            raise ConfigError(f'{path}: {prefix}{name}: no such field{hint}')
        value, old = config[name], defaults[name]
        if isinstance(old, ConfigDict) != isinstance(value, ConfigDict):
            raise ConfigError(f'{path}: {prefix}{name}={value!r}: {prefix}{name} is a section')
        if isinstance(old, ConfigDict):
            _check_fields(value, old, f'{prefix}{name}.', path)
        else:
            config[name] = _as_type_of(value, old, f'{path}: {prefix}{name}')
    for name in defaults:
        if name not in config:
            raise ConfigError(f'{path}: {prefix}{name}: is missing; start from config.default()')


def _as_type_of(value: Any, old: Any, field: str) -> Any:
    """Returns `value` with the type of `old`; an int may stand for a float."""
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, tuple) and isinstance(value, (tuple, list)):
        floats = bool(old) and all(isinstance(x, float) for x in old)
        if floats and not all(type(x) in (int, float) for x in value):
            raise ConfigError(f'{field}={value!r}: must hold numbers, for example {old!r}')
        return tuple(float(x) if floats and type(x) is int else x for x in value)
    if type(value) is not type(old):
        name = type(old).__name__
        want = {'float': 'a number', 'int': 'a whole number', 'bool': 'True or False'}
        raise ConfigError(
            f'{field}={value!r}: must be {want.get(name, f"a {name}")}, for example {old!r}'
        )
    return value
