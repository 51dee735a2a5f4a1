"""Random erasing against timm's boxes for the same numbers, and what it draws."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from simclr_jax.augment import erasing
from simclr_jax.augment.recipe import MAE_FINETUNE, ViewRecipe

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens' / 'timm_views.npz'
CONST = ViewRecipe(erase_probability=0.5, erase_count=3)
HEIGHT, WIDTH = 40, 30


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def test_boxes_are_timms():
    with np.load(GOLDENS) as values:
        numbers, masks = values['erase_numbers'], values['erase_masks']
    count = 1 + jnp.arange(len(numbers)) % 3
    boxes = erasing.boxes_of(CONST, numbers, count, *masks.shape[1:])
    found = np.asarray(erasing.cover(boxes, *masks.shape[1:]))
    assert 0.02 < masks.mean() < 1 / 3
    # Of a side that lies between two whole numbers float32 may make the other one.
    different = (found != masks).any(axis=(1, 2))
    assert different.sum() <= 2
    assert (found != masks).mean(axis=(1, 2)).max() < 0.04


def test_what_is_drawn():
    n = 4000
    drawn = jax.jit(erasing.sample_boxes, static_argnums=(0, 2, 3))(CONST, keys(n), 200, 200)
    drawn = jax.tree.map(np.asarray, drawn)
    assert scipy.stats.binomtest(int(drawn['erased'].sum()), n, 0.5).pvalue > 1e-3
    y, x, tall, wide = np.moveaxis(drawn['boxes'], -1, 0)
    number = (tall > 0).sum(axis=1)
    assert scipy.stats.chisquare(np.bincount(number, minlength=4)[1:]).pvalue > 1e-3
    area = tall * wide / 200**2 * number[:, None]
    assert area[tall > 0].min() > 0.017 and area.max() < 0.345
    # Few shares of 0.02 to 1/3 are too tall for a picture, and none where there are three boxes.
    of_three = area[number == 3].ravel()
    assert scipy.stats.kstest(of_three, scipy.stats.uniform(0.02, 1 / 3 - 0.02).cdf).pvalue > 1e-4
    aspect = np.log(tall[number == 3] / wide[number == 3]).ravel()
    assert abs(aspect.mean()) < 0.05 and abs(np.abs(aspect).max() - np.log(1 / 0.3)) < 0.1
    assert (y >= 0).all() and (x >= 0).all()
    assert (y + tall <= 200).all() and (x + wide <= 200).all()
    assert (y + tall == 200).any() and (y[tall > 0] == 0).any()


@pytest.mark.parametrize('mode', ['const', 'pixel'])
def test_what_is_erased(mode):
    recipe = dataclasses.replace(CONST, erase_mode=mode)
    images = np.full((300, HEIGHT, WIDTH, 3), 7.0, np.float32)
    made = np.asarray(jax.jit(erasing.erase, static_argnums=2)(images, keys(300), recipe))
    changed = made != 7
    assert 100 < changed.any(axis=(1, 2, 3)).sum() < 200
    assert (changed.all(axis=-1) == changed.any(axis=-1)).all()  # all channels of a pixel
    if mode == 'const':
        assert set(np.unique(made)) == {0.0, 7.0}
    else:
        assert scipy.stats.kstest(made[changed][:20000], 'norm').pvalue > 1e-3


def test_erasing_is_a_function_of_seed_step_example_and_view():
    views = np.ones((6, 2, HEIGHT, WIDTH, 3), np.float32)
    always = dataclasses.replace(MAE_FINETUNE, erase_probability=1.0)
    erase = jax.jit(erasing.erase_views, static_argnums=2)
    index = jnp.arange(100, 106)
    first = np.asarray(erase(views, index, (always, always), seed=0, step=5))
    turned = erase(views, index[::-1], (always, always), seed=0, step=5)
    np.testing.assert_array_equal(turned[::-1], first)
    others = [
        erase(views, index, (always, always), seed=1, step=5),
        erase(views, index, (always, always), seed=0, step=6),
        erase(views, index + 6, (always, always), seed=0, step=5),
        first[:, ::-1],
    ]
    for other in others:
        assert (np.abs(np.asarray(other) - first).max((2, 3, 4)) > 0.1).all()
    one = np.asarray(erase(views, index, (always, ViewRecipe()), seed=0, step=5))
    np.testing.assert_array_equal(one[:, 0], first[:, 0])
    np.testing.assert_array_equal(one[:, 1], views[:, 1])


def test_without_erasing_nothing_is_computed():
    views = np.ones((2, 2, 4, 4, 3), np.float32)
    assert erasing.erase_views(views, None, (ViewRecipe(),) * 2, seed=0, step=0) is views
