"""RandAugment for tf.data: `jax_rand_augment.py`'s operations, each for the pictures that need it.

Planes are float32 `[n, height, channel, width]`, as in `tf_ops.py`; in between levels are float32
`[n, height, width, channel]`, whole, in [0, 255].
"""

import math

import tensorflow as tf

from simclr_jax.augment.rand_augment import KINDS, OPERATIONS, fill_of
from simclr_jax.augment.tf_some import apply_to_some

_SLACK = 1 / 1024  # before cutting off, as in jax_rand_augment.py


def rand_augment(
    planes: tf.Tensor,
    operations: tf.Tensor,
    arguments: tf.Tensor,
    interpolation: str,
    fill: tuple[float, ...],
) -> tf.Tensor:
    """Applies the operations `[n, layer]`, with their arguments, to planes in [0, 1].

    The arguments are those of `jax_rand_augment.rand_augment`, and the results too.
    """
    kinds = {
        'table': _look_up,
        'blend': _blend,
        'place': lambda *chosen: _warp(*chosen, interpolation, fill),
    }
    levels = tf.transpose(planes, [0, 1, 3, 2])
    levels = tf.clip_by_value(tf.floor(levels * 255 + 0.5), 0, 255)
    for layer in range(operations.shape[1]):
        operation, argument = operations[:, layer], arguments[:, layer]
        for kind, function in kinds.items():
            # 0.5: some examples, never all of them.
            selected = _is_of(kind, operation)
            levels = apply_to_some(function, levels, 0.5, selected, operation, argument)
    return tf.transpose(levels / 255, [0, 1, 3, 2])


def _is(name, operation):
    return tf.equal(operation, OPERATIONS.index(name))


def _is_of(kind, operation):
    places = [i for i, name in enumerate(OPERATIONS) if KINDS[name] == kind]
    return tf.reduce_any(operation[:, None] == tf.constant(places), axis=1)


def _cut(levels):
    return tf.clip_by_value(tf.floor(levels + _SLACK), 0, 255)


