import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from simclr_jax.augment import tf_draws, tf_ops
from simclr_jax.augment.recipe import PRESETS, ViewRecipe

IDENTITY = ViewRecipe(
    crop_area=(1.0, 1.0),
    crop_aspect=(1.0, 1.0),
    flip_probability=0.0,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
)
SEED = (3, 4)


@pytest.fixture(scope='module')
def goldens():
    path = Path(__file__).parents[1] / 'goldens' / 'reference_values.npz'
    with np.load(path) as values:
        return dict(values)


def _images(n, size, channels=3, seed=0):
    values = np.random.default_rng(seed).random((n, size, size, channels), np.float32)
    return tf.constant(values)


def _on_images(operation):
    """The operation, which takes rows of planes, for images with their channels last."""

    def of_images(images, *parameters):
        result = operation(tf.transpose(images, [0, 1, 3, 2]), *parameters)
        return tf.transpose(result, [0, 1, 3, 2])

    return of_images


def _blur(kernel):
    return _on_images(lambda planes, sigma: tf_ops.gaussian_blur(planes, sigma, kernel))


def _brightness(mode):
    return _on_images(lambda planes, factor: tf_ops.adjust_brightness(planes, factor, mode))


_contrast = _on_images(tf_ops.adjust_contrast)
_saturation = _on_images(tf_ops.adjust_saturation)
_hue = _on_images(tf_ops.adjust_hue)
_rotate = _on_images(tf_ops.rotate)

OPERATIONS = {
    'brightness': (_brightness('multiplicative'), (0.2, 1.8)),
    'brightness_additive': (_brightness('additive'), (-0.8, 0.8)),
    'contrast': (_contrast, (0.2, 1.8)),
    'saturation': (_saturation, (0.0, 2.0)),
    'hue': (_hue, (-0.4, 0.5)),
    'blur': (_blur(5), (0.1, 2.0)),
}

# --- the operations, against the originals ---


@pytest.mark.parametrize(
    ('key', 'function', 'parameter'),
    [
        ('op_brightness_multiplicative', _brightness('multiplicative'), 'brightness_factor'),
        ('op_contrast', _contrast, 'contrast_factor'),
        ('op_saturation', _saturation, 'saturation_factor'),
        ('op_saturation_byol', _saturation, 'saturation_factor'),
        ('op_hue', _hue, 'hue_delta'),
        ('op_hue_byol', _hue, 'hue_delta'),
        ('op_blur_k3_simclr', _blur(3), 'blur_sigma'),
        ('op_blur_k23_byol', _blur(23), 'blur_sigma'),
    ],
)
def test_operation_equals_the_original(goldens, key, function, parameter):
    # BYOL's hue and saturation differ from TensorFlow's by 4e-7: one implementation serves both.
    result = function(tf.constant(goldens['image'][None]), tf.constant(goldens[parameter][None]))
    np.testing.assert_allclose(result[0], goldens[key], rtol=0, atol=2e-6)


def test_grayscale_and_solarize_equal_the_original(goldens):
    image = tf.constant(goldens['image'][None])
    np.testing.assert_allclose(
        _on_images(tf_ops.to_grayscale)(image)[0], goldens['op_grayscale'], rtol=0, atol=1e-6
    )
    solarized = _on_images(lambda planes: tf_ops.solarize(planes, 0.5))(image)
    np.testing.assert_array_equal(solarized[0], goldens['op_solarize_0.5'])


