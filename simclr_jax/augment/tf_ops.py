"""The operations of a view for tf.data: stateless, batched, each image with its own parameters.

Images are `[n, height, width, channel]` with 1 or 3 channels. The operations of `distort` work on
planes, float32 `[n, height, channel, width]` in [0, 1]: rows of one colour are vectors, which makes
arithmetic on colours several times as fast as with the channels last, and a blur along either axis
one matrix product without a transposition. An operation that applies to some examples only is
computed for those alone.
"""

import math

import numpy as np
import tensorflow as tf

from simclr_jax.augment.recipe import JITTER, ViewRecipe, kernel_size
from simclr_jax.augment.tf_draws import Parameters
from simclr_jax.augment.tf_rand_augment import rand_augment
from simclr_jax.augment.tf_some import apply_to_some

# Nothing here needs AutoGraph, which would make tracing three times as long.
_plain = tf.autograph.experimental.do_not_convert

_BLUR_BLOCK = 64  # rows or columns that are blurred by one product


@_plain
def crop_and_resize(
    images: tf.Tensor, boxes: tf.Tensor, size: int, interpolation: str, antialias: bool = False
) -> tf.Tensor:
    """Resizes boxes `[n, 4]` of images `[n, H, W, c]` to float32 `[n, size, size, c]`.

    Equals `tf.image.resize` of each box (half-pixel centres), with or without antialiasing; where
    boxes are float, pixels beyond them count too. The scale is kept, and bicubic values are clipped
    to it: uint8 is in [0, 255], float in [0, 1].
    """
    top = 255.0 if images.dtype == tf.uint8 else 1.0
    boxes = tf.convert_to_tensor(boxes)
    cut = boxes.dtype.is_integer
    boxes = tf.cast(boxes, tf.float32)
    how = size, interpolation, cut, antialias
    resized = _separable(
        tf.cast(images, tf.float32),
        _resize_weights(boxes[:, 0], boxes[:, 2], tf.shape(images)[1], *how),
        _resize_weights(boxes[:, 1], boxes[:, 3], tf.shape(images)[2], *how),
    )
    return tf.clip_by_value(resized, 0.0, top) if interpolation == 'bicubic' else resized


def _resize_weights(start, extent, source, size, interpolation, cut, antialias):
    """Weights `[n, size, source]` that resample `[start, start + extent)` to `size` pixels.

    With `cut` only the pixels inside count, as if they had been cut out first.
    """
    centre = (tf.range(size, dtype=tf.float32) + 0.5) * (extent / size)[:, None] - 0.5
    whole = tf.floor(centre)
    fraction = centre - whole
    if interpolation == 'bicubic' and not antialias:
        fraction = tf.round(fraction * 1024) / 1024  # TensorFlow's table has 1024 steps
    pixel = tf.range(source, dtype=tf.float32) - start[:, None]
    distance = tf.abs(pixel[:, None, :] - (whole + fraction)[:, :, None])
    if antialias:  # the kernel is as wide as the pixels that become one
        distance /= tf.maximum(extent / size, 1.0)[:, None, None]
    if interpolation == 'bicubic':  # Keys (1981), a = -1/2
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = tf.where(distance <= 1, near, tf.where(distance < 2, far, 0.0))
    else:
        weights = tf.maximum(1 - distance, 0.0)
    if cut:
        inside = (pixel >= 0) & (pixel < extent[:, None])
        weights *= tf.cast(inside, tf.float32)[:, None, :]
    return weights / tf.reduce_sum(weights, axis=2, keepdims=True)


def _separable(images, rows, columns):
    """Applies `rows` `[n, h, H]` and `columns` `[n, w, W]` to images `[n, H, W, c]`."""
    for matrix in (rows, columns):  # each turn works on axis 1, then swaps the two axes
        _, first, second, channels = (
            static or dynamic
            for static, dynamic in zip(images.shape, tf.unstack(tf.shape(images)), strict=True)
        )
        images = tf.matmul(matrix, tf.reshape(images, [-1, first, second * channels]))
        out = matrix.shape[1] or tf.shape(matrix)[1]
        images = tf.transpose(tf.reshape(images, [-1, out, second, channels]), [0, 2, 1, 3])
    return images


@_plain
def cut_and_resize(
    image: tf.Tensor, box: tf.Tensor, size: int, interpolation: str, antialias: bool = False
) -> tf.Tensor:
    """Resizes `box` `[4]` of one uint8 image `[H, W, c]`; float32 `[size, size, c]` in [0, 1]."""
    cut = image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
    resized = tf.image.resize(cut, [size, size], interpolation, antialias=antialias)
    return tf.clip_by_value(resized / 255.0, 0.0, 1.0)


