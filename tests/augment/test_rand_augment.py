"""RandAugment against timm's operations of PIL, on photographs, with the same drawn parameters.

Differences are in levels of 255. What a table gives is PIL's level. Blends and warps are cut off to
whole levels, where float32 and PIL's arithmetic may fall on either side: one level, at few pixels.
"""

import dataclasses
import functools
import math
import pathlib

import jax
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from simclr_jax.augment import (
    jax_draws,
    jax_ops,
    jax_rand_augment,
    rand_augment,
    tf_draws,
    tf_ops,
    tf_rand_augment,
)
from simclr_jax.augment.rand_augment import KINDS, NONE, OPERATIONS
from simclr_jax.augment.recipe import MAE_FINETUNE, ViewRecipe

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens' / 'timm_views.npz'
BACKENDS = ('tf', 'jax')
FILL = ViewRecipe().rand_augment_fill
CHAINS = (  # those of the script of the goldens
    (('rotate', 26.5), ('color', 1.83)),
    (('equalize', 0), ('shear_x', -0.271)),
    (('translate_y', 0.411), ('auto_contrast', 0)),
    (('sharpness', 0.22), ('posterize', 1)),
    (('contrast', 1.77), ('solarize', 31)),
)


@pytest.fixture(scope='module')
def goldens():
    with np.load(GOLDENS) as values:
        return dict(values)


@functools.partial(jax.jit, static_argnums=3)
def on_accelerator(images, operations, arguments, interpolation):
    return jax_rand_augment.rand_augment(images, operations, arguments, interpolation, FILL)


@tf.function
def on_host(images, operations, arguments, interpolation):
    planes = tf.transpose(images, [0, 1, 3, 2])
    drawn = operations, arguments
    planes = tf_rand_augment.rand_augment(planes, *drawn, interpolation, FILL)
    return tf.transpose(planes, [0, 1, 3, 2])


def levels(backend, pictures, operations, arguments, interpolation='bicubic'):
    """Pictures uint8 `[n, h, w, c]` after operations `[n, layer]`, in levels."""
    images = np.float32(pictures) / np.float32(255)
    operations, arguments = np.int32(operations), np.float32(arguments)
    if backend == 'tf':
        images, operations, arguments = map(tf.constant, (images, operations, arguments))
    function = on_host if backend == 'tf' else on_accelerator
    return np.asarray(function(images, operations, arguments, interpolation)) * 255


def every_operation(goldens, interpolation):
    """Pictures, operations, arguments and timm's results `[n, ...]`."""
    pictures, which, how, expected = [], [], [], []
    for place, name in enumerate(OPERATIONS):
        if interpolation == 'bilinear' and KINDS[name] != 'place':
            continue
        for argument, made in zip(
            goldens[f'arguments_{name}'], goldens[f'{name}_{interpolation}'], strict=True
        ):
            pictures.append(goldens['pictures'])
            which += [[place]] * len(made)
            how += [[argument]] * len(made)
            expected.append(made)
    return np.concatenate(pictures), np.array(which), np.array(how), np.concatenate(expected)


@pytest.mark.parametrize(
    'interpolation', ['bicubic', pytest.param('bilinear', marks=pytest.mark.slow)]
)
@pytest.mark.parametrize('backend', BACKENDS)
def test_every_operation_is_timms(goldens, backend, interpolation):
    pictures, which, how, expected = every_operation(goldens, interpolation)
    found = levels(backend, pictures, which, how, interpolation)
    assert np.abs(found - np.rint(found)).max() < 1e-3  # whole levels
    for place, name in enumerate(OPERATIONS):
        chosen = which[:, 0] == place
        if not chosen.any():
            continue
        error = np.abs(found - expected)[chosen].max(axis=-1)
        # PIL computes the scale of 'auto_contrast' in floats and cuts off what may be 1 too little.
        exact = KINDS[name] == 'table' and name not in ('auto_contrast', 'contrast', 'brightness')
        assert error.max() < (0.01 if exact else 1.01), name
        assert (error > 0.5).mean() < 0.1, name


@pytest.mark.slow
@pytest.mark.parametrize('backend', BACKENDS)
def test_operations_one_after_the_other_are_timms(goldens, backend):
    pictures = np.repeat(goldens['pictures'][:1], len(CHAINS), axis=0)
    which = [[OPERATIONS.index(name) for name, _ in chain] for chain in CHAINS]
    how = [[argument for _, argument in chain] for chain in CHAINS]
    error = np.abs(levels(backend, pictures, which, how) - goldens['chains'])
    # A level that the first one is off lies on the other side of a threshold at a few pixels.
    assert (error > 2.5).mean() < 0.01 and error.mean() < 0.3
    assert np.abs(goldens['chains'] - pictures).mean(axis=(1, 2, 3)).min() > 5


@pytest.mark.slow
def test_both_backends_agree(goldens):
    words = rand_augment.parse('rand-m9-mstd0.5-inc1-p0.9')
    keys = jax.random.split(jax.random.key(0), 24)
    recipe = ViewRecipe(rand_augment='rand-m9-mstd0.5-inc1-p0.9')
    drawn = jax_draws.sample_parameters(recipe, keys)
    which, how = np.asarray(drawn['operations']), np.asarray(drawn['arguments'])
    assert which.shape == (24, words.layers) and len(np.unique(which)) > 10
    pictures = np.tile(goldens['pictures'], (8, 1, 1, 1))
    tf_levels, jax_levels = (levels(backend, pictures, which, how) for backend in BACKENDS)
    error = np.abs(tf_levels - jax_levels)
    assert (error > 0.5).mean() < 0.002
    for row in range(3):  # one by one, as large pictures are made
        one = levels('tf', pictures[row : row + 1], which[row : row + 1], how[row : row + 1])
        np.testing.assert_allclose(one[0], tf_levels[row], rtol=0, atol=1e-3)
    gray = pictures[..., :1]
    tf_levels, jax_levels = (levels(backend, gray, which, how) for backend in BACKENDS)
    assert (np.abs(tf_levels - jax_levels) > 0.5).mean() < 0.002


