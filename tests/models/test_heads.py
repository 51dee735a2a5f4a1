import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from simclr_jax.models.heads import MLPHead, torch_linear_init

HEADS = {  # name -> (fields, parameters after 2048 features)
    'simclr_v1': (
        {'hidden_dim': 2048, 'output_dim': 128, 'output_norm': 'scale_only'},
        2048 * 2048 + 2 * 2048 + 2048 * 128 + 128,
    ),
    'simclr_v2': (
        {'hidden_dim': 2048, 'output_dim': 128, 'num_layers': 3, 'output_norm': 'scale_only'},
        2 * (2048 * 2048 + 2 * 2048) + 2048 * 128 + 128,
    ),
    'byol': (
        {'hidden_dim': 4096, 'output_dim': 256, 'hidden_bias': True},
        2048 * 4096 + 4096 + 2 * 4096 + 4096 * 256,
    ),
    'moco_v3_projector': (
        {'hidden_dim': 4096, 'output_dim': 256, 'output_norm': 'plain'},
        2048 * 4096 + 2 * 4096 + 4096 * 256,
    ),
    'moco_v3_vit_projector': (
        {'hidden_dim': 4096, 'output_dim': 256, 'num_layers': 3, 'output_norm': 'plain'},
        2048 * 4096 + 4096 * 4096 + 2 * 2 * 4096 + 4096 * 256,
    ),
    'moco_v1': (
        {'hidden_dim': 2048, 'output_dim': 128, 'num_layers': 1, 'output_bias': True},
        2048 * 128 + 128,
    ),
    'moco_v2': (
        {
            'hidden_dim': 2048,
            'output_dim': 128,
            'hidden_bias': True,
            'output_bias': True,
            'hidden_norm': False,
        },
        2048 * 2048 + 2048 + 2048 * 128 + 128,
    ),
    'affine': (
        {'hidden_dim': 2048, 'output_dim': 128, 'output_norm': 'affine'},
        2048 * 2048 + 2 * 2048 + 2048 * 128 + 2 * 128,
    ),
    'one_layer': (
        {'hidden_dim': 2048, 'output_dim': 10, 'num_layers': 1, 'output_bias': True},
        2048 * 10 + 10,
    ),
}


@pytest.mark.parametrize('name', HEADS)
def test_parameter_counts(name):
    fields, expected = HEADS[name]
    head = MLPHead(**fields)
    variables = jax.eval_shape(
        lambda rng, x: head.init(rng, x, train=True), jax.random.key(0), jnp.zeros((2, 2048))
    )
    assert sum(x.size for x in jax.tree.leaves(variables['params'])) == expected


def normalize(x):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)


def random_variables(head, features):
    shapes = jax.eval_shape(lambda rng: head.init(rng, features, train=True), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


def apply(head, variables, features):
    step = jax.jit(lambda v, x: head.apply(v, x, train=True, mutable='batch_stats'))
    return step(variables, features)


@pytest.mark.parametrize(
    ('output_norm', 'hidden_norm'),
    [('none', True), ('affine', True), ('scale_only', True), ('plain', True), ('none', False)],
)
def test_forward_equals_numpy(output_norm, hidden_norm):
    head = MLPHead(
        12, 5, num_layers=3, hidden_bias=True, hidden_norm=hidden_norm, output_norm=output_norm
    )
    features = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)
    variables = random_variables(head, features)
    output, _ = apply(head, variables, features)

    params = variables['params']
    x = features.astype(np.float64)
    for i in (1, 2):
        x = x @ params[f'dense{i}']['kernel'] + params[f'dense{i}']['bias']
        if hidden_norm:
            x = normalize(x) * params[f'norm{i}']['scale'] + params[f'norm{i}']['bias']
        x = np.maximum(x, 0)
    x = x @ params['dense3']['kernel']
    if output_norm != 'none':
        last = params.get('norm3', {})
        x = normalize(x) * last.get('scale', 1.0) + last.get('bias', 0.0)
    assert output.dtype == jnp.float32
    np.testing.assert_allclose(output, x, rtol=1e-4, atol=1e-5)


def test_the_first_layers_of_a_head():
    head = MLPHead(12, 5, num_layers=3, output_norm='scale_only')
    features = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)
    variables = random_variables(head, features)
    params, stats = variables['params'], variables['batch_stats']
    stats = jax.tree.map(np.abs, stats)
    x = features
    for layer in (1, 2):
        x = (x @ params[f'dense{layer}']['kernel'] - stats[f'norm{layer}']['mean']) / np.sqrt(
            stats[f'norm{layer}']['var'] + 1e-5
        )
        x = np.maximum(x * params[f'norm{layer}']['scale'] + params[f'norm{layer}']['bias'], 0)
        found = head.apply(
            {'params': params, 'batch_stats': stats}, features, train=False, layers=layer
        )
        np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)


def test_kernel_init_is_a_field():
    head = MLPHead(256, 128, kernel_init=nn.initializers.normal(0.01))
    rng = jax.random.key(0, impl='rbg')  # quick to compile
    params = jax.jit(lambda rng: head.init(rng, jnp.zeros((2, 64)), train=False))(rng)['params']
    for layer in ('dense1', 'dense2'):
        np.testing.assert_allclose(params[layer]['kernel'].std(), 0.01, rtol=0.03)


def test_torch_linear_init_is_uniform_in_one_over_the_root_of_fan_in():
    kernel = torch_linear_init(jax.random.key(0, impl='rbg'), (100, 500))
    assert 0.0999 < kernel.max() <= 0.1
    np.testing.assert_allclose(kernel.std(), 0.1 / np.sqrt(3), rtol=0.01)


def test_bfloat16_keeps_float32_parameters_and_output():
    features = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    head = MLPHead(12, 5, output_norm='scale_only', dtype=jnp.bfloat16)
    variables = random_variables(head, features)
    output, new = apply(head, variables, features)
    expected, _ = apply(MLPHead(12, 5, output_norm='scale_only'), variables, features)
    assert output.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves((variables, new))} == {jnp.dtype('float32')}
    assert 0 < jnp.abs(output - expected).max() < 0.1


def test_unknown_output_norm_names_the_field():
    head = MLPHead(8, 4, output_norm='batch')
    with pytest.raises(ValueError, match=r"output_norm='batch'; .* none, affine, scale_only"):
        head.init(jax.random.key(0), jnp.zeros((2, 8)), train=True)
