"""The command line, most of it in processes of its own, as a user meets it."""

import errno
import os
import pathlib
import platform
import re
import signal
import socket
import subprocess
import sys
import types

import jax
import pytest

from simclr_jax import cli
from simclr_jax.cli_flags import FLAGS, parse
from simclr_jax.modes import MODES

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = '--config=configs/simclr_digits.py'


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, 'run.py', *arguments],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ('environment', 'several'),
    [
        ({}, False),
        # A batch script, or a shell of salloc, of a job of 4 tasks: srun was not called.
        ({'SLURM_JOB_ID': '1', 'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, False),
        ({'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '1'}, False),
        ({'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '4', 'SLURM_PROCID': '2'}, True),
        ({'TPU_WORKER_HOSTNAMES': 'localhost'}, False),
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, True),
        ({'MEGASCALE_COORDINATOR_ADDRESS': 'a'}, True),
    ],
)
def test_a_cluster_is_asked_where_there_is_one(monkeypatch, environment, several):
    for name in list(os.environ):
        if name.startswith(('SLURM', 'TPU_WORKER', 'MEGASCALE')):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(jax.distributed, 'initialize', lambda **options: calls.append(options))
    cli.start_processes(parse([DIGITS])[0])
    assert calls == [{'heartbeat_timeout_seconds': 30}] * several


def test_a_mode_without_a_config_gets_its_flags(monkeypatch):
    got = []
    module = types.SimpleNamespace(main=lambda **flags: got.append(flags))
    monkeypatch.setitem(sys.modules, 'simclr_jax.modes.embed', module)
    monkeypatch.setattr('simclr_jax.interruption.install', lambda: None)
    arguments = ['--encoder=runs/a', '--data=b', '--output=c.npz', '--neighbours']
    assert cli.main(['--mode=embed', *arguments]) == 0
    assert got == [
        {
            'encoder': 'runs/a',
            'data': 'b',
            'output': 'c.npz',
            'labels': None,
            'neighbours': True,
            'overwrite': False,
        }
    ]


def test_an_unused_gpu_is_said_for_each_mode_but_a_plan(monkeypatch, capsys):
    module = types.SimpleNamespace(main=lambda *arguments, **flags: None)
    monkeypatch.setattr('simclr_jax.train.hardware.unused_gpu', lambda: 'there is a GPU')
    monkeypatch.setattr('simclr_jax.interruption.install', lambda: None)
    monkeypatch.setattr(cli, 'keep_freed_memory', lambda: None)
    warned = set()
    for name, mode in MODES.items():
        monkeypatch.setitem(sys.modules, f'simclr_jax.modes.{name}', module)
        needed = [need.split(' or ')[0] for need in mode.needs]
        flags = [f'--{flag}={(*FLAGS[flag].choices, "a")[0]}' for flag in needed]
        own = {'segment': 'segment_folder'} | {n: f'{n}_digits' for n in ('finetune', 'distill')}
        recipe = DIGITS.replace('simclr_digits', own.get(name, 'simclr_digits'))
        assert cli.main([f'--mode={name}', *flags, *[recipe][: mode.config]]) == 0
        if 'warning: there is a GPU' in capsys.readouterr().err:
            warned.add(name)
    assert warned == set(MODES) - {'plan'}


@pytest.mark.parametrize('mode', ['preview', 'bench', 'plan'])
def test_modes_that_are_not_for_segmentation(mode, capsys):
    needs = {'bench': ['--bench=step'], 'plan': ['--topology=cpu:1']}.get(mode, [])
    recipe = DIGITS.replace('simclr_digits', 'segment_folder')
    assert cli.main([f'--mode={mode}', recipe, '--config.data.path=a', *needs]) == 2
    assert f'--mode={mode}: is not for segmentation' in capsys.readouterr().err


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.ENOSPC, 'No space left on device', 'runs/a/report.html'),
        IsADirectoryError(errno.EISDIR, 'Is a directory', 'runs/a/report.html'),
        PermissionError(errno.EACCES, 'Permission denied', 'runs/a/report.html'),
    ],
)
def test_what_a_disk_answers_is_a_line(monkeypatch, capsys, error):
    def fail(config, workdir):
        raise error

    monkeypatch.setattr('simclr_jax.modes.pretrain.main', fail)
    monkeypatch.setattr('simclr_jax.interruption.install', lambda: None)
    monkeypatch.setattr(cli, 'keep_freed_memory', lambda: None)
    assert cli.main([DIGITS]) == 1
    printed = capsys.readouterr().err
    assert f'error: runs/a/report.html: {error.strerror}; mend that' in printed
    assert 'Traceback' not in printed


def test_a_bug_is_no_answer_of_a_disk(monkeypatch):
    def fail(config, workdir):
        raise FileNotFoundError(errno.ENOENT, 'No such file or directory', 'x')

    monkeypatch.setattr('simclr_jax.modes.pretrain.main', fail)
    monkeypatch.setattr('simclr_jax.interruption.install', lambda: None)
    with pytest.raises(FileNotFoundError):
        cli.main([DIGITS])


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_and_after_training_says_not_finished(number, status):
    script = """
import os, sys
from simclr_jax import interruption

interruption.install()
if sys.argv[1] == 'after':  # in the evaluation
    interruption.defer()
    interruption.finish()
os.kill(os.getpid(), int(sys.argv[2]))
"""
    for when in ('before', 'after'):
        done = subprocess.run(
            [sys.executable, '-c', script, when, str(int(number))],
            cwd=ROOT,
            env=os.environ | {'JAX_PLATFORMS': 'cpu'},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status
        assert 'nothing is lost; the same command goes on from the last checkpoint' in done.stderr


def in_two_processes(
    arguments: list[list[str]], **environment: str
) -> tuple[list[subprocess.Popen], list[str]]:
    """Returns the processes, which have ended, and what each printed."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    together = f'--coordinator=127.0.0.1:{port}', '--num_processes=2'
    processes = [
        subprocess.Popen(
            [sys.executable, 'run.py', *own, *together, f'--process_id={i}'],
            cwd=ROOT,
            env=os.environ | {'JAX_PLATFORMS': 'cpu'} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, own in enumerate(arguments)
    ]
    return processes, [process.communicate(timeout=200)[0] for process in processes]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('--config.seed=1',), 'seed: 0 in process 0, 1 in process 1'),
        (('--config.eval.path=other',), "eval.path='other': is not there"),
        (('--workdir={}/other',), 'does not see what process 0 wrote there'),
    ],
    ids=['config', 'data', 'workdir'],
)
def test_two_processes_that_were_given_other_things_are_told_before_the_first_step(
    arguments, words, tmp_path
):
    processes, outputs = in_two_processes(
        [
            [DIGITS, f'--workdir={tmp_path}/run']
            + [argument.format(tmp_path) for argument in arguments[: i * len(arguments)]]
            for i in range(2)
        ],
        TFDS_DATA_DIR=str(tmp_path / 'data'),
    )
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode in (1, 2) and 'Traceback' not in output, output
        assert words in output, output
    assert processes[1].returncode == 2 and not (tmp_path / 'run/config.json').exists()


@pytest.mark.slow
def test_two_processes_of_a_mode_without_a_config_are_told_too(tmp_path):
    flags = ['--mode=embed', f'--output={tmp_path}/a.parquet']
    own = [[*flags, f'--encoder=run{i}', f'--data=/disk{i}'] for i in range(2)]
    processes, outputs = in_two_processes(own)
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 2 and 'Traceback' not in output, output
        assert "--encoder: 'run0' in process 0, 'run1' in process 1" in output, output
        assert '/disk' not in output  # a folder of each machine's own
    assert not list(tmp_path.iterdir())


def test_help_names_every_mode_and_the_first_command():
    result = run('--help')
    assert result.returncode == 0
    assert 'python run.py --config=simclr_digits' in result.stdout
    for mode in MODES:
        assert f'\n  {mode} ' in result.stdout


def test_no_arguments_say_what_to_type():
    result = run()
    assert result.returncode == 2
    assert 'python run.py --config=simclr_digits' in result.stdout


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--mode=knn'], '--config: missing'),
        (['--cofig=x'], 'did you mean config?'),
        ([DIGITS, '--mode=knnn'], 'did you mean knn?'),
        ([DIGITS, '--workdir'], '--workdir: needs a value'),
        (['--config=simclr_digts'], 'did you mean simclr_digits?'),
        ([DIGITS, 'pretrain'], "'pretrain': not a flag"),
        ([DIGITS, '--config.batchsize=3'], 'did you mean batch_size?'),
        ([DIGITS, '--process_id=x'], '--process_id=x'),
        ([DIGITS, '--num_processes=4'], '--num_processes=4: needs --coordinator and --process_id'),
        (['--config=configs/simclr_cifar10.py'], "data.dataset='cifar10': is not prepared"),
        ([DIGITS, '--mode=knn'], 'holds no run'),
        (['--mode=knn', '--workdir=nowhere'], '--workdir=nowhere: holds no run'),
        ([DIGITS, '--step=20'], '--step=20: needs --mode=linear_eval, knn or export'),
        ([DIGITS, '--mode=knn', '--step=last'], '--step=last: must be a whole number'),
        ([DIGITS, '--workdir=setup.cfg'], 'is a file'),
    ],
)
def test_a_mistake_is_one_line_and_status_2_without_tensorflow(tmp_path, arguments, words):
    if arguments != ['--mode=knn'] and not any(a.startswith('--workdir') for a in arguments):
        arguments = [*arguments, f'--workdir={tmp_path / "w"}']
    # Python says on stderr what it imports.
    result = run(*arguments, PYTHONVERBOSE='', PYTHONPROFILEIMPORTTIME='1', TFDS_DATA_DIR='nowhere')
    imported = re.findall(r'import time:.*\| +([\w.]+)\n', result.stderr)
    lines = [line for line in result.stderr.splitlines() if not line.startswith('import time')]
    assert result.returncode == 2
    assert len(lines) == 1 and lines[0].startswith('error: ') and words in lines[0]
    assert 'json' in imported and 'tensorflow' not in imported


def test_a_batch_that_does_not_divide_by_the_devices(tmp_path):
    result = run(
        DIGITS, f'--workdir={tmp_path}', '--config.batch_size=100', JAX_NUM_CPU_DEVICES='8'
    )
    assert result.returncode == 2
    assert 'batch_size=100: is not divisible by the 8 devices; use 96 or 104' in result.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
def test_the_memory_of_a_freed_batch_is_kept():
    script = """
import ctypes, os, sys

from simclr_jax import cli

def resident():
    return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

if sys.argv[1] == 'keep':
    cli.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
before = resident()
batch = libc.malloc(2**26)
ctypes.memset(batch, 1, 2**26)
libc.free(ctypes.c_void_p(batch))
print((resident() - before) / 2**26)
"""
    kept = {}
    for how in ('keep', 'give back'):
        command = [sys.executable, '-c', script, how]
        kept[how] = float(subprocess.check_output(command, cwd=ROOT, text=True))
    assert kept['keep'] > 0.9 and kept['give back'] < 0.1


def test_a_plan_makes_its_own_devices():
    """The plan for 8 devices fails where something has looked at the one that is there."""
    script = """
import sys, types
import jax
from simclr_jax import cli

def main(config, workdir, topology):
    jax.config.update('jax_num_cpu_devices', int(topology.removeprefix('cpu:')))
    print(len(jax.devices()), 'devices')

sys.modules['simclr_jax.modes.plan'] = types.SimpleNamespace(main=main)
flags = ['--config.epochs=2', '--mode=plan', '--topology=cpu:8']
sys.exit(cli.main(['--config=simclr_folder', *flags]))
"""
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, '-c', script]
    note, devices = subprocess.check_output(
        command, cwd=ROOT, text=True, env=environment
    ).splitlines()
    assert 'optimizer.warmup_epochs=0.2' in note and devices == '8 devices'


@pytest.mark.parametrize(
    'mode, recipe, words',
    [
        ('pretrain', 'finetune_digits', 'give --mode=finetune'),
        ('finetune', 'simclr_digits', "method='simclr' learns without labels"),
        ('distill', 'finetune_digits', "'finetune' learns from labels; name a recipe for it, as "),
        ('finetune', 'distill_digits', "'distill' learns from a classifier; name a recipe for it"),
        ('pretrain', 'distill_digits', 'give --mode=distill'),
        ('linear_eval', 'distill_digits', 'whose figures are in its result.json'),
        ('knn', 'finetune_digits', 'whose figures are in its result.json'),
    ],
)
def test_a_mode_refuses_runs_of_the_other_kind(mode, recipe, words, capsys, monkeypatch):
    monkeypatch.setattr('simclr_jax.interruption.install', lambda: None)
    assert cli.main([f'--mode={mode}', f'--config=configs/{recipe}.py']) == 2
    assert words in capsys.readouterr().err
