"""What a view is made with, drawn in tf.data: parameters of the operations, boxes of the crops.

Stateless: the draws are a function of the seed alone.
"""

import math
import zlib
from collections.abc import Callable

import tensorflow as tf

from simclr_jax.augment import rand_augment
from simclr_jax.augment.recipe import CROP_TRIES, JITTER, MIN_OBJECT_COVERED, ViewRecipe

Parameters = dict[str, tf.Tensor]

# Nothing here needs AutoGraph, which would make tracing three times as long.
_plain = tf.autograph.experimental.do_not_convert


@_plain
def sample_parameters(recipe: ViewRecipe, seed: tf.Tensor, size: int) -> Parameters:
    """Draws the parameters of `size` views, tensors `[size, ...]`, from an integer seed `[2]`.

    Each parameter has its own fold of the seed, by name. Draw for the global batch and slice the
    rows of a process: a row then does not depend on how many processes there are.
    """

    def uniform(name, shape=(), low=0.0, high=1.0):
        name_id = tf.constant(zlib.crc32(name.encode()), tf.int64)
        folded = tf.random.experimental.stateless_fold_in(seed, name_id, alg='philox')
        return tf.random.stateless_uniform((size, *shape), folded, low, high, alg='philox')

    def factor(name):
        strength = getattr(recipe, name)
        return uniform(name, (), max(0.0, 1 - strength), 1 + strength)

    more = {}
    if recipe.rand_augment:
        more = _sample_operations(rand_augment.parse(recipe.rand_augment), uniform)
    additive = recipe.brightness_mode == 'additive'
    return {
        'crop': uniform('crop', (CROP_TRIES, 4)),  # in [0, 1): size, aspect, y, x of each try
        'flip': uniform('flip') < recipe.flip_probability,
        'rotation': uniform('rotation', (), -recipe.rotation, recipe.rotation),
        'jitter': uniform('jitter') < recipe.jitter_probability,
        'order': tf.argsort(uniform('order', (len(JITTER),))),
        'brightness': uniform('brightness', (), -recipe.brightness, recipe.brightness)
        if additive
        else factor('brightness'),
        'contrast': factor('contrast'),
        'saturation': factor('saturation'),
        'hue': uniform('hue', (), -recipe.hue, recipe.hue),
        'grayscale': uniform('grayscale') < recipe.grayscale_probability,
        'blur': uniform('blur') < recipe.blur_probability,
        'sigma': uniform('sigma', (), *recipe.blur_sigma),
        'solarize': uniform('solarize') < recipe.solarize_probability,
        **more,
    }


def _sample_operations(recipe: rand_augment.RandAugment, uniform: Callable) -> Parameters:
    """RandAugment's `operations` int32 and `arguments` float32, `[size, layer]`."""
    which, applied, strength, sign = (
        uniform(f'rand_augment {name}', (recipe.layers,))
        for name in ('operation', 'applied', 'strength', 'sign')
    )
    operation = tf.cast(which * len(rand_augment.OPERATIONS), tf.int32)
    if math.isinf(recipe.std):
        magnitude = strength * recipe.magnitude
    else:
        magnitude = tf.fill(tf.shape(strength), recipe.magnitude)
        if recipe.std > 0:
            magnitude += recipe.std * tf.math.ndtri(strength)
    level = tf.clip_by_value(magnitude, 0, recipe.largest) / rand_augment.LEVELS
    base, slope, signed, whole, least, most = (
        tf.gather(tf.constant(column, tf.float32), operation) for column in recipe.columns
    )
    term = slope * level * tf.where((signed > 0) & (sign < 0.5), -1.0, 1.0)
    term = tf.where(whole > 0, tf.sign(term) * tf.floor(tf.abs(term) * rand_augment.OVER), term)
    return {
        'operations': tf.where(applied < recipe.probability, operation, rand_augment.NONE),
        'arguments': tf.clip_by_value(base + term, least, most),
    }


