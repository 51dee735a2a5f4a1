"""RandAugment on the accelerator: the operations of timm, which are PIL's, on batches.

PIL works on whole levels in [0, 255] and cuts off what is between two of them, and so does this:
the levels that a table gives are PIL's, others are within one of PIL's. As in `jax_ops.py`
everything is computed for every image and selected afterwards.
"""

import math

import jax
import jax.numpy as jnp

from simclr_jax.augment.rand_augment import KINDS, OPERATIONS, fill_of

# Added before cutting off: more than float32's rounding, so that 100 is not sometimes 99.
_SLACK = 1 / 1024


def rand_augment(
    images: jax.Array,
    operations: jax.Array,
    arguments: jax.Array,
    interpolation: str,
    fill: tuple[float, ...],
) -> jax.Array:
    """Applies the operations `[n, layer]`, with their arguments, to images `[n, h, w, c]`.

    Images are floats in [0, 1], before and after; the result is in whole levels of 255.

    Args:
      images: with 1 or 3 channels.
      operations: places in `OPERATIONS`; what is none of them, as `NONE`, does nothing.
      arguments: of the operations, as `rand_augment.Argument` says.
      interpolation: 'bicubic' or 'bilinear', of what is turned, sheared or moved.
      fill: levels in [0, 255] that lie beyond the edges, one or three.
    """
    levels = jnp.clip(jnp.floor(images * 255 + 0.5), 0, 255)
    for layer in range(operations.shape[1]):
        operation, argument = operations[:, layer], arguments[:, layer]
        changed = {
            'table': _look_up(levels, operation, argument),
            'blend': _blend(levels, operation, argument),
            'place': _warp(levels, operation, argument, interpolation, fill),
        }
        for kind, made in changed.items():
            levels = jnp.where(_is_of(kind, operation)[:, None, None, None], made, levels)
    return levels / 255


def _is(name: str, operation: jax.Array) -> jax.Array:
    return operation == OPERATIONS.index(name)


def _is_of(kind: str, operation: jax.Array) -> jax.Array:
    places = jnp.array([i for i, name in enumerate(OPERATIONS) if KINDS[name] == kind])
    return (operation[:, None] == places[None]).any(axis=1)


def _cut(levels: jax.Array) -> jax.Array:
    return jnp.clip(jnp.floor(levels + _SLACK), 0, 255)


