import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses import nt_xent, tiled_nt_xent

DENSE = jax.jit(jax.value_and_grad(nt_xent))  # compiled once a shape
TILED = jax.jit(
    jax.value_and_grad(tiled_nt_xent),
    static_argnums=1,
    static_argnames=('tile', 'mesh', 'axis'),
)
AUTO = jax.sharding.AxisType.Auto


def make_mesh(count):
    return jax.make_mesh((count,), ('data',), axis_types=(AUTO,), devices=jax.devices()[:count])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def aligned(batch, dim):
    """Pairs as after training: the two views of an image are near one another."""
    return normal(batch, 1, dim) + 0.5 * normal(batch, 2, dim, seed=1)


def opposed(batch, dim):
    """Each row's others are nearly its opposite, as only few rows can be: exp(-2/T) and all."""
    rows = np.ones((batch, 2, dim)) + 0.05 * normal(batch, 2, dim)
    rows[0, 0] *= -1
    return rows.astype(np.float32)


def assert_equals_dense(actual, projections, temperature, tolerance=1e-5):
    """Relative to the largest element: the small ones of a gradient are what cancelled."""
    loss, gradient = DENSE(projections, temperature)
    np.testing.assert_allclose(actual[0], loss, rtol=tolerance)
    atol = tolerance * np.abs(gradient).max()
    np.testing.assert_allclose(actual[1], gradient, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ('batch', 'dim', 'tile', 'temperature'),
    [
        (2, 3, 2, 0.1),  # a block is a pair
        (5, 16, 5, 0.01),  # 3 blocks of 2 pairs, 1 of them padding
        (5, 16, 1024, 0.5),  # one tile, smaller than asked for
        (33, 8, 16, 0.01),  # 5 blocks of 7 pairs, 2 of them padding
        (33, 8, 16, 0.1),
        (33, 8, 16, 0.5),
        (301, 32, 128, 0.1),
    ],
)
def test_equals_the_dense_loss(batch, dim, tile, temperature):
    projections = normal(batch, 2, dim)
    actual = TILED(projections, temperature, tile=tile)
    assert_equals_dense(actual, projections, temperature)


def test_one_pair_has_nothing_to_learn():
    loss, gradient = TILED(normal(1, 2, 7), 0.1)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize('temperature', [0.01, 0.03])
@pytest.mark.parametrize('make', [aligned, opposed])
def test_equals_the_dense_loss_where_the_logits_are_extreme(make, temperature):
    projections = make(20, 16)
    loss, gradient = TILED(projections, temperature, tile=8)
    dense_loss, dense_gradient = DENSE(projections, temperature)
    # A logit of 1 / T has an error of one unit in its last place, and so has its exponential.
    tolerance = 1e-5 + 2 * np.finfo(np.float32).eps / temperature
    np.testing.assert_allclose(loss, dense_loss, atol=tolerance, rtol=0)
    atol = tolerance * np.abs(dense_gradient).max()
    np.testing.assert_allclose(gradient, dense_gradient, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ('devices', 'batch', 'tile', 'temperature'),
    [
        (1, 40, 6, 0.1),
        (2, 16, 1024, 0.1),
        (2, 14, 6, 0.1),  # 3 blocks a device, one of them with padding
        (4, 16, 4, 0.01),
        (4, 20, 8, 0.1),
        (8, 16, 4, 0.01),
        (8, 40, 6, 0.5),
    ],
)
def test_equals_the_dense_loss_on_several_devices(devices, batch, tile, temperature):
    mesh = make_mesh(devices)
    sharding = jax.NamedSharding(mesh, jax.P('data'))
    projections = normal(batch, 2, 16)
    actual = TILED(jax.device_put(projections, sharding), temperature, tile=tile, mesh=mesh)
    assert_equals_dense(actual, projections, temperature)
    assert actual[1].sharding.is_equivalent_to(sharding, 3)


def test_one_axis_of_a_larger_mesh():
    mesh = jax.make_mesh((4, 2), ('data', 'model'), axis_types=(AUTO, AUTO))
    projections = normal(16, 2, 16)
    for axis in ('data', None):
        actual = TILED(projections, 0.1, tile=4, mesh=mesh, axis=axis)
        assert_equals_dense(actual, projections, 0.1)


