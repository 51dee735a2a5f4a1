"""Rows of a batch belong to processes by the sharding, wherever a mesh has their devices."""

import importlib.util
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from simclr_jax import parallel
from simclr_jax.data import sources

ROOT = pathlib.Path(__file__).parents[1]


def run(script: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, '-c', script, *arguments],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes: subprocess.Popen) -> None:
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
    finally:
        for process in processes:  # which wait for one that has failed
            process.kill()
            process.communicate()


def free_port() -> str:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def test_the_mesh_keeps_a_processs_devices_together():
    interleaved = jax.devices()[::2] + jax.devices()[1::2]
    assert parallel.make_mesh(interleaved).devices.tolist() == jax.devices()
    assert parallel.make_mesh().devices.tolist() == jax.devices()
    assert parallel.make_mesh().axis_types == (AxisType.Auto,)


@pytest.mark.parametrize('order', [range(8), range(7, -1, -1), (3, 0, 6, 1, 7, 2, 5, 4)])
def test_a_permuted_mesh_has_every_row_in_its_place(order):
    mesh = Mesh(
        [jax.devices()[i] for i in order], (parallel.DATA_AXIS,), axis_types=(AxisType.Auto,)
    )
    rows = parallel.local_rows(24, mesh)
    np.testing.assert_array_equal(rows, np.arange(24))
    batch = parallel.put_batch({'image': rows[:, None] * 10, 'index': rows}, mesh)
    assert batch['index'].addressable_shards[0].device == jax.devices()[order[0]]
    np.testing.assert_array_equal(parallel.to_host(batch)['image'][:, 0], rows * 10)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec('libtpu'), reason="needs the extra 'tpu'")
def test_four_hosts_of_a_tpu_slice_share_a_batch_out_in_either_order():
    script = """
import jax, numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
from simclr_jax import parallel
from simclr_jax.tools.chips import devices_of

jax.config.update('jax_platforms', 'cpu')
devices = devices_of('v5e:4x4')
torus = mesh_utils.create_device_mesh((16,), list(devices), allow_split_physical_axes=True)
torus = Mesh(torus, ('data',), axis_types=(AxisType.Auto,))
for mesh, whole in ((parallel.make_mesh(devices), True), (torus, False)):
    rows = []
    for process in range(4):
        jax.process_index = lambda: process
        rows.append(parallel.local_rows(64, mesh))
    assert all(len(mine) == 16 and (np.diff(mine) > 0).all() for mine in rows)
    assert sorted(np.concatenate(rows)) == list(range(64))
    assert all(mine[-1] - mine[0] == 15 for mine in rows) == whole
"""
    finish(run(script))


@pytest.mark.slow
def test_two_processes_that_interleave_on_the_mesh(tmp_path):
    script = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, Mesh

jax.config.update('jax_num_cpu_devices', 4)
jax.distributed.initialize('127.0.0.1:' + sys.argv[1], 2, int(sys.argv[2]))
from flax import linen as nn
from simclr_jax import parallel
from simclr_jax.augment.recipe import DIGITS
from simclr_jax.data import order, pipeline, sources
from simclr_jax.evaluate.features import extract_features

first, second = jax.devices()[:4], jax.devices()[4:]
devices = [*first[:2], *second[:2], *first[2:], *second[2:]]
mesh = Mesh(devices, ('data',), axis_types=(AxisType.Auto,))
rows = parallel.local_rows(16, mesh)
start = 4 * jax.process_index()
np.testing.assert_array_equal(rows, [start + i for i in (0, 1, 2, 3, 8, 9, 10, 11)])
batch = parallel.put_batch({'index': rows}, mesh)
np.testing.assert_array_equal(parallel.to_host(batch['index']), np.arange(16))

source = sources.open_source('digits', sys.argv[3], 'train')
options = {'seed': 5, 'batch_size': 16, 'image_size': 8, 'total_steps': 2, 'start_step': 0}
mine = next(pipeline.train_batches(source, (DIGITS, DIGITS), rows=rows, **options))
whole = next(pipeline.train_batches(source, (DIGITS, DIGITS), **options))
placed = parallel.to_host(parallel.put_batch(mine, mesh))
np.testing.assert_array_equal(placed['index'], order.batch_indices(5, 0, 16, source.num_examples))
for name, value in whole.items():
    np.testing.assert_array_equal(placed[name], value)


class Mean(nn.Module):
    def __call__(self, images, train):
        return images.mean((1, 2))


rows = parallel.local_rows(200, mesh)
batches = pipeline.eval_batches(source, batch_size=200, image_size=8, rows=rows)
options = {'mean': (0.0,), 'std': (1.0,), 'raw_pixels': True}
options['num_examples'] = source.num_examples
features = extract_features({'encoder': Mean()}, {'encoder': {}}, batches, mesh, **options)
np.testing.assert_array_equal(features.index, np.arange(source.num_examples))
images = pipeline.read_images(source, np.arange(source.num_examples), image_size=8)
want = (images / 255).mean((1, 2))
np.testing.assert_allclose(np.asarray(features.values['encoder']), want, rtol=1e-5)
"""
    sources.open_source('digits', str(tmp_path), 'train')  # prepared once
    port = free_port()
    finish(*(run(script, port, str(i), str(tmp_path)) for i in range(2)))
