import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.losses import nt_xent
from simclr_jax.losses.normalize import l2_normalize

GOLDENS = np.load('tests/goldens/reference_values.npz')
LOSS_AND_GRAD = jax.jit(jax.value_and_grad(nt_xent))  # compiled once a shape
SHAPE = (16, 2, 32)
QUICKLY = {'xla_backend_optimization_level': 0}  # compiled
OURS = jax.jit(jax.value_and_grad(nt_xent), compiler_options=QUICKLY)
OPTAX = jax.jit(jax.value_and_grad(optax.losses.ntxent), compiler_options=QUICKLY)
CASES = [  # batch, dim, temperature
    (int(batch), int(dim), float(np.exp(log)))
    for batch, dim, log in np.random.default_rng(0).uniform(
        (2, 2, np.log(0.03)), (33, 129, np.log(2.0)), size=(20, 3)
    )
]


def reference(projections, temperature):
    """Equation 1 of the paper, row by row in float64: the loss and its gradient."""
    batch, _, dim = projections.shape
    raw = projections.reshape(2 * batch, dim).astype(np.float64)
    norms = np.linalg.norm(raw, axis=1)
    z = raw / norms[:, None]
    loss, grad_z = 0.0, np.zeros_like(z)
    for i in range(2 * batch):
        others = [k for k in range(2 * batch) if k != i]
        logits = np.array([z[i] @ z[k] / temperature for k in others])
        probability = np.exp(logits - logits.max())
        normalizer = logits.max() + np.log(probability.sum())
        probability /= probability.sum()
        loss += normalizer - z[i] @ z[i ^ 1] / temperature
        for k, p in zip(others, probability, strict=True):
            weight = (p - (k == i ^ 1)) / temperature
            grad_z[i] += weight * z[k]
            grad_z[k] += weight * z[i]
    grad = np.stack([(np.eye(dim) - np.outer(u, u)) @ g for u, g in zip(z, grad_z, strict=True)])
    grad /= norms[:, None] * 2 * batch
    return loss / (2 * batch), grad.reshape(projections.shape)


def assert_close(actual, expected, tolerance=1e-5):
    """Relative to the largest element: the small ones of a gradient are what cancelled."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize('case', range(4))
def test_equals_the_original(case):
    golden = {k: GOLDENS[f'ntxent_{case}_{k}'] for k in ('z1', 'z2', 'grad_z1', 'grad_z2')}
    projections = np.stack([golden['z1'], golden['z2']], axis=1)
    temperature = float(GOLDENS[f'ntxent_{case}_temperature'])
    loss, grad = LOSS_AND_GRAD(projections, temperature)
    np.testing.assert_allclose(loss, GOLDENS[f'ntxent_{case}_mean_loss'], rtol=1e-5)
    assert_close(grad[:, 0], golden['grad_z1'])
    assert_close(grad[:, 1], golden['grad_z2'])


def test_worked_example():
    projections = jnp.arange(1.0, 13.0).reshape(2, 2, 3)
    loss, _ = LOSS_AND_GRAD(projections, 0.5)
    np.testing.assert_allclose(loss, 1.08463, atol=5e-6)


@pytest.mark.parametrize(('batch', 'dim', 'temperature'), CASES)
def test_equals_a_float64_loop_and_optax(batch, dim, temperature):
    projections = np.random.default_rng(batch * dim).normal(size=(batch, 2, dim))
    projections = projections.astype(np.float32)
    loss, grad = OURS(projections, temperature)
    expected_loss, expected_grad = reference(projections, temperature)
    scale = max(expected_loss, 1.0)  # a difference of logits, whose digits a small loss lacks
    np.testing.assert_allclose(loss, expected_loss, atol=1e-5 * scale, rtol=0)
    assert_close(grad, expected_grad)

    rows = jnp.asarray(projections.reshape(2 * batch, dim))
    optax_loss, optax_grad = OPTAX(rows, jnp.arange(2 * batch) // 2, temperature)
    np.testing.assert_allclose(loss, optax_loss, atol=1e-5 * scale, rtol=0)
    assert_close(grad.reshape(rows.shape), optax_grad, tolerance=2e-5)  # both round


def test_one_pair_has_nothing_to_learn():
    """The positive is the only candidate."""
    loss, grad = OURS(np.random.default_rng(0).normal(size=(1, 2, 7)).astype(np.float32), 0.1)
    np.testing.assert_allclose(loss, 0, atol=1e-5)
    np.testing.assert_allclose(grad, 0, atol=1e-5)


def test_is_the_same_with_the_views_swapped_the_batch_permuted_or_rows_scaled():
    rng = np.random.default_rng(0)
    projections = rng.normal(size=SHAPE).astype(np.float32)
    scaled = projections * rng.uniform(0.01, 100, size=(*SHAPE[:2], 1)).astype(np.float32)
    loss, grad = LOSS_AND_GRAD(projections, 0.2)
    for other in (projections[:, ::-1], rng.permutation(projections), scaled):
        np.testing.assert_allclose(LOSS_AND_GRAD(other, 0.2)[0], loss, rtol=1e-6)
    assert_close(LOSS_AND_GRAD(projections[:, ::-1], 0.2)[1], grad[:, ::-1], tolerance=1e-6)


def test_bfloat16_at_a_low_temperature():
    exact = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32).astype(jnp.bfloat16)
    loss, grad = LOSS_AND_GRAD(exact, 0.01)
    assert loss.dtype == jnp.float32
    assert grad.dtype == jnp.bfloat16
    assert jnp.isfinite(grad).all()
    np.testing.assert_allclose(loss, LOSS_AND_GRAD(exact.astype(jnp.float32), 0.01)[0], rtol=1e-6)


def test_rows_of_zeros_and_collapsed_rows_have_finite_gradients():
    projections = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    projections[0, 0] = 0
    loss, grad = LOSS_AND_GRAD(projections, 0.1)
    assert jnp.isfinite(loss)
    assert jnp.isfinite(grad).all()
    loss, grad = LOSS_AND_GRAD(jnp.ones(SHAPE), 0.1)  # collapsed
    np.testing.assert_allclose(loss, np.log(31), rtol=1e-6)
    np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_negatives_are_global_on_eight_devices():
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P('data'))
    projections = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    loss, grad = LOSS_AND_GRAD(projections, 0.1)
    sharded_loss, sharded_grad = LOSS_AND_GRAD(jax.device_put(projections, sharding), 0.1)
    np.testing.assert_allclose(sharded_loss, loss, rtol=1e-6)
    assert_close(sharded_grad, grad, tolerance=1e-6)
    assert sharded_grad.sharding.is_equivalent_to(sharding, 3)


@pytest.mark.parametrize('shape', [(8, 16), (8, 3, 16), (2, 8, 16), (8, 2, 4, 4)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r'projections has shape .* \[batch, view, dim\]'):
        nt_xent(jnp.zeros(shape), 0.1)


@pytest.mark.parametrize('temperature', [0, -0.1])
def test_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match=f'temperature={temperature}'):
        nt_xent(jnp.zeros((8, 2, 16)), temperature)


def test_normalized_rows_have_unit_length():
    rows = l2_normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]], jnp.bfloat16))
    assert rows.dtype == jnp.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
