"""The digits and made JPEGs through the real path: ArrayRecord, order, decoding, views, batches."""

import dataclasses
import importlib
import json
import os
import resource

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits, load_sample_images

from simclr_jax import data
from simclr_jax.augment.recipe import DIGITS, PRESETS, ViewRecipe
from simclr_jax.config import ConfigError, RunError
from simclr_jax.data import order, pipeline, sources
from simclr_jax.data.digits import test_indices as digits_test_indices

ACCURATE = {'dct_method': 'INTEGER_ACCURATE'}  # Pillow's
IDENTITY = ViewRecipe(
    crop_area=(1.0, 1.0),
    crop_aspect=(1.0, 1.0),
    crop_sampler='torchvision',
    flip_probability=0.0,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


@pytest.fixture(scope='module')
def digits(data_dir):
    return sources.open_source('digits', data_dir, 'train')


@pytest.fixture(scope='module')
def photographs():
    """A source of JPEGs whose sizes differ, from the two photographs that scikit-learn ships."""
    images = [
        image[top : top + 150, left : left + 150 + 20 * top // 40]
        for image in load_sample_images().images
        for top in (0, 120, 240)
        for left in (0, 200)
    ]
    records = [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    'image': tf.train.Feature(
                        bytes_list=tf.train.BytesList(
                            value=[tf.io.encode_jpeg(image, quality=95).numpy()]
                        )
                    )
                }
            )
        ).SerializeToString()
        for image in images
    ]
    source = sources.Source(
        lambda indices: [records[i] for i in indices], len(records), (None, None, 3), None
    )
    return source, images


def batches(source, views, **options):
    defaults = {'seed': 1, 'batch_size': 8, 'image_size': 8, 'start_step': 0, 'total_steps': 4}
    return list(pipeline.train_batches(source, views, **defaults | options))


def configured(kind, digits, photographs):
    if kind == 'digits':
        return digits, (DIGITS, DIGITS)
    return photographs[0], PRESETS['simclr']


def test_digits_are_scikit_learns_split_by_class(data_dir, digits):
    images, labels = load_digits(return_X_y=True)
    test = sources.open_source('digits', data_dir, 'test')
    assert (digits.num_examples, test.num_examples) == (1297, 500)
    assert digits.image_shape == (8, 8, 1)
    assert digits.label_names == tuple('0123456789')
    read = {}
    for name, source in (('train', digits), ('test', test)):
        found = list(pipeline.eval_batches(source, batch_size=100, image_size=8))
        mask = np.concatenate([b['mask'] for b in found]) > 0
        read[name] = tuple(
            np.concatenate([b[key] for b in found])[mask] for key in ('image', 'label')
        )
    np.testing.assert_array_equal(np.bincount(read['test'][1]), [50] * 10)
    # Every image is scikit-learn's, once, with its label, in the split that the rule says.
    held_out = digits_test_indices(labels)
    for name, indices in (
        ('test', held_out),
        ('train', np.setdiff1d(np.arange(len(labels)), held_out)),
    ):
        pixels = np.round(images[indices] * 255 / 16).astype(np.uint8)
        expected = sorted(zip(pixels.tolist(), labels[indices].tolist(), strict=True))
        got_images, got_labels = read[name]
        got = zip(got_images.reshape(-1, 64).tolist(), got_labels.tolist(), strict=True)
        assert sorted(got) == expected


def test_a_batch_has_the_records_that_the_order_says(digits):
    for step, batch in enumerate(batches(digits, (IDENTITY, IDENTITY))):
        index = order.batch_indices(1, step, 8, 1297)
        np.testing.assert_array_equal(batch['index'], index)
        expected = pipeline.read_images(digits, index, image_size=8)
        np.testing.assert_array_equal(batch['image'][:, 0], expected)
        np.testing.assert_array_equal(batch['image'][:, 1], expected)
        assert batch['image'].shape == (8, 2, 8, 8, 1) and batch['image'].dtype == np.uint8
        assert batch['label'].shape == (8,)


@pytest.mark.parametrize('kind', ['digits', pytest.param('photographs', marks=pytest.mark.slow)])
def test_the_bytes_are_a_function_of_seed_and_step(kind, digits, photographs):
    source, views = configured(kind, digits, photographs)
    whole = batches(source, views)
    # Started at step 2, as the second of two processes, with another number of workers.
    resumed = batches(source, views, start_step=2, rows=slice(4, 8), workers=3)
    assert len(resumed) == 2
    for got, want in zip(resumed, whole[2:], strict=True):
        np.testing.assert_array_equal(got['image'], want['image'][4:])
        np.testing.assert_array_equal(got['index'], want['index'][4:])
    assert (batches(source, views, seed=2)[0]['image'] != whole[0]['image']).any()


