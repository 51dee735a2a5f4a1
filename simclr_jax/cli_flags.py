"""The flags of a command: what they are called, what they mean, and what is wrong with them.

Nothing here imports JAX or TensorFlow, so that a mistake is answered within a second.
"""

import argparse
import dataclasses
import os
import pathlib
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from simclr_jax.command import program
from simclr_jax.config import ENCODERS, ConfigError, default, did_you_mean, flatten
from simclr_jax.config_loading import split_preset
from simclr_jax.modes import MODES
from simclr_jax.modes.bench import BENCHES


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError('must be a whole number')
    return int(text)


def _switch(text: str) -> bool:
    if text.lower() not in ('true', 'false'):
        raise ValueError('is a switch; it takes no value, or true or false')
    return text.lower() == 'true'


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag: its value in a word, what it means, the value from its text, and which there are."""

    value: str
    about: str
    read: Callable[[str], Any] = str
    choices: Sequence[str] = ()


_path = os.path.expanduser  # a shell leaves the ~ of --data=~/pictures as it is

FLAGS = {
    'config': Flag(
        'NAME[:PRESET]',
        'a recipe: one of those that ship, as simclr_folder or simclr_imagenet:v1, or a FILE.py '
        'of your own',
        _path,
    ),
    'config.FIELD': Flag('VALUE', 'changes one field of it, as --config.batch_size=512'),
    'workdir': Flag(
        'DIR',
        'where checkpoints, metrics and the report go (runs/<config>_<preset>); of a run that is '
        'there it is enough: its config need not be named',
        _path,
    ),
    'mode': Flag('MODE', 'one of the above', choices=tuple(MODES)),
    'step': Flag('N', 'which checkpoint of a run (the last one)', _number),
    'encoder': Flag('PATH', "a workdir, an encoder file, or another library's weights", _path),
    'teacher': Flag('PATH', 'a classifier that is learned from: its file, or a workdir', _path),
    'data': Flag(
        'FOLDER',
        'the pictures: a folder, or the name of a data set; of transfer several, with commas',
        _path,
    ),
    'output': Flag(
        'PATH',
        'the file of the vectors or labels, which ends in .parquet, .csv or (vectors) .npz; the '
        'folder of an export',
        _path,
    ),
    'labels': Flag(
        'FILE', "a table of the labels of a folder's pictures: .csv, .tsv or .parquet", _path
    ),
    'neighbours': Flag('', 'also a page of near-duplicates, clusters and odd ones out', _switch),
    'format': Flag('NAME', 'who is to read the export, as native or torchvision'),
    'overwrite': Flag('', 'replaces an output that is there', _switch),
    'topology': Flag('CHIPS', 'what to plan for: v5e:16x16, v4:4x4x4, cpu:8'),
    'bench': Flag('NAME', f'what to measure: {", ".join(BENCHES)}', choices=BENCHES),
    'coordinator': Flag(
        'HOST:PORT', 'several processes, where neither a TPU pod nor SLURM says so by itself'
    ),
    'num_processes': Flag('N', 'how many', _number),
    'process_id': Flag('I', 'which of them this is, from 0', _number),
}
_PROCESSES = ('coordinator', 'num_processes', 'process_id')
_COMMON = ('mode', *_PROCESSES)


def help_text() -> str:
    """Returns what --help prints."""
    lines = [
        'Pretrains image encoders without labels, shows how good they are, and makes them useful.',
        '',
        f'  {program()} --config=simclr_digits       a minute or two, no download',
        '',
        'Modes, as --mode=NAME; pretrain where none is named:',
        '',
        *(f'  {name:<12} {mode.about}' for name, mode in MODES.items()),
        '',
        'Flags, with the modes that take them:',
        '',
    ]
    for name, flag in FLAGS.items():
        form = f'--{name}={flag.value}' if flag.value else f'--{name}'
        of = '' if name in _COMMON else f' ({_modes_of(name)})'
        about = textwrap.wrap(flag.about + of, 73)
        lines += [f'  {form:<24} {about[0]}', *(' ' * 27 + more for more in about[1:])]
    lines += [
        '',
        'Exit status: 0 finished, 1 failed, 2 the command or its data are wrong, 3 a plan does not',
        'fit; 143 (SIGTERM) and 130 (Ctrl-C): not finished, the same command goes on.',
    ]
    return '\n'.join(lines) + '\n'


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Returns the flags and the `--config.field=value` overrides, in the order given.

    Raises:
      ConfigError: naming the flag, its value and the fix.
    """
    texts, overrides = _split(argv)
    name = texts.setdefault('mode', 'pretrain')
    for flag, text in texts.items():
        _check_choice(flag, text)
    for flag, text in texts.items():
        _check_taken(flag, text, name)
    for field, text in overrides.items():
        if not MODES[name].config:
            raise ConfigError(_not_taken(f'--config.{field}={text}', 'config', name))
    _check_present(texts, name)
    values: dict[str, Any] = dict.fromkeys(FLAGS)
    for flag, text in texts.items():
        try:
            values[flag] = FLAGS[flag].read(text)
        except ValueError as error:
            raise ConfigError(f'--{flag}={text}: {error}') from error
    del values['config.FIELD']
    for flag in values:
        if FLAGS[flag].read is _switch:
            values[flag] = bool(values[flag])
    _check_processes(values)
    for flag, field in MODES[name].fields.items():
        if values[flag] is not None:
            overrides[field] = values[flag]
    if values['config'] and not values['workdir']:
        path, preset = split_preset(values['config'])
        stem = pathlib.Path(path).stem
        values['workdir'] = f'runs/{stem}_{preset}' if preset else f'runs/{stem}'
    return argparse.Namespace(**values), overrides


