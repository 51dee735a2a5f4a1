"""Fine-tuning as a command: on several devices, in two processes, and killed at random moments."""

import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture
from simclr_jax.workdir.metrics import read_metrics

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'weights'))
from random_weights import random_weights

ROOT = pathlib.Path(__file__).parents[2]
KILLS = 10
TIMING = {'images_per_second', 'input_wait', 'seconds'}
COMMON = {
    'batch_size': 64,
    'log.every_steps': 1,
    'log.tensorboard': False,
    'finetune.min_steps': 0,
}
# At the recipe's rate, from random weights, a last bit may be worth more than 1e-4 by the end.
GENTLE = {
    'epochs': 2,
    'optimizer.learning_rate': 0.01,
    'finetune.calibrate': False,
    'finetune.compare': "('knn',)",
    'finetune.labels_per_class': '()',
}
STEPS = 40

pytestmark = pytest.mark.long


class Runner:
    """Starts runs of one encoder; whatever is left of them at the end is killed."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._started = folder, []
        architecture = Architecture('resnet_tiny', stem='small')
        weights = random_weights(architecture, size=8, channels=1, mean=(0.0,), std=(1.0,))
        native.save(folder / 'encoder.safetensors', weights)

    def start(self, workdir, fields, *flags, devices=1) -> subprocess.Popen:
        command = [sys.executable, 'run.py', '--mode=finetune', f'--workdir={workdir}']
        command += ['--config=configs/finetune_digits.py', *flags]
        command += [f'--encoder={self._folder}/encoder.safetensors']
        command += [f'--config.{name}={value}' for name, value in (COMMON | fields).items()]
        # Into a file: nobody reads while somebody waits for something else.
        with (self._folder / f'{len(self._started)}.txt').open('w') as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ
                | {
                    'JAX_PLATFORMS': 'cpu',
                    'JAX_NUM_CPU_DEVICES': str(devices),
                    # A run is seconds, but for compiling.
                    'JAX_COMPILATION_CACHE_DIR': str(self._folder / 'cache'),
                    'TFDS_DATA_DIR': str(self._folder / 'data'),
                    'PYTHONUNBUFFERED': '1',
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._started.append(process)
        return process

    def said(self, process) -> str:
        return (self._folder / f'{self._started.index(process)}.txt').read_text()

    def finish(self, *processes) -> None:
        for process in processes:
            process.wait(timeout=1000)
            assert process.returncode == 0, self.said(process)

    def kill_all(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture(scope='module')
def runner(tmp_path_factory):
    runner = Runner(tmp_path_factory.mktemp('finetune'))
    yield runner
    runner.kill_all()


def figures(workdir) -> dict:
    """What `result.json` holds, without what the clock says."""
    result = json.loads((workdir / 'result.json').read_text())
    assert 'all' in result['finetune']['fine_tuned'] and 'all' in result['finetune']['knn']
    for name in TIMING:
        result['training'].pop(name)
    return result


def losses(workdir) -> list[float]:
    return [row['loss'] for row in read_metrics(workdir)]


def assert_close(found, wanted, path='result') -> None:
    """Alike but for two of the 500 test pictures, of which each class has fifty."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), path
        for name in wanted:
            assert_close(found[name], wanted[name], f'{path}/{name}')
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), path
        for i, pair in enumerate(zip(found, wanted, strict=True)):
            assert_close(*pair, f'{path}/{i}')
    elif '/after/counts/' in path:  # of a bin
        assert abs(found - wanted) <= 2, path
    elif isinstance(wanted, float):
        few = '/per_class/' in path or '/after/' in path
        assert found == pytest.approx(wanted, abs=0.041 if few else 0.0041, rel=0.01), path
    else:
        assert found == wanted, path


@pytest.fixture(scope='module')
def one_device(runner, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('one')
    runner.finish(runner.start(workdir, GENTLE))
    assert len(losses(workdir)) == STEPS
    return workdir


@pytest.mark.parametrize('other', ['two processes', 'two devices', 'four devices'])
def test_the_curve_of_one_device(other, runner, one_device, tmp_path):
    if other == 'two processes':
        flags = f'--coordinator=127.0.0.1:{free_port()}', '--num_processes=2'
        pair = [runner.start(tmp_path, GENTLE, *flags, f'--process_id={i}') for i in range(2)]
        runner.finish(*pair)
    else:
        devices = 2 if other == 'two devices' else 4
        runner.finish(runner.start(tmp_path, GENTLE, devices=devices))
    difference = np.abs(np.subtract(losses(tmp_path), losses(one_device))).max()
    print(f'largest difference of a loss, one device against {other}: {difference:.2g}')
    assert difference < 1e-4
    assert_close(figures(tmp_path), figures(one_device))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def leaves(workdir) -> list[np.ndarray]:
    with ocp.CheckpointManager(workdir / 'checkpoints') as manager:
        state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def rows(workdir) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name not in TIMING}
        for row in read_metrics(workdir)
    ]


def wait_for(condition, process) -> None:
    """Waits until something is so, or the process is over."""
    deadline = time.monotonic() + 1000
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_ten_times_it_ends_with_the_same_bits(runner, tmp_path):
    """At any time, in the training and while it saves, at its end, and in the comparison."""
    fields = {
        'epochs': 2,
        'checkpoint.every_steps': 5,
        'finetune.compare': "('knn', 'scratch')",
        'finetune.labels_per_class': '(2,)',
        'finetune.draws': 6,  # so many trials that none of the kills comes after the last one
    }
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    runner.finish(runner.start(whole, fields))
    seed = random.randrange(2**32)
    print(f'seed {seed}')
    draw = random.Random(seed)

    def count_rows() -> int:
        with contextlib.suppress(FileNotFoundError):
            return (killed / 'metrics.jsonl').read_bytes().count(b'\n')
        return 0

    def trials() -> int:
        return len(list((killed / 'comparison').glob('*')))

    for kill in range(KILLS):
        process = runner.start(killed, fields)
        if kill == 0:
            moment = time.monotonic() + draw.uniform(0, 15)
            wait_for(lambda m=moment: time.monotonic() > m or count_rows() >= 1, process)
        elif kill <= 5:  # steps are short: saving is half of the time
            row = count_rows() + draw.randint(1, 7)
            wait_for(lambda row=row: count_rows() >= row, process)
            time.sleep(draw.uniform(0, 0.1))
        elif kill == 6:
            wait_for((killed / native.CLASSIFIER_NAME).exists, process)
            time.sleep(draw.uniform(0, 0.5))
        else:
            done = trials() + draw.randint(1, 2)
            wait_for(lambda done=done: trials() >= done, process)
            time.sleep(draw.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, runner.said(process)
        print(f'kill {kill + 1}: {count_rows()} rows, {trials()} trials')
    runner.finish(runner.start(killed, fields))
    assert figures(killed) == figures(whole)
    assert rows(killed) == rows(whole)
    for found, wanted in zip(leaves(killed), leaves(whole), strict=True):
        np.testing.assert_array_equal(found, wanted)
    name = native.CLASSIFIER_NAME
    assert (killed / name).read_bytes() == (whole / name).read_bytes()
