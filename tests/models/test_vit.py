import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.factory import create_encoder
from simclr_jax.models.vit import PATCH_PROJECTION, VisionTransformer, patch_init, sincos_positions

SHAPE = (2, 8, 12, 3)
IMAGES = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


def small_vit(**fields):
    return VisionTransformer(**{'dim': 8, 'depth': 2, 'num_heads': 2, 'patch_size': 4} | fields)


def random_variables(encoder, shape=SHAPE):
    """Every parameter away from its initial value."""
    variables = jax.eval_shape(
        lambda rng: encoder.init(rng, jnp.zeros(shape), train=True), jax.random.key(0)
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.3).astype(x.dtype), variables)


def reference(params, images, pooling):
    """The forward pass in float64 loops over images and heads."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    dim = params[PATCH_PROJECTION]['bias'].size

    def dense(x, p):
        return x @ p['kernel'].reshape(-1, p['bias'].size) + p['bias'].ravel()

    def norm(x, p):
        deviation = x - x.mean(-1, keepdims=True)
        return deviation / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p['scale'] + p['bias']

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))

    def attention(x, p):
        heads = p['query']['bias'].shape[0]
        q, k, v = (
            (x @ p[n]['kernel'].reshape(dim, dim) + p[n]['bias'].ravel()).reshape(len(x), heads, -1)
            for n in ('query', 'key', 'value')
        )
        outputs = []
        for h in range(heads):
            logits = q[:, h] @ k[:, h].T / np.sqrt(q.shape[-1])
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            outputs.append(weights / weights.sum(-1, keepdims=True) @ v[:, h])
        return dense(np.concatenate(outputs, axis=1), p['out'])

    results = []
    for image in images.astype(np.float64):
        height, width, channels = image.shape
        patches = image.reshape(height // 4, 4, width // 4, 4, channels).swapaxes(1, 2)
        x = dense(patches.reshape(-1, 16 * channels), params[PATCH_PROJECTION])
        x = x + sincos_positions(height // 4, width // 4, dim)
        if pooling != 'mean':
            x = np.concatenate([params['class_token'][0], x])
        for i in range(2):
            p = params[f'block{i}']
            x = x + attention(norm(x, p['norm1']), p['attention'])
            x = x + dense(gelu(dense(norm(x, p['norm2']), p['dense1'])), p['dense2'])
        if pooling == 'patches':
            results.append(norm(x[1:].mean(0), params['fc_norm']))
        else:
            results.append(norm(x[0], params['norm']) if pooling == 'token' else x.mean(0))
    return np.stack(results)


@pytest.mark.parametrize('pooling', ['token', 'mean', 'patches'])
def test_forward_equals_a_float64_loop(pooling):
    encoder = small_vit(pooling=pooling)
    variables = random_variables(encoder)
    features = jax.jit(encoder.apply, static_argnames='train')(variables, IMAGES, train=False)
    assert features.dtype == jnp.float32
    expected = reference(variables['params'], IMAGES, pooling)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_positions_are_the_originals():
    """`vits.py`, written out; its `grid_w` is the one that changes with the row."""
    positions = sincos_positions(14, 14, 384)
    omega = 1.0 / 10000.0 ** (np.arange(96) / 96)
    for row, column in ((0, 0), (0, 5), (3, 0), (13, 7)):
        want = [f(place * omega) for place in (row, column) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(positions[14 * row + column], np.concatenate(want), atol=1e-6)
    with pytest.raises(ValueError, match='dim=6; it must be a multiple of 4'):
        sincos_positions(2, 2, 6)


@pytest.mark.parametrize('freeze', [True, False])
def test_the_patch_projection_gets_no_gradient_where_frozen(freeze):
    encoder = small_vit(freeze_patch_projection=freeze, depth=1)
    variables = random_variables(encoder)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: (encoder.apply({'params': p}, IMAGES, True)[:, 0] ** 2).mean())(
            params
        )

    moves = jax.tree.map(lambda g: bool((g != 0).any()), gradient(variables['params']))
    projection = moves.pop(PATCH_PROJECTION)
    assert projection == {'kernel': not freeze, 'bias': not freeze}
    moves['block0']['attention']['key'].pop('bias')  # a softmax does not see it
    assert all(jax.tree.leaves(moves)), moves


def test_initialization_is_the_originals():
    """`vits.py`: Xavier's uniform for every layer, the patch as a vector; a tiny class token."""
    rng = jax.random.key(0, impl='rbg')  # quick to compile
    kernel = np.asarray(patch_init(rng, (16, 16, 3, 384)))
    limit = np.sqrt(6 / (16 * 16 * 3 + 384))
    assert 0.999 * limit < np.abs(kernel).max() <= limit
    params = jax.jit(lambda: small_vit(dim=64).init(rng, IMAGES, True)['params'])()
    block = params['block0']
    for name, shape in (('query', (64, 64)), ('out', (64, 64))):
        kernel = np.asarray(block['attention'][name]['kernel'])
        limit = np.sqrt(6 / sum(shape))
        assert 0.99 * limit < np.abs(kernel).max() <= limit, name
    limit = np.sqrt(6 / (64 + 256))
    assert 0.99 * limit < np.abs(block['dense1']['kernel']).max() <= limit
    assert 1e-7 < np.abs(params['class_token']).max() < 1e-5
    assert not block['attention']['query']['bias'].any()


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    exact, rounded = small_vit(), small_vit(dtype=jnp.bfloat16)
    variables = random_variables(rounded)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    features, want = (
        jax.jit(encoder.apply, static_argnames='train')(variables, IMAGES, train=True)
        for encoder in (rounded, exact)
    )
    assert features.dtype == jnp.float32
    assert 0 < jnp.abs(features - want).max() < 0.05 * jnp.abs(want).max()


@pytest.mark.parametrize(
    ('fields', 'shape', 'message'),
    [
        ({'pooling': 'max'}, SHAPE, "pooling='max'; it must be one of token, mean, patches"),
        ({}, (2, 8, 10, 3), 'multiples of patch_size=4'),
    ],
)
def test_errors_name_the_field(fields, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda: small_vit(**fields).init(jax.random.key(0), jnp.zeros(shape), train=True)
        )


def test_the_factory_passes_its_fields():
    encoder = create_encoder(
        'vit_s16', image_size=32, pooling='mean', freeze_patch_projection=False, dtype='bfloat16'
    )
    assert (encoder.dim, encoder.depth, encoder.num_heads) == (384, 12, 12)
    assert (encoder.pooling, encoder.freeze_patch_projection) == ('mean', False)
    assert encoder.dtype == jnp.bfloat16
