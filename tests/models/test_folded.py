"""Folded normalization against a convolution and linen's BatchNorm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.resnet import BottleneckBlock, ResNet

FIELDS = {
    'stage_sizes': (1, 1),
    'block': BottleneckBlock,
    'widths': (8, 8),
    'strides': (1, 2),
    'stem': 'imagenet',
    'padding': 'simclr',
}


def make(fold_norm: bool, dtype=jnp.float32) -> ResNet:
    return ResNet(**FIELDS, fold_norm=fold_norm, dtype=dtype)


def images(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(8, 32, 32, 3)).astype(np.float32)


@functools.cache
def variables():
    """Parameters and statistics that no other layer shares."""
    shapes = jax.eval_shape(lambda: make(False).init(jax.random.key(0), images(), True))
    random = np.random.default_rng(0)
    tree = jax.tree.map(
        lambda x: (
            random.uniform(0.5, 1.5, size=x.shape).astype(x.dtype)
            if x.ndim == 1
            else (random.normal(size=x.shape) * x.size**-0.25).astype(x.dtype)
        ),
        shapes,
    )
    tree['params']['stem_norm']['scale'][::2] *= -1
    return tree


@functools.cache
def step(fold_norm: bool, dtype=jnp.float32):
    def loss(params, statistics, x):
        features, new = make(fold_norm, dtype).apply(
            {'params': params, **statistics}, x, True, mutable=['batch_stats']
        )
        return jnp.sin(3 * features).mean(), new

    tree = dict(variables())
    quickly = {'xla_backend_optimization_level': 0}
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=quickly)
    return gradient(tree.pop('params'), tree, images())


def assert_near(got, want, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3))


def test_parameters_and_statistics_have_the_same_names_and_first_values():
    init = [
        jax.jit(functools.partial(make(fold).init, train=True))(
            jax.random.key(0, impl='rbg'), images()
        )
        for fold in (False, True)
    ]
    jax.tree.map(np.testing.assert_array_equal, *init)


@pytest.mark.slow
def test_values_statistics_and_gradients_are_those_of_the_normalization():
    (want_loss, want_new), want_gradients = jax.device_get(step(False))
    (loss, new), gradients = jax.device_get(step(True))
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    assert_near(new, want_new, 1e-5)
    largest = max(np.abs(gradient).max() for gradient in jax.tree.leaves(want_gradients))
    # Normalizations follow the stem's bias, so that its gradient is 0: what is found is rounding of
    # the others, and differs between processors.
    for tree in (gradients, want_gradients):
        zero = tree['stem_norm'].pop('bias')
        np.testing.assert_allclose(zero, 0, atol=1e-5 * largest)
    assert_near(gradients, want_gradients, 1e-4)


def test_the_running_averages_serve_in_evaluation():
    apply = [jax.jit(functools.partial(make(fold).apply, train=False)) for fold in (False, True)]
    want, got = (a(variables(), images()) for a in apply)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.slow
@pytest.mark.parametrize('fold_norm', [False, True])
def test_bfloat16_rounds_no_more_than_the_normalization(fold_norm):
    (want_loss, want_new), _ = step(False)
    (loss, new), _ = step(fold_norm, jnp.bfloat16)
    np.testing.assert_allclose(loss, want_loss, atol=0.02)
    assert_near(new, want_new, 0.02)
