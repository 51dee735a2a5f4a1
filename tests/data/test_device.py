"""Data in device memory against the tf.data pipeline, and a whole run without TensorFlow."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from simclr_jax import parallel
from simclr_jax.data import device, order, pipeline, sources

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


@pytest.fixture(scope='module')
def digits(data_dir):
    return sources.open_source('digits', data_dir, 'train')


def test_batches_equal_those_of_the_pipeline_on_every_device(digits):
    mesh = parallel.make_mesh()
    options = {'seed': 4, 'batch_size': 16, 'start_step': 79, 'total_steps': 83}
    ours = list(device.train_batches(digits, mesh, **options))
    theirs = list(pipeline.canvas_batches(digits, workers=1, **options))
    assert len(ours) == len(theirs) == 4
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True), 79):
        np.testing.assert_array_equal(a['index'], order.batch_indices(4, step, 16, 1297))
        assert a.keys() == b.keys() == {'image', 'size', 'index', 'label'}
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
            assert len(a[name].sharding.device_set) == 8 and a[name].dtype == b[name].dtype


@pytest.mark.parametrize(('image_size', 'crop'), [(8, 1.0), (12, 0.8)])
def test_evaluation_equals_the_pipelines(digits, image_size, crop):
    options = {'batch_size': 400, 'image_size': image_size, 'crop': crop}
    ours, theirs = (list(m.eval_batches(digits, **options)) for m in (device, pipeline))
    for a, b in zip(ours, theirs, strict=True):
        for name in ('index', 'mask', 'label'):
            np.testing.assert_array_equal(a[name], b[name])
        difference = np.abs(a['image'].astype(int) - b['image'])
        assert difference.max() <= 1 and (difference > 0).mean() < 0.001  # rounding, at one half


@pytest.mark.slow
def test_a_run_imports_no_tensorflow(tmp_path, data_dir, digits):
    arguments = [
        *('--config=configs/simclr_digits.py', f'--workdir={tmp_path}', '--config.epochs=1'),
        *('--config.optimizer.warmup_epochs=0', '--config.eval.after_pretrain=()'),
        *('--config.eval.baselines=False', '--config.checkpoint.every_steps=1000'),
    ]
    code = (
        'import sys, run\n'
        f'status = run.main({arguments!r})\n'
        'assert "tensorflow" not in sys.modules, "imported"\n'
        'sys.exit(status)'
    )
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'TFDS_DATA_DIR': data_dir}
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=environment, check=True, timeout=300)
    result = json.loads((tmp_path / 'result.json').read_text())
    assert result['pretrain']['steps'] == 10
    assert list((tmp_path / 'tensorboard').iterdir())
    assert 'Augmented views' in (tmp_path / 'report.html').read_text()
