"""Both backends against torchvision's transforms of PIL's pictures, as MoCo calls them.

Differences are in levels of 255. PIL rounds (or cuts off) to whole levels after each operation, so
half a level or one is what two exact operations differ by.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.augment import jax_ops, tf_ops
from simclr_jax.augment.recipe import PIL, PRESETS, ViewRecipe

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens' / 'torchvision_views.npz'
BACKENDS = ('tf', 'jax')
KERNEL = 23  # MoCo's pictures of 224 pixels have it; PIL's blur reaches as far as it is wide


@pytest.fixture(scope='module')
def goldens():
    with np.load(GOLDENS) as values:
        return dict(values)


def difference(found, expected: np.ndarray) -> np.ndarray:
    found = np.clip(np.asarray(found, np.float64) * 255, 0, 255)
    return np.abs(found - expected)


def crop_and_resize(
    backend: str, picture: np.ndarray, box: np.ndarray, recipe: ViewRecipe, size=64
):
    if backend == 'tf':
        how = recipe.interpolation, recipe.antialias
        return tf_ops.crop_and_resize(tf.constant(picture[None]), box[None], size, *how)[0] / 255
    canvas = np.pad(picture[None], ((0, 0), (0, 9), (0, 5), (0, 0)), constant_values=99)
    sizes, boxes = (jnp.asarray(x[None], jnp.float32) for x in (np.array(picture.shape[:2]), box))
    return jax_ops.crop_and_resize(canvas, sizes, [boxes], (recipe,), size)[0, 0] / 255


def apply(backend: str, operation: str, view: np.ndarray, *parameters):
    """An operation on one uint8 picture; the first parameter is the example's own."""
    images = view[None].astype(np.float32) / 255
    first = [np.float32([p]) for p in parameters[:1]]
    if backend == 'jax':
        return getattr(jax_ops, operation)(images, *first, *parameters[1:])[0]
    planes = tf.transpose(images, [0, 1, 3, 2])
    result = getattr(tf_ops, operation)(planes, *map(tf.constant, first), *parameters[1:])
    return tf.transpose(result, [0, 1, 3, 2])[0]


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(('interpolation', 'largest'), [('bilinear', 1.01), ('bicubic', 2.7)])
@pytest.mark.parametrize('box', ['large', 'small', 'tall'])
def test_a_crop_is_resized_as_by_pil(goldens, box, interpolation, largest, backend):
    # PIL's bicubic passes round and clip in between.
    recipe = ViewRecipe(interpolation=interpolation, antialias=True)
    found = crop_and_resize(backend, goldens['picture'], goldens[f'box_{box}'], recipe)
    error = difference(found, goldens[f'crop_{box}_{interpolation}'])
    assert error.mean() < 0.3 and error.max() < largest
    if box != 'small':  # what is made smaller without antialiasing is another picture
        recipe = dataclasses.replace(recipe, antialias=False)
        found = crop_and_resize(backend, goldens['picture'], goldens[f'box_{box}'], recipe)
        assert difference(found, goldens[f'crop_{box}_{interpolation}']).mean() > 2


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_a_window_is_resized_as_by_pil(goldens, interpolation):
    box = goldens['box_large'].astype(np.int32)
    cut = tf_ops.cut_and_resize(tf.constant(goldens['picture']), box, 64, interpolation, True)
    assert difference(cut, goldens[f'crop_large_{interpolation}']).mean() < 0.3


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('factor', [0.6, 1.4])
@pytest.mark.parametrize(
    ('name', 'mode', 'largest'),
    [
        ('brightness', 'multiplicative', 1.0),
        ('contrast', 'blend', 1.0),
        ('saturation', 'blend', 1.3),
    ],
)
def test_colours_are_changed_as_by_pil(goldens, name, mode, largest, factor, backend):
    found = apply(backend, f'adjust_{name}', goldens['view'], factor, mode)
    error = difference(found, goldens[f'{name}_{factor}'])
    assert error.mean() < 0.45 and error.max() < largest
    if mode == 'blend':  # TensorFlow's operation is another one
        found = apply(backend, f'adjust_{name}', goldens['view'], factor, 'tensorflow')
        assert difference(found, goldens[f'{name}_{factor}']).mean() > 2


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('delta', [-0.4, 0.1])
def test_the_hue_is_turned_as_by_pil_up_to_its_steps(goldens, delta, backend):
    # torchvision turns a hue of 256 steps; ours has none.
    error = difference(
        apply(backend, 'adjust_hue', goldens['view'], delta), goldens[f'hue_{delta}']
    )
    assert error.mean() < 1.2 and error.max() < 9


