"""What `jax_draws` draws: the recipe's distributions, and the boxes of the other backend."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from simclr_jax.augment import jax_draws
from simclr_jax.augment.recipe import PRESETS, ViewRecipe

DRAWS = 20_000
SAMPLERS = ('tensorflow', 'byol', 'torchvision', 'continuous')
SIZES = [(1, 1), (1, 2), (3, 7), (8, 8), (1, 900), (5000, 30), (640, 480), (375, 500), (224, 224)]


def draw(recipe, n=DRAWS, view=0, seed=5):
    # Not jitted as a whole: the steps are compiled once for all recipes.
    return jax.tree.map(np.asarray, jax_draws.sample_parameters(recipe, keys(n, view, seed)))


@functools.cache
def keys(n, view, seed):
    return jax_draws.view_keys(seed, 11, view, jnp.arange(n))


def ks(values, low, width):
    return scipy.stats.kstest(values, scipy.stats.uniform(low, width).cdf).pvalue


@pytest.mark.parametrize('name', PRESETS)
@pytest.mark.parametrize('view', [0, 1])
def test_parameters_follow_the_recipe(name, view):
    recipe = PRESETS[name][view]
    drawn = draw(recipe, view=view)
    around = {'contrast': 1.0, 'saturation': 1.0, 'hue': 0.0}
    around['brightness'] = 0.0 if recipe.brightness_mode == 'additive' else 1.0
    for key, centre in around.items():
        strength = getattr(recipe, key)
        assert ks(drawn[key], centre - strength, 2 * strength) > 1e-3
    low, high = recipe.blur_sigma
    assert ks(drawn['sigma'], low, high - low) > 1e-3
    assert ks(drawn['crop'].ravel(), 0, 1) > 1e-3
    for key in ('flip', 'jitter', 'grayscale', 'blur', 'solarize'):
        p = getattr(recipe, f'{key}_probability')
        assert abs(drawn[key].mean() - p) <= 3 * np.sqrt(p * (1 - p) / DRAWS)
    _, counts = np.unique(drawn['order'], axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_factors_are_not_negative_and_rotations_fill_their_range():
    drawn = draw(ViewRecipe(brightness=3.0, contrast=3.0, saturation=3.0, rotation=20.0))
    for name in ('brightness', 'contrast', 'saturation'):
        assert ks(drawn[name], 0, 4) > 1e-3
    assert ks(drawn['rotation'], -20, 40) > 1e-3


def test_parameters_are_independent_of_each_other_and_of_the_other_view():
    recipe = ViewRecipe(solarize_probability=0.5, rotation=20.0)
    columns = []
    for view in (0, 1):
        drawn = draw(recipe, view=view)
        columns += [np.float64(drawn[k]) for k in sorted(drawn) if drawn[k].ndim == 1]
        columns += [np.float64(drawn['crop'][:, 0, i]) for i in range(4)]
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 5 / np.sqrt(DRAWS)


def test_a_parameter_does_not_depend_on_the_rest_of_the_recipe():
    first, second = draw(ViewRecipe(), 64), draw(PRESETS['byol'][1], 64)
    for name in ('crop', 'flip', 'order', 'sigma', 'grayscale'):
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_boxes_equal_the_other_backends_and_are_inside(sampler):
    # Only this test needs it: the others run where it is not installed.
    tf = pytest.importorskip('tensorflow', reason='the other backend needs it')
    from simclr_jax.augment import tf_draws

    recipe = ViewRecipe(crop_sampler=sampler)
    heights, widths = np.repeat(np.int32(SIZES), 300, axis=0).T
    crop = {'crop': draw(recipe, len(heights))['crop']}
    boxes = jax.jit(jax_draws.crop_boxes, static_argnums=0)
    ours = np.asarray(boxes(recipe, crop, np.float32(heights), np.float32(widths)))
    theirs = tf_draws.crop_boxes(
        recipe, {'crop': tf.constant(crop['crop'])}, heights, widths
    ).numpy()
    if sampler == 'continuous':
        scale = np.maximum(heights, widths)[:, None]
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-5)
    else:
        assert (ours == np.round(ours)).all()
        # Powers are rounded otherwise, so a side may differ where it is half way between pixels.
        assert (ours == theirs).all(axis=1).mean() >= 0.998
    y, x, h, w = ours.T
    assert min(y.min(), x.min()) >= 0 and min(h.min(), w.min()) >= 1
    assert (y + h <= heights * (1 + 1e-6)).all() and (x + w <= widths * (1 + 1e-6)).all()
