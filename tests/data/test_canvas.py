"""How large the canvas is that pictures are decoded into: by the views and by the folder."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax import config as config_lib
from simclr_jax import parallel
from simclr_jax.augment import jax_draws
from simclr_jax.augment.recipe import PRESETS
from simclr_jax.config import ConfigError
from simclr_jax.config_checks import validate
from simclr_jax.data import device, pipeline
from simclr_jax.data.factory import open_split
from simclr_jax.tools.plan import assemble_without_data


def config_of(path, tmp_path, **fields):
    config = config_lib.default()
    config.data.update(dataset='folder', path=str(path), data_dir=str(tmp_path), **fields)
    config.augment.backend = 'jax'
    return config


def folder(root, *sizes):
    root.mkdir()
    random = np.random.default_rng(0)
    for i, (width, height) in enumerate(sizes):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(root / f'{i}.png')
    return root


@pytest.fixture
def tiny(tmp_path):
    return folder(tmp_path / 'tiny', *[(32, 32)] * 9)


def test_pictures_of_32_pixels_in_device_memory_do_not_ask_for_512(tiny, tmp_path):
    config = config_of(tiny, tmp_path, train_split='all', cache='device')
    source = open_split(config, 'all')
    assert source.canvas_shape == (32, 32, 3)
    many = dataclasses.replace(source, num_examples=45_000)
    assert many.num_examples * np.prod(many.canvas_shape) == 45_000 * 32 * 32 * 3
    assert device.load(source).images.shape == (9, 32, 32, 3)


def test_a_canvas_that_is_given_is_no_larger_than_the_largest_picture(tmp_path):
    root = folder(tmp_path / 'pictures', *[(60, 40), (70, 90)] * 5)
    given = {canvas: config_of(root, tmp_path, canvas=canvas) for canvas in (0, 64, 512)}
    sides = {canvas: open_split(config, 'all').canvas_side for canvas, config in given.items()}
    assert sides == {0: 90, 64: 64, 512: 90}  # 96 for views of 32 pixels


def test_a_canvas_follows_from_the_views():
    config = config_lib.default()
    sides = {}
    for config.data.image_size in (32, 96, 224):
        sides[config.data.image_size] = config_lib.canvas_side(config)
    assert sides == {32: 96, 96: 224, 224: 512}
    config.augment.view2.crop_area = config.augment.view1.crop_area = (1.0, 1.0)
    assert config_lib.canvas_side(config) == 224
    config.data.canvas = 333
    assert config_lib.canvas_side(config) == 333


@pytest.mark.slow
@pytest.mark.parametrize(('preset', 'image_size'), [('simclr', 224), ('moco_v2', 64)])
def test_few_random_crops_are_enlarged(preset, image_size):
    config = config_lib.default()
    config_lib.set_views(config, *PRESETS[preset])
    config.data.image_size = image_size
    side = config_lib.canvas_side(config)
    recipe = PRESETS[preset][0]
    keys = jax_draws.view_keys(0, 0, 0, np.arange(1000))
    drawn = jax_draws.sample_parameters(recipe, keys)
    sides = np.full(1000, side, np.float32)
    boxes = np.asarray(jax_draws.crop_boxes(recipe, drawn, sides, sides))
    enlarged = np.mean(np.sqrt(boxes[:, 2] * boxes[:, 3]) < image_size)
    assert 0 < enlarged < 0.25


@pytest.mark.parametrize('name', ['cifar10', 'digits', 'imagenet2012'])
def test_plan_and_bench_have_the_canvas_of_the_data_set(name):
    config = config_lib.default()
    config.data.dataset, config.augment.backend = name, 'jax'
    config.data.image_size = 224 if name == 'imagenet2012' else 32
    run = assemble_without_data(config, parallel.make_mesh(jax.devices()[:1]))
    want = {'cifar10': (32, 32, 3), 'digits': (8, 8, 1), 'imagenet2012': (512, 512, 3)}[name]
    assert run.abstract_batch()['image'].shape == (config.batch_size, *want)


@pytest.mark.parametrize(
    'canvas, backend, good',
    [(0, 'jax', True), (31, 'jax', False), (32, 'jax', True), (1, 'tf', True), (-1, 'tf', False)],
)
def test_a_canvas_is_0_or_holds_a_view(canvas, backend, good):
    config = config_lib.default()
    config.data.canvas, config.augment.backend = canvas, backend
    if good:
        validate(config)
        return
    with pytest.raises(ConfigError, match=f'data.canvas={canvas}: must be'):
        validate(config)


def test_evaluation_sees_the_canvas_that_the_jax_backend_trains_from(tmp_path):
    root = folder(tmp_path / 'large', *[(300, 198)] * 2)
    config = config_of(root, tmp_path, canvas=100)
    source = open_split(config, 'all')
    options = {'seed': 0, 'batch_size': 2, 'start_step': 0, 'total_steps': 1}
    (trained,) = pipeline.canvas_batches(source, **options)
    (seen,) = pipeline.eval_batches(source, batch_size=2, image_size=66)
    for index, canvas, size in zip(*(trained[k] for k in ('index', 'image', 'size')), strict=True):
        assert tuple(size) == (66, 100)
        np.testing.assert_array_equal(canvas[:66, 17:83], seen['image'][index, 0])
    config.augment.backend = 'tf'
    assert not open_split(config, 'all').through_canvas
