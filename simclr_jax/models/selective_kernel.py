"""Selective kernels and the shortcut that goes with them, as SimCLR v2 has them (`resnet.py`)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models.convolution import conv
from simclr_jax.models.normalization import NormScope, batch_norm

MIN_DIM = 32  # between the two layers that mix


class SelectiveKernel(nn.Module):
    """Two 3x3 convolutions, added with weights that depend on the whole image (arXiv:1903.06586).

    The weights are a softmax over the two, for each feature. Two dense layers make them from the
    averaged image, the first `ratio` times as wide as `features`, and at least 32.
    """

    features: int
    stride: int
    ratio: float
    padding: str
    norm_scope: NormScope
    dtype: jnp.dtype
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[n, height, width, channel]` to `[n, height / stride, width / stride, features]`."""

        def norm(name: str) -> nn.Module:
            return batch_norm(train, self.dtype, scope=self.norm_scope, name=name)

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, use_bias=False, dtype=self.dtype, name=name)

        wide = 2 * self.features
        how = {'dtype': self.dtype, 'name': 'conv', 'dilation': self.dilation}
        x = conv(wide, 3, self.stride, self.padding, **how)(x)
        x = nn.relu(norm('norm')(x))
        x = x.reshape(*x.shape[:-1], 2, self.features)
        image = jnp.mean(x.astype(jnp.float32).sum(axis=-2), axis=(1, 2)).astype(self.dtype)
        image = dense(max(int(self.features * self.ratio), MIN_DIM), 'mix1')(image)
        image = dense(2 * self.features, 'mix2')(nn.relu(norm('mix_norm')(image)))
        mixing = nn.softmax(image.reshape(-1, 1, 1, 2, self.features), axis=-2)
        return (x * mixing).sum(axis=-2)


def average_windows(x: jax.Array, stride: int) -> jax.Array:
    """Averages 2x2 windows, for a shortcut that would skip pixels (ResNet-D, arXiv:1812.01187).

    At stride 1, what is outside of the image does not count; at stride 2, an odd side gets a row of
    zeros that does. Both are the original's.
    """
    if stride == 1:
        return nn.avg_pool(x, (2, 2), (1, 1), 'SAME', count_include_pad=False)
    return nn.avg_pool(x, (2, 2), (stride, stride), ((0, 1), (0, 1)))
