"""The flags: which mode takes which, and what a mistake in them is answered with."""

import importlib
import inspect
import os
import pathlib
import re

import pytest

from simclr_jax import modes
from simclr_jax.cli_flags import FLAGS, help_text, parse
from simclr_jax.config import ConfigError, default, flatten
from simclr_jax.modes import MODES, Mode

DIGITS = '--config=simclr_digits'
EMBED = ['--mode=embed', '--encoder=runs/a', '--data=pictures', '--output=a.parquet']
EXPORT = ['--mode=export', '--format=torchvision', '--output=there']


def test_a_mode_is_a_file_and_a_line():
    folder = pathlib.Path(modes.__file__).parent
    for name, mode in MODES.items():
        assert (folder / f'{name}.py').is_file(), name
        assert set(mode.flags) | set(mode.fields) <= set(FLAGS), name
        assert {flag for need in mode.needs for flag in need.split(' or ')} <= set(mode.flags), name
        assert set(mode.fields.values()) <= set(flatten(default())), name
    files = {path.stem for path in folder.glob('*.py')}
    for name in files - set(MODES):  # the other files have no command of their own
        assert not hasattr(importlib.import_module(f'simclr_jax.modes.{name}'), 'main'), name


@pytest.mark.parametrize('name', MODES)
def test_a_modes_main_takes_its_flags_by_name(name):
    mode = MODES[name]
    parameters = inspect.signature(importlib.import_module(f'simclr_jax.modes.{name}').main)
    given = dict.fromkeys(mode.flags)
    parameters.bind(*((None, None) if mode.config else ()), **given)  # raises where it cannot


def test_every_flag_of_a_mode_is_in_the_help():
    text = help_text()
    for name, flag in FLAGS.items():
        form = f'  --{name}={flag.value}' if flag.value else f'  --{name} '
        assert form in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_modes_of_a_flag_are_in_the_help():
    text = re.sub(r'\s+', ' ', help_text())
    assert (
        'or a FILE.py of your own (all but transfer, embed, predict, export) --config.FIELD' in text
    )
    assert 'v4:4x4x4, cpu:8 (plan) --bench' in text


def test_flags_of_embed():
    flags, overrides = parse(EMBED)
    assert (flags.encoder, flags.data, flags.output) == ('runs/a', 'pictures', 'a.parquet')
    assert flags.neighbours is False and flags.overwrite is False
    assert flags.workdir is None and flags.config is None and not overrides


@pytest.mark.parametrize(
    ('argument', 'value'),
    [('--neighbours', True), ('--neighbours=true', True), ('--neighbours=False', False)],
)
def test_a_switch_needs_no_value(argument, value):
    flags, _ = parse([argument, *EMBED, '--overwrite'])
    assert flags.neighbours is value and flags.overwrite is True


def test_export_takes_a_workdir_and_makes_none_up():
    flags, _ = parse(['--mode=export', '--format=native', '--workdir=runs/mine', '--step=20'])
    assert (flags.workdir, flags.step, flags.encoder, flags.output) == ('runs/mine', 20, None, None)
    assert parse([*EXPORT, '--encoder=a'])[0].workdir is None


def test_a_value_may_follow_its_flag():
    flags, overrides = parse(['--config', 'simclr_digits', '--config.epochs', '3'])
    assert flags.config == 'simclr_digits' and overrides == {'epochs': '3'}


def test_the_home_of_a_user_is_found():
    """A shell leaves the `~` of `--data=~/pictures` as it is."""
    home = os.path.expanduser('~')
    flags, _ = parse(['--mode=embed', '--encoder=~/a', '--data=~/b', '--output=~/c.csv'])
    assert [flags.encoder, flags.data, flags.output] == [f'{home}/{n}' for n in ('a', 'b', 'c.csv')]
    assert parse(['--mode=knn', '--workdir=~/d'])[0].workdir == f'{home}/d'
    assert parse(['--mode=knn', '--workdir=gs://b/d~'])[0].workdir == 'gs://b/d~'


def test_a_flag_can_stand_for_a_field(monkeypatch):
    mode = Mode('', fields={'encoder': 'optimizer.name'})
    monkeypatch.setitem(MODES, 'pretrain', mode)
    flags, overrides = parse([DIGITS, '--encoder=a/b', '--config.seed=1'])
    assert flags.encoder == 'a/b' and overrides == {'seed': '1', 'optimizer.name': 'a/b'}