def _split(argv: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the texts of the flags, and those of the fields."""
    flags = [name for name in FLAGS if name != 'config.FIELD']
    texts, overrides = {}, {}
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition('=')
        field = name.removeprefix('--').removeprefix('config.')
        if equals and not name.startswith('--config.') and field in flatten(default()):
            raise ConfigError(f'{argument}: a field is set as --config.{field}={value}')
        if not name.startswith('--'):
            flag = f'--config={argument}' if argument.endswith('.py') else '--config=FILE'
            raise ConfigError(f'{argument!r}: not a flag; flags look like {flag}')
        name = name[2:]
        if name not in flags and not name.startswith('config.'):
            raise ConfigError(f'--{name}: no such flag{did_you_mean(name, flags)}; see --help')
        if not equals and name in FLAGS and FLAGS[name].read is _switch:
            value = 'true'
        elif not equals:
            value = next(arguments, None)
            if value is None or value.startswith('--'):
                raise ConfigError(f'--{name}: needs a value, as --{name}=VALUE')
        if name.startswith('config.'):
            overrides[name.removeprefix('config.')] = value
        else:
            texts[name] = value
    return texts, overrides


def _check_choice(flag: str, text: str) -> None:
    choices = FLAGS[flag].choices
    if choices and text not in choices:
        hint = did_you_mean(text, choices)
        raise ConfigError(f'--{flag}={text}: must be one of {", ".join(choices)}{hint}')


def _takes(mode: str) -> tuple[str, ...]:
    """Returns the flags of a mode beside those of every mode."""
    of = MODES[mode]
    return (*(('config', 'workdir') if of.config else ()), *of.fields, *of.flags)


def _taken_by(flag: str) -> list[str]:
    return [mode for mode in MODES if flag in _takes(mode)]


def _modes_of(flag: str) -> str:
    taken = _taken_by('config' if flag == 'config.FIELD' else flag)
    others = [mode for mode in MODES if mode not in taken]
    return ', '.join(taken) if len(taken) <= len(others) else f'all but {", ".join(others)}'


def _check_taken(flag: str, text: str, mode: str) -> None:
    if flag in _COMMON or flag in _takes(mode):
        return
    raise ConfigError(_not_taken(f'--{flag}={text}', flag, mode) + _meant(flag, text, mode))


def _not_taken(argument: str, flag: str, mode: str) -> str:
    return (
        f'{argument}: needs --mode={_list(_taken_by(flag), "or")}; '
        f'--mode={mode} takes {_list([f"--{name}" for name in _takes(mode)], "and")}'
    )


def _meant(flag: str, text: str, mode: str) -> str:
    """Returns the field that a flag may stand for in the user's mind."""
    if not MODES[mode].config:
        return ''
    if flag == 'data':
        field = 'data.path' if '/' in text else 'data.dataset'
        return f'. What a run learns from is --config.{field}={text}'
    if flag == 'encoder' and text in ENCODERS:
        return f'. The architecture is --config.model.encoder={text}'
    return ''


def _check_present(texts: dict[str, str], mode: str) -> None:
    if MODES[mode].config and 'config' not in texts and 'workdir' not in texts:
        raise ConfigError(
            f'--config: missing; start with  {program()} --config=simclr_digits  or name the '
            '--workdir of a run'
        )
    for need in MODES[mode].needs:
        either = need.split(' or ')
        given = [flag for flag in either if flag in texts]
        if not given:
            forms = ' or '.join(f'--{flag}={FLAGS[flag].value}' for flag in either)
            about = FLAGS[either[0]].about if len(either) == 1 else ''
            forms += f', {about}' if about else ''
            raise ConfigError(f'--{either[0]}: missing; --mode={mode} needs {forms}')
        if len(given) > 1:
            forms = ' and '.join(f'--{flag}={texts[flag]}' for flag in given)
            raise ConfigError(f'{forms}: name one of them, not both')


def _check_processes(values: dict[str, Any]) -> None:
    missing = [name for name in _PROCESSES if values[name] is None]
    if len(missing) == len(_PROCESSES):
        return
    if missing:
        given = next(name for name in _PROCESSES if name not in missing)
        raise ConfigError(
            f'--{given}={values[given]}: needs --{" and --".join(missing)} beside it; alone it '
            'would start a run of one process'
        )
    if values['process_id'] >= values['num_processes']:
        raise ConfigError(
            f'--process_id={values["process_id"]}: must be below '
            f'--num_processes={values["num_processes"]}; the first process is 0'
        )


def _list(words: Sequence[str], last: str) -> str:
    *first, end = words
    return f'{", ".join(first)} {last} {end}' if first else end
