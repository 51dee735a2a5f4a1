"""Maps of pictures of any size: padded to whole patches, and cut back to the picture."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models.vit import VisionTransformer


def of_pictures(
    encoder: nn.Module, variables: dict, inputs: jax.Array, layers: tuple[int, ...]
) -> tuple[jax.Array, ...]:
    """Returns an encoder's maps of pictures of any size: `[n, height, width, dim]` of each layer.

    Their sides are the pictures' divided by `encoder.stride(layer)`, rounded up. What a ViT's
    patches do not divide is padded at the bottom and on the right with zeros, the average colour;
    as timm does (`dynamic_img_pad`).

    Args:
      encoder: a `ResNet` or a `VisionTransformer`.
      variables: of the encoder.
      inputs: normalized, float `[n, height, width, channel]`.
      layers: stages or blocks, counted from 1.
    """
    if isinstance(encoder, VisionTransformer):
        inputs = padded(inputs, encoder.patch_size)
    return encoder.apply(variables, inputs, train=False, layers=layers)


def token_attention(encoder: VisionTransformer, variables: dict, inputs: jax.Array) -> jax.Array:
    """Returns the weights of the class token's attention to the patches in the last block.

    Args:
      encoder: with a class token.
      variables: of the encoder.
      inputs: as for `of_pictures`.

    Returns:
      `[n, head, height / patch, width / patch]` float32, rounded up.
    """
    inputs = padded(inputs, encoder.patch_size)
    _, made = encoder.apply(variables, inputs, train=False, mutable=['intermediates'])
    block = made['intermediates'][f'block{encoder.depth - 1}']
    (weights,) = block['attention']['attention_weights']
    count, height, width, _ = inputs.shape
    shape = count, -1, height // encoder.patch_size, width // encoder.patch_size
    return weights[:, :, 0, 1:].reshape(shape).astype(jnp.float32)


def padded(inputs: jax.Array, multiple: int) -> jax.Array:
    """Pads `[n, height, width, channel]` with zeros until `multiple` divides both sides."""
    _, height, width, _ = inputs.shape
    sides = ((0, -height % multiple), (0, -width % multiple))
    return jnp.pad(inputs, ((0, 0), *sides, (0, 0)))


def to_pixels(maps: jax.Array, stride: int, height: int, width: int) -> jax.Array:
    """Resizes maps `[n, rows, columns, dim]` to the pictures they are of, bilinearly.

    Each place stands for `stride` pixels down and across; what lies outside of the picture, where
    it was padded, is cut off. Returns `[n, height, width, dim]`.
    """
    count, rows, columns, dim = maps.shape
    shape = count, rows * stride, columns * stride, dim
    return jax.image.resize(maps, shape, 'bilinear')[:, :height, :width]