@pytest.mark.parametrize(
    ('config', 'workdir'),
    [
        ('configs/simclr_digits.py', 'runs/simclr_digits'),
        ('simclr_digits', 'runs/simclr_digits'),
        ('configs/byol_imagenet.py:40', 'runs/byol_imagenet_40'),
        ('byol_imagenet:100', 'runs/byol_imagenet_100'),
    ],
)
def test_each_preset_has_a_workdir_of_its_own(config, workdir):
    assert parse([f'--config={config}'])[0].workdir == workdir


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--coordinator=h:1'], '--coordinator=h:1: needs --num_processes and --process_id'),
        (['--num_processes=4', '--process_id=1'], '--num_processes=4: needs --coordinator beside'),
        (['--process_id=1'], '--process_id=1: needs --coordinator and --num_processes'),
        (
            ['--coordinator=h:1', '--num_processes=2', '--process_id=2'],
            '--process_id=2: must be below --num_processes=2',
        ),
        (
            ['--coordinator=h:1', '--num_processes=0', '--process_id=0'],
            '--process_id=0: must be below --num_processes=0',
        ),
    ],
)
def test_flags_of_several_processes_come_together(flags, words):
    for command in ([DIGITS], EMBED):
        with pytest.raises(ConfigError, match=re.escape(words)):
            parse([*command, *flags])


@pytest.mark.parametrize(
    ('argument', 'words'),
    [
        ('--epochs=3', '--epochs=3: a field is set as --config.epochs=3'),
        ('--data.path=/x', '--data.path=/x: a field is set as --config.data.path=/x'),
        ('config.data.path=/x', 'a field is set as --config.data.path=/x'),
        ('configs/simclr_folder.py', 'flags look like --config=configs/simclr_folder.py'),
        ('--data=a/b', '--data=a/b: needs --mode=transfer, embed, predict or export;'),
        ('--data=a/b', 'What a run learns from is --config.data.path=a/b'),
        ('--data=cifar10', 'What a run learns from is --config.data.dataset=cifar10'),
        ('--format=onnx', '--format=onnx: needs --mode=export; --mode=pretrain takes --config'),
        ('--step=20', '--step=20: needs --mode=linear_eval, knn or export; --mode=pretrain'),
        ('--neighbours', '--neighbours=true: needs --mode=embed'),
        ('--bench=input', '--bench=input: needs --mode=bench'),
        ('--topology=cpu:8', '--topology=cpu:8: needs --mode=plan'),
        ('--encodr=a', 'did you mean encoder?'),
    ],
)
def test_what_pretraining_does_not_take(argument, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        parse([DIGITS, argument])
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--mode=embed'], '--encoder: missing; --mode=embed needs --encoder=PATH'),
        (EMBED[:2], '--data: missing; --mode=embed needs --data=FOLDER'),
        (EMBED[:3], '--output: missing; --mode=embed needs --output=PATH'),
        (
            [*EMBED, DIGITS],
            f'{DIGITS}: needs --mode=pretrain, finetune, distill, segment, linear_eval, knn,',
        ),
        (
            [*EMBED, '--config.seed=3'],
            '--config.seed=3: needs --mode=pretrain, finetune, distill, segment, linear_eval,',
        ),
        ([*EMBED, '--workdir=a'], '--mode=embed takes --encoder, --data, --output, --labels'),
        ([*EMBED, '--neighbours=20'], '--neighbours=20: is a switch; it takes no value, or true'),
        ([*EMBED, '--overwrite', 'yes'], "'yes': not a flag"),
        (EXPORT, '--encoder: missing; --mode=export needs --encoder=PATH or --workdir=DIR'),
        (
            [*EXPORT, '--encoder=a', '--workdir=b'],
            '--encoder=a and --workdir=b: name one of them, not both',
        ),
        (['--mode=export', '--encoder=a'], '--format: missing; --mode=export needs --format=NAME'),
        (['--mode=export', '--workdir=a', '--format=native', '--step=x'], '--step=x: must be a'),
        (['--mode=exprt'], 'did you mean export?'),
        ([DIGITS, '--mode=bench'], '--bench: missing; --mode=bench needs --bench=NAME, what to'),
        ([DIGITS, '--mode=bench', '--bench=stpe'], '--bench=stpe: must be one of input, loss, st'),
        ([DIGITS, '--mode=bench', '--bench=stpe'], 'did you mean step?'),
        ([DIGITS, '--mode=plan'], '--topology: missing; --mode=plan needs --topology=CHIPS, what'),
    ],
)
def test_what_a_mode_needs(arguments, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        parse(arguments)
    assert '\n' not in str(error.value)