@_plain
def crop_boxes(
    recipe: ViewRecipe, parameters: Parameters, heights: tf.Tensor, widths: tf.Tensor
) -> tf.Tensor:
    """Boxes `[n, 4]` (y, x, height, width) inside images of `heights` and `widths` `[n]`.

    They are int32, and float32 where the sampler is 'continuous'.
    """
    sizes = {
        'tensorflow': _tensorflow_sizes,
        'byol': _byol_sizes,
        'torchvision': _torchvision_sizes,
        'continuous': _area_and_aspect_sizes,
    }[recipe.crop_sampler]
    uniforms = parameters['crop']
    image_h, image_w = tf.cast(heights, tf.float32), tf.cast(widths, tf.float32)
    limit_h, limit_w = image_h[:, None], image_w[:, None]
    height, width, valid = sizes(recipe, uniforms, limit_h, limit_w)
    valid &= (height >= 1) & (width >= 1) & (height <= limit_h) & (width <= limit_w)
    found = tf.reduce_any(valid, axis=1)
    first = tf.argmax(tf.cast(valid, tf.int32) * tf.range(CROP_TRIES, 0, -1), axis=1)
    height, width, uniform_y, uniform_x = (
        tf.gather(values, first, axis=1, batch_dims=1)
        for values in (height, width, uniforms[..., 2], uniforms[..., 3])
    )
    fallback_h, fallback_w = _fallback_sizes(recipe, image_h, image_w)
    height, width = tf.where(found, height, fallback_h), tf.where(found, width, fallback_w)

    if recipe.crop_sampler == 'continuous':
        y, x = uniform_y * (image_h - height), uniform_x * (image_w - width)
        return tf.stack([y, x, height, width], axis=1)

    def offset(uniform, space):
        # TensorFlow's kernel never draws the last offset.
        choices = space if recipe.crop_sampler == 'tensorflow' else space + 1
        return tf.where(found, tf.floor(uniform * choices), tf.floor(space / 2))

    y, x = offset(uniform_y, image_h - height), offset(uniform_x, image_w - width)
    return tf.cast(tf.stack([y, x, height, width], axis=1), tf.int32)


def _tensorflow_sizes(recipe, uniforms, image_h, image_w):
    """Heights, widths, validity `[n, tries]`, as in `sample_distorted_bounding_box_op.cc`."""
    low, high = recipe.crop_aspect
    aspect = low + uniforms[..., 1] * (high - low)
    area = image_h * image_w
    min_area, max_area = recipe.crop_area[0] * area, recipe.crop_area[1] * area
    shortest = tf.round(tf.sqrt(min_area / aspect))
    tallest = tf.round(tf.sqrt(max_area / aspect))
    tallest = tf.where(
        tf.round(tallest * aspect) > image_w, tf.floor((image_w + 0.5) / aspect), tallest
    )
    tallest -= tf.cast(tf.round(tallest * aspect) > image_w, tf.float32)
    tallest = tf.minimum(tallest, image_h)
    shortest = tf.minimum(shortest, tallest)
    height = shortest + tf.floor(uniforms[..., 0] * (tallest - shortest + 1))
    # One pixel more or less where rounding has left the range of areas.
    height += tf.cast(height * tf.round(height * aspect) < min_area, tf.float32)
    height -= tf.cast(height * tf.round(height * aspect) > max_area, tf.float32)
    width = tf.round(height * aspect)
    crop_area = height * width
    valid = (crop_area >= min_area) & (crop_area <= max_area)
    return height, width, valid & (crop_area / area >= MIN_OBJECT_COVERED)


def _area_and_aspect_sizes(recipe, uniforms, image_h, image_w):
    """Heights, widths, validity `[n, tries]`: uniform area, log-uniform aspect."""
    low, high = recipe.crop_area
    area = (low + uniforms[..., 0] * (high - low)) * image_h * image_w
    low, high = recipe.crop_aspect
    aspect = low * tf.pow(high / low, uniforms[..., 1])
    height, width = tf.sqrt(area / aspect), tf.sqrt(area * aspect)
    return height, width, tf.ones_like(height, tf.bool)


def _torchvision_sizes(recipe, uniforms, image_h, image_w):
    """As above, in whole pixels."""
    height, width, valid = _area_and_aspect_sizes(recipe, uniforms, image_h, image_w)
    return tf.round(height), tf.round(width), valid


def _byol_sizes(recipe, uniforms, image_h, image_w):
    """As torchvision's, but clamped to the image (`byol/utils/dataset.py`): every try is valid."""
    height, width, valid = _torchvision_sizes(recipe, uniforms, image_h, image_w)
    return tf.clip_by_value(height, 1, image_h), tf.clip_by_value(width, 1, image_w), valid


def _fallback_sizes(recipe, image_h, image_w):
    """Heights and widths `[n]` where no try fits: the image; torchvision clamps its aspect."""
    if recipe.crop_sampler != 'torchvision':
        return image_h, image_w
    low, high = recipe.crop_aspect
    height = tf.minimum(image_h, tf.round(image_w / low))
    width = tf.minimum(image_w, tf.round(image_h * high))
    return tf.maximum(height, 1.0), tf.maximum(width, 1.0)
