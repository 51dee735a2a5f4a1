"""What a view is made with, drawn on the accelerator: `tf_draws.py`'s distributions.

The draws are a function of (seed, step, example, view), and nothing else: not of the place in the
batch, nor of the devices.
"""

import math

import jax
import jax.numpy as jnp

from simclr_jax.augment import rand_augment
from simclr_jax.augment.recipe import CROP_TRIES, JITTER, MIN_OBJECT_COVERED, ViewRecipe

# Where each parameter's uniform number lies among those of one view; the crop's come first.
_SLOTS = (
    'flip',
    'rotation',
    'jitter',
    *(f'order{i}' for i in range(len(JITTER))),
    *JITTER,
    'grayscale',
    'blur',
    'sigma',
    'solarize',
)

# Folds of an example's key; the parameters above are drawn from the key itself.
_RAND_AUGMENT = 1

Parameters = dict[str, jax.Array]


def view_keys(seed: int, step: jax.Array, view: int, index: jax.Array) -> jax.Array:
    """Returns a key `[n]` for each example `index` `[n]`."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), step)
    key = jax.random.fold_in(key, view)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def sample_parameters(recipe: ViewRecipe, keys: jax.Array) -> Parameters:
    """Draws the parameters of a view for each of `keys` `[n]`, arrays `[n, ...]`."""
    count = 4 * CROP_TRIES + len(_SLOTS)
    uniforms = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)
    slots = {name: uniforms[:, 4 * CROP_TRIES + i] for i, name in enumerate(_SLOTS)}

    def between(name, low, high):
        return low + slots[name] * (high - low)

    def factor(name):
        strength = getattr(recipe, name)
        return between(name, max(0.0, 1 - strength), 1 + strength)

    additive = recipe.brightness_mode == 'additive'
    more = {}
    if recipe.rand_augment:
        more = _sample_operations(rand_augment.parse(recipe.rand_augment), keys)
    order = jnp.stack([slots[f'order{i}'] for i in range(len(JITTER))], axis=1)
    return {
        # in [0, 1): size, aspect, y, x of each try
        'crop': uniforms[:, : 4 * CROP_TRIES].reshape(-1, CROP_TRIES, 4),
        'flip': slots['flip'] < recipe.flip_probability,
        'rotation': between('rotation', -recipe.rotation, recipe.rotation),
        'jitter': slots['jitter'] < recipe.jitter_probability,
        'order': jnp.argsort(order, axis=1),
        'brightness': between('brightness', -recipe.brightness, recipe.brightness)
        if additive
        else factor('brightness'),
        'contrast': factor('contrast'),
        'saturation': factor('saturation'),
        'hue': between('hue', -recipe.hue, recipe.hue),
        'grayscale': slots['grayscale'] < recipe.grayscale_probability,
        'blur': slots['blur'] < recipe.blur_probability,
        'sigma': between('sigma', *recipe.blur_sigma),
        'solarize': slots['solarize'] < recipe.solarize_probability,
        **more,
    }


def _sample_operations(recipe: rand_augment.RandAugment, keys: jax.Array) -> Parameters:
    """RandAugment's `operations` int32 and `arguments` float32, `[n, layer]`."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _RAND_AUGMENT)
    shape = (4, recipe.layers)
    uniforms = jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)
    which, applied, strength, sign = (uniforms[:, i] for i in range(4))
    operation = jnp.floor(which * len(rand_augment.OPERATIONS)).astype(jnp.int32)
    if math.isinf(recipe.std):
        magnitude = strength * recipe.magnitude
    else:
        magnitude = jnp.full(strength.shape, recipe.magnitude)
        if recipe.std > 0:
            magnitude += recipe.std * jax.scipy.special.ndtri(strength)
    level = jnp.clip(magnitude, 0, recipe.largest) / rand_augment.LEVELS
    base, slope, signed, whole, least, most = (
        jnp.array(column, jnp.float32)[operation] for column in recipe.columns
    )
    term = slope * level * jnp.where((signed > 0) & (sign < 0.5), -1, 1)
    term = jnp.where(whole > 0, jnp.trunc(term * rand_augment.OVER), term)
    return {
        'operations': jnp.where(applied < recipe.probability, operation, rand_augment.NONE),
        'arguments': jnp.clip(base + term, least, most),
    }


