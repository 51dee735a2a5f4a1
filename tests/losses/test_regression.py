import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses import regression_loss

LOSS = jax.jit(regression_loss)
GRAD = jax.jit(jax.grad(lambda p, t: jnp.sum(regression_loss(p, t))))
GOLDENS = np.load('tests/goldens/reference_values.npz')


def test_equals_the_original():
    loss = LOSS(jnp.asarray(GOLDENS['byol_prediction']), jnp.asarray(GOLDENS['byol_target']))
    np.testing.assert_allclose(loss, GOLDENS['byol_loss_per_example'], rtol=1e-5)


@pytest.mark.parametrize('shape', [(7,), (3, 2, 16)])
def test_is_two_minus_twice_the_cosine_with_its_gradient(shape):
    rng = np.random.default_rng(0)
    p, t = rng.normal(size=(2, *shape)).astype(np.float32)
    p64, t64 = p.astype(np.float64), t.astype(np.float64)
    p_norm = np.linalg.norm(p64, axis=-1, keepdims=True)
    t_norm = np.linalg.norm(t64, axis=-1, keepdims=True)
    cosine = np.sum(p64 * t64, axis=-1, keepdims=True) / (p_norm * t_norm)
    np.testing.assert_allclose(LOSS(p, t), 2 - 2 * cosine[..., 0], rtol=1e-5)

    grad = GRAD(p, t)
    expected = -2 / p_norm * (t64 / t_norm - cosine * p64 / p_norm)
    np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_is_zero_for_the_same_direction_and_four_for_the_opposite():
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    np.testing.assert_allclose(LOSS(x, 3 * x), 0, atol=1e-12)
    np.testing.assert_allclose(LOSS(x, -x), 4, rtol=1e-6)


def test_bfloat16_and_zero_rows_are_finite_in_float32():
    zeros = jnp.zeros((2, 8), jnp.bfloat16)
    target = jnp.ones((2, 8), jnp.bfloat16)
    assert LOSS(zeros, target).dtype == jnp.float32
    grad = GRAD(zeros, target)
    assert jnp.isfinite(grad).all()


def test_refuses_different_shapes():
    with pytest.raises(ValueError, match=r'predictions has shape \(4, 8\) and targets has \(8,\)'):
        regression_loss(jnp.zeros((4, 8)), jnp.zeros(8))
