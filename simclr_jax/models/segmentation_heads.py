"""From maps of features to a logit of each class at each place."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models.normalization import batch_norm

# PyTorch's of a convolution: uniform within +- 1 / sqrt(inputs).
_TORCH = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class LinearHead(nn.Module):
    """A linear classifier of each place.

    With `norm` it is DINOv2's: batch normalization before a 1x1 convolution that starts at N(0,
    0.01) (`BNHead` in `dinov2/eval/segmentation/models/decode_heads/linear_head.py`, `conv_seg` of
    mmsegmentation). Without, it is STEGO's convolution (`train_segmentation.py`).
    """

    classes: int
    norm: bool = True

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        """Float `[n, height, width, dim]` to float32 logits `[n, height, width, classes]`."""
        maps = maps.astype(jnp.float32)
        if self.norm:
            maps = batch_norm(train, jnp.float32, name='norm')(maps)
        init = nn.initializers.normal(0.01) if self.norm else _TORCH
        return nn.Dense(self.classes, kernel_init=init, name='classifier')(maps)


class FCNHead(nn.Module):
    """Two 3x3 convolutions with batch normalization and ReLU, then a 1x1 one.

    BYOL's for semantic segmentation (arXiv:2006.07733, appendix E): 256 filters whose pixels are 6
    apart.
    """

    classes: int
    width: int = 256
    dilation: int = 6

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        """Float `[n, height, width, dim]` to float32 logits `[n, height, width, classes]`."""
        for layer in (1, 2):
            conv = nn.Conv(
                self.width,
                (3, 3),
                kernel_dilation=self.dilation,
                use_bias=False,
                dtype=maps.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=f'conv{layer}',
            )
            maps = nn.relu(batch_norm(train, maps.dtype, name=f'norm{layer}')(conv(maps)))
        init = nn.initializers.normal(0.01)
        return nn.Dense(self.classes, kernel_init=init, name='classifier')(maps.astype(jnp.float32))
