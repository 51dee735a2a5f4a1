"""From an encoder's name to the module."""

import difflib
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models.normalization import GLOBAL, NormScope
from simclr_jax.models.resnet import BasicBlock, BottleneckBlock, ResNet
from simclr_jax.models.vit import EPSILON, VisionTransformer

SMALL_IMAGE = 32  # up to this size 'auto' takes the stem that does not shrink the image

RESNETS = {  # name -> fields of ResNet
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
    'resnet200': {'stage_sizes': (3, 24, 36, 3), 'block': BottleneckBlock},
}
VITS = {  # name -> fields of VisionTransformer; the small one has MoCo v3's 12 heads, not DeiT's 6
    'vit_ti16': {'dim': 192, 'depth': 12, 'num_heads': 3},
    'vit_s16': {'dim': 384, 'depth': 12, 'num_heads': 12},
    'vit_b16': {'dim': 768, 'depth': 12, 'num_heads': 12},
    'vit_l16': {'dim': 1024, 'depth': 24, 'num_heads': 16},
}
ENCODERS = (*RESNETS, *VITS)


def create_encoder(
    name: str,
    *,
    image_size: int,
    stem: str = 'auto',
    padding: str = 'torch',
    zero_init_last_scale: bool = True,
    width: int = 1,
    sk_ratio: float = 0.0,
    norm_scope: NormScope = GLOBAL,
    pooling: str = 'token',
    num_heads: int = 0,
    patch_size: int = 16,
    positions: str = 'sincos',
    epsilon: float = EPSILON,
    freeze_patch_projection: bool = True,
    first_trained: int = 0,
    frozen_norm: str = 'running',
    drop_path: float = 0.0,
    dilated: int = 0,
    grid: int = 0,
    remat: str = 'none',
    dot_1x1: bool = False,
    fold_norm: bool = True,
    dtype: str = 'float32',
    **fields: Any,
) -> nn.Module:
    """The encoder of `ENCODERS` with that name.

    Args:
      name: one of `ENCODERS`.
      image_size: height and width in pixels, which 'auto' looks at.
      stem: of a ResNet, 'imagenet', 'small', or 'auto': 'small' up to 32 pixels.
      padding: of a ResNet, 'torch', 'simclr' or 'same'; `ResNet` explains them.
      zero_init_last_scale: start each block of a ResNet as the identity.
      width: multiplies the filters of a ResNet.
      sk_ratio: of a bottleneck ResNet's selective kernels; 0 is without.
      norm_scope: of a ResNet's batch normalization.
      pooling: of a ViT, 'token', 'mean' or 'patches'; `VisionTransformer` explains them.
      num_heads: of a ViT, which has to divide its width; 0 is the table's.
      patch_size: of a ViT, in pixels.
      positions: of a ViT, 'sincos' or 'learned'.
      epsilon: of a ViT's LayerNorm.
      freeze_patch_projection: whether a ViT's projection of patches stays random.
      first_trained: the first stage of a ResNet or block of a ViT that is trained, counted from 1;
        what precedes it gets no gradient. 0 trains everything.
      frozen_norm: of batch normalization in a ResNet's frozen stages, 'running' or 'batch'.
      drop_path: of a ViT, the probability that a picture skips a branch of the last block.
      dilated: of a ResNet, how many of its last stages keep the size of their input.
      grid: of a ViT, patches a side that its fixed positions are for; 0: as many as there are.
      remat: 'none', 'blocks' or 'full': which activations the backward pass computes again.
      dot_1x1: of a ResNet, compute 1x1 convolutions as matrix products: for CPUs.
      fold_norm: of a ResNet, normalize through the kernels (`folded.py`) where it computes in
        bfloat16 with global statistics: for TPUs. A GPU saves no memory by it and is slower.
      dtype: of the computation, 'float32' or 'bfloat16'.
      **fields: other fields of the module, such as `widths`, instead of the ones in the table.

    Raises:
      ValueError: the name is unknown.
    """
    if name in VITS:
        if num_heads:
            fields['num_heads'] = num_heads
        return VisionTransformer(
            **VITS[name] | fields,
            pooling=pooling,
            patch_size=patch_size,
            positions=positions,
            epsilon=epsilon,
            freeze_patch_projection=freeze_patch_projection,
            first_trained=first_trained,
            drop_path=drop_path,
            grid=grid,
            remat=remat,
            dtype=jnp.dtype(dtype),
        )
    if name not in RESNETS:
        close = difflib.get_close_matches(name, ENCODERS)
        hint = f'did you mean {" or ".join(close)}? ' if close else ''
        raise ValueError(f'unknown encoder {name!r}: {hint}There are {", ".join(ENCODERS)}')
    if stem == 'auto':
        stem = 'small' if image_size <= SMALL_IMAGE else 'imagenet'
    return ResNet(
        **RESNETS[name] | fields,
        stem=stem,
        padding=padding,
        zero_init_last_scale=zero_init_last_scale,
        width_multiplier=width,
        sk_ratio=sk_ratio,
        norm_scope=norm_scope,
        first_trained=first_trained,
        frozen_norm=frozen_norm,
        dilated=dilated,
        remat=remat,
        # Where the arithmetic is that of an accelerator, its memory decides on the batch.
        fold_norm=fold_norm and jnp.dtype(dtype) == jnp.bfloat16 and norm_scope == GLOBAL,
        dot_1x1=dot_1x1,
        dtype=jnp.dtype(dtype),
    )
