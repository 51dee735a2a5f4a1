"""One program, any number of chips: virtual devices and real processes give the same losses."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from simclr_jax.modes.encoder_file import checkpoint_weights
from simclr_jax.weights import native
from simclr_jax.workdir.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 20
TF_DATA = ('--config.augment.backend=tf', '--config.data.cache=none')  # not the recipes'


def start(config, workdir, data_dir, devices, *flags) -> subprocess.Popen:
    arguments = ['--config.log.every_steps=1', '--config.log.tensorboard=False', *flags]
    return subprocess.Popen(
        [sys.executable, 'run.py', f'--config={config}', f'--workdir={workdir}', *arguments],
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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def first_losses(workdir, *processes: subprocess.Popen) -> list[float]:
    """The first losses of a run, which ends there."""
    deadline = time.monotonic() + 400
    rows = []
    while len(rows) < STEPS and time.monotonic() < deadline:
        time.sleep(0.5)
        assert not any(process.poll() for process in processes), processes[0].communicate()[0]
        with contextlib.suppress(ValueError):  # the last line is half written
            rows = read_metrics(workdir)
    for process in processes:
        process.kill()
        process.communicate()
    assert [row['step'] for row in rows[:STEPS]] == list(range(1, STEPS + 1))
    return [row['loss'] for row in rows[:STEPS]]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('tfds')


@pytest.mark.parametrize(
    ('method', 'inputs'),
    [
        pytest.param('simclr', (), marks=pytest.mark.slow),
        pytest.param('byol', TF_DATA, marks=pytest.mark.slow),
        pytest.param('moco_v2', (), marks=pytest.mark.long),
        pytest.param('moco_v3', TF_DATA, marks=pytest.mark.long),
    ],
)
def test_one_device_eight_devices_and_two_processes_of_four(method, inputs, data_dir, tmp_path):
    config = f'configs/{method}_digits.py'
    one = first_losses(tmp_path / '1', start(config, tmp_path / '1', data_dir, 1, *inputs))
    eight = first_losses(tmp_path / '8', start(config, tmp_path / '8', data_dir, 8, *inputs))
    flags = (f'--coordinator=127.0.0.1:{free_port()}', '--num_processes=2', *inputs)
    processes = [
        start(config, tmp_path / '2x4', data_dir, 4, *flags, f'--process_id={i}') for i in range(2)
    ]
    two = first_losses(tmp_path / '2x4', *processes)
    np.testing.assert_allclose(eight, one, rtol=0, atol=1e-4)
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_one_of_two_processes_writes_the_encoder_of_their_checkpoint(data_dir, tmp_path):
    short = (
        *('--config.epochs=1', '--config.batch_size=64', '--config.optimizer.warmup_epochs=0'),
        *('--config.eval.after_pretrain=()', '--config.auto=()'),
    )
    coordinator = f'--coordinator=127.0.0.1:{free_port()}'
    pair = [
        start(
            *('configs/simclr_digits.py', tmp_path / 'pair', data_dir, 2, *short, coordinator),
            *('--num_processes=2', f'--process_id={i}'),
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=400)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    told = [f'encoder   {tmp_path}/pair/encoder.safetensors' in output for output in outputs]
    assert told == [True, False]
    found = (tmp_path / 'pair' / native.NAME).read_bytes()
    other = checkpoint_weights(str(tmp_path / 'pair'))
    native.save(tmp_path / native.NAME, other)
    assert found == (tmp_path / native.NAME).read_bytes()
    assert other.origin['steps'] == 1297 // 64