@pytest.mark.parametrize('size', [19, 70, 150])  # of one, two and three blocks
@pytest.mark.parametrize('sigma', [0.1, 0.7, 2.0])
def test_blur_equals_a_convolution_in_float64(sigma, size):
    # The golden sigma is so small that the blur does almost nothing.
    image = _images(1, size)
    taps = np.exp(-(np.arange(-4.0, 5) ** 2) / (2 * sigma**2))
    expected = image.numpy()[0].astype(np.float64)
    for axis in (0, 1):
        expected = scipy.ndimage.convolve1d(expected, taps / taps.sum(), axis, mode='constant')
    result = _blur(9)(image, tf.constant([sigma]))
    np.testing.assert_allclose(result[0], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ('ours', 'theirs', 'limits'),
    [
        (_saturation, tf.image.adjust_saturation, (0.0, 2.0)),
        (_hue, tf.image.adjust_hue, (-0.5, 0.5)),
        (_contrast, tf.image.adjust_contrast, (0.2, 1.8)),
    ],
)
def test_every_example_has_its_own_parameter(ours, theirs, limits):
    images = _images(7, 16).numpy()
    images[0] = 0.0  # black, grey, white, and ties between two channels
    images[1] = 0.5
    images[2] = 1.0
    images[3, ..., 0] = images[3, ..., 1]
    images[4, ..., 1] = images[4, ..., 2]
    images[5] = np.round(images[5])
    factors = np.linspace(*limits, 7, dtype=np.float32)
    expected = [theirs(image, factor) for image, factor in zip(images, factors, strict=True)]
    np.testing.assert_allclose(
        ours(tf.constant(images), tf.constant(factors)), expected, rtol=0, atol=3e-6
    )


@pytest.mark.parametrize('name', OPERATIONS)
def test_batched_equals_one_by_one(name):
    function, limits = OPERATIONS[name]
    images = _images(5, 12)
    factors = tf.constant(np.linspace(*limits, 5, dtype=np.float32))
    one_by_one = [function(images[i : i + 1], factors[i : i + 1])[0] for i in range(5)]
    np.testing.assert_allclose(function(images, factors), one_by_one, rtol=0, atol=1e-6)
    same_image = tf.repeat(images[:1], 5, axis=0)
    assert len({result.tobytes() for result in function(same_image, factors).numpy()}) == 5


