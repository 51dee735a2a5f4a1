"""The operations of a view for tf.data: stateless, batched, each image with its own parameters.

Images are float32 `[n, height, width, channel]` in [0, 1], with 1 or 3 channels. An operation that
applies to some examples only is computed for those alone.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from simclr_jax.augment.recipe import JITTER, ViewRecipe, kernel_size
from simclr_jax.augment.tf_draws import Parameters

# Nothing here needs AutoGraph, which would make tracing three times as long.
_plain = tf.autograph.experimental.do_not_convert


@_plain
def crop_and_resize(
    images: tf.Tensor, boxes: tf.Tensor, size: int, interpolation: str
) -> tf.Tensor:
    """Resizes boxes `[n, 4]` of images `[n, H, W, c]` to float32 `[n, size, size, c]`.

    Equals `tf.image.resize` of each box (half-pixel centres, no antialiasing); where boxes are
    float, pixels beyond them count too. The scale is kept, and bicubic values are clipped to it:
    uint8 is in [0, 255], float in [0, 1].
    """
    top = 255.0 if images.dtype == tf.uint8 else 1.0
    boxes = tf.convert_to_tensor(boxes)
    cut = boxes.dtype.is_integer
    boxes = tf.cast(boxes, tf.float32)
    resized = _separable(
        tf.cast(images, tf.float32),
        _resize_weights(boxes[:, 0], boxes[:, 2], tf.shape(images)[1], size, interpolation, cut),
        _resize_weights(boxes[:, 1], boxes[:, 3], tf.shape(images)[2], size, interpolation, cut),
    )
    return tf.clip_by_value(resized, 0.0, top) if interpolation == 'bicubic' else resized


def _resize_weights(start, extent, source, size, interpolation, cut):
    """Weights `[n, size, source]` that resample `[start, start + extent)` to `size` pixels.

    With `cut` only the pixels inside count, as if they had been cut out first.
    """
    centre = (tf.range(size, dtype=tf.float32) + 0.5) * (extent / size)[:, None] - 0.5
    whole = tf.floor(centre)
    fraction = centre - whole
    if interpolation == 'bicubic':
        fraction = tf.round(fraction * 1024) / 1024  # TensorFlow's table has 1024 steps
    pixel = tf.range(source, dtype=tf.float32) - start[:, None]
    distance = tf.abs(pixel[:, None, :] - (whole + fraction)[:, :, None])
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
def decode_crop_and_resize(
    encoded: tf.Tensor, box: tf.Tensor, size: int, interpolation: str, channels: int
) -> tf.Tensor:
    """Decodes one image, only inside `box` `[4]` for JPEG; float32 `[size, size, c]` in [0, 1]."""

    def decode_and_crop():
        image = tf.io.decode_image(encoded, channels, expand_animations=False)
        return image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]

    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_and_crop_jpeg(encoded, box, channels),
        decode_and_crop,
    )
    image = tf.image.resize(
        tf.ensure_shape(image, [None, None, channels]), [size, size], interpolation
    )
    return tf.clip_by_value(image / 255.0, 0.0, 1.0)


@_plain
def distort(images: tf.Tensor, recipe: ViewRecipe, parameters: Parameters) -> tf.Tensor:
    """Flips, turns, jitters, greys, blurs and solarizes images `[n, h, w, c]` by the parameters."""
    images = _apply(flip, images, recipe.flip_probability, parameters['flip'])
    if recipe.rotation > 0:
        images = rotate(images, parameters['rotation'])
    if recipe.jitter_probability > 0:
        images = _jitter(images, recipe, parameters)
    if images.shape[-1] == 3:
        images = _apply(to_grayscale, images, recipe.grayscale_probability, parameters['grayscale'])
    kernel = kernel_size(recipe, images.shape[1])
    if kernel > 1:
        images = _apply(
            lambda chosen, sigma: gaussian_blur(chosen, sigma, kernel),
            images,
            recipe.blur_probability,
            parameters['blur'],
            parameters['sigma'],
        )
    images = _apply(
        lambda chosen: solarize(chosen, recipe.solarize_threshold),
        images,
        recipe.solarize_probability,
        parameters['solarize'],
    )
    return tf.clip_by_value(images, 0.0, 1.0)


def _jitter(images, recipe, parameters):
    """The four colour operations, clipped after each, in each example's own order."""
    operations = {
        'brightness': lambda chosen, factor: adjust_brightness(
            chosen, factor, recipe.brightness_mode
        ),
        'contrast': adjust_contrast,
        'saturation': adjust_saturation,
        'hue': adjust_hue,
    }
    names = JITTER if images.shape[-1] == 3 else ('brightness', 'contrast')
    names = [name for name in names if getattr(recipe, name) > 0]
    for position in range(len(JITTER)):
        turn = tf.where(parameters['jitter'], parameters['order'][:, position], -1)
        for name in names:

            def clipped(chosen, factor, operation=operations[name]):
                return tf.clip_by_value(operation(chosen, factor), 0.0, 1.0)

            # 0.5: some examples, never all of them.
            selected = tf.equal(turn, JITTER.index(name))
            images = _apply(clipped, images, 0.5, selected, parameters[name])
    return images


