import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.losses import info_nce

# The package's attribute of that name is the function.
info_nce_module = importlib.import_module('simclr_jax.losses.info_nce')
IN_BATCH = jax.jit(jax.value_and_grad(info_nce, argnums=(0, 1)))
WITH_QUEUE = jax.jit(jax.value_and_grad(info_nce, argnums=(0, 1, 3)))


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def reference(queries, keys, temperature, queue=None):
    """The loss and its gradients by every array, query by query in float64."""
    arrays = [x.astype(np.float64) for x in (queries, keys, queue) if x is not None]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in arrays]
    grads = [np.zeros_like(x) for x in arrays]
    loss, count = 0.0, len(queries)
    for i, q in enumerate(unit[0]):
        if queue is None:
            candidates = [(1, j) for j in range(count)]
        else:
            candidates = [(1, i), *((2, j) for j in range(len(queue)))]
        logits = np.array([q @ unit[a][j] for a, j in candidates]) / temperature
        normalizer = logits.max() + np.log(np.exp(logits - logits.max()).sum())
        for (a, j), logit in zip(candidates, logits, strict=True):
            own = (a, j) == (1, i)
            loss += (normalizer - logit) * own / count
            weight = (np.exp(logit - normalizer) - own) / temperature / count
            grads[0][i] += weight * unit[a][j]
            grads[a][j] += weight * q
    for grad, u, x in zip(grads, unit, arrays, strict=True):  # through the normalization
        grad -= u * (u * grad).sum(axis=1, keepdims=True)
        grad /= np.linalg.norm(x, axis=1, keepdims=True)
    return loss, grads