# --- resizing ---


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
def test_crop_and_resize_equals_the_original(goldens, interpolation):
    image, box = goldens['crop_image'][None], goldens['crop_box_yxhw'][None]
    result = tf_ops.crop_and_resize(tf.constant(image), tf.constant(box), 48, interpolation)
    expected = goldens[f'op_crop_resize_{interpolation}_48']
    np.testing.assert_allclose(result[0], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('size', [5, 16, 33])
def test_crop_and_resize_equals_tf_image_resize(interpolation, size):
    images = np.random.default_rng(0).integers(0, 256, (6, 21, 17, 3), np.uint8)
    boxes = [
        [0, 0, 21, 17],
        [3, 2, 1, 1],
        [20, 0, 1, 17],
        [5, 5, 16, 12],
        [0, 9, 7, 8],
        [2, 2, 5, 5],
    ]
    result = tf_ops.crop_and_resize(tf.constant(images), tf.constant(boxes), size, interpolation)
    for image, (y, x, h, w), resized in zip(images, boxes, result, strict=True):
        expected = tf.image.resize(image[y : y + h, x : x + w], [size, size], interpolation)
        np.testing.assert_allclose(resized, np.clip(expected, 0, 255), rtol=0, atol=1e-3)


@pytest.mark.parametrize(('interpolation', 'order'), [('bilinear', 1), ('bicubic', 3)])
def test_a_box_between_pixels_is_interpolated_from_all_of_them(interpolation, order):
    image = np.random.default_rng(0).random((12, 12, 1)).astype(np.float32)
    y, x, height, width = box = np.float32([3.3, 2.6, 4.5, 5.25])
    got = tf_ops.crop_and_resize(image[None], box[None], 6, interpolation).numpy()[0, ..., 0]
    rows = y + (np.arange(6) + 0.5) * height / 6 - 0.5
    columns = x + (np.arange(6) + 0.5) * width / 6 - 0.5

    def kernel(distance):  # Keys (1981) with a = -1/2, and the triangle
        d = np.abs(distance)
        if order == 1:
            return np.maximum(1 - d, 0)
        near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        return np.where(d <= 1, near, np.where(d < 2, far, 0))

    weights = [kernel(c[:, None] - np.arange(12)) for c in (rows, columns)]
    want = np.clip(weights[0] @ image[..., 0] @ weights[1].T, 0, 1)
    np.testing.assert_allclose(got, want, atol=3e-3)  # TensorFlow's table has 1024 steps


def test_bicubic_is_clipped_to_the_scale_of_the_input():
    checks = np.indices((8, 8)).sum(0)[None, ..., None] % 2
    for values, top in ((checks.astype(np.uint8) * 255, 255), (checks.astype(np.float32), 1)):
        result = tf_ops.crop_and_resize(tf.constant(values), [[0, 0, 8, 8]], 21, 'bicubic').numpy()
        assert (result.min(), result.max()) == (0, top)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
def test_cut_and_resize(goldens, channels, interpolation):
    image = tf.constant(np.uint8(goldens['crop_image'] * 255))[..., :channels]
    cut = tf_ops.cut_and_resize(image, tf.constant([19, 46, 33, 37]), 24, interpolation)
    expected = tf.image.resize(image[19:52, 46:83], [24, 24], interpolation) / 255
    np.testing.assert_array_equal(cut, np.clip(expected, 0, 1))


# --- the whole view ---


def _distort_one_by_one(images, recipe, parameters):
    """One example at a time with TensorFlow's scalar operations, in the order SimCLR has them."""
    results = []
    for i, image in enumerate(images):
        one = {name: values[i].numpy() for name, values in parameters.items()}
        if one['flip']:
            image = tf.image.flip_left_right(image)
        for operation in one['order'] if one['jitter'] else ():
            if operation == 0:
                additive = recipe.brightness_mode == 'additive'
                image = image + one['brightness'] if additive else image * one['brightness']
            elif operation == 1:
                image = tf.image.adjust_contrast(image, one['contrast'])
            elif operation == 2:
                image = tf.image.adjust_saturation(image, one['saturation'])
            else:
                image = tf.image.adjust_hue(image, one['hue'])
            image = tf.clip_by_value(image, 0, 1)
        if one['grayscale']:
            image = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))
        if one['blur']:
            taps = np.exp(-(np.arange(-1.0, 2) ** 2) / (2 * one['sigma'] ** 2))
            for axis in (0, 1):
                image = scipy.ndimage.convolve1d(image, taps / taps.sum(), axis, mode='constant')
        if one['solarize']:
            image = np.where(image < recipe.solarize_threshold, image, 1 - image)
        results.append(image)
    return np.clip(results, 0, 1)


@pytest.mark.parametrize('name', ['simclr', 'byol'])
def test_a_batch_equals_the_scalar_operations(name):
    # A threshold turns a difference of 1e-7 into a large one: solarization has a test of its own.
    recipe = dataclasses.replace(PRESETS[name][0], solarize_probability=0.0)
    images = _images(96, 32)
    parameters = tf_draws.sample_parameters(recipe, SEED, 96)
    result = tf.function(lambda i, p: tf_ops.distort(i, recipe, p))(images, parameters)
    expected = _distort_one_by_one(images, recipe, parameters)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5)


def test_only_the_selected_are_solarized():
    recipe = dataclasses.replace(IDENTITY, solarize_probability=0.5, solarize_threshold=0.3)
    images = _images(64, 8)
    parameters = tf_draws.sample_parameters(recipe, SEED, 64)
    result = tf_ops.distort(images, recipe, parameters)
    np.testing.assert_array_equal(result, _distort_one_by_one(images, recipe, parameters))