def crop_boxes(
    recipe: ViewRecipe, parameters: Parameters, heights: jax.Array, widths: jax.Array
) -> jax.Array:
    """Boxes `[n, 4]` (y, x, height, width), float32, inside images of `heights`, `widths` `[n]`.

    They hold whole numbers unless the sampler is 'continuous'.
    """
    sizes = {
        'tensorflow': _tensorflow_sizes,
        'byol': _byol_sizes,
        'torchvision': _torchvision_sizes,
        'continuous': _area_and_aspect_sizes,
    }[recipe.crop_sampler]
    uniforms = parameters['crop']
    limit_h, limit_w = heights[:, None], widths[:, None]
    height, width = sizes(recipe, uniforms, limit_h, limit_w)
    valid = (height >= 1) & (width >= 1) & (height <= limit_h) & (width <= limit_w)
    if recipe.crop_sampler == 'tensorflow':
        share = height * width / (limit_h * limit_w)
        valid &= _in_area(recipe, height, width, limit_h, limit_w) & (share >= MIN_OBJECT_COVERED)
    found = valid.any(axis=1)
    first = jnp.argmax(valid, axis=1)[:, None]
    height, width, uniform_y, uniform_x = (
        jnp.take_along_axis(values, first, axis=1)[:, 0]
        for values in (height, width, uniforms[..., 2], uniforms[..., 3])
    )
    fallback_h, fallback_w = _fallback_sizes(recipe, heights, widths)
    height, width = jnp.where(found, height, fallback_h), jnp.where(found, width, fallback_w)

    def offset(uniform, space):
        if recipe.crop_sampler == 'continuous':
            return uniform * space
        # TensorFlow's kernel never draws the last offset.
        choices = space if recipe.crop_sampler == 'tensorflow' else space + 1
        return jnp.where(found, jnp.floor(uniform * choices), jnp.floor(space / 2))

    y, x = offset(uniform_y, heights - height), offset(uniform_x, widths - width)
    return jnp.stack([y, x, height, width], axis=1)


def _tensorflow_sizes(recipe, uniforms, image_h, image_w):
    """Heights and widths `[n, tries]`, as in `sample_distorted_bounding_box_op.cc`."""
    low, high = recipe.crop_aspect
    aspect = low + uniforms[..., 1] * (high - low)
    min_area, max_area = _area_limits(recipe, image_h, image_w)
    shortest = jnp.round(jnp.sqrt(min_area / aspect))
    tallest = jnp.round(jnp.sqrt(max_area / aspect))
    tallest = jnp.where(
        jnp.round(tallest * aspect) > image_w, jnp.floor((image_w + 0.5) / aspect), tallest
    )
    tallest -= jnp.round(tallest * aspect) > image_w
    tallest = jnp.minimum(tallest, image_h)
    shortest = jnp.minimum(shortest, tallest)
    height = shortest + jnp.floor(uniforms[..., 0] * (tallest - shortest + 1))
    # One pixel more or less where rounding has left the range of areas.
    height += height * jnp.round(height * aspect) < min_area
    height -= height * jnp.round(height * aspect) > max_area
    return height, jnp.round(height * aspect)


def _area_limits(recipe, image_h, image_w):
    return recipe.crop_area[0] * (image_h * image_w), recipe.crop_area[1] * (image_h * image_w)


def _in_area(recipe, height, width, image_h, image_w):
    min_area, max_area = _area_limits(recipe, image_h, image_w)
    return (height * width >= min_area) & (height * width <= max_area)


def _area_and_aspect_sizes(recipe, uniforms, image_h, image_w):
    """Heights and widths `[n, tries]`: uniform area, log-uniform aspect."""
    low, high = recipe.crop_area
    area = (low + uniforms[..., 0] * (high - low)) * image_h * image_w
    low, high = recipe.crop_aspect
    aspect = low * jnp.power(high / low, uniforms[..., 1])
    return jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)


def _torchvision_sizes(recipe, uniforms, image_h, image_w):
    """As above, in whole pixels."""
    height, width = _area_and_aspect_sizes(recipe, uniforms, image_h, image_w)
    return jnp.round(height), jnp.round(width)


def _byol_sizes(recipe, uniforms, image_h, image_w):
    """As torchvision's, but clamped to the image (`byol/utils/dataset.py`): every try is valid."""
    height, width = _torchvision_sizes(recipe, uniforms, image_h, image_w)
    return jnp.clip(height, 1, image_h), jnp.clip(width, 1, image_w)


def _fallback_sizes(recipe, image_h, image_w):
    """Heights and widths `[n]` where no try fits: the image; torchvision clamps its aspect."""
    if recipe.crop_sampler != 'torchvision':
        return image_h, image_w
    low, high = recipe.crop_aspect
    height = jnp.minimum(image_h, jnp.round(image_w / low))
    width = jnp.minimum(image_w, jnp.round(image_h * high))
    return jnp.maximum(height, 1.0), jnp.maximum(width, 1.0)
