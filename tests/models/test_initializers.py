"""How kernels start, against the initializers of the originals' frameworks."""

import jax
import numpy as np
import pytest

from simclr_jax.models.convolution import conv
from simclr_jax.models.factory import create_encoder

SHAPE = (3, 3, 64, 512)  # 295 thousand numbers: their deviation is known within 0.13 %
FAN_IN = 3 * 3 * 64


def kernel_of(padding: str) -> np.ndarray:
    layer = conv(SHAPE[-1], 3, 1, padding, np.float32, 'conv')
    images = np.zeros((1, 4, 4, SHAPE[2]), np.float32)
    return np.asarray(layer.init(jax.random.key(0), images)['params']['kernel'])


def test_simclrs_kernels_start_as_tensorflows_variance_scaling():
    import tensorflow as tf

    theirs = tf.compat.v1.variance_scaling_initializer(seed=1)(SHAPE, tf.float32).numpy()
    ours = kernel_of('simclr')
    assert ours.shape == SHAPE
    assert ours.std() == pytest.approx(theirs.std(), rel=0.01)
    cut_off = np.abs(theirs).max()
    assert np.abs(ours).max() == pytest.approx(cut_off, rel=0.01)
    np.testing.assert_allclose(
        np.percentile(ours, range(5, 100, 10)), np.percentile(theirs, range(5, 100, 10)), atol=1e-3
    )


def test_byols_kernels_start_as_haikus():
    # hk.Conv2D: a normal of deviation 1 / sqrt(fan in), cut off at two deviations.
    ours = kernel_of('same')
    draws = jax.random.truncated_normal(jax.random.key(7), -2, 2, SHAPE) / np.sqrt(FAN_IN)
    assert ours.std() == pytest.approx(float(draws.std()), rel=0.01)
    assert np.abs(ours).max() == pytest.approx(2 / np.sqrt(FAN_IN), rel=0.01)


def test_torchs_kernels_start_as_torchvisions():
    # kaiming_normal_(mode='fan_out', nonlinearity='relu'), which nothing cuts off.
    ours = kernel_of('torch')
    assert ours.std() == pytest.approx(np.sqrt(2 / (3 * 3 * SHAPE[-1])), rel=0.01)
    assert np.abs(ours).max() > 4 * ours.std()


def test_folded_kernels_start_alike():
    def start(dtype):
        encoder = create_encoder(
            'resnet50',
            image_size=64,
            padding='simclr',
            dtype=dtype,
            stage_sizes=(1,),
            widths=(64,),
            strides=(1,),
        )
        images = np.zeros((1, 32, 32, 3), np.float32)
        return encoder, jax.jit(encoder.init, static_argnames='train')(
            jax.random.key(3), images, train=False
        )

    plain, folded = start('float32'), start('bfloat16')
    assert folded[0].fold_norm and not plain[0].fold_norm
    jax.tree.map(np.testing.assert_array_equal, plain[1]['params'], folded[1]['params'])