def assert_close(actual, expected, tolerance=1e-5):
    """Relative to the largest element: the small ones of a gradient are what cancelled."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(
    ('count', 'dim', 'queue_size', 'temperature'),
    [
        (2, 3, None, 1.0),
        (5, 16, None, 0.2),
        (16, 32, None, 0.1),
        (33, 8, None, 0.5),
        (8, 128, None, 0.05),
        (1, 4, 6, 1.0),
        (4, 3, 1, 0.5),
        (5, 16, 40, 0.2),
        (16, 32, 64, 0.07),
        (9, 7, 18, 0.05),
    ],
)
def test_equals_a_float64_loop(count, dim, queue_size, temperature):
    queries, keys = draw(count, (count, dim), (count, dim))
    queue = None if queue_size is None else draw(dim, (queue_size, dim))[0]
    if queue is None:
        loss, grads = IN_BATCH(queries, keys, temperature)
    else:
        loss, grads = WITH_QUEUE(queries, keys, temperature, queue)
    expected, expected_grads = reference(queries, keys, temperature, queue)
    np.testing.assert_allclose(loss, expected, rtol=2e-6)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert_close(grad, expected_grad)


def test_equals_the_originals_cross_entropy():
    """`moco/builder.py`: the own key's logit comes first, its label is 0; MoCo v3's is the row."""
    queries, keys, queue = draw(0, (16, 32), (16, 32), (64, 32))
    q, k, negatives = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, keys, queue))
    logits = np.concatenate([(q * k).sum(axis=1, keepdims=True), q @ negatives.T], axis=1) / 0.07
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    expected = cross_entropy(jnp.asarray(logits), jnp.zeros(16, int)).mean()
    np.testing.assert_allclose(WITH_QUEUE(queries, keys, 0.07, queue)[0], expected, rtol=2e-6)
    expected = cross_entropy(jnp.asarray(q @ k.T / 0.07), jnp.arange(16)).mean()
    np.testing.assert_allclose(IN_BATCH(queries, keys, 0.07)[0], expected, rtol=2e-6)


def test_scaled_rows_are_the_same():
    queries, keys, queue = draw(0, (16, 32), (16, 32), (64, 32))
    loss, _ = WITH_QUEUE(queries, keys, 0.2, queue)
    scaled, _ = WITH_QUEUE(3 * queries, 0.01 * keys, 0.2, 100 * queue)
    np.testing.assert_allclose(scaled, loss, rtol=1e-6)


@pytest.mark.parametrize('queue', [False, True])
def test_bfloat16_at_a_low_temperature(queue):
    queries, keys, rows = (x.astype(jnp.bfloat16) for x in draw(0, (16, 32), (16, 32), (64, 32)))
    if queue:
        loss, grads = WITH_QUEUE(queries, keys, 0.01, rows)
    else:
        loss, grads = IN_BATCH(queries, keys, 0.01)
    assert loss.dtype == jnp.float32
    assert all(grad.dtype == jnp.bfloat16 and jnp.isfinite(grad).all() for grad in grads)
    exact = [x.astype(np.float32) for x in (queries, keys, rows)]
    expected, _ = reference(*exact[:2], 0.01, exact[2] if queue else None)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_rows_of_zeros_and_collapsed_rows_have_finite_gradients():
    queries, keys, queue = draw(0, (16, 32), (16, 32), (64, 32))
    queries[0] = keys[1] = queue[2] = 0
    for loss, grads in (IN_BATCH(queries, keys, 0.1), WITH_QUEUE(queries, keys, 0.1, queue)):
        assert jnp.isfinite(loss)
        assert all(jnp.isfinite(grad).all() for grad in grads)
    ones = [np.ones_like(x) for x in (queries, keys, queue)]
    np.testing.assert_allclose(IN_BATCH(*ones[:2], 0.1)[0], np.log(16), rtol=1e-6)
    np.testing.assert_allclose(WITH_QUEUE(*ones[:2], 0.1, ones[2])[0], np.log(65), rtol=1e-6)


@pytest.mark.parametrize('queue', [False, True])
def test_candidates_are_global_on_eight_devices(queue):
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P('data'))
    queries, keys, rows = draw(0, (16, 32), (16, 32), (64, 32))
    sharded = [jax.device_put(x, sharding) for x in (queries, keys)]
    if queue:
        everywhere = jax.device_put(rows, jax.NamedSharding(mesh, jax.P()))
        one, eight = WITH_QUEUE(queries, keys, 0.1, rows), WITH_QUEUE(*sharded, 0.1, everywhere)
    else:
        one, eight = IN_BATCH(queries, keys, 0.1), IN_BATCH(*sharded, 0.1)
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-6)
    for a, b in zip(eight[1], one[1], strict=True):
        assert_close(a, b, tolerance=1e-6)
    assert eight[1][0].sharding.is_equivalent_to(sharding, 2)


@pytest.mark.parametrize(
    ('shapes', 'message'),
    [
        (((8, 4), (7, 4)), r'queries has shape \(8, 4\) and keys has \(7, 4\)'),
        (((8, 2, 4), (8, 2, 4)), r'queries has shape \(8, 2, 4\).* \[n, dim\]'),
        (((8, 4), (8, 4), (16, 5)), r'queue has shape \(16, 5\).* dim=4'),
        (((8, 4), (8, 4), (4,)), r'queue has shape \(4,\)'),
    ],
)
def test_refuses_other_shapes(shapes, message):
    queries, keys, *queue = (jnp.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        info_nce(queries, keys, 0.1, *queue)


@pytest.mark.parametrize('temperature', [0, -0.1])
def test_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match=f'temperature={temperature}'):
        info_nce(jnp.zeros((8, 16)), jnp.zeros((8, 16)), temperature)


@pytest.mark.parametrize('temperature', [0.01, 0.2])
@pytest.mark.parametrize('candidates', ['keys', 'queue'])
def test_tiles_give_values_and_gradients_of_the_whole(candidates, temperature, monkeypatch):
    random = np.random.default_rng(0)
    queries, keys = random.normal(size=(2, 13, 8)).astype(np.float32)
    queue = random.normal(size=(29, 8)).astype(np.float32) if candidates == 'queue' else None
    arrays = (queries, keys, queue)
    arguments = (0, 1, 2) if queue is not None else (0, 1)

    def loss(queries, keys, queue):
        return info_nce(queries, keys, temperature, queue)

    want, want_gradients = jax.value_and_grad(loss, arguments)(*arrays)
    monkeypatch.setattr(info_nce_module, '_LARGE', 0)
    monkeypatch.setattr(info_nce_module, '_TILE', 6)
    got, gradients = jax.jit(jax.value_and_grad(loss, arguments))(*arrays)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for gradient, want_gradient in zip(gradients, want_gradients, strict=True):
        atol = 1e-5 * np.abs(want_gradient).max()
        np.testing.assert_allclose(gradient, want_gradient, rtol=0, atol=atol)


def test_tiles_hold_no_matrix_of_logits(monkeypatch):
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((64, 8), (64, 8), (4096, 8))]

    def temporary_bytes():
        loss = jax.grad(lambda q, k, queue: info_nce(q, k, 0.2, queue))
        return jax.jit(loss).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    whole = temporary_bytes()
    monkeypatch.setattr(info_nce_module, '_LARGE', 0)
    monkeypatch.setattr(info_nce_module, '_TILE', 128)
    assert whole >= 4 * 64 * 4096
    assert temporary_bytes() < 4 * 64 * 4096 / 2