def _luma(levels):
    """PIL's gray `[n, h, w, 1]` of whole levels, which is whole."""
    if levels.shape[-1] == 1:
        return levels
    red, green, blue = tf.split(tf.cast(levels, tf.int32), 3, axis=3)
    return tf.cast((19595 * red + 38470 * green + 7471 * blue + 32768) // 65536, tf.float32)


def _look_up(levels, operation, argument):
    """Each level replaced by what the table of its image and channel says."""
    _, height, width, channels = levels.shape
    pixels = tf.cast(tf.transpose(levels, [0, 3, 1, 2]), tf.int32)
    pixels = tf.reshape(pixels, [-1, channels, height * width])
    tables = _tables(levels, pixels, operation, argument)
    made = tf.gather(tf.cast(tables, tf.float32), pixels, axis=2, batch_dims=2)
    return tf.transpose(tf.reshape(made, [-1, channels, height, width]), [0, 2, 3, 1])


def _tables(levels, pixels, operation, argument):
    """Tables int32 `[n, channel, 256]` of images whose `pixels` are `[n, channel, pixel]`."""
    channels, number = pixels.shape[1:]
    ramp = tf.range(256)[None, None]
    low, high = (f(pixels, axis=2, keepdims=True) for f in (tf.reduce_min, tf.reduce_max))
    factor, whole = argument[:, None, None], tf.cast(argument, tf.int32)[:, None, None]
    rows = tf.reshape(pixels, [-1, number])
    count = tf.math.bincount(rows, minlength=256, maxlength=256, axis=-1)
    count = tf.reshape(count, [-1, channels, 256])
    step = (number - tf.gather(count, high, axis=2, batch_dims=2)) // 255
    below = tf.cumsum(count, axis=2, exclusive=True)
    total = tf.reduce_sum(tf.cast(_luma(levels), tf.int32), axis=[1, 2, 3])
    mean = tf.cast((2 * total + number) // (2 * number), tf.float32)[:, None, None]
    divisor = tf.bitwise.left_shift(tf.ones_like(whole), tf.clip_by_value(8 - whole, 0, 8))
    shades = tf.cast(ramp, tf.float32)
    made = {
        'auto_contrast': tf.where(
            high > low,
            tf.clip_by_value((ramp - low) * 255 // tf.maximum(high - low, 1), 0, 255),
            ramp,
        ),
        'equalize': tf.where(
            step > 0, tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255), ramp
        ),
        'invert': 255 - ramp,
        'posterize': ramp // divisor * divisor,
        'solarize': tf.where(ramp < whole, ramp, 255 - ramp),
        'solarize_add': tf.where(ramp < 128, tf.minimum(ramp + whole, 255), ramp),
        'contrast': tf.cast(_cut(mean + factor * (shades - mean)), tf.int32),
        'brightness': tf.cast(_cut(factor * shades), tf.int32),
    }
    tables = tf.broadcast_to(ramp, tf.shape(count))
    for name, table in made.items():
        tables = tf.where(_is(name, operation)[:, None, None], table, tables)
    return tables


def _blend(levels, operation, argument):
    """Levels mixed with, or moved away from, their gray ('color') or their smoothed picture."""
    other = tf.where(_is('color', operation)[:, None, None, None], _luma(levels), _smooth(levels))
    return _cut(other + argument[:, None, None, None] * (levels - other))


def _smooth(levels):
    """PIL's `ImageFilter.SMOOTH`: a thirteenth of each neighbour, five of itself; no edges."""
    height, width = levels.shape[1:3]
    if min(height, width) < 3:
        return levels
    total = 4 * levels[:, 1:-1, 1:-1] + sum(
        levels[:, y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3)
    )
    middle = tf.floor(total / 13 + 0.5)
    middle = tf.concat([levels[:, 1:-1, :1], middle, levels[:, 1:-1, -1:]], axis=2)
    return tf.concat([levels[:, :1], middle, levels[:, -1:]], axis=1)


def _warp(levels, operation, argument, interpolation, fill):
    """Levels taken from other places: turned, sheared, moved; `fill` from beyond the picture."""
    _, height, width, channels = levels.shape
    x = (tf.range(width, dtype=tf.float32) + 0.5)[None, None, :]
    y = (tf.range(height, dtype=tf.float32) + 0.5)[None, :, None]

    def by(name, values):
        return tf.where(_is(name, operation), values, 0.0)[:, None, None]

    angle = by('rotate', argument * (math.pi / 180))
    cosine, sine = tf.cos(angle), tf.sin(angle)
    from_x, from_y = x - width / 2, y - height / 2
    source_x = cosine * from_x - sine * from_y + width / 2
    source_y = sine * from_x + cosine * from_y + height / 2
    source_x += by('shear_x', argument) * y + by('translate_x', argument * width)
    source_y += by('shear_y', argument) * x + by('translate_y', argument * height)
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    columns, rows = (_taps(source - 0.5, interpolation) for source in (source_x, source_y))
    flat = tf.reshape(levels, [-1, height * width, channels])
    made = tf.zeros_like(levels)
    for row, weight_y in rows:
        start = tf.clip_by_value(row, 0, height - 1) * width
        for column, weight_x in columns:
            place = start + tf.clip_by_value(column, 0, width - 1)
            taken = tf.gather(flat, place, axis=1, batch_dims=1)
            made += (weight_y * weight_x)[..., None] * taken
    beyond = tf.constant(fill_of(fill, channels), tf.float32)
    return tf.where(inside[..., None], _cut(made), beyond)


def _taps(place, interpolation):
    """Pixels around each place, int32, and their weights; PIL's cubic has a = -1 here."""
    first = tf.floor(place)
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
    start = tf.cast(first, tf.int32) - (len(weights) // 2 - 1)
    return [(start + i, weight) for i, weight in enumerate(weights)]