@pytest.mark.parametrize('rows', [slice(0, 1), slice(5, 6), slice(8, 24)])
def test_a_row_does_not_depend_on_the_others(rows):
    recipe = PRESETS['byol'][1]
    parameters = tf_draws.sample_parameters(recipe, SEED, 32)
    some = {name: values[rows] for name, values in parameters.items()}
    images = _images(32, 32)

    def view(images, parameters):
        sizes = tf.fill([len(images)], 32)
        boxes = tf_draws.crop_boxes(recipe, parameters, sizes, sizes)
        crops = tf_ops.crop_and_resize(images, boxes, 24, recipe.interpolation)
        return tf_ops.distort(crops, recipe, parameters)

    np.testing.assert_allclose(
        view(images[rows], some), view(images, parameters)[rows], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize('shape', [(8, 8), (9, 12)])
def test_rotation_equals_scipys(shape):
    images = np.random.default_rng(0).random((3, *shape, 2)).astype(np.float32)
    degrees = np.float32([20.0, -70.0, 180.0])
    turned = _rotate(tf.constant(images), tf.constant(degrees))
    for image, angle, result in zip(images, degrees, turned, strict=True):
        # scipy's rotate fills the corners in another way; affine_transform takes the same matrix.
        angle = np.deg2rad(np.float64(angle))
        matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        centre = (np.array(shape) - 1) / 2
        for channel in range(2):
            want = scipy.ndimage.affine_transform(
                image[..., channel],
                matrix,
                centre - matrix @ centre,
                order=1,
                mode='grid-constant',
            )
            np.testing.assert_allclose(result[..., channel], want, atol=2e-5)


def test_a_quarter_turn_is_counter_clockwise():
    image = np.random.default_rng(0).random((1, 8, 8, 1)).astype(np.float32)
    turned = _rotate(tf.constant(image), tf.constant([90.0]))
    np.testing.assert_allclose(turned[0], np.rot90(image[0]), atol=1e-5)


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('sampler', ['tensorflow', 'byol', 'torchvision', 'continuous'])
def test_the_identity_recipe_returns_the_image(sampler, interpolation):
    recipe = dataclasses.replace(IDENTITY, crop_sampler=sampler, interpolation=interpolation)
    images = _images(4, 32)
    parameters = tf_draws.sample_parameters(recipe, SEED, 4)
    boxes = tf_draws.crop_boxes(recipe, parameters, tf.fill([4], 32), tf.fill([4], 32))
    crops = tf_ops.crop_and_resize(images, boxes, 32, interpolation)
    np.testing.assert_array_equal(tf_ops.distort(crops, recipe, parameters), images)


def test_one_channel_is_the_red_of_a_grey_image():
    recipe = dataclasses.replace(PRESETS['simclr'][0], grayscale_probability=0.0)
    grey = _images(32, 32, channels=1)
    parameters = tf_draws.sample_parameters(recipe, SEED, 32)
    one = tf_ops.distort(grey, recipe, parameters)
    three = tf_ops.distort(tf.repeat(grey, 3, axis=-1), recipe, parameters)
    assert one.shape == (32, 32, 32, 1)
    np.testing.assert_allclose(one, three[..., :1], rtol=0, atol=1e-5)


def test_a_pipeline_repeats_itself_to_the_bit():
    recipe = PRESETS['byol'][1]
    images = np.random.default_rng(0).integers(0, 256, (16, 20, 20, 3), np.uint8)

    def view(step):
        parameters = tf_draws.sample_parameters(recipe, tf.stack([step, 0]), 16)
        boxes = tf_draws.crop_boxes(recipe, parameters, tf.fill([16], 20), tf.fill([16], 20))
        crops = tf_ops.crop_and_resize(tf.constant(images), boxes, 32, recipe.interpolation)
        return tf_ops.distort(crops / 255, recipe, parameters)

    views = tf.data.Dataset.range(3).map(view, num_parallel_calls=2)
    assert views.element_spec.shape == (16, 32, 32, 3)
    first, again = ([batch.numpy() for batch in views] for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], first[1])
