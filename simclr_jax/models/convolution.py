"""The convolution of every ResNet."""

import jax.numpy as jnp
from flax import linen as nn

PADDINGS = ('torch', 'simclr', 'same')


def conv(
    features: int, kernel: int, stride: int, padding: str, dtype: jnp.dtype, name: str
) -> nn.Conv:
    """A convolution without bias, initialized as torchvision's ResNets are (He, fan out)."""
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding='SAME' if padding == 'same' else (kernel - 1) // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
        name=name,
    )
