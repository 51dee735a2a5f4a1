"""From an encoder's name to the module."""

import difflib
from typing import Any

import jax.numpy as jnp

from simclr_jax.models.resnet import BasicBlock, BottleneckBlock, ResNet

SMALL_IMAGE = 32  # up to this size 'auto' takes the stem that does not shrink the image

ENCODERS = {  # name -> fields of ResNet
    # For images of 8 to 32 pixels on a CPU, where convolutions over tiny maps are slow.
    'resnet_tiny': {
        'stage_sizes': (1, 1, 1),
        'block': BottleneckBlock,
        'widths': (16, 32, 32),
        'strides': (2, 1, 1),
    },
    'resnet18': {'stage_sizes': (2, 2, 2, 2), 'block': BasicBlock},
    'resnet34': {'stage_sizes': (3, 4, 6, 3), 'block': BasicBlock},
    'resnet50': {'stage_sizes': (3, 4, 6, 3), 'block': BottleneckBlock},
    'resnet101': {'stage_sizes': (3, 4, 23, 3), 'block': BottleneckBlock},
    'resnet152': {'stage_sizes': (3, 8, 36, 3), 'block': BottleneckBlock},
}


def create_encoder(
    name: str,
    *,
    image_size: int,
    stem: str = 'auto',
    padding: str = 'torch',
    zero_init_last_scale: bool = True,
    remat: str = 'none',
    dtype: str = 'float32',
    **fields: Any,
) -> ResNet:
    """The encoder of `ENCODERS` with that name.

    Args:
      name: a key of `ENCODERS`.
      image_size: height and width in pixels, which 'auto' looks at.
      stem: 'imagenet', 'small', or 'auto': 'small' up to 32 pixels.
      padding: 'torch', 'simclr' or 'same'; `ResNet` explains them.
      zero_init_last_scale: start each residual block as the identity.
      remat: 'none', 'blocks' or 'full': which activations the backward pass computes again.
      dtype: of the computation, 'float32' or 'bfloat16'.
      **fields: other fields of `ResNet`, such as `widths`, instead of the ones in the table.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in ENCODERS:
        close = difflib.get_close_matches(name, ENCODERS)
        hint = f'did you mean {" or ".join(close)}? ' if close else ''
        raise ValueError(f'unknown encoder {name!r}: {hint}There are {", ".join(ENCODERS)}')
    if stem == 'auto':
        stem = 'small' if image_size <= SMALL_IMAGE else 'imagenet'
    return ResNet(
        **ENCODERS[name] | fields,
        stem=stem,
        padding=padding,
        zero_init_last_scale=zero_init_last_scale,
        remat=remat,
        # Where the arithmetic is that of an accelerator, its memory decides on the batch.
        fold_norm=jnp.dtype(dtype) == jnp.bfloat16,
        dtype=jnp.dtype(dtype),
    )