def _apply(
    function: Callable, images: tf.Tensor, probability: float, selected: tf.Tensor, *parameters
) -> tf.Tensor:
    """Images with `function` applied to the selected ones; nothing is computed for the others."""
    if probability == 0:
        return images
    if probability == 1:
        return function(images, *parameters)
    if images.shape[0] == 1:
        return tf.cond(selected[0], lambda: function(images, *parameters), lambda: images)
    indices = tf.where(selected)
    chosen = (tf.gather(values, indices[:, 0]) for values in (images, *parameters))
    return tf.tensor_scatter_nd_update(images, indices, function(*chosen))


def flip(images: tf.Tensor) -> tf.Tensor:
    """Mirrors images left to right."""
    return tf.reverse(images, [2])


def rotate(images: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turns each image counter-clockwise by its `degrees` `[n]`, bilinear, black from beyond."""
    height, width = images.shape[1:3]
    angle = degrees * (math.pi / 180)
    cosine, sine, zero = tf.cos(angle), tf.sin(angle), tf.zeros_like(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    transforms = [  # from a place in the output to one in the input, both as (x, y)
        *(cosine, -sine, x - cosine * x + sine * y),
        *(sine, cosine, y - sine * x - cosine * y),
        *(zero, zero),
    ]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(transforms, axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation='BILINEAR',
    )


def adjust_brightness(images: tf.Tensor, factor: tf.Tensor, mode: str) -> tf.Tensor:
    """Multiplies ('multiplicative') or shifts ('additive') each image by its factor `[n]`."""
    factor = factor[:, None, None, None]
    return images * factor if mode == 'multiplicative' else images + factor


def adjust_contrast(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the distance to the channel's mean by factor `[n]`; as `tf.image.adjust_contrast`."""
    mean = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
    return mean + (images - mean) * factor[:, None, None, None]


def adjust_saturation(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the saturation of HSV by factor `[n]`; as `tf.image.adjust_saturation`."""
    # With value and hue fixed, saturation scales the distance to the largest channel, up to 1.
    value, chroma = _value_and_chroma(images)
    factor = tf.minimum(factor[:, None, None, None], value / tf.maximum(chroma, 1e-12))
    return value - (value - images) * factor


def adjust_hue(images: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Turns the hue by delta `[n]`, in turns of the colour circle; as `tf.image.adjust_hue`."""
    value, chroma = (plane[..., 0] for plane in _value_and_chroma(images))
    red, green, blue = tf.unstack(images, axis=-1)
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
    return tf.stack(
        [value - chroma * tf.clip_by_value(depth, 0.0, 1.0) for depth in below], axis=-1
    )


def _value_and_chroma(images):
    value = tf.reduce_max(images, axis=-1, keepdims=True)
    return value, value - tf.reduce_min(images, axis=-1, keepdims=True)


def to_grayscale(images: tf.Tensor) -> tf.Tensor:
    """Luma in all three channels."""
    return tf.repeat(tf.image.rgb_to_grayscale(images), 3, axis=-1)


def gaussian_blur(images: tf.Tensor, sigma: tf.Tensor, kernel_size: int) -> tf.Tensor:
    """Blurs each image with its sigma `[n]` in pixels; odd `kernel_size`, zeros beyond the edges.

    Two products with banded matrices: faster than depthwise convolutions for batches of small
    images, and on a par with them for one image of 224 pixels.
    """
    precision = (0.5 / tf.square(sigma))[:, None]
    radius = kernel_size // 2

    def weights(offset):
        return tf.exp(-precision * tf.reshape(tf.square(offset), [1, -1]))

    total = tf.reduce_sum(weights(tf.range(-radius, radius + 1, dtype=tf.float32)), axis=1)

    def band(length):
        pixel = tf.range(length, dtype=tf.float32)
        offset = pixel[:, None] - pixel
        inside = tf.cast(tf.abs(offset) <= radius, tf.float32)
        matrix = tf.reshape(weights(offset), [-1, length, length]) * inside
        return matrix / total[:, None, None]

    return _separable(images, band(images.shape[1]), band(images.shape[2]))


def solarize(images: tf.Tensor, threshold: float) -> tf.Tensor:
    """Inverts the values at or above the threshold."""
    return tf.where(images < threshold, images, 1 - images)
