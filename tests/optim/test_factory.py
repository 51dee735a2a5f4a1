import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from simclr_jax.config import ConfigError
from simclr_jax.models.factory import create_encoder
from simclr_jax.optim.factory import OPTIMIZERS, create_optimizer, decay_mask, excluded_names


def section(**fields):
    defaults = {
        'name': 'lars',
        'learning_rate': 0.3,
        'learning_rate_scaling': 'linear',
        'warmup_epochs': 0.5,
        'schedule': 'cosine',
        'decay_epochs': (),
        'decay_factor': 0.1,
        'min_learning_rate': 0.0,
        'by_epoch': False,
        'weight_decay': 1e-4,
        'momentum': 0.9,
        'nesterov': False,
        'trust_coefficient': 1e-3,
        'rate_inside_momentum': True,
        'b1': 0.9,
        'b2': 0.999,
        'exclude_bias_and_norm': True,
    }
    return ml_collections.ConfigDict(defaults | fields)


def params_and_gradients(dtype=jnp.float32, steps=6):
    shapes = {'dense': {'kernel': (4, 3), 'bias': (3,)}, 'norm': {'scale': (3,), 'bias': (3,)}}
    rng = np.random.default_rng(0)

    def draw():
        return jax.tree.map(
            lambda shape: jnp.asarray(rng.normal(size=shape), dtype),
            shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )

    return draw(), [draw() for _ in range(steps)]


