import json
import pathlib

import jax
import numpy as np
import pytest

from simclr_jax import parallel
from simclr_jax.config_loading import load
from simclr_jax.modes import bench
from simclr_jax.tools import bench_step, plan

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_prints_a_table_and_writes_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_step, '_SECONDS', 0.0)
    monkeypatch.setattr(bench_step, '_MIN_STEPS', 2)
    mesh = parallel.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(parallel, 'make_mesh', lambda: mesh)
    config = load(
        str(ROOT / 'configs/simclr_digits.py'), {'batch_size': '16', 'probe.learning_rate': '0'}
    )
    bench.main(config, str(tmp_path / 'new'), 'step')
    result = json.loads((tmp_path / 'new' / 'bench_step.json').read_text())
    assert result['devices'] == 1 and result['batch_size'] == 16 and result['steps'] == 2
    assert result['images_per_second'] == pytest.approx(16 / result['seconds'])
    assert 0 < result['least_seconds'] <= result['seconds']
    assert result['flops'] > 0
    assert result['mfu'] is None  # of a CPU
    printed = capsys.readouterr().out
    assert 'images/s' in printed and 'unknown chip' in printed


@pytest.mark.slow
def test_the_noise_of_the_step_bench_makes_views_that_are_numbers():
    fields = {'batch_size': '16', 'augment.backend': 'jax'}
    config = load(str(ROOT / 'configs/simclr_digits.py'), fields)
    run = plan.assemble_without_data(config, parallel.make_mesh(jax.devices()[:1]))
    batch = bench_step.random_batch(run, 16, np.random.default_rng(0))
    shapes = run.abstract_batch()
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        name: (array.shape, array.dtype) for name, array in shapes.items()
    }
    views = run.augment({name: jax.numpy.asarray(array) for name, array in batch.items()}, 0)
    assert np.isfinite(views).all() and np.std(views) > 0.01
