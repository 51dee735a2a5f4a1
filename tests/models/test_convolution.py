"""1x1 convolutions as matrix products, next to `nn.Conv`'s own convolutions and float64."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.config import default
from simclr_jax.methods.factory import create_method
from simclr_jax.models.convolution import PADDINGS, conv
from simclr_jax.models.factory import create_encoder

IN, OUT = 5, 7


def images(height=6, width=5):
    return np.random.default_rng(0).normal(size=(3, height, width, IN)).astype(np.float32)


def value_and_gradients(dot, stride, padding, dtype):
    module = conv(OUT, 1, stride, padding, dtype, 'conv', dot)
    x = images()
    variables = module.init(jax.random.key(0), x)

    def loss(variables, x):
        y = module.apply(variables, x)
        return jnp.sin(y.astype(jnp.float32)).sum(), y

    (_, y), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables, x)
    return variables, y, gradients


@pytest.mark.parametrize('padding', PADDINGS)
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_a_product_has_the_values_and_gradients_of_the_convolution(stride, padding):
    want_variables, want, want_gradients = value_and_gradients(False, stride, padding, jnp.float32)
    variables, got, gradients = value_and_gradients(True, stride, padding, jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, variables, want_variables)
    assert got.shape == want.shape and got.dtype == want.dtype
    kernel = np.asarray(variables['params']['kernel'], np.float64)[0, 0]
    exact = np.float64(images())[:, ::stride, ::stride] @ kernel
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-6)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(want_gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_a_product_keeps_parameters_float32_and_computes_in_its_dtype():
    variables, got, gradients = value_and_gradients(True, 1, 'torch', jnp.bfloat16)
    _, want, _ = value_and_gradients(False, 1, 'torch', jnp.bfloat16)
    assert got.dtype == want.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves((variables, gradients))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(np.float32(got), np.float32(want), rtol=0, atol=0.02)


def test_kernels_larger_than_one_pixel_stay_convolutions():
    x = images()
    module = conv(OUT, 3, 1, 'torch', jnp.float32, 'conv', dot=True)
    assert module.conv_general_dilated is None
    assert module.init(jax.random.key(0), x)['params']['kernel'].shape == (3, 3, IN, OUT)


def convolutions(encoder):
    """How many convolutions a value and its gradient take."""
    x = np.zeros((2, 8, 8, 1), np.float32)
    variables = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, True))

    def loss(params, variables):
        y, _ = encoder.apply({**variables, 'params': params}, x, True, mutable=['batch_stats'])
        return y.sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(variables['params'], variables)
    return str(jaxpr).count('conv_general_dilated[')


def test_no_1x1_convolution_is_left_in_the_gradient_of_the_encoder():
    encoder = create_encoder('resnet_tiny', image_size=8, dot_1x1=True)
    # Stem and three blocks: output, gradient of the kernel and of the input, but for the images.
    assert convolutions(encoder) == 3 * 4 - 1
    assert convolutions(create_encoder('resnet_tiny', image_size=8)) == 3 * (4 + 3 * 2 + 2) - 1


@pytest.mark.parametrize(
    ('platform', 'products', 'folds'),
    [('cpu', True, True), ('gpu', False, False), ('tpu', False, True), (None, False, True)],
)
def test_products_are_for_cpus_alone_and_gpus_fold_nothing(platform, products, folds):
    config = default()
    config.model.encoder, config.model.dtype = 'resnet50', 'bfloat16'
    devices = np.array([SimpleNamespace(platform=platform)])
    mesh = SimpleNamespace(devices=devices) if platform else None
    encoder = create_method(config, 10, mesh).encoder
    assert encoder.dot_1x1 == products
    assert encoder.fold_norm == folds
