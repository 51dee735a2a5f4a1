"""Plans and benchmarks of runs that train a classifier: one view a picture, and few labels."""

import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.config_loading import load
from simclr_jax.modes import plan as plan_mode
from simclr_jax.tools import bench_loss, bench_step
from simclr_jax.tools.plan import assemble_without_data
from simclr_jax.tools.program import array_bytes, collectives

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


def digits(**fields):
    fields = {'batch_size': 128, 'epochs': 30, 'finetune.min_steps': 200} | fields
    return load(str(CONFIGS / 'finetune_digits.py'), {k: str(v) for k, v in fields.items()})


def assemble(config):
    return assemble_without_data(config, parallel.make_mesh(jax.devices()[:8]))


@pytest.mark.parametrize(
    ('labels', 'images', 'steps'),
    [('all', 1297, 303), ('0.1', 130, 200), ('10', 100, 200), ('500', 1297, 303)],
)
def test_a_run_is_as_long_as_its_labels_make_it(labels, images, steps):
    run = assemble(digits(**{'finetune.labels': labels}))
    assert (run.source.num_examples, run.length.total_steps) == (images, steps)
    assert run.views_shape[1] == 1 and run.abstract_batch()['label'].shape == (128,)


def test_a_list_of_pictures_is_counted(tmp_path):
    (tmp_path / 'few.txt').write_text('a.jpg\nb.jpg\n\nc.jpg\n')
    run = assemble(digits(**{'finetune.labels': tmp_path / 'few.txt'}))
    assert run.source.num_examples == 3 and run.length.total_steps == 200
    with pytest.raises(ConfigError, match=r'finetune\.labels=.*none.txt.*cannot be read'):
        assemble(digits(**{'finetune.labels': tmp_path / 'none.txt'}))


def test_what_is_not_here_has_a_thousand_classes_and_what_has_no_labels_is_refused(tmp_path):
    config = digits(**{'data.image_size': 16, 'data.dataset': 'elsewhere'})
    kernel = assemble(config).abstract_state().params['classifier']['kernel']
    assert kernel.shape[1] == 1000
    from PIL import Image

    Image.new('RGB', (16, 16)).save(tmp_path / 'a.png')
    Image.new('RGB', (16, 16)).save(tmp_path / 'b.png')
    config = digits(**{'data.dataset': 'folder', 'data.path': tmp_path, 'data.train_split': 'all'})
    with pytest.raises(ConfigError, match='has no labels to learn from'):
        assemble(config)


def test_recipes_of_imagenet_have_their_pictures_and_the_heads_first_layer():
    config = load(str(CONFIGS / 'finetune_imagenet.py:simclr_v2_1pct'), {})
    run = assemble(config)
    assert run.source.num_examples == 12_811  # the lines of 1percent.txt
    params = run.abstract_state().params
    assert {*params['projector']} == {'dense1', 'norm1'}
    assert params['projector']['dense1']['kernel'].shape == (2048, 2048)
    assert params['classifier']['kernel'].shape == (2048, 1000)
    ten = assemble(load(str(CONFIGS / 'finetune_imagenet.py:byol_10pct'), {}))
    assert ten.source.num_examples == 128_116


def test_the_loss_of_pairs_is_not_a_classifiers(tmp_path):
    with pytest.raises(ConfigError, match=r"--bench=loss: .* method='finetune' does not have"):
        bench_loss.main(digits(), str(tmp_path))


def test_the_noise_of_the_step_bench_has_all_that_the_step_takes():
    fields = {'augment.backend': 'tf', 'data.cache': 'none', 'augment.view1.erase_probability': 0.5}
    run = assemble(digits(**fields))
    batch = bench_step.random_batch(run, 128, np.random.default_rng(0))
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        name: (array.shape, array.dtype) for name, array in run.abstract_batch().items()
    }
    assert set(batch) == {'image', 'index', 'label'}


@pytest.mark.parametrize(('views', 'wanted'), [(1, 300.0), (2, None)])
def test_a_plan_knows_the_input_that_was_measured_for_as_many_views(views, wanted, tmp_path):
    found = {'views': views, 'pictures_per_second': {'jax': 300.0, 'tf': 200.0}}
    (tmp_path / 'bench_input.json').write_text(json.dumps(found))
    assert plan_mode._measured_input(tmp_path, digits()) == wanted


def check_exchanged(run):
    """That gradients and the sums of normalization are all that the step's devices exchange."""
    state = run.abstract_state()
    found = collectives(run.lower_step().compile().as_text())
    assert {kind for kind, _ in found} == {'all-reduce'}
    arrays = [array for _, arrays in found for array in arrays]
    parameters, statistics = (
        sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
        for tree in (state.params, state.variables)
    )
    sent = sum(array_bytes(*array) for array in arrays)
    # Of normalization, two sums a channel forwards and two backwards, and a few scalars.
    assert 4 * parameters <= sent <= 4 * (parameters + 2 * statistics + 64)
    assert not any(dtype == 'u8' or shape[-3:] == (8, 8, 1) for dtype, shape in arrays)


@pytest.mark.slow
def test_gradients_and_sums_of_normalization_are_all_that_devices_exchange():
    check_exchanged(assemble(digits(batch_size=64)))


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec('libtpu'), reason="needs the extra 'tpu'")
def test_so_they_are_on_a_tpu():
    # In a process of its own, as the compiler takes environment variables when it is loaded.
    script = (
        'import sys\n'
        f'sys.path.insert(0, {os.path.dirname(__file__)!r})\n'
        'from test_classifier_tools import assemble_without_data, check_exchanged, digits\n'
        'from simclr_jax.tools.plan import make_mesh\n'
        "check_exchanged(assemble_without_data(digits(batch_size=64), make_mesh('v5e:2x4')[0]))"
    )
    environment = os.environ | {'PYTHONPATH': str(CONFIGS.parent)}
    subprocess.run([sys.executable, '-c', script], cwd=CONFIGS.parent, env=environment, check=True)
