import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from simclr_jax.config import default
from simclr_jax.optim.factory import create_optimizer, excluded_names
from simclr_jax.optim.groups import Groups, Probes, layer_of

SHAPES = {
    'encoder/class_token': (1, 1, 4),
    'encoder/positions': (1, 5, 4),
    'encoder/patch_projection/kernel': (2, 2, 3, 4),
    **{f'encoder/block{i}/dense1/kernel': (4, 8) for i in range(2)},
    'encoder/norm/scale': (4,),
    'projector/dense1/kernel': (4, 6),
    'classifier/kernel': (6, 3),
    'classifier/bias': (3,),
}


def params_of(seed):
    rng = np.random.default_rng(seed)
    drawn = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()
    }
    return unflatten_dict(drawn, sep='/')


def optimizer(name, groups=None, **fields):
    section = default().optimizer
    section.update({'learning_rate_scaling': 'none', 'warmup_epochs': 0.0, 'name': name} | fields)
    return create_optimizer(section, 8, 5, 20, groups=groups)[0]


def after(tx, steps=3):
    """Returns what `steps` steps make of parameters that are all alike in every test."""
    params = params_of(0)
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(steps):
        updates, state = update(params_of(step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return flatten_dict(params, sep='/'), state


def test_layer_wise_decay_is_maes():
    # `util/lr_decay.py`: scale = layer_decay ** (num_layers - id), num_layers = 13 of ViT-B.
    params = params_of(0)
    params['encoder'] |= {f'block{i}': {'dense1': {'kernel': jnp.ones(1)}} for i in range(12)}
    rates = flatten_dict(Groups(layer_decay=0.65).rates(params), sep='/')
    assert rates['encoder/class_token'] == rates['encoder/positions'] == 0.65**13
    assert rates['encoder/patch_projection/kernel'] == 0.65**13
    assert rates['encoder/block0/dense1/kernel'] == 0.65**12
    assert rates['encoder/block11/dense1/kernel'] == pytest.approx(0.65)
    assert rates['encoder/norm/scale'] == rates['classifier/kernel'] == 1


def test_a_resnets_layers_are_its_stages():
    names = ['stem_conv', 'stem_norm2', 'stage1_block0', 'stage4_block12', 'norm']
    assert [layer_of(name, last=5) for name in names] == [0, 0, 1, 4, 5]


@pytest.mark.parametrize('name', ['sgd', 'lars', 'adamw'])
def test_the_head_at_another_rate_moves_as_a_run_at_that_rate(name):
    common = {'weight_decay': 0.05, 'learning_rate': 0.02}
    slow, _ = after(optimizer(name, **common))
    fast, _ = after(optimizer(name, **common | {'learning_rate': 0.1}))
    both, _ = after(optimizer(name, Groups(head_rate=5.0), **common))
    want_decay = {'encoder/class_token', 'encoder/positions'}  # which fine-tuning leaves alone
    for parameter, value in both.items():
        if parameter not in want_decay:
            want = fast if parameter.startswith('classifier') else slow
            np.testing.assert_allclose(value, want[parameter], rtol=2e-5, atol=1e-6)
    assert not np.allclose(both['classifier/kernel'], slow['classifier/kernel'], atol=1e-5)


def test_lars_leaves_the_head_out_of_adaptation_and_decay():
    common = {'weight_decay': 0.5, 'learning_rate': 0.1, 'momentum': 0.0}
    got, _ = after(optimizer('lars', Groups(head_decayed=False), **common), steps=1)
    params, grads = (flatten_dict(params_of(seed), sep='/') for seed in (0, 1))
    for name in ('classifier/kernel', 'classifier/bias', 'encoder/norm/scale'):
        np.testing.assert_allclose(got[name], params[name] - 0.1 * grads[name], rtol=1e-5)
    kernel = params['encoder/block0/dense1/kernel']
    gradient = grads['encoder/block0/dense1/kernel'] + 0.5 * kernel
    ratio = 1e-3 * np.linalg.norm(kernel) / np.linalg.norm(gradient)
    np.testing.assert_allclose(
        got['encoder/block0/dense1/kernel'], kernel - 0.1 * ratio * gradient, rtol=1e-5
    )


@pytest.mark.parametrize('name', ['sgd', 'lars', 'adamw'])
@pytest.mark.parametrize(
    'groups, frozen',
    [
        (Groups(frozen_encoder=True), ('encoder', 'projector')),
        (
            Groups(first_trained=2, layer_decay=0.5, head_rate=3.0),
            ('encoder/class_token', 'encoder/positions', 'encoder/patch', 'encoder/block0/'),
        ),
    ],
)
def test_what_is_frozen_keeps_its_bits_and_has_no_state(name, groups, frozen):
    got, state = after(optimizer(name, groups, weight_decay=0.05))
    before = flatten_dict(params_of(0), sep='/')
    for parameter, value in got.items():
        same = np.array_equal(value, before[parameter])
        assert same == parameter.startswith(frozen), parameter
    paths = [
        jax.tree_util.keystr(path, simple=True, separator='/')
        for path, _ in jax.tree_util.tree_leaves_with_path(state)
    ]
    assert any('classifier/kernel' in path for path in paths)
    assert not any(part in path for path in paths for part in ('class_token', 'patch_projection'))


def test_what_does_not_decay_is_told():
    names = excluded_names(params_of(0), Groups(head_decayed=False))
    assert names == [
        *('classifier/bias', 'classifier/kernel', 'encoder/class_token', 'encoder/norm/scale'),
        'encoder/positions',
    ]


def test_plain_heads_have_adam_at_a_rate_of_their_own():
    """Beside the run's optimizer, here SGD with decay, as if they were trained apart."""
    params = {
        'heads': {
            'linear': {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)},
            'plain': {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)},
        }
    }
    own = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.5))
    probes = Probes(plain_rate=0.01)
    tx, grads = probes.wrap(own), jax.tree.map(lambda x: 3 * x, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    alone = optax.adam(0.01)
    plain, _ = alone.update(grads['heads']['plain'], alone.init(grads['heads']['plain']))
    found = jax.tree.leaves(updates['heads']['plain'])
    for got, want in zip(found, jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    for got in jax.tree.leaves(updates['heads']['linear']):
        np.testing.assert_allclose(got, -0.5 * (3 + 0.1), rtol=1e-6)
    decayed = probes.decayed(params)['heads']['linear']
    assert decayed == {'kernel': True, 'bias': False}