@_plain
def distort(images: tf.Tensor, recipe: ViewRecipe, parameters: Parameters) -> tf.Tensor:
    """Flips, turns, jitters, greys, blurs and solarizes images, and more, by the parameters.

    Images are float32 `[n, h, w, c]` in [0, 1], before and after.
    """
    planes = tf.transpose(images, [0, 1, 3, 2])
    planes = apply_to_some(flip, planes, recipe.flip_probability, parameters['flip'])
    if recipe.rotation > 0:
        planes = rotate(planes, parameters['rotation'])
    if recipe.rand_augment:
        drawn = parameters['operations'], parameters['arguments']
        planes = rand_augment(planes, *drawn, recipe.interpolation, recipe.rand_augment_fill)
    grays = recipe.grayscale_probability if planes.shape[2] == 3 else 0
    if recipe.grayscale_first:
        planes = apply_to_some(to_grayscale, planes, grays, parameters['grayscale'])
    if recipe.jitter_probability > 0:
        planes = _jitter(planes, recipe, parameters)
    if not recipe.grayscale_first:
        planes = apply_to_some(to_grayscale, planes, grays, parameters['grayscale'])
    kernel = kernel_size(recipe, planes.shape[1])
    if kernel > 1:
        planes = apply_to_some(
            lambda chosen, sigma: gaussian_blur(chosen, sigma, kernel, recipe.blur_edges),
            planes,
            recipe.blur_probability,
            parameters['blur'],
            parameters['sigma'],
        )
    planes = apply_to_some(
        lambda chosen: solarize(chosen, recipe.solarize_threshold),
        planes,
        recipe.solarize_probability,
        parameters['solarize'],
    )
    return tf.transpose(tf.clip_by_value(planes, 0.0, 1.0), [0, 1, 3, 2])


def _jitter(planes, recipe, parameters):
    """The four colour operations, clipped after each, in each example's own order."""
    operations = {
        'brightness': lambda chosen, factor: adjust_brightness(
            chosen, factor, recipe.brightness_mode
        ),
        'contrast': lambda chosen, factor: adjust_contrast(chosen, factor, recipe.colour_mode),
        'saturation': lambda chosen, factor: adjust_saturation(chosen, factor, recipe.colour_mode),
        'hue': adjust_hue,
    }
    names = JITTER if planes.shape[2] == 3 else ('brightness', 'contrast')
    names = [name for name in names if getattr(recipe, name) > 0]

    def clipped(name):
        return lambda chosen, factor: tf.clip_by_value(operations[name](chosen, factor), 0.0, 1.0)

    def take_turn(planes, turn):
        if planes.shape[0] == 1:  # one branch of five costs less than four conditions
            branches = [
                (lambda name=name: clipped(name)(planes, parameters[name]))
                if name in names
                else (lambda: planes)
                for name in JITTER
            ]
            return tf.switch_case(turn[0], branches, default=lambda: planes)
        for name in names:
            # 0.5: some examples, never all of them.
            selected = tf.equal(turn, JITTER.index(name))
            planes = apply_to_some(clipped(name), planes, 0.5, selected, parameters[name])
        return planes

    for position in range(len(JITTER)):
        turn = tf.where(parameters['jitter'], parameters['order'][:, position], -1)
        planes = take_turn(planes, turn)
    return planes


def flip(planes: tf.Tensor) -> tf.Tensor:
    """Mirrors left to right."""
    return tf.reverse(planes, [3])