@pytest.mark.parametrize('kind', ['digits', pytest.param('photographs', marks=pytest.mark.slow)])
def test_views_of_an_image_differ_and_repeat_neither_over_steps(kind, digits, photographs):
    source, views = configured(kind, digits, photographs)
    first, second = (
        next(b for b in batches(source, views, start_step=s, total_steps=s + 1, batch_size=12))
        for s in (0, source.num_examples // 12)
    )
    common = np.intersect1d(first['index'], second['index'])
    views = [b['image'][np.isin(b['index'], common)] for b in (first, second)]
    assert (first['image'][:, 0] != first['image'][:, 1]).any((1, 2, 3)).mean() > 0.9
    if len(common):
        assert (views[0] != views[1]).any()


def test_each_view_follows_its_own_recipe(photographs):
    inverted = dataclasses.replace(IDENTITY, solarize_probability=1.0, solarize_threshold=0.0)
    (batch,) = batches(photographs[0], (IDENTITY, inverted), total_steps=1)
    np.testing.assert_array_equal(batch['image'][:, 1], 255 - batch['image'][:, 0])


def test_a_canvas_has_each_picture_in_its_upper_left(photographs):
    source, images = photographs
    options = {'seed': 1, 'batch_size': 8, 'start_step': 0, 'total_steps': 1}
    (batch,) = pipeline.canvas_batches(source, **options)
    assert any(height != width for height, width in batch['size'])
    for index, canvas, (height, width) in zip(
        batch['index'], batch['image'], batch['size'], strict=True
    ):
        want = np.zeros((512, 512, 3), np.uint8)
        want[:height, :width] = tf.io.decode_jpeg(
            tf.io.encode_jpeg(images[index], quality=95), **ACCURATE
        )
        np.testing.assert_array_equal(canvas, want)


def test_whole_photographs_match_pillow(photographs):
    from PIL import Image

    source, images = photographs
    square = [i for i, image in enumerate(images) if image.shape[0] == image.shape[1]]
    shown = pipeline.read_images(source, np.array(square), image_size=150)
    for index, got in zip(square, shown, strict=True):
        want = np.asarray(Image.fromarray(images[index]), np.int32)
        assert np.abs(got.astype(np.int32) - want).mean() < 4  # JPEG's own loss


def test_evaluation_counts_every_example_once(digits):
    found = list(pipeline.eval_batches(digits, batch_size=200, image_size=8))
    mask = np.concatenate([b['mask'] for b in found])
    index = np.concatenate([b['index'] for b in found])
    assert len(index) == 1400 and mask.sum() == 1297
    np.testing.assert_array_equal(index[mask > 0], np.arange(1297))
    parts = [
        list(pipeline.eval_batches(digits, batch_size=200, image_size=8, rows=rows))
        for rows in (slice(0, 100), slice(100, 200))
    ]
    for whole, *halves in zip(found, *parts, strict=True):
        joined = np.concatenate([half['image'] for half in halves])
        np.testing.assert_array_equal(joined, whole['image'])


def test_central_crop(photographs):
    source, images = photographs
    size = images[0].shape[0] // 2
    (got,) = pipeline.read_images(source, np.array([0]), image_size=size, crop=0.5)
    decoded = tf.io.decode_jpeg(tf.io.encode_jpeg(images[0], quality=95), **ACCURATE).numpy()
    top, left = (decoded.shape[0] - size) // 2, (decoded.shape[1] - size) // 2
    want = decoded[top : top + size, left : left + size].astype(np.int32)
    # A window's last column knows no chroma beyond it, so libjpeg rounds it otherwise.
    difference = np.abs(got.astype(np.int32) - want)
    assert difference[:, :-1].max() == 0 and difference.max() <= 8


def test_what_is_not_there_is_named_with_the_way_out(data_dir, tmp_path):
    with pytest.raises(ConfigError, match=r'cifar10.*not prepared.*data.prepare cifar10'):
        sources.check_prepared('cifar10', str(tmp_path))
    with pytest.raises(ConfigError, match=r"'trian' of digits: is not one of"):
        sources.open_source('digits', data_dir, 'trian')
    (tmp_path / 'mnist/3.0.1').mkdir(parents=True)
    (tmp_path / 'mnist/3.0.1/dataset_info.json').write_text('{"fileFormat": "riegeli"}')
    with pytest.raises(ConfigError, match=r'prepared as riegeli.*data.prepare mnist'):
        sources.check_prepared('mnist', str(tmp_path))


def test_another_builder_config_or_version_than_the_one_asked_for_is_told(tmp_path):
    place = tmp_path / 'imagenette/160px-v2/0.1.0'
    place.mkdir(parents=True)
    info = {'name': 'imagenette', 'configName': '160px-v2', 'version': '0.1.0'}
    (place / 'dataset_info.json').write_text(json.dumps(info | {'fileFormat': 'array_record'}))
    for name in ('imagenette', 'imagenette/160px-v2', 'imagenette/160px-v2:0.1.0'):
        sources.check_prepared(name, str(tmp_path))
    for name in ('imagenette/320px-v2', 'imagenette/160px-v2:1.0.0'):
        with pytest.raises(
            ConfigError, match=r'is not prepared .* but imagenette/160px-v2:0\.1\.0'
        ):
            sources.check_prepared(name, str(tmp_path))


def test_no_room_for_the_digits_is_a_line(tmp_path):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))  # as a disk that is full
    try:
        with pytest.raises(
            RunError, match=r'data\.data_dir=.*cannot be written there: .*make room'
        ):
            sources.open_source('digits', str(tmp_path), 'train')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize(('before', 'after'), [(None, '2'), ('1', '2'), ('0', '0'), ('3', '3')])
def test_tensorflow_is_quiet_though_jax_was_imported_first(before, after, monkeypatch):
    """Its tracebacks would surround the line that says why the reading ended."""
    name = 'TF_CPP_MIN_LOG_LEVEL'
    if before is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, before)
    monkeypatch.setenv('TF_ENABLE_ONEDNN_OPTS', '0')
    importlib.reload(data)
    assert os.environ[name] == after