@pytest.mark.parametrize('backend', BACKENDS)
def test_grayscale_and_solarize_are_pils(goldens, backend):
    found = apply(backend, 'to_grayscale', goldens['view'])
    assert difference(found, goldens['grayscale']).max() < 0.6
    images = goldens['view'].astype(np.float32) / 255
    solarized = (tf_ops if backend == 'tf' else jax_ops).solarize(images, 0.5)
    assert difference(solarized, goldens['solarize']).max() < 1e-3


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('sigma', [0.3, 1.0, 2.0])
def test_blur_is_pils_up_to_the_edges(goldens, sigma, backend):
    # PIL's three boxes are no Gaussian, least of all where sigma is below a pixel.
    parameters = (
        (sigma, KERNEL, 'extend') if backend == 'tf' else (sigma, KERNEL, 'float32', 'extend')
    )
    error = difference(
        apply(backend, 'gaussian_blur', goldens['view'], *parameters), goldens[f'blur_{sigma}']
    )
    edge = np.concatenate([error[0], error[-1], error[:, 0], error[:, -1]])
    assert error.mean() < 0.55 and edge.mean() < 1.3
    zeros = difference(
        apply(backend, 'gaussian_blur', goldens['view'], sigma, KERNEL), goldens[f'blur_{sigma}']
    )
    if sigma >= 1:
        assert zeros[0].mean() > 30  # the dark frame


@pytest.mark.parametrize('kernel', [3, 9, 23, 65])
@pytest.mark.parametrize('backend', BACKENDS)
def test_blur_with_extended_edges_keeps_what_is_flat(backend, kernel):
    flat = np.full((64, 150, 3), 200, np.uint8)
    parameters = (7.0, kernel, 'extend') if backend == 'tf' else (7.0, kernel, 'float32', 'extend')
    assert difference(apply(backend, 'gaussian_blur', flat, *parameters), flat).max() < 1e-2


def parameters_of(**drawn):
    names = ('brightness', 'contrast', 'saturation', 'hue')
    values = {
        'flip': np.array([False]),
        'jitter': np.array([True]),
        'grayscale': np.array([False]),
        'blur': np.array([False]),
        'sigma': np.float32([1.0]),
        'solarize': np.array([False]),
    }
    order = [names.index(name) for name in drawn if name in names]
    values['order'] = np.array([order])
    for name, value in drawn.items():
        values[name] = np.asarray([value], np.float32 if name in (*names, 'sigma') else bool)
    return values


CHAINS = {  # preset -> what the script of the goldens did, in its order
    'moco_v2': {'saturation': 1.3, 'brightness': 0.9, 'contrast': 0.7, 'hue': 0.06}
    | {'blur': True, 'sigma': 1.5, 'flip': True},
    'moco_v1': {'grayscale': True, 'hue': -0.3, 'contrast': 1.4, 'saturation': 0.7}
    | {'brightness': 1.1},
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('preset', CHAINS)
def test_a_whole_view_is_torchvisions(goldens, preset, backend):
    # Probabilities below 1, so that what is drawn decides.
    recipe = dataclasses.replace(PRESETS[preset][0], jitter_probability=0.5, blur_probability=0.5)
    recipe = dataclasses.replace(recipe, blur_kernel_fraction=KERNEL / 64)
    parameters = parameters_of(**CHAINS[preset])
    images = goldens['view'][None].astype(np.float32) / 255

    def view(recipe):
        if backend == 'tf':
            tensors = {name: tf.constant(values) for name, values in parameters.items()}
            return tf_ops.distort(tf.constant(images), recipe, tensors)[0]
        return jax.jit(jax_ops.distort, static_argnums=1)(images, recipe, parameters)[0]

    expected = goldens[f'chain_{preset[-2:]}']
    error = difference(view(recipe), expected)
    # Each of the operations cuts off up to a level.
    assert error.mean() < 1.6 and error.max() < 9
    tensorflows = {field: getattr(ViewRecipe(), field) for field in (*PIL, 'grayscale_first')}
    other = dataclasses.replace(recipe, **tensorflows)
    assert difference(view(other), expected).mean() > 2 * error.mean()


@pytest.mark.parametrize('name', ['moco_v1', 'moco_v2', 'moco_v3', 'byol_cifar'])
def test_presets_of_torchvisions_have_its_operations(name):
    for recipe in PRESETS[name]:
        assert {field: getattr(recipe, field) for field in PIL} == PIL
        assert recipe.grayscale_first == (name == 'moco_v1')


@pytest.mark.parametrize('name', ['simclr', 'simclr_cifar', 'byol'])
def test_presets_of_tensorflows_keep_theirs(name):
    for recipe in PRESETS[name]:
        assert not recipe.antialias and not recipe.grayscale_first
        assert (recipe.colour_mode, recipe.blur_edges) == ('tensorflow', 'zeros')
