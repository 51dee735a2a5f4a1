"""Convolutions with their batch normalization, in less memory and slightly fewer bytes.

Batch normalization wants the statistics of a convolution's output before it can be used, so the
output is written, read to be normalized, and kept for the backward pass. But the statistics of a
linear map's output follow from the mean and the second moments of its input: `mean(x W)` is
`mean(x) W`, and `mean((x W)^2)` is `diag(W^T mean(x x^T) W)`. Where the input has few channels and
the output many, as where a bottleneck block widens, those are cheap; the kernel is scaled before it
is applied, and the output is never there by itself.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models.convolution import KERNEL_INITS
from simclr_jax.models.normalization import EPSILON, MOMENTUM


class _Kernel(nn.Module):
    """The kernel of a convolution of that name."""

    shape: tuple[int, ...]
    padding: str  # of the convolution, which says how its kernel starts

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param('kernel', KERNEL_INITS[self.padding], self.shape)


class _Norm(nn.Module):
    """The parameters and the running averages of the batch normalization of that name."""

    dim: int
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    def setup(self):
        self.scale = self.param('scale', self.scale_init, (self.dim,))
        self.bias = self.param('bias', nn.initializers.zeros, (self.dim,))
        self.running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (self.dim,))
        self.running_var = self.variable('batch_stats', 'var', jnp.ones, (self.dim,))

    def __call__(self, moments: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, jax.Array]:
        """Returns factor and offset `[dim]`; `moments` are the batch's mean and mean square."""
        mean, var = self.running_mean.value, self.running_var.value
        if moments is not None:
            mean, var = moments[0], jnp.maximum(moments[1] - jnp.square(moments[0]), 0)
            if not self.is_initializing():
                for running, batch in ((self.running_mean, mean), (self.running_var, var)):
                    running.value = MOMENTUM * running.value + (1 - MOMENTUM) * batch
        factor = self.scale * jax.lax.rsqrt(var + EPSILON)
        return factor, self.bias - mean * factor


def _convolve(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def folded_conv_norm(
    x: jax.Array,
    features: int,
    stride: int,
    train: bool,
    *,
    padding: str,
    dtype: jnp.dtype,
    scale_init: nn.initializers.Initializer = nn.initializers.ones,
    conv_name: str,
    norm_name: str,
) -> jax.Array:
    """What a 1x1 `conv` and a global `batch_norm` give `[n, height, width, dim]`, within rounding.

    Parameters and statistics have the names and values that these two have. The second moments are
    float32, of `x` as it is; kernels are rounded to `dtype` after the scaling.
    """
    kernel = _Kernel((1, 1, x.shape[-1], features), padding, name=conv_name)()
    x = x[:, ::stride, ::stride].astype(dtype)
    moments = None
    if train:
        weights = kernel[0, 0]
        count = x.size // x.shape[-1]
        mean = x.astype(jnp.float32).mean(axis=(0, 1, 2))
        highest = jax.lax.Precision.HIGHEST
        second = jnp.einsum(
            'nhwi,nhwj->ij',
            x,
            x,
            # Products of bfloat16 are exact in float32, those of float32 need all their passes.
            precision=highest if dtype == jnp.float32 else None,
            preferred_element_type=jnp.float32,
        )
        projected = jnp.matmul(second / count, weights, precision=highest)
        moments = (
            jnp.matmul(mean, weights, precision=highest),
            jnp.sum(weights * projected, axis=0),
        )
    factor, offset = _Norm(features, scale_init, name=norm_name)(moments)
    y = _convolve(x, (kernel * factor[None, None, None]).astype(dtype), 1, 'VALID')
    return y + offset[None, None, None].astype(dtype)


def pooled_conv_norm_relu(
    x: jax.Array,
    features: int,
    train: bool,
    *,
    padding: str,
    pool_padding: str | tuple[tuple[int, int], ...],
    dtype: jnp.dtype,
    conv_name: str,
    norm_name: str,
) -> jax.Array:
    """A 7x7 `conv` of stride 2, a global `batch_norm`, ReLU and 3x3 max-pooling of stride 2.

    Pooling comes first. What follows the convolution rises with its output, or falls where the
    normalization's scale is negative, and there the kernel's sign is turned; so the largest stays
    the largest, and a quarter of the activations is left to normalize and to keep.
    """
    kernel = _Kernel((7, 7, x.shape[-1], features), padding, name=conv_name)()
    norm = _Norm(features, name=norm_name)
    sign = jnp.where(norm.scale < 0, -1.0, 1.0)
    kernel = (kernel * sign[None, None, None]).astype(dtype)
    y = _convolve(x.astype(dtype), kernel, 2, 'SAME' if padding == 'same' else ((3, 3), (3, 3)))
    moments = None
    if train:
        exact = y.astype(jnp.float32)
        moments = (sign * exact.mean(axis=(0, 1, 2)), jnp.square(exact).mean(axis=(0, 1, 2)))
    factor, offset = norm(moments)
    y = nn.max_pool(y, (3, 3), (2, 2), pool_padding).astype(jnp.float32)
    return nn.relu(y * (sign * factor)[None, None, None] + offset[None, None, None]).astype(dtype)
