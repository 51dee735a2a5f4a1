"""The command line, in processes of its own, as a user meets it."""

import os
import pathlib
import platform
import re
import subprocess
import sys

import pytest

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


def test_help_names_every_mode_and_the_first_command():
    result = run('--help')
    assert result.returncode == 0
    assert 'python run.py --config=configs/simclr_digits.py' in result.stdout
    for mode in ('pretrain', 'linear_eval', 'knn', 'preview'):
        assert mode in result.stdout


def test_no_arguments_say_what_to_type():
    result = run()
    assert result.returncode == 2
    assert 'python run.py --config=configs/simclr_digits.py' in result.stdout


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--mode=knn'], '--config: missing'),
        (['--cofig=x'], 'did you mean config?'),
        ([DIGITS, '--mode=knnn'], 'did you mean knn?'),
        ([DIGITS, '--workdir'], '--workdir: needs a value'),
        ([DIGITS, 'pretrain'], "'pretrain': not a flag"),
        ([DIGITS, '--config.batchsize=3'], 'did you mean batch_size?'),
        ([DIGITS, '--process_id=x'], '--process_id=x'),
        ([DIGITS, '--coordinator=localhost:1'], 'needs --num_processes'),
        (['--config=configs/simclr_cifar10.py'], "data.dataset='cifar10': is not prepared"),
        ([DIGITS, '--mode=knn'], 'holds no run'),
        (['--mode=knn', '--workdir=nowhere'], '--workdir=nowhere: holds no run'),
        ([DIGITS, '--step=20'], '--step=20: needs --mode=linear_eval or knn'),
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

import run

def resident():
    return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

if sys.argv[1] == 'keep':
    run.keep_freed_memory()
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