@pytest.mark.parametrize(('temperature', 'devices'), [(0.1, None), (0.01, 2)])
def test_bfloat16_accumulates_in_float32(temperature, devices):
    exact = normal(32, 2, 16).astype(jnp.bfloat16)
    mesh = devices and make_mesh(devices)
    loss, gradient = TILED(exact, temperature, tile=16, mesh=mesh)
    dense_loss, dense_gradient = DENSE(exact, temperature)
    assert loss.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(loss, dense_loss, rtol=1e-5)
    # Both are rounded to bfloat16, at times to neighbours.
    gradient, dense_gradient = (np.asarray(g, np.float32) for g in (gradient, dense_gradient))
    np.testing.assert_allclose(gradient, dense_gradient, rtol=2**-7, atol=1e-6)


def test_a_traced_temperature_has_a_gradient():
    projections = normal(12, 2, 8)
    expected = jax.jit(jax.value_and_grad(nt_xent, argnums=(0, 1)))(projections, 0.2)
    for mesh in (None, make_mesh(4)):
        loss = jax.value_and_grad(
            lambda x, t, mesh=mesh: tiled_nt_xent(x, t, tile=5, mesh=mesh), argnums=(0, 1)
        )
        value, (gradient, slope) = jax.jit(loss)(projections, 0.2)
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        np.testing.assert_allclose(slope, expected[1][1], rtol=1e-5)
        np.testing.assert_allclose(gradient, expected[1][0], atol=1e-6)


def test_rows_of_zeros_have_finite_gradients():
    projections = normal(33, 2, 8)
    projections[0, 0] = 0
    actual = TILED(projections, 0.1, tile=16)
    assert np.isfinite(actual[1]).all()
    assert_equals_dense(actual, projections, 0.1)


BATCH, DIM, TILE = 128, 8, 32


@functools.cache
def compiled_text(devices, temperature):
    mesh = make_mesh(devices)
    sharding = jax.NamedSharding(mesh, jax.P('data'))
    shape = jax.ShapeDtypeStruct((BATCH, 2, DIM), jnp.float32, sharding=sharding)
    return TILED.lower(shape, temperature, tile=TILE, mesh=mesh).compile().as_text()


def largest_array(text):
    """The most elements of an array of a compiled program."""
    shapes = re.findall(r'\b(?:pred|bf16|[fsu]\d+)\[([\d,]*)\]', text)
    return max(int(np.prod([int(n) for n in shape.split(',') if n])) for shape in shapes)


@pytest.mark.parametrize(('devices', 'temperature'), [(1, 0.1), (1, 0.01), (8, 0.1)])
def test_no_program_holds_the_matrix(devices, temperature):
    # Rows of every device, and nothing larger.
    assert largest_array(compiled_text(devices, temperature)) == 2 * BATCH * DIM


def test_the_dense_program_holds_the_matrix():
    dense = DENSE.lower(jax.ShapeDtypeStruct((BATCH, 2, DIM), jnp.float32), 0.1)
    assert largest_array(dense.compile().as_text()) >= (2 * BATCH) ** 2


def test_rows_are_gathered_once_forward_and_scattered_once_backward():
    text = compiled_text(8, 0.1)

    def sizes(name):
        shapes = re.findall(rf'= f32\[([\d,]*)\]\S* {name}(?:-start)?\(', text)
        return sorted(int(np.prod([int(n) for n in shape.split(',') if n])) for shape in shapes)

    # Beside the rows, a number a row: its weight, its sum.
    assert sizes('all-gather') == [2 * BATCH, 2 * BATCH * DIM]
    assert sizes('reduce-scatter') == [2 * BATCH // 8, 2 * BATCH * DIM // 8]
    assert sizes('all-to-all') == sizes('collective-permute') == []
    assert sizes('all-reduce') == [1]  # the mean over the devices


@pytest.mark.parametrize('shape', [(8, 16), (8, 3, 16), (2, 8, 16), (8, 2, 4, 4)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r'projections has shape .* \[batch, view, dim\]'):
        tiled_nt_xent(jnp.zeros(shape), 0.1)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'temperature': 0}, 'temperature=0;'),
        ({'temperature': -0.1}, 'temperature=-0.1;'),
        ({'tile': 1}, 'tile=1;'),
        ({'mesh': 8}, 'a batch of 12, which does not divide by the 8 devices'),
    ],
)
def test_refuses_other_arguments(arguments, words):
    if 'mesh' in arguments:
        arguments = {'mesh': make_mesh(arguments['mesh'])}
    with pytest.raises(ValueError, match=words):
        tiled_nt_xent(jnp.zeros((12, 2, 16)), **{'temperature': 0.1} | arguments)