def rotate(planes: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turns each image counter-clockwise by its `degrees` `[n]`, bilinear, black from beyond."""
    _, height, _, width = planes.shape
    angle = degrees * (math.pi / 180)
    cosine, sine, zero = tf.cos(angle), tf.sin(angle), tf.zeros_like(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    transforms = [  # from a place in the output to one in the input, both as (x, y)
        *(cosine, -sine, x - cosine * x + sine * y),
        *(sine, cosine, y - sine * x - cosine * y),
        *(zero, zero),
    ]
    turned = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.transpose(planes, [0, 1, 3, 2]),
        transforms=tf.stack(transforms, axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation='BILINEAR',
    )
    return tf.transpose(turned, [0, 1, 3, 2])


def adjust_brightness(planes: tf.Tensor, factor: tf.Tensor, mode: str) -> tf.Tensor:
    """Multiplies ('multiplicative') or shifts ('additive') each image by its factor `[n]`."""
    factor = factor[:, None, None, None]
    return planes * factor if mode == 'multiplicative' else planes + factor


def adjust_contrast(planes: tf.Tensor, factor: tf.Tensor, mode: str = 'tensorflow') -> tf.Tensor:
    """Scales the distance to a mean by factor `[n]`.

    The mean is each channel's ('tensorflow', as `tf.image.adjust_contrast`) or that of the luma
    ('blend', as PIL's `ImageEnhance.Contrast`).
    """
    means = luma(planes) if mode == 'blend' else planes
    mean = tf.reduce_mean(means, axis=[1, 3], keepdims=True)
    return mean + (planes - mean) * factor[:, None, None, None]


def adjust_saturation(planes: tf.Tensor, factor: tf.Tensor, mode: str = 'tensorflow') -> tf.Tensor:
    """Scales what makes a picture coloured by factor `[n]`.

    That is the saturation of HSV ('tensorflow', as `tf.image.adjust_saturation`) or the distance to
    the pixel's luma ('blend', as PIL's `ImageEnhance.Color`).
    """
    if mode == 'blend':
        grey = luma(planes)
        return grey + (planes - grey) * factor[:, None, None, None]
    # With value and hue fixed, saturation scales the distance to the largest channel, up to 1.
    _, value, chroma = _colours(planes)
    factor = tf.minimum(factor[:, None, None], value / tf.maximum(chroma, 1e-12))
    value = value[:, :, None]
    return value - (value - planes) * factor[:, :, None]


def adjust_hue(planes: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Turns the hue by delta `[n]`, in turns of the colour circle; as `tf.image.adjust_hue`."""
    (red, green, blue), value, chroma = _colours(planes)
    scale = 1 / tf.maximum(chroma, 1e-12)
    hue = tf.where(  # in sixths of a turn; any number will do for grey
        value == red,
        (green - blue) * scale,
        tf.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    hue += 6 * delta[:, None, None]
    hue -= 6 * tf.floor(hue / 6)
    # How far each channel lies below the value, in units of the chroma.
    below = (2 - tf.abs(hue - 3), tf.abs(hue - 2) - 1, tf.abs(hue - 4) - 1)
    return tf.stack([value - chroma * tf.clip_by_value(depth, 0.0, 1.0) for depth in below], axis=2)


def luma(planes: tf.Tensor) -> tf.Tensor:
    """The brightness `[n, height, 1, width]` of colours, with PIL's weights (ITU-R 601)."""
    if planes.shape[2] == 1:
        return planes
    red, green, blue = tf.unstack(planes, axis=2)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, :, None]


def _colours(planes):
    """Red, green and blue, their largest (the value), and the range of the three (the chroma)."""
    red, green, blue = colours = tf.unstack(planes, axis=2)
    value = tf.maximum(tf.maximum(red, green), blue)
    return colours, value, value - tf.minimum(tf.minimum(red, green), blue)


def to_grayscale(planes: tf.Tensor) -> tf.Tensor:
    """Luma in all three channels, with the weights of `tf.image.rgb_to_grayscale`."""
    red, green, blue = tf.unstack(planes, axis=2)
    return tf.stack([0.2989 * red + 0.587 * green + 0.114 * blue] * 3, axis=2)


def gaussian_blur(
    planes: tf.Tensor, sigma: tf.Tensor, kernel_size: int, edges: str = 'zeros'
) -> tf.Tensor:
    """Blurs each image with its sigma `[n]` in pixels; odd `kernel_size`.

    Beyond the edges lie zeros, or ('extend', as in PIL) the edge's own pixels. Products with banded
    matrices, block by block, so that little of a band is zeros: faster than depthwise convolutions.
    """
    radius = kernel_size // 2
    offset = tf.range(-radius, radius + 1, dtype=tf.float32)
    taps = tf.exp(-(0.5 / tf.square(sigma))[:, None] * tf.square(offset))
    taps /= tf.reduce_sum(taps, axis=1, keepdims=True)
    taps = tf.pad(taps, [[0, 0], [0, 1]])  # the last is the zero outside of the kernel

    def bands(length):
        """The pixels that each block is made of, and the matrix `[n, block, pixels]`."""
        for start in range(0, length, _BLUR_BLOCK):
            stop = min(start + _BLUR_BLOCK, length)
            pixels = slice(max(start - radius, 0), min(stop + radius, length))
            tap = np.arange(length)[pixels] - np.arange(start, stop)[:, None] + radius
            inside = (tap >= 0) & (tap < kernel_size)
            band = tf.gather(taps, np.where(inside, tap, kernel_size), axis=1)
            if edges == 'extend':  # what a row lacks lies beyond the edge that it is nearer to
                row = np.arange(start, stop)[:, None]
                edge = np.where(row < length // 2, 0, length - 1) == np.arange(length)[pixels]
                missing = 1 - tf.reduce_sum(band, axis=2, keepdims=True)
                band += missing * edge.astype(np.float32)
            yield pixels, band

    _, height, channels, width = planes.shape
    rows = tf.reshape(planes, [-1, height, channels * width])
    rows = tf.concat([tf.matmul(band, rows[:, used]) for used, band in bands(height)], axis=1)
    rows = tf.reshape(rows, [-1, height * channels, width])
    columns = [tf.matmul(rows[..., used], band, transpose_b=True) for used, band in bands(width)]
    return tf.reshape(tf.concat(columns, axis=2), [-1, height, channels, width])


def solarize(planes: tf.Tensor, threshold: float) -> tf.Tensor:
    """Inverts the values at or above the threshold."""
    return tf.where(planes < threshold, planes, 1 - planes)
