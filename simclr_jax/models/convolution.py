"""The convolution of every ResNet."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

_TRUNCATED_STD = 0.8796256610342398  # of a standard normal that is cut off at 2
# How kernels start in the code that pads so. Normalization takes their scale out of the function,
# but not out of what weight decay does.
KERNEL_INITS = {
    # torchvision: He et al. (arXiv:1502.01852), fan out.
    'torch': nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
    # SimCLR (`resnet.py`, `tf.variance_scaling_initializer()`): variance 1 / fan in.
    'simclr': nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal'),
    # Haiku, and so BYOL: deviation 1 / sqrt(fan in) before it is cut off at two deviations.
    'same': nn.initializers.variance_scaling(_TRUNCATED_STD**2, 'fan_in', 'truncated_normal'),
}
PADDINGS = tuple(KERNEL_INITS)


def conv(
    features: int,
    kernel: int,
    stride: int,
    padding: str,
    dtype: jnp.dtype,
    name: str,
    dot: bool = False,
    dilation: int = 1,
) -> nn.Conv:
    """A convolution without bias, padded and initialized as in the code that `padding` names.

    `dot` computes a 1x1 convolution as a matrix product. XLA's CPU compiler transposes all
    activations for the gradient of a convolution's kernel, and for that of a product none; the
    compilers of GPUs and TPUs do well by themselves.

    `dilation` is the distance of the pixels that the kernel looks at.
    """
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding='SAME' if padding == 'same' else dilation * (kernel - 1) // 2,
        kernel_dilation=dilation,
        use_bias=False,
        dtype=dtype,
        kernel_init=KERNEL_INITS[padding],
        conv_general_dilated=_dot if dot and kernel == 1 else None,
        name=name,
    )


def _dot(x: jax.Array, kernel: jax.Array, strides: Sequence[int], *unused, **options) -> jax.Array:
    """What `lax.conv_general_dilated` gives for a kernel `[1, 1, in, out]` without padding."""
    del unused, options  # a 1x1 convolution has no padding and dilates nothing
    x = x[:, :: strides[0], :: strides[1]]
    # One long matrix: for products over `[n, h, w, dim]` the compiler copies as for convolutions.
    y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
    return y.reshape(*x.shape[:-1], -1)
