"""The accelerator's operations against tf.data's with the same parameters, and the originals."""

import dataclasses
import functools
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from simclr_jax.augment import jax_draws, jax_ops
from simclr_jax.augment.recipe import DIGITS, PRESETS, ViewRecipe

LEVEL = 1 / 255
N = 50


@pytest.fixture
def tensorflow():
    """TensorFlow and the other backend's modules; most tests here run without them."""
    tf = pytest.importorskip('tensorflow', reason='the other backend needs it')
    from simclr_jax.augment import tf_draws, tf_ops

    return types.SimpleNamespace(tf=tf, ops=tf_ops, draws=tf_draws)


@pytest.fixture(scope='module')
def goldens():
    path = Path(__file__).parents[1] / 'goldens' / 'reference_values.npz'
    with np.load(path) as values:
        return dict(values)


def images_of(n=N, height=24, width=20, channels=3):
    """Noise, smooth ramps, and the flat and tied colours at which hue is undefined."""
    random = np.random.default_rng(0)
    images = random.random((n, height, width, channels), np.float32)
    images[: n // 2] = scipy.ndimage.gaussian_filter(images[: n // 2], (0, 2, 2, 0))
    images[0], images[1], images[2] = 0.0, 0.5, 1.0
    if channels == 3:
        images[3, ..., 0] = images[3, ..., 1]
        images[4, ..., 1] = images[4, ..., 2]
    images[5] = np.round(images[5])
    return images


def draws(recipe, n=N, view=0):
    """Parameters of n views, as NumPy arrays that both backends take."""
    keys = jax_draws.view_keys(3, 7, view, jnp.arange(n))
    return jax.tree.map(np.asarray, jax_draws.sample_parameters(recipe, keys))


def uniform(low, high):
    return np.random.default_rng(1).uniform(low, high, N).astype(np.float32)


OPERATIONS = {
    'flip': (lambda ops: lambda x, _: ops.flip(x), (0, 1)),
    'brightness': (
        lambda ops: lambda x, f: ops.adjust_brightness(x, f, 'multiplicative'),
        (0.2, 1.8),
    ),
    'brightness_additive': (
        lambda ops: lambda x, f: ops.adjust_brightness(x, f, 'additive'),
        (-0.8, 0.8),
    ),
    'contrast': (lambda ops: ops.adjust_contrast, (0.2, 1.8)),
    'saturation': (lambda ops: ops.adjust_saturation, (0.0, 2.0)),
    'hue': (lambda ops: ops.adjust_hue, (-0.5, 0.5)),
    'grayscale': (lambda ops: lambda x, _: ops.to_grayscale(x), (0, 1)),
    'blur3': (lambda ops: lambda x, s: ops.gaussian_blur(x, s, 3), (0.1, 2.0)),
    'blur23': (lambda ops: lambda x, s: ops.gaussian_blur(x, s, 23), (0.1, 2.0)),
    'solarize': (lambda ops: lambda x, _: ops.solarize(x, 0.5), (0, 1)),
    'rotate': (lambda ops: ops.rotate, (-180.0, 180.0)),
}


@pytest.mark.parametrize('name', OPERATIONS)
def test_operation_equals_the_other_backends(name, tensorflow):
    tf = tensorflow.tf
    function, limits = OPERATIONS[name]
    images, parameter = images_of(), uniform(*limits)
    ours = jax.jit(function(jax_ops))(images, parameter)
    planes = function(tensorflow.ops)(tf.transpose(images, [0, 1, 3, 2]), tf.constant(parameter))
    theirs = tf.transpose(planes, [0, 1, 3, 2])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)  # asked: one level, 4e-3


