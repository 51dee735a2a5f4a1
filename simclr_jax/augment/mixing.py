"""Mixup and cutmix: each picture of a batch, and its label, is mixed with another one's.

As timm's `Mixup` in its 'batch' mode (`timm/data/mixup.py`): one draw a batch. Papers: mixup
(arXiv:1710.09412), CutMix (arXiv:1905.04899).

A picture's partner is that at the same place from the end of the batch, as in timm. Where the batch
is split over n chips, chip i needs the pictures of chip n - 1 - i: once a step, every chip sends
its own part of the batch and receives as much (a collective permute, never the whole batch). Each
partner on the same chip would save that, but then a run would depend on how many chips it has.
"""

import jax
import jax.numpy as jnp

from simclr_jax.augment.mixing_recipe import Mixing

Parameters = dict[str, jax.Array]


def mix(
    mixing: Mixing, key: jax.Array, images: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns mixed images and mixed targets, for a key that is a function of (seed, step).

    Args:
      mixing: the distribution.
      key: of this batch.
      images: floats `[batch, height, width, channel]`, normalized or not.
      targets: float32 `[batch, class]`, such as `smooth_targets` makes. A row of zeros is a picture
        without a label: its part of a mixed picture has no target either.
    """
    if not mixing.mixes:
        return images, targets
    drawn = sample_parameters(mixing, key, images.shape[1], images.shape[2])
    return mix_images(images, drawn), mix_targets(targets, drawn)


def sample_parameters(mixing: Mixing, key: jax.Array, height: int, width: int) -> Parameters:
    """Draws what a batch is mixed with.

    Returns:
      `share`, float32: of a picture itself in what becomes of it, in [0, 1]; 1 where the batch is
      not mixed. `cutmix`: whether a box is replaced. `box`, int32 `[4]` (top, bottom, left, right),
      in pixels. With cutmix `share` is what the box, which the picture's edges cut off, leaves.
    """
    keys = jax.random.split(key, 6)
    mixed = jax.random.uniform(keys[0]) < mixing.probability
    if mixing.mixup_alpha > 0 and mixing.cutmix_alpha > 0:
        cutmix = jax.random.uniform(keys[1]) < mixing.switch_probability
    else:
        cutmix = jnp.bool_(mixing.cutmix_alpha > 0)
    share = jnp.ones(())
    if mixing.mixup_alpha > 0:
        share = jax.random.beta(keys[2], mixing.mixup_alpha, mixing.mixup_alpha)
    if mixing.cutmix_alpha > 0:
        of_cutmix = jax.random.beta(keys[3], mixing.cutmix_alpha, mixing.cutmix_alpha)
        share = jnp.where(cutmix, of_cutmix, share)
    share = jnp.where(mixed, share, 1.0)
    centre = [
        jax.random.randint(key, (), 0, extent)
        for key, extent in zip(keys[4:], (height, width), strict=True)
    ]
    box = cut_box(share, centre[0], centre[1], height, width)
    area = ((box[1] - box[0]) * (box[3] - box[2])).astype(jnp.float32)
    share = jnp.where(cutmix, 1 - area / (height * width), share)
    return {'share': share, 'cutmix': cutmix, 'box': box}


def cut_box(
    share: jax.Array, centre_y: jax.Array, centre_x: jax.Array, height: int, width: int
) -> jax.Array:
    """Returns the box `[4]` (top, bottom, left, right) around a centre, as timm's `rand_bbox`.

    It has a share of 1 - `share` of the area, less where it is cut off at the picture's edges.
    """
    side = jnp.sqrt(1 - share)
    edges = []
    for centre, extent in ((centre_y, height), (centre_x, width)):
        cut = jnp.floor(extent * side).astype(jnp.int32)
        edges += [centre - cut // 2, centre + (cut + 1) // 2]
        edges[-2:] = [jnp.clip(edge, 0, extent) for edge in edges[-2:]]
    return jnp.stack(edges)


def mix_images(images: jax.Array, parameters: Parameters) -> jax.Array:
    """Mixes images `[batch, height, width, channel]` with those of the reversed batch."""
    partners = images[::-1]
    share = parameters['share'].astype(images.dtype)
    top, bottom, left, right = parameters['box']
    y, x = jnp.arange(images.shape[1])[:, None], jnp.arange(images.shape[2])[None]
    inside = ((y >= top) & (y < bottom) & (x >= left) & (x < right))[None, :, :, None]
    cut = jnp.where(inside, partners, images)
    blended = images * share + partners * (1 - share)
    mixed = jnp.where(parameters['cutmix'], cut, blended)
    return jnp.where(share == 1, images, mixed)  # also where a partner has a pixel that is infinite


def mix_targets(targets: jax.Array, parameters: Parameters) -> jax.Array:
    """Mixes targets `[batch, class]` with those of the reversed batch."""
    share = parameters['share']
    return targets * share + targets[::-1] * (1 - share)


def smooth_targets(labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
    """Returns float32 targets `[batch, class]` of int labels `[batch]`, for `mix` and the loss.

    All classes share `smoothing` of the weight, as in timm; a label of -1 gives a row of zeros.
    """
    targets = jax.nn.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
    return jnp.where((labels >= 0)[:, None], targets, 0.0)