@pytest.mark.slow
@pytest.mark.parametrize('backend', BACKENDS)
def test_no_operation_changes_nothing(goldens, backend):
    pictures = goldens['pictures']
    found = levels(backend, pictures, np.full((3, 2), NONE), np.ones((3, 2)))
    np.testing.assert_allclose(found, pictures, rtol=0, atol=1e-3)


@pytest.mark.parametrize('kind', ['increasing', 'original'])
def test_arguments_are_timms(goldens, kind):
    words = rand_augment.RandAugment(increasing=kind == 'increasing')
    for name, argument in words.arguments.items():
        expected = goldens[f'argument_{kind}_{name}']
        for row, sign in zip(expected, (-1, 1), strict=True):
            term = argument.slope * goldens['levels'] / 10 * (sign if argument.signed else 1)
            term = np.trunc(term * rand_augment.OVER) if argument.whole else term
            found = np.clip(argument.base + term, *argument.limits)
            np.testing.assert_allclose(found, row, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize('backend', BACKENDS)
def test_what_is_drawn(backend):
    n = 20_000
    recipe = ViewRecipe(rand_augment='rand-m9-n3-p0.7-mstd0.5-inc1')
    if backend == 'jax':
        drawn = jax.jit(jax_draws.sample_parameters, static_argnums=0)(
            recipe, jax.random.split(jax.random.key(1), n)
        )
    else:
        drawn = tf_draws.sample_parameters(recipe, (1, 2), n)
    which, how = (np.asarray(drawn[name]) for name in ('operations', 'arguments'))
    assert which.shape == how.shape == (n, 3)
    assert scipy.stats.binomtest(int((which != NONE).sum()), 3 * n, 0.7).pvalue > 1e-3
    count = np.bincount(which[which != NONE], minlength=len(OPERATIONS))
    assert scipy.stats.chisquare(count).pvalue > 1e-3
    for name, largest in (('rotate', 30.0), ('translate_y', 0.45)):
        level = how[which == OPERATIONS.index(name)] / largest * 10
        assert scipy.stats.binomtest(int((level > 0).sum()), len(level), 0.5).pvalue > 1e-3
        below = np.abs(level)[np.abs(level) < 10 - 1e-4]
        truncated = scipy.stats.truncnorm(-math.inf, 2, 9, 0.5)
        assert scipy.stats.kstest(below, truncated.cdf).pvalue > 1e-3
    bits = how[which == OPERATIONS.index('posterize')]
    assert set(np.unique(bits)) <= {0.0, 1.0, 2.0, 3.0}
    black = scipy.stats.norm.sf(2)  # a magnitude of 10 or more
    assert scipy.stats.binomtest(int((bits == 0).sum()), len(bits), black).pvalue > 1e-3


def test_draws_of_other_parameters_stay_the_same():
    keys = jax.random.split(jax.random.key(1), 50)
    plain, more = ViewRecipe(), ViewRecipe(rand_augment='rand-m9')
    for sample, seed in (
        (jax_draws.sample_parameters, (keys,)),
        (tf_draws.sample_parameters, ((1, 2), 50)),
    ):
        first, second = sample(plain, *seed), sample(more, *seed)
        assert set(second) - set(first) == {'operations', 'arguments'}
        for name, values in first.items():
            np.testing.assert_array_equal(values, second[name])


@pytest.mark.slow
def test_a_whole_view_has_it(goldens):
    recipe = dataclasses.replace(MAE_FINETUNE, rand_augment='rand-m9-mstd0.5-inc1-p0.9')
    keys = jax.random.split(jax.random.key(4), 12)
    images = np.tile(np.float32(goldens['pictures']) / 255, (4, 1, 1, 1))
    drawn = {k: np.asarray(v) for k, v in jax_draws.sample_parameters(recipe, keys).items()}
    ours = jax.jit(jax_ops.distort, static_argnums=1)(images, recipe, drawn)
    tensors = {name: tf.constant(values) for name, values in drawn.items()}
    theirs = tf_ops.distort(tf.constant(images), recipe, tensors)
    assert (np.abs(ours - theirs) > 0.5 / 255).mean() < 0.002
    flipped = np.where(drawn['flip'][:, None, None, None], images[:, :, ::-1], images)
    expected = levels('jax', flipped * 255, drawn['operations'], drawn['arguments'])
    assert (np.abs(np.asarray(ours) * 255 - expected) > 0.5).mean() < 0.002


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('rand-m9-mstd0.5-inc1', rand_augment.RandAugment(9, 2, 0.5, 0.5, 10, True)),
        ('rand-m7-n3-p1-mstd101', rand_augment.RandAugment(7, 3, 1.0, math.inf)),
        ('rand-mmax20-m15', rand_augment.RandAugment(15, largest=20)),
        ('rand', rand_augment.RandAugment()),
    ],
)
def test_words_are_read_as_by_timm(text, words):
    assert rand_augment.parse(text) == words


@pytest.mark.parametrize(
    'text', ['augmix-m3', 'rand-m', 'rand-w0', 'rand-tweights', 'rand-m9-m8', 'rand-n0', 'rand-p2']
)
def test_other_words_are_refused(text):
    with pytest.raises(ValueError) as error:
        ViewRecipe(rand_augment=text)
    assert f'rand_augment={text!r}' in str(error.value)