@pytest.mark.parametrize(
    ('key', 'function', 'parameter'),
    [
        (
            'op_brightness_multiplicative',
            lambda x, f: jax_ops.adjust_brightness(x, f, 'multiplicative'),
            'brightness_factor',
        ),
        ('op_contrast', jax_ops.adjust_contrast, 'contrast_factor'),
        ('op_saturation', jax_ops.adjust_saturation, 'saturation_factor'),
        ('op_hue', jax_ops.adjust_hue, 'hue_delta'),
        ('op_blur_k3_simclr', lambda x, s: jax_ops.gaussian_blur(x, s, 3), 'blur_sigma'),
        ('op_blur_k23_byol', lambda x, s: jax_ops.gaussian_blur(x, s, 23), 'blur_sigma'),
        ('op_grayscale', lambda x, _: jax_ops.to_grayscale(x), 'blur_sigma'),
        ('op_solarize_0.5', lambda x, _: jax_ops.solarize(x, 0.5), 'blur_sigma'),
    ],
)
def test_operation_equals_the_original(goldens, key, function, parameter):
    result = function(jnp.asarray(goldens['image'][None]), jnp.asarray(goldens[parameter][None]))
    np.testing.assert_allclose(result[0], goldens[key], rtol=0, atol=2e-6)


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
def test_crop_and_resize_equals_the_original(goldens, interpolation):
    image = goldens['crop_image']
    canvas = np.zeros((1, 160, 170, 3), np.float32)  # larger than the picture
    canvas[0, : image.shape[0], : image.shape[1]] = image * 255
    recipe = ViewRecipe(interpolation=interpolation)
    box = jnp.asarray(goldens['crop_box_yxhw'][None], jnp.float32)
    sizes = jnp.asarray([image.shape[:2]], jnp.float32)
    resize = jax.jit(jax_ops.crop_and_resize, static_argnums=(3, 4))
    result = resize(canvas, sizes, [box], (recipe,), 48) / 255
    expected = goldens[f'op_crop_resize_{interpolation}_48']
    np.testing.assert_allclose(result[0, 0], expected, rtol=0, atol=1e-5)  # asked: 1e-3


RESIZES = [
    ('tensorflow', 'bicubic'),
    ('byol', 'bicubic'),
    ('torchvision', 'bilinear'),
    ('continuous', 'bicubic'),
    ('continuous', 'bilinear'),
]


@pytest.mark.parametrize(
    ('sampler', 'interpolation', 'dtype'),
    [(*resize, 'float32') for resize in RESIZES] + [(*RESIZES[0], 'bfloat16')],
)
def test_crop_and_resize_of_pictures_in_a_canvas_equals_the_other_backends(
    sampler, interpolation, dtype, tensorflow
):
    tf = tensorflow.tf
    recipe = ViewRecipe(crop_sampler=sampler, interpolation=interpolation)
    random = np.random.default_rng(2)
    canvas = random.integers(0, 256, (N, 40, 48, 3), np.uint8)  # what is beyond a picture is noise
    sizes = np.stack([random.integers(9, 41, N), random.integers(9, 49, N)], axis=1)
    parameters = draws(recipe)
    heights, widths = jnp.asarray(sizes.T, jnp.float32)
    boxes = jax.jit(jax_draws.crop_boxes, static_argnums=0)(recipe, parameters, heights, widths)
    resize = jax.jit(jax_ops.crop_and_resize, static_argnums=(3, 4, 5))
    ours = np.asarray(
        resize(canvas, jnp.stack([heights, widths], 1), [boxes], (recipe,), 16, dtype)
    )
    theirs_boxes = tensorflow.draws.crop_boxes(
        recipe, parameters, *sizes.astype(np.int32).T
    ).numpy()
    np.testing.assert_allclose(boxes, theirs_boxes, rtol=0, atol=1e-4)
    for some in [slice(i, i + 1) for i in range(8)] if sampler == 'continuous' else [slice(0, N)]:
        # Boxes between pixels see what is around them, so that the picture has to be cut out.
        height, width = sizes[some.start] if sampler == 'continuous' else canvas.shape[1:3]
        theirs = tensorflow.ops.crop_and_resize(
            tf.constant(canvas[some, :height, :width]),
            tf.constant(theirs_boxes[some]),
            16,
            interpolation,
        )
        difference = np.abs(ours[some, 0] - theirs.numpy())
        if dtype == 'float32':
            # A tick of TensorFlow's table of 1,024 where the place rounds to the other side.
            assert difference.max() < 0.5
        assert difference.mean() < (0.01 if dtype == 'float32' else 1.0)  # asked: 2 levels