def _luma(levels: jax.Array) -> jax.Array:
    """PIL's gray `[n, h, w, 1]` of whole levels, which is whole."""
    if levels.shape[-1] == 1:
        return levels
    red, green, blue = (levels[..., i : i + 1].astype(jnp.int32) for i in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(levels.dtype)


def _look_up(levels, operation, argument):
    """Each level replaced by what the table of its image and channel says."""
    n, height, width, channels = levels.shape
    pixels = levels.reshape(n, -1, channels).transpose(0, 2, 1).astype(jnp.int32)
    made = jnp.take_along_axis(_tables(levels, pixels, operation, argument), pixels, axis=2)
    return made.transpose(0, 2, 1).reshape(n, height, width, channels).astype(levels.dtype)


def _tables(levels, pixels, operation, argument):
    """Tables int32 `[n, channel, 256]` of images whose `pixels` are `[n, channel, pixel]`."""
    number = pixels.shape[2]
    ramp = jnp.arange(256, dtype=jnp.int32)[None, None]
    low, high = pixels.min(axis=2, keepdims=True), pixels.max(axis=2, keepdims=True)
    factor, whole = argument[:, None, None], argument.astype(jnp.int32)[:, None, None]
    count = jax.vmap(jax.vmap(lambda row: jnp.zeros(256, jnp.int32).at[row].add(1)))(pixels)
    step = (number - jnp.take_along_axis(count, high, axis=2)) // 255
    below = jnp.cumsum(count, axis=2) - count
    mean = (2 * _luma(levels).astype(jnp.int32).sum(axis=(1, 2, 3)) + number) // (2 * number)
    mean = mean[:, None, None].astype(jnp.float32)
    divisor = jnp.left_shift(1, jnp.clip(8 - whole, 0, 8))
    made = {
        'auto_contrast': jnp.where(
            high > low, jnp.clip((ramp - low) * 255 // jnp.maximum(high - low, 1), 0, 255), ramp
        ),
        'equalize': jnp.where(
            step > 0, jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255), ramp
        ),
        'invert': 255 - ramp,
        'posterize': ramp // divisor * divisor,
        'solarize': jnp.where(ramp < whole, ramp, 255 - ramp),
        'solarize_add': jnp.where(ramp < 128, jnp.minimum(ramp + whole, 255), ramp),
        'contrast': _cut(mean + factor * (ramp - mean)).astype(jnp.int32),
        'brightness': _cut(factor * ramp).astype(jnp.int32),
    }
    tables = jnp.broadcast_to(ramp, count.shape)
    for name, table in made.items():
        tables = jnp.where(_is(name, operation)[:, None, None], table, tables)
    return tables


def _blend(levels, operation, argument):
    """Levels mixed with, or moved away from, their gray ('color') or their smoothed picture."""
    other = jnp.where(_is('color', operation)[:, None, None, None], _luma(levels), _smooth(levels))
    return _cut(other + argument[:, None, None, None] * (levels - other))


def _smooth(levels):
    """PIL's `ImageFilter.SMOOTH`: a thirteenth of each neighbour, five of itself; no edges."""
    height, width = levels.shape[1:3]
    if min(height, width) < 3:
        return levels
    total = 4 * levels[:, 1:-1, 1:-1] + sum(
        levels[:, y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3)
    )
    return levels.at[:, 1:-1, 1:-1].set(jnp.floor(total / 13 + 0.5))


def _warp(levels, operation, argument, interpolation, fill):
    """Levels taken from other places: turned, sheared, moved; `fill` from beyond the picture."""
    n, height, width, channels = levels.shape
    x = (jnp.arange(width) + 0.5)[None, None, :]
    y = (jnp.arange(height) + 0.5)[None, :, None]

    def by(name, values):
        return jnp.where(_is(name, operation), values, 0.0)[:, None, None]

    angle = by('rotate', argument * (math.pi / 180))
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    from_x, from_y = x - width / 2, y - height / 2
    source_x = cosine * from_x - sine * from_y + width / 2
    source_y = sine * from_x + cosine * from_y + height / 2
    source_x += by('shear_x', argument) * y + by('translate_x', argument * width)
    source_y += by('shear_y', argument) * x + by('translate_y', argument * height)
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    columns, rows = (_taps(source - 0.5, interpolation) for source in (source_x, source_y))
    flat = levels.reshape(n, height * width, channels)
    made = jnp.zeros_like(levels)
    for row, weight_y in rows:
        start = jnp.clip(row, 0, height - 1) * width
        for column, weight_x in columns:
            place = (start + jnp.clip(column, 0, width - 1)).reshape(n, -1, 1)
            taken = jnp.take_along_axis(flat, place, axis=1).reshape(levels.shape)
            made += (weight_y * weight_x)[..., None] * taken
    beyond = jnp.array(fill_of(fill, channels), levels.dtype)
    return jnp.where(inside[..., None], _cut(made), beyond[None, None, None])


def _taps(place, interpolation):
    """Pixels around each place, int32, and their weights; PIL's cubic has a = -1 here."""
    first = jnp.floor(place)
    d = place - first
    if interpolation == 'bicubic':
        weights = (
            ((2 - d) * d - 1) * d,
            (d - 2) * d * d + 1,
            ((1 - d) * d + 1) * d,
            (d - 1) * d * d,
        )
    else:
        weights = 1 - d, d
    start = first.astype(jnp.int32) - (len(weights) // 2 - 1)
    return [(start + i, weight) for i, weight in enumerate(weights)]
