"""Distillation as a command: killed and resumed, in two processes, on pictures without labels."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture
from simclr_jax.weights.loading import read_weights
from simclr_jax.workdir.metrics import read_metrics

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'weights'))
from random_weights import random_classifier

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 20
# The recipe's input is the other one: views made in the step, from the device's memory.
TF_DATA = {'augment.backend': 'tf', 'data.cache': 'none'}
SHORT = {
    'batch_size': 64,
    'epochs': 1,  # 20 steps of 1,297 pictures
    'checkpoint.every_steps': 4,
    'log.every_steps': 1,
    'log.tensorboard': False,
    # With labels, so that those that are hidden are, in every start of the run.
    'distill.alpha': 0.5,
    'finetune.labels': '10',
}
TIMING = {'images_per_second', 'input_wait', 'seconds'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('distill')


@pytest.fixture(scope='module')
def start(folder):
    """Starts a run; whatever is left of it at the end is killed."""
    architecture = Architecture('resnet_tiny', stem='small')
    names = tuple(map(str, range(10)))
    teacher = random_classifier(architecture, names, 8, channels=1, mean=(0.2,), std=(0.5,))
    native.save(folder / 'teacher', teacher)
    processes = []

    def start(workdir, *flags, devices=1, **fields) -> subprocess.Popen:
        fields = SHORT | {name.replace('__', '.'): value for name, value in fields.items()}
        command = ['--mode=distill', '--config=configs/distill_digits.py', f'--workdir={workdir}']
        command += [f'--teacher={folder / "teacher"}', '--encoder=scratch', *flags]
        processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    'run.py',
                    *command,
                    *(f'--config.{k}={v}' for k, v in fields.items()),
                ],
                cwd=ROOT,
                env=os.environ
                | {
                    'JAX_PLATFORMS': 'cpu',
                    'JAX_NUM_CPU_DEVICES': str(devices),
                    'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'),
                    'TFDS_DATA_DIR': str(folder / 'data'),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def rows_of(workdir) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name not in TIMING}
        for row in read_metrics(workdir)
    ]


def assert_same_bits(workdir, whole):
    states = []
    for place in (workdir, whole):
        with ocp.CheckpointManager(place / 'checkpoints') as manager:
            assert manager.latest_step() == STEPS
            state = manager.restore(STEPS, args=ocp.args.StandardRestore())
        states.append([np.asarray(leaf) for leaf in jax.tree.leaves(state)])
    for got, want in zip(*states, strict=True):
        np.testing.assert_array_equal(got, want)
    assert rows_of(workdir) == rows_of(whole)
    assert [row['step'] for row in rows_of(workdir)] == list(range(1, STEPS + 1))
    found, expected = (
        json.loads((place / 'result.json').read_text())['distill'] for place in (workdir, whole)
    )
    assert found == expected and 0 <= found['agreement'] <= 1
    students = [read_weights(place) for place in (workdir, whole)]
    for got, want in zip(*(jax.tree.leaves(w.variables) for w in students), strict=True):
        np.testing.assert_array_equal(got, want)


def kill_after(process: subprocess.Popen, workdir, rows: int) -> bool:
    """Kills the process when there are so many rows of metrics; whether it was still alive."""
    path, deadline = workdir / 'metrics.jsonl', time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b'\n') >= rows:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    'inputs',
    [pytest.param({}, marks=pytest.mark.slow), pytest.param(TF_DATA, marks=pytest.mark.long)],
)
def test_killed_and_resumed_it_ends_with_the_same_bits(inputs, start, folder, tmp_path):
    finish(start(tmp_path / 'whole', **inputs))
    killed = start(tmp_path / 'killed', **inputs)
    assert kill_after(killed, tmp_path / 'killed', 9)
    # Neither the teacher's file nor the flags are needed to go on.
    copy = [sys.executable, 'run.py', '--mode=distill', f'--workdir={tmp_path / "killed"}']
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1'}
    environment |= {'TFDS_DATA_DIR': str(folder / 'data')}
    (folder / 'teacher').rename(folder / 'moved')
    try:
        again = subprocess.run(
            copy, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        (folder / 'moved').rename(folder / 'teacher')
    assert again.returncode == 0, again.stderr
    assert 'going on from the checkpoint of step' in again.stdout
    assert_same_bits(tmp_path / 'killed', tmp_path / 'whole')
    # No checkpoint has the teacher, whose copy is beside them.
    size = sum(f.stat().st_size for f in (tmp_path / 'whole/checkpoints').rglob('*') if f.is_file())
    teacher = (tmp_path / 'whole/teacher.safetensors').stat().st_size
    assert size < 3 * 3.5 * teacher  # three checkpoints of the student and its momentum


@pytest.mark.long
@pytest.mark.parametrize('trial', range(10))
def test_killed_at_a_random_moment(trial, start, folder, tmp_path):
    whole = folder / 'whole'
    if not whole.exists():
        finish(start(whole))
    random = np.random.RandomState(trial)
    kills = 0
    for _ in range(1 + trial % 3):
        kills += kill_after(start(tmp_path), tmp_path, random.randint(0, STEPS))
        time.sleep(random.uniform(0, 0.05))
    assert kills
    finish(start(tmp_path))
    assert_same_bits(tmp_path, whole)


@pytest.mark.slow
def test_one_device_and_two_processes_of_two_learn_alike(start, tmp_path):
    finish(start(tmp_path / 'one', **TF_DATA))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    flags = (f'--coordinator=127.0.0.1:{port}', '--num_processes=2')
    pair = [
        start(tmp_path / 'two', *flags, f'--process_id={i}', devices=2, **TF_DATA) for i in range(2)
    ]
    outputs = [process.communicate(timeout=400)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    one, two = (
        [(row['loss'], row['agreement']) for row in rows_of(tmp_path / name)]
        for name in ('one', 'two')
    )
    np.testing.assert_allclose([row[0] for row in two], [row[0] for row in one], rtol=0, atol=1e-4)
    # One picture of a batch of 64 may be a tie.
    np.testing.assert_allclose([row[1] for row in two], [row[1] for row in one], atol=0.02)
    told = ['classifier.safetensors' in output for output in outputs]
    assert told == [True, False]
    found = json.loads((tmp_path / 'two/result.json').read_text())['distill']
    assert found['data']['test_pictures'] == 500 and found['student'].keys() == {'10'}


@pytest.mark.parametrize(
    'inputs',
    [
        pytest.param(TF_DATA, marks=pytest.mark.slow),
        pytest.param({'augment.backend': 'jax', 'data.cache': 'none'}, marks=pytest.mark.long),
    ],
)
def test_a_folder_without_labels_and_a_teacher_of_other_pixels(inputs, folder, tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / 'pictures').mkdir()
    for i in range(40):
        pixels = random.integers(0, 256, (12 + i % 3, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'pictures/{i}.png')
    (tmp_path / 'pictures/broken.png').write_bytes(b'none')
    teacher = random_classifier(
        Architecture('resnet_tiny', stem='small'), ('a', 'b', 'c'), 16, mean=(0.5,), std=(0.25,)
    )
    native.save(tmp_path / 'teacher', teacher)
    fields = {
        'data.path': tmp_path / 'pictures',
        'data.max_bad_fraction': 0.1,
        'data.image_size': 8,
        'model.encoder': 'resnet_tiny',
        'model.dtype': 'float32',
        'batch_size': 16,
        'epochs': 2,
        'eval.batch_size': 16,
        'log.tensorboard': False,
    } | inputs
    command = ['--mode=distill', '--config=configs/distill_folder.py', '--encoder=scratch']
    command += [f'--teacher={tmp_path / "teacher"}', f'--workdir={tmp_path / "run"}']
    done = subprocess.run(
        [sys.executable, 'run.py', *command, *(f'--config.{k}={v}' for k, v in fields.items())],
        cwd=ROOT,
        env=os.environ
        | {'JAX_PLATFORMS': 'cpu', 'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache')},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / 'run/result.json').read_text())['distill']
    assert 'teacher' not in found and 'student' not in found and 0 <= found['agreement'] <= 1
    test, train = (found['data'][f'{part}_pictures'] for part in ('test', 'train'))
    assert test + train == 40 and test >= 1
    assert f'agree on {100 * found["agreement"]:.1f} %' in done.stdout
    page = (tmp_path / 'run/report.html').read_text()
    assert 'Without labels nothing is known' in page and 'Surest mistakes' not in page
    assert 'broken.png' in done.stdout
    student = read_weights(tmp_path / 'run')
    assert student.classifier.names == ('a', 'b', 'c') and student.preprocess.size == 8
