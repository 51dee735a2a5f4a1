"""Micro-batches: the gradients of the whole batch, in the memory of one of them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from simclr_jax import parallel
from simclr_jax.methods.base import in_micro_batches
from simclr_jax.methods.factory import METHODS
from simclr_jax.models import heads

FIELDS = {'hidden_dim': 16, 'output_dim': 8}
MORE = {'moco': {'queue_size': 32}}
VIEWS = np.random.default_rng(0).normal(size=(16, 2, 4, 4, 1)).astype(np.float32)


class Encoder(nn.Module):
    """An encoder without batch statistics."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(8, (3, 3))(images)
        return nn.gelu(nn.Dense(12)(x.reshape(len(x), -1)))


def row_norm(train, dtype, *, name=None, **_):
    return nn.LayerNorm(name=name)


@functools.cache
def grads(name, count, mesh=None):
    fields = FIELDS | MORE.get(name, {}) | ({'mesh': mesh} if name == 'simclr' else {})
    method = METHODS[name](Encoder(), total_steps=9, accumulation_steps=count, **fields)
    variables, extra = jax.jit(method.init)(jax.random.key(0, impl='rbg'), VIEWS)
    params = variables.pop('params')

    def loss(params, views):
        value, aux = method.loss(params, variables, extra, views, jax.random.key(0), 0)
        return value, aux.features

    compiled = jax.jit(
        jax.value_and_grad(loss, has_aux=True),
        in_shardings=mesh and (parallel.replicated(mesh), parallel.batch_sharding(mesh)),
    )
    compiled = compiled.lower(params, VIEWS).compile({'xla_backend_optimization_level': 0})
    return compiled(params, VIEWS), compiled.as_text()


@pytest.mark.parametrize(
    'name',
    [n if n == 'simclr' else pytest.param(n, marks=pytest.mark.slow) for n in METHODS],
)
def test_four_micro_batches_have_the_gradients_of_one_batch(name, monkeypatch):
    monkeypatch.setattr(heads, 'batch_norm', row_norm)
    ((want_loss, want_features), want), _ = grads(name, 1)
    ((loss, features), got), _ = grads(name, 4)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    np.testing.assert_allclose(features, want_features, atol=1e-5)  # in the batch's order
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_no_image_moves_between_devices(monkeypatch):
    monkeypatch.setattr(heads, 'batch_norm', row_norm)
    ((want_loss, _), want), _ = grads('simclr', 1)
    mesh = parallel.make_mesh(jax.devices()[:4])
    ((loss, _), got), text = grads('simclr', 4, mesh)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
    assert not re.search(r' (all-to-all|collective-permute)(-start)?\(', text)
    images = r'f32\[(\d+,)*4,4,1\]\S* all-gather'
    assert not re.search(images, text)


def test_statistics_follow_one_micro_batch_after_another():
    seen = []

    def forward(statistics, views):
        return views[:, 0, 0, 0, 0], 0.5 * statistics + views.mean()

    outputs, statistics = in_micro_batches(forward, jnp.zeros(()), jnp.asarray(VIEWS), 4)
    for i in range(4):  # micro-batch i has the rows i, i + 4, ...
        seen.append(VIEWS[i::4].mean())
    np.testing.assert_array_equal(outputs, VIEWS[:, 0, 0, 0, 0])
    want = sum(x * 0.5 ** (3 - i) for i, x in enumerate(seen))
    np.testing.assert_allclose(statistics, want, rtol=1e-5)


def test_refuses_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match='accumulation_steps=3: does not divide the batch of 16'):
        in_micro_batches(lambda s, v: (v, s), (), jnp.asarray(VIEWS), 3)
