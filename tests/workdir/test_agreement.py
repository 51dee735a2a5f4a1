"""Processes that were given different things, in two real ones."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from simclr_jax.workdir import agreement

ROOT = pathlib.Path(__file__).parents[2]

SCRIPT = """
import json
import sys
import jax

jax.distributed.initialize('127.0.0.1:' + sys.argv[1], 2, int(sys.argv[2]))
from simclr_jax import parallel
from simclr_jax.config import ConfigError, default, to_json
from simclr_jax.workdir import agreement

agreement._PATIENCE = 1.0
me, shared, own = int(sys.argv[2]), sys.argv[3], sys.argv[4]


def told(check, *arguments):
    try:
        check(*arguments)
        print('AGREED')
    except ConfigError as error:
        print('TOLD', str(error).replace(chr(10), ' '))


def told_command(config, mode='pretrain'):
    told(agreement.check_same_command, {'--mode': mode} | json.loads(to_json(config)))


config = default()
told_command(config)
config.data.data_dir = f'/disk{me}'  # each machine's own
told_command(config)
config.seed, config.optimizer.learning_rate = me, 0.1 + me
told_command(config)
told_command(default(), ('pretrain', 'knn')[me])
told(agreement.check_same_data, 'data.train_split', 10, ('a', 'b'))
told(agreement.check_same_data, 'data.train_split', 10 + me, ('a', 'b'))
told(agreement.check_same_data, 'data.train_split', 10, (('a', 'b'), ('b', 'a'))[me])
told(agreement.check_shared, shared)
told(agreement.check_shared, (shared, own)[me])
told(agreement.check_shared, shared if me else shared + '/missing/missing')
assert parallel.all_texts('\u00e9' * (2 * me)) == ['', '\u00e9\u00e9']
"""


@pytest.mark.slow
def test_two_processes_are_told_what_differs(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    for name in ('shared', 'own'):
        (tmp_path / name).mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', SCRIPT, port, str(i), tmp_path / 'shared', tmp_path / 'own'],
            cwd=ROOT,
            env=os.environ | {'JAX_PLATFORMS': 'cpu'},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for output in outputs:
        lines = [line for line in output.splitlines() if line.startswith(('AGREED', 'TOLD'))]
        same, folders, seed, mode, data, more, order, shared, local, missing = lines
        assert same == folders == data == shared == 'AGREED'
        assert 'process 1 has another command than process 0' in seed
        assert 'seed: 0 in process 0, 1 in process 1' in seed
        assert 'optimizer.learning_rate: 0.1 in process 0, 1.1 in process 1' in seed
        assert "--mode: 'pretrain' in process 0, 'knn' in process 1" in mode
        assert 'data.train_split: examples: 10 in process 0, 11 in process 1' in more
        assert 'hash of the names of the classes' in order and 'examples' not in order
        assert f'process 1 ({tmp_path}/own on ' in local and 'does not see' in local
        assert 'cannot be written (No such file or directory)' in missing
    assert not list((tmp_path / 'shared').iterdir())


def test_one_process_agrees_with_itself_and_writes_nothing(tmp_path):
    agreement.check_same_command({'--mode': 'embed', '--encoder': None})
    agreement.check_same_data('data.train_split', 10, None)
    agreement.check_shared(str(tmp_path))
    assert not list(tmp_path.iterdir())
