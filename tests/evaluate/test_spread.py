"""Probes over many devices and processes give the figures of one; a host keeps features once."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tracemalloc

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from sklearn.datasets import load_digits

from simclr_jax import parallel
from simclr_jax.evaluate import knn, linear, logistic, rows
from simclr_jax.evaluate.knn import knn_eval, nearest_neighbours
from simclr_jax.evaluate.linear import linear_eval

HERE = pathlib.Path(__file__).parent
FEATURES, LABELS = load_digits(return_X_y=True)
DIGITS = FEATURES[:500], LABELS[:500], FEATURES[500:800], LABELS[500:800]
ORDER = [3, 0, 6, 1, 7, 2, 5, 4]


def one_device() -> Mesh:
    return parallel.make_mesh(jax.devices()[:1])


def permuted() -> Mesh:
    devices = np.array([jax.devices()[i] for i in ORDER])
    return Mesh(devices, (parallel.DATA_AXIS,), axis_types=(AxisType.Auto,))


@pytest.mark.parametrize('mesh', [parallel.make_mesh, permuted])
def test_rows_lie_where_the_sharding_says(mesh, monkeypatch):
    monkeypatch.setattr(rows, 'MAX_BLOCK', 9)  # 3 rows a block
    values = np.arange(60, dtype=np.float32).reshape(20, 3)
    chosen = rows.Rows(values, np.arange(19, -1, -1), lambda part: part + 1)
    placed = rows.put_rows(chosen, 40, mesh())
    np.testing.assert_array_equal(placed, np.pad(values[::-1] + 1, ((0, 20), (0, 0))))


@pytest.mark.parametrize('mesh', [parallel.make_mesh, permuted])
@pytest.mark.parametrize('keys_of_a_device', [1000, 20])
def test_neighbours_over_eight_devices_are_those_of_one(mesh, keys_of_a_device, monkeypatch):
    train, _, test, _ = DIGITS
    want = nearest_neighbours(test, train, 7, mesh=one_device())
    monkeypatch.setattr(knn, 'MAX_KEYS', keys_of_a_device * train.shape[1])
    found = nearest_neighbours(test, train, 7, mesh=mesh())
    np.testing.assert_allclose(found[1], want[1], atol=1e-6)
    gaps = np.abs(np.diff(want[1], axis=1))
    clear = (gaps > 1e-5).all(axis=1)  # where float32 tells them apart
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[0][clear, :6], want[0][clear, :6])


def test_of_equal_keys_the_first_on_any_number_of_devices():
    keys = np.tile(np.eye(4, dtype=np.float32), (6, 1))
    for mesh in (one_device(), parallel.make_mesh(), permuted()):
        found, _ = nearest_neighbours(np.eye(4), keys, 5, mesh=mesh)
        np.testing.assert_array_equal(found, np.arange(4)[:, None] + 4 * np.arange(5)[None])


def test_regressions_over_eight_devices_are_those_of_one():
    features = (FEATURES[:203] / 100).astype(np.float32)
    labels, weights = LABELS[:203], np.ones((2, 203), np.float32)
    found = [
        logistic.fit(
            features,
            labels,
            weights,
            np.array([1e-2, 0.1]),
            num_classes=10,
            mesh=mesh,
            max_steps=60,
        )
        for mesh in (one_device(), permuted())
    ]
    np.testing.assert_allclose(found[0].objective, found[1].objective, rtol=1e-4)


def test_the_number_of_regressions_is_what_the_probe_fits(monkeypatch):
    fitted, real = [], logistic.fit

    def fit(features, labels, weights, l2, **options):
        fitted.append(len(weights))
        return real(features, labels, weights, l2, **options, max_steps=1)

    monkeypatch.setattr(linear.logistic, 'fit', fit)
    linear_eval(*DIGITS, num_classes=10, labels_per_class=('all', 10, 3, 1), draws=1)
    few = sum(map(linear.count_problems, (10, 3, 1)))
    assert fitted == [linear.count_problems('all'), few]


def test_a_host_keeps_features_once(monkeypatch):
    """The peak of what NumPy has allocated; what devices hold is not counted."""
    monkeypatch.setattr(rows, 'MAX_BLOCK', 2**15)
    count, dim = 16_000, 128
    random = np.random.default_rng(0)
    labels = (np.arange(count) % 4).astype(np.int32)
    test, test_labels = random.normal(size=(200, dim)).astype(np.float32), labels[:200]
    options = {'num_classes': 4, 'labels_per_class': ('all',), 'mesh': parallel.make_mesh()}

    def probe(train):
        knn_eval(train, labels, test, test_labels, **options)
        linear_eval(train, labels, test, test_labels, **options, l2_grid=(1.0,))

    train = random.standard_normal((count, dim), np.float32)
    probe(train)  # compiles: what JAX allocates for that is not of the features
    tracemalloc.start()
    try:
        train = train.copy()
        tracemalloc.reset_peak()
        probe(train)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * train.nbytes, peak / train.nbytes


def run(script, *arguments) -> subprocess.Popen:
    root = str(HERE.parents[1])
    return subprocess.Popen(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        cwd=root,
        env=os.environ | {'PYTHONPATH': root},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes: subprocess.Popen) -> None:
    for process in processes:
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0, output


@pytest.mark.slow
def test_two_processes_whose_devices_interleave_find_the_figures_of_one(tmp_path):
    finish(run('probes_process.py', tmp_path / 'alone', 0, 1, 0))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    finish(*(run('probes_process.py', tmp_path / str(i), port, 2, i) for i in range(2)))
    alone, *both = (
        json.loads((tmp_path / f'{name}.json').read_text()) for name in ('alone', '0', '1')
    )
    assert both[0] == both[1]
    for probe in alone:
        for labels, want in alone[probe].items():
            found = both[0][probe][labels]['mean']
            # Rounding may move a picture or two of the 400.
            assert abs(found - want['mean']) < 2.5 / 400, (probe, labels, found, want)
    arrays, want = np.load(tmp_path / '1.npz'), np.load(tmp_path / 'alone.npz')
    for name in want.files:
        np.testing.assert_array_equal(arrays[name], want[name])


@pytest.mark.slow
def test_a_killed_linear_protocol_goes_on_with_the_same_bits(tmp_path):
    def start(name, step):
        return run('linear_process.py', tmp_path / name, tmp_path / f'{name}.npz', step)

    whole, killed = start('whole', -1), start('killed', 32)
    output, _ = killed.communicate(timeout=500)
    assert killed.returncode == -signal.SIGKILL, output
    assert not (tmp_path / 'killed.npz').exists()
    again = start('killed', -1)
    output, _ = again.communicate(timeout=500)
    assert again.returncode == 0, output
    finish(whole)
    want, found = np.load(tmp_path / 'whole.npz'), np.load(tmp_path / 'killed.npz')
    for name in want.files:
        np.testing.assert_array_equal(found[name], want[name])
    assert 'going on from step' in output