def run(tx, params, gradients):
    state = tx.init(params)
    update = jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_schedule_is_scaled_warmed_up_and_decayed():
    _, schedule = create_optimizer(section(), batch_size=4096, steps_per_epoch=20, total_steps=100)
    rates = [float(schedule(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(rates, [0, 2.4, 4.8, 2.4, 0], rtol=1e-6)


def test_steps_divide_the_rate_by_ten():
    config = section(name='sgd', warmup_epochs=0, schedule='steps', decay_epochs=(2.0, 3.5))
    _, schedule = create_optimizer(config, batch_size=256, steps_per_epoch=4, total_steps=20)
    rates = [float(schedule(step)) for step in (0, 7, 8, 13, 14, 19)]
    np.testing.assert_allclose(rates, [0.3, 0.3, 0.03, 0.03, 0.003, 0.003], rtol=1e-6)


@pytest.mark.parametrize('nesterov', [False, True])
@pytest.mark.parametrize('exclude', [False, True])
def test_sgd_is_pytorch(nesterov, exclude):
    config = section(name='sgd', weight_decay=0.1, nesterov=nesterov, exclude_bias_and_norm=exclude)
    tx, schedule = create_optimizer(config, batch_size=256, steps_per_epoch=4, total_steps=6)
    params, gradients = params_and_gradients()
    final = run(tx, params, gradients)

    for path, weight in jax.tree_util.tree_leaves_with_path(params):
        layer, name = path[0].key, path[1].key
        decay = 0.0 if exclude and name != 'kernel' else 0.1
        weight = np.asarray(weight, np.float64)
        velocity = np.zeros_like(weight)
        for step, gradient in enumerate(gradients):  # torch.optim.SGD's documented rule
            g = np.asarray(gradient[layer][name], np.float64) + decay * weight
            velocity = 0.9 * velocity + g
            weight = weight - float(schedule(step)) * (g + 0.9 * velocity if nesterov else velocity)
        np.testing.assert_allclose(final[layer][name], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('exclude', [False, True])
def test_adamw_is_the_rule_in_float64(exclude):
    config = section(name='adamw', weight_decay=0.1, b1=0.8, b2=0.95, exclude_bias_and_norm=exclude)
    tx, schedule = create_optimizer(config, batch_size=256, steps_per_epoch=4, total_steps=6)
    params, gradients = params_and_gradients()
    final = run(tx, params, gradients)

    for layer, name in (('dense', 'kernel'), ('norm', 'scale')):
        decay = 0.0 if exclude and name == 'scale' else 0.1
        weight = np.asarray(params[layer][name], np.float64)
        first, second = np.zeros_like(weight), np.zeros_like(weight)
        for step, gradient in enumerate(gradients):
            g = np.asarray(gradient[layer][name], np.float64)
            first = 0.8 * first + 0.2 * g
            second = 0.95 * second + 0.05 * g**2
            adam = first / (1 - 0.8 ** (step + 1))
            adam /= np.sqrt(second / (1 - 0.95 ** (step + 1))) + 1e-8
            weight = weight - float(schedule(step)) * (adam + decay * weight)
        np.testing.assert_allclose(final[layer][name], weight, rtol=1e-5, atol=1e-6)


def test_lars_takes_its_fields():
    params, gradients = params_and_gradients(steps=1)
    config = section(trust_coefficient=0.01, warmup_epochs=0, weight_decay=0.5)
    tx, _ = create_optimizer(config, batch_size=256, steps_per_epoch=1, total_steps=6)
    final = run(tx, params, gradients)
    kernel, bias = params['dense']['kernel'], params['dense']['bias']
    decayed = gradients[0]['dense']['kernel'] + 0.5 * kernel
    trust = 0.01 * np.linalg.norm(kernel) / np.linalg.norm(decayed)
    np.testing.assert_allclose(final['dense']['kernel'], kernel - 0.3 * trust * decayed, rtol=1e-5)
    np.testing.assert_allclose(
        final['dense']['bias'], bias - 0.3 * gradients[0]['dense']['bias'], rtol=1e-5
    )


def test_lars_forms_differ_while_the_rate_changes():
    params, gradients = params_and_gradients()
    inside, outside = (
        run(create_optimizer(section(rate_inside_momentum=form), 256, 4, 6)[0], params, gradients)
        for form in (True, False)
    )
    assert jnp.abs(inside['dense']['bias'] - outside['dense']['bias']).max() > 0.01


@pytest.mark.parametrize('name', OPTIMIZERS)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_update_keeps_dtypes_and_compiles_once(name, dtype):
    tx, _ = create_optimizer(section(name=name), 256, 4, 6)
    params, gradients = params_and_gradients(dtype, steps=3)
    traces = 0

    @jax.jit
    def step(params, state, gradient):
        nonlocal traces
        traces += 1
        updates, state = tx.update(gradient, state, params)
        assert all(update.dtype == dtype for update in jax.tree.leaves(updates))
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    before = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    assert traces == 1
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == before
    assert all(jnp.isfinite(p).all() and p.dtype == dtype for p in jax.tree.leaves(params))


def test_excluded_names_of_a_resnet():
    encoder = create_encoder('resnet18', image_size=32)
    variables = jax.eval_shape(
        lambda rng, images: encoder.init(rng, images, train=True),
        jax.random.key(0),
        jnp.zeros((1, 32, 32, 3)),
    )
    norms = ['stem_norm']
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            norms += [f'stage{stage}_block{block}/norm{i}' for i in (1, 2)]
        if stage > 1:
            norms.append(f'stage{stage}_block0/shortcut_norm')
    expected = sorted(f'{norm}/{leaf}' for norm in norms for leaf in ('bias', 'scale'))
    assert excluded_names(variables['params']) == expected

    mask = jax.tree_util.tree_leaves_with_path(decay_mask(variables['params']))
    decayed = [path[-1].key for path, value in mask if value]
    assert decayed == ['kernel'] * 20


def test_other_parameters_are_decayed():
    params = {'vit': {'position_embedding': 1, 'class_token': 1, 'norm': {'scale': 1, 'bias': 1}}}
    assert excluded_names(params) == ['vit/norm/bias', 'vit/norm/scale']


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_a_frozen_layer_neither_moves_nor_decays(name):
    params, gradients = params_and_gradients(steps=3)
    config = section(name=name, weight_decay=0.5, exclude_bias_and_norm=False)
    tx, _ = create_optimizer(config, 256, 4, 6, frozen=('dense',))
    final = run(tx, params, gradients)
    jax.tree.map(np.testing.assert_array_equal, final['dense'], params['dense'])
    free = run(create_optimizer(config, 256, 4, 6)[0], params, gradients)
    jax.tree.map(np.testing.assert_array_equal, final['norm'], free['norm'])


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'name': 'lamb'}, r"optimizer\.name='lamb'.*lars, sgd, adamw"),
        ({'learning_rate_scaling': 'log'}, r"optimizer\.learning_rate_scaling='log'"),
        ({'schedule': 'step'}, r"optimizer\.schedule='step'; .* cosine, one_cycle, linear, steps"),
        (
            {'warmup_epochs': 10.0},
            r'optimizer\.warmup_epochs=10.0: is 40 steps.* 6; .*_epochs=0.15',
        ),
    ],
)
def test_errors_name_the_field(fields, message):
    with pytest.raises(ValueError, match=message):
        create_optimizer(section(**fields), batch_size=256, steps_per_epoch=4, total_steps=6)


def test_a_rate_may_end_above_zero_and_change_between_epochs_alone():
    fields = {'warmup_epochs': 0, 'min_learning_rate': 0.1, 'by_epoch': True}
    _, schedule = create_optimizer(
        section(**fields), batch_size=256, steps_per_epoch=10, total_steps=20
    )
    rates = [float(schedule(step)) for step in (0, 9, 10, 19)]
    np.testing.assert_allclose(rates, [0.3, 0.3, 0.2, 0.2], rtol=1e-6)
    with pytest.raises(ConfigError, match=r'min_learning_rate=0\.4: is above .* 0\.3'):
        create_optimizer(section(min_learning_rate=0.4), 256, 10, 20)