@pytest.mark.parametrize(
    ('name', 'recipe'),
    [
        ('simclr', PRESETS['simclr'][0]),
        pytest.param('byol', PRESETS['byol'][1], marks=pytest.mark.slow),
        pytest.param('digits', DIGITS, marks=pytest.mark.slow),
    ],
)
def test_a_whole_view_equals_the_other_backends(name, recipe, tensorflow):
    tf = tensorflow.tf
    # A threshold turns a difference of 1e-7 into a large one: solarization has a test of its own.
    recipe = dataclasses.replace(recipe, solarize_probability=0.0)
    images = images_of(channels=1 if name == 'digits' else 3)
    parameters = draws(recipe)
    ours = jax.jit(jax_ops.distort, static_argnums=1)(images, recipe, parameters)
    theirs = tensorflow.ops.distort(
        tf.constant(images), recipe, {k: tf.constant(v) for k, v in parameters.items()}
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)  # asked: one level, 4e-3


def batch_of(n=6, size=20):
    images = np.random.default_rng(3).integers(0, 256, (n, size, size, 3), np.uint8)
    sizes = np.full((n, 2), size, np.int32)
    return {'image': images, 'size': sizes, 'index': np.arange(100, 100 + n, dtype=np.int32)}


@functools.partial(jax.jit, static_argnums=1)
def jitted_views(batch, recipes, seed, step):
    return jax_ops.make_views(batch, recipes, seed=seed, step=step, image_size=12)


def views_of(batch, recipes=PRESETS['simclr'], seed=0, step=5):
    return np.asarray(jitted_views(batch, recipes, seed, step))


def test_views_are_a_function_of_seed_step_example_and_view():
    batch = batch_of()
    views = views_of(batch)
    assert views.shape == (6, 2, 12, 12, 3)
    np.testing.assert_array_equal(views_of(batch), views)
    # Another place in the batch changes nothing, nor do the neighbours.
    turned = {name: values[::-1] for name, values in batch.items()}
    np.testing.assert_allclose(views_of(turned)[::-1], views, rtol=0, atol=1e-6)
    # A canvas of another size changes nothing.
    wide = batch | {'image': np.pad(batch['image'], ((0, 0), (0, 9), (0, 3), (0, 0)))}
    np.testing.assert_allclose(views_of(wide), views, rtol=0, atol=1e-5)
    others = [views_of(batch, seed=1), views_of(batch, step=6)]
    others.append(views_of(batch | {'index': batch['index'] + 6}))
    for other in others:
        assert (np.abs(other - views).max((2, 3, 4)) > 0.01).all()
    assert (np.abs(views[:, 0] - views[:, 1]).max((1, 2, 3)) > 0.01).all()


@pytest.mark.slow
def test_views_of_one_recipe_and_of_two_agree():
    recipe = PRESETS['simclr'][0]
    twin = dataclasses.replace(recipe, hue=recipe.hue * (1 + 1e-6))  # equal, but not the same
    batch = batch_of()
    np.testing.assert_allclose(
        views_of(batch, (recipe, recipe)), views_of(batch, (recipe, twin)), rtol=0, atol=1e-4
    )


@pytest.mark.slow
def test_views_over_eight_devices_equal_those_of_one():
    from simclr_jax import parallel

    batch = batch_of(n=8)
    mesh = parallel.make_mesh()
    assert mesh.devices.size == 8
    make = jax.jit(
        lambda b: jax_ops.make_views(b, PRESETS['simclr'], seed=0, step=5, image_size=12),
        out_shardings=parallel.batch_sharding(mesh),
    )
    sharded = make(parallel.put_batch(batch, mesh))
    want = views_of(batch, PRESETS['simclr'])
    np.testing.assert_allclose(np.asarray(sharded), want, rtol=0, atol=1e-6)
    assert 'all-gather' not in make.lower(parallel.put_batch(batch, mesh)).compile().as_text()
