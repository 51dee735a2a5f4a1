"""One program, any number of chips: real processes and virtual devices, the same losses."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from simclr_jax.report.writer import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 20

pytestmark = pytest.mark.slow


def start(method, workdir, data_dir, devices, *arguments) -> subprocess.Popen:
    options = (
        f'--config=configs/{method}_digits.py',
        f'--workdir={workdir}',
        '--config.epochs=5.1',  # the warm-up, which the first losses are of, is five
        '--config.log.every_steps=1',
        '--config.log.tensorboard=False',
        '--config.eval.after_pretrain=()',
        '--config.eval.batch_size=504',
    )
    return subprocess.Popen(
        [sys.executable, 'run.py', *options, *arguments],
        cwd=ROOT,
        env=os.environ
        | {
            'JAX_PLATFORMS': 'cpu',
            'JAX_NUM_CPU_DEVICES': str(devices),
            'TFDS_DATA_DIR': str(data_dir),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes) -> None:
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs


def losses(workdir) -> list[float]:
    rows = read_metrics(workdir)[:STEPS]
    assert [row['step'] for row in rows] == list(range(1, STEPS + 1))
    return [row['loss'] for row in rows]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('tfds')


@pytest.mark.parametrize('method', ['simclr', 'byol'])
def test_one_device_eight_devices_and_two_processes_of_four(method, data_dir, tmp_path):
    finish(start(method, tmp_path / 'one', data_dir, 1))
    finish(start(method, tmp_path / 'eight', data_dir, 8))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    flags = (f'--coordinator=127.0.0.1:{port}', '--num_processes=2')
    finish(
        *(
            start(method, tmp_path / 'two', data_dir, 4, *flags, f'--process_id={process}')
            for process in range(2)
        )
    )
    one = losses(tmp_path / 'one')
    np.testing.assert_allclose(losses(tmp_path / 'eight'), one, atol=1e-4)
    np.testing.assert_allclose(losses(tmp_path / 'two'), one, atol=1e-4)
