import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.optim.lars import lars

GOLDENS = np.load('tests/goldens/reference_values.npz')
NAMES = ('linear_w', 'linear_b', 'bn_scale', 'bn_offset')
MASK = {name: name == 'linear_w' for name in NAMES}


def run(tx, params, gradients):
    state = tx.init(params)
    update = jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize('form', ['simclr', 'byol'])
@pytest.mark.parametrize('mask', [MASK, lambda params: MASK], ids=['tree', 'callable'])
def test_equals_the_originals_while_the_rate_changes(form, mask):
    rates = jnp.asarray(GOLDENS['lars_learning_rates'])
    tx = lars(
        lambda step: rates[step],
        float(GOLDENS['lars_weight_decay']),
        mask=mask,
        rate_inside_momentum=form == 'simclr',
    )
    params = {name: jnp.asarray(GOLDENS[f'lars_init_{name}']) for name in NAMES}
    gradients = [{name: GOLDENS[f'lars_grads_{name}'][i] for name in NAMES} for i in range(8)]
    final = run(tx, params, gradients)
    for name in NAMES:
        golden = GOLDENS[f'lars_{form}_final_{name}']
        change = np.abs(golden - GOLDENS[f'lars_init_{name}']).max()
        np.testing.assert_allclose(final[name], golden, rtol=1e-5, atol=1e-5 * change)


def test_simclr_form_is_optax_lars():
    params = {'kernel': jnp.full((3, 2), 0.5), 'bias': jnp.ones(2)}
    mask = {'kernel': True, 'bias': False}
    gradients = [jax.tree.map(lambda p, i=i: p * i - 0.7, params) for i in range(1, 5)]
    schedule = optax.linear_schedule(0.0, 2.0, 4)
    ours = lars(schedule, 1e-2, mask=mask, rate_inside_momentum=True)
    theirs = optax.lars(schedule, 1e-2, mask, trust_ratio_mask=mask)
    expected = run(theirs, params, gradients)
    for name, value in run(ours, params, gradients).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)


@pytest.mark.parametrize('rate_inside_momentum', [True, False])
def test_trust_ratio_is_one_where_a_norm_is_zero(rate_inside_momentum):
    tx = lars(0.5, 0.0, rate_inside_momentum=rate_inside_momentum)
    params = {'zero_weight': jnp.zeros((2, 2)), 'zero_gradient': jnp.ones((2, 2))}
    gradients = {'zero_weight': jnp.ones((2, 2)), 'zero_gradient': jnp.zeros((2, 2))}
    updates, _ = tx.update(gradients, tx.init(params), params)
    np.testing.assert_array_equal(updates['zero_weight'], np.full((2, 2), -0.5))
    np.testing.assert_array_equal(updates['zero_gradient'], np.zeros((2, 2)))


def test_without_a_mask_every_leaf_is_adapted():
    params = {'bias': jnp.array([3.0, 4.0])}
    tx = lars(1.0, 0.0, trust_coefficient=0.1, rate_inside_momentum=False)
    updates, _ = tx.update({'bias': jnp.array([0.0, 2.0])}, tx.init(params), params)
    np.testing.assert_allclose(updates['bias'], [0.0, -0.5], rtol=1e-6)
