"""Which rows influence which, by the scope of batch normalization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from simclr_jax.models.normalization import EPSILON, NormScope, batch_norm

ROWS = 16
SCOPES = {  # scope -> the rows that share the statistics of row 5, on eight devices
    NormScope(): set(range(ROWS)),
    NormScope('groups', 4): {4, 5, 6, 7},
    NormScope('groups', 16): set(range(ROWS)),
    NormScope('device', 8): {4, 5},
}


def inputs():
    x = np.random.default_rng(0).normal(size=(ROWS, 3, 3, 6)).astype(np.float32)
    return x * np.arange(1, 7, dtype=np.float32) + np.arange(ROWS)[:, None, None, None]


def variables():
    rng = np.random.default_rng(1)
    draw = [rng.uniform(0.5, 1.5, size=6).astype(np.float32) for _ in range(4)]
    return {
        'params': {'scale': draw[0], 'bias': draw[1]},
        'batch_stats': {'mean': draw[2], 'var': draw[3]},
    }


def sharded(x):
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.device_put(x, jax.NamedSharding(mesh, jax.P('data')))


def apply(scope, train=True):
    def step(variables, x):
        return batch_norm(train, jnp.float32, scope=scope).apply(
            variables, x, mutable=['batch_stats']
        )

    return jax.jit(step)


@pytest.mark.parametrize('scope', SCOPES, ids=str)
@pytest.mark.parametrize('devices', [1, 8])
def test_statistics_are_those_of_each_group(scope, devices):
    x, tree = inputs(), variables()
    y, new = apply(scope)(tree, sharded(x) if devices == 8 else x)
    size = len(SCOPES[scope])
    groups = x.astype(np.float64).reshape(ROWS // size, -1, 6)
    mean, var = groups.mean(axis=1, keepdims=True), groups.var(axis=1, keepdims=True)
    want = (groups - mean) / np.sqrt(var + EPSILON)
    want = want * tree['params']['scale'] + tree['params']['bias']
    np.testing.assert_allclose(y, want.reshape(x.shape), rtol=1e-4, atol=1e-5)
    for name, batch in (('mean', mean), ('var', var)):
        running = 0.9 * tree['batch_stats'][name] + 0.1 * batch.mean(axis=(0, 1))
        np.testing.assert_allclose(new['batch_stats'][name], running, rtol=1e-5)


@pytest.mark.parametrize('scope', SCOPES, ids=str)
def test_one_row_changes_exactly_its_group(scope):
    x, step = inputs(), apply(scope)
    changed = x.copy()
    changed[5] += np.random.default_rng(2).normal(size=x[5].shape)
    one, other = (np.asarray(step(variables(), sharded(rows))[0]) for rows in (x, changed))
    moved = (one != other).any(axis=(1, 2, 3))
    assert set(np.flatnonzero(moved)) == SCOPES[scope]


def test_devices_normalize_without_talking():
    """Only the running averages, of one number a feature, cross devices."""
    x = sharded(inputs())
    step = jax.jit(lambda v, x: apply(NormScope('device', 8))(v, x)[0])
    text = step.lower(variables(), x).compile().as_text()
    assert 'all-reduce' not in text and 'all-gather' not in text
    assert 'all-reduce' in apply(NormScope()).lower(variables(), x).compile().as_text()


@pytest.mark.parametrize('scope', SCOPES, ids=str)
def test_variables_and_evaluation_are_the_same_in_every_scope(scope):
    x = inputs()
    shapes = jax.eval_shape(
        lambda: batch_norm(True, jnp.bfloat16, scope=scope).init(jax.random.key(0), x[:2])
    )
    plain = jax.eval_shape(lambda: nn.BatchNorm(False).init(jax.random.key(0), x))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), shapes) == jax.tree.map(
        lambda a: (a.shape, a.dtype), plain
    )
    y, _ = apply(scope, train=False)(variables(), x)
    np.testing.assert_array_equal(y, apply(NormScope(), train=False)(variables(), x)[0])


def test_bfloat16_has_float32_statistics():
    x, scope = jnp.asarray(inputs(), jnp.bfloat16), NormScope('groups', 4)
    y, new = batch_norm(True, jnp.bfloat16, scope=scope).apply(
        variables(), x, mutable=['batch_stats']
    )
    assert y.dtype == jnp.bfloat16
    assert {s.dtype for s in jax.tree.leaves(new)} == {jnp.dtype('float32')}
    want = apply(scope)(variables(), x.astype(jnp.float32))[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), new, want)


@pytest.mark.parametrize(
    ('scope', 'message'),
    [
        (NormScope('groups', 5), "norm_scope='groups' of size 5: 16 rows do not divide"),
        (NormScope('device', 3), "norm_scope='device' of size 3"),
        (NormScope('batch', 3), "norm_scope='batch'; it must be one of global, groups, device"),
    ],
)
def test_errors_name_the_scope(scope, message):
    with pytest.raises(ValueError, match=message):
        apply(scope)(variables(), inputs())
