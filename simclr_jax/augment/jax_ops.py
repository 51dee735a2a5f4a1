"""The operations of a view for the accelerator: `tf_ops.py`'s, batched inside the train step.

Images are floats `[n, height, width, channel]` in [0, 1], with 1 or 3 channels. Resizing and
blurring are matrix products. An operation is computed for every image and selected afterwards,
since an accelerator gains nothing from leaving some out.
"""

import math

import jax
import jax.numpy as jnp

from simclr_jax.augment.jax_draws import Parameters, crop_boxes, sample_parameters, view_keys
from simclr_jax.augment.jax_rand_augment import rand_augment
from simclr_jax.augment.recipe import JITTER, ViewRecipe, kernel_size


def make_views(
    batch: dict[str, jax.Array],
    recipes: tuple[ViewRecipe, ...],
    *,
    seed: int,
    step: jax.Array,
    image_size: int,
    dtype: str = 'float32',
) -> jax.Array:
    """Returns `[batch, view, image_size, image_size, channel]` float32 in [0, 1].

    What is drawn is a function of (seed, step, example, view).

    Args:
      batch: `image` `[batch, height, width, channel]` uint8, each picture in the upper left of its
        canvas; `size` `[batch, 2]`, its true height and width; `index` `[batch]` of the example.
      recipes: one a view.
      seed: of the draws.
      step: scalar.
      image_size: of the views, in pixels.
      dtype: 'float32' or 'bfloat16', of the factors of the matrix products.
    """
    sizes = batch['size'].astype(jnp.float32)
    drawn, boxes = [], []
    for view, recipe in enumerate(recipes):
        keys = view_keys(seed, step, view, batch['index'])
        drawn.append(sample_parameters(recipe, keys))
        boxes.append(crop_boxes(recipe, drawn[-1], sizes[:, 0], sizes[:, 1]))
    views = crop_and_resize(batch['image'], sizes, boxes, recipes, image_size, dtype) / 255.0
    if len(set(recipes)) == 1:  # one batch of all views compiles in half the time
        merged = {name: jnp.stack([d[name] for d in drawn], 1) for name in drawn[0]}
        merged = {name: values.reshape(-1, *values.shape[2:]) for name, values in merged.items()}
        flat = views.reshape(-1, *views.shape[2:])
        return distort(flat, recipes[0], merged, dtype).reshape(views.shape)
    made = [distort(views[:, i], r, drawn[i], dtype) for i, r in enumerate(recipes)]
    return jnp.stack(made, axis=1)


def crop_and_resize(
    images: jax.Array,
    sizes: jax.Array,
    boxes: list[jax.Array],
    recipes: tuple[ViewRecipe, ...],
    size: int,
    dtype: str = 'float32',
) -> jax.Array:
    """Resizes a box of each image for each view, to float32 `[n, view, size, size, c]`.

    Equals `tf.image.resize` of each box (half-pixel centres), with or without antialiasing, as the
    recipe says. The scale of the images is kept: [0, 255], to which bicubic values are clipped.

    Args:
      images: `[n, H, W, c]`, each picture in the upper left.
      sizes: `[n, 2]` float32, the picture's true height and width.
      boxes: `[n, 4]` (y, x, height, width) for each view.
      recipes: of the views: interpolation, antialiasing, and whether boxes lie between pixels.
      size: of the views, in pixels.
      dtype: of the factors of the two matrix products; uint8 pixels are exact in either.
    """

    def weights(axis):
        made = []
        for box, recipe in zip(boxes, recipes, strict=True):
            start, extent = box[:, axis], box[:, axis + 2]
            # A box between pixels is interpolated from the pixels around it too.
            inside = recipe.crop_sampler == 'continuous'
            low, high = (0 * start, sizes[:, axis]) if inside else (start, start + extent)
            source = images.shape[1 + axis]
            window = start, extent, low, high
            made.append(
                _resize_weights(*window, source, size, recipe.interpolation, recipe.antialias)
            )
        return jnp.stack(made, axis=1)

    resized = _separable('nvsh,nhwc->nvswc', images, weights(0), weights(1), dtype)
    bicubic = jnp.array([recipe.interpolation == 'bicubic' for recipe in recipes])
    clipped = jnp.clip(resized, 0.0, 255.0)
    return jnp.where(bicubic[None, :, None, None, None], clipped, resized)


def _resize_weights(start, extent, low, high, source, size, interpolation, antialias):
    """Weights `[n, size, source]` that resample `[start, start + extent)` to `size` pixels.

    Only pixels in `[low, high)` count, as if they had been cut out first.
    """
    centre = (jnp.arange(size) + 0.5)[None] * (extent / size)[:, None] - 0.5
    whole = jnp.floor(centre)
    fraction = centre - whole
    if interpolation == 'bicubic' and not antialias:
        fraction = jnp.round(fraction * 1024) / 1024  # TensorFlow's table has 1024 steps
    pixel = jnp.arange(source, dtype=jnp.float32)[None]
    relative = pixel - start[:, None]
    distance = jnp.abs(relative[:, None, :] - (whole + fraction)[:, :, None])
    if antialias:  # the kernel is as wide as the pixels that become one
        distance /= jnp.maximum(extent / size, 1.0)[:, None, None]
    if interpolation == 'bicubic':  # Keys (1981), a = -1/2
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = jnp.where(distance <= 1, near, jnp.where(distance < 2, far, 0.0))
    else:
        weights = jnp.maximum(1 - distance, 0.0)
    inside = (pixel >= low[:, None]) & (pixel < high[:, None])
    weights *= inside[:, None, :]
    return weights / weights.sum(axis=2, keepdims=True)


def _separable(first: str, images, rows, columns, dtype):
    """Applies `rows` by the product that `first` says, then `columns` alike, to the other axis."""
    precision = 'highest' if dtype == 'float32' else None
    second = {'nvsh,nhwc->nvswc': 'nvtw,nvswc->nvstc', 'nsh,nhwc->nswc': 'ntw,nswc->nstc'}[first]
    for equation, matrix in ((first, rows), (second, columns)):
        images = jnp.einsum(
            equation,
            matrix.astype(dtype),
            images.astype(dtype),
            precision=precision,
            preferred_element_type=jnp.float32,
        )
    return images


def distort(
    images: jax.Array, recipe: ViewRecipe, parameters: Parameters, dtype: str = 'float32'
) -> jax.Array:
    """Flips, turns, jitters, greys, blurs and solarizes images `[n, h, w, c]` by the parameters."""
    if recipe.flip_probability > 0:
        images = _select(parameters['flip'], flip(images), images)
    if recipe.rotation > 0:
        images = rotate(images, parameters['rotation'])
    if recipe.rand_augment:
        drawn = parameters['operations'], parameters['arguments']
        images = rand_augment(images, *drawn, recipe.interpolation, recipe.rand_augment_fill)
    grays = images.shape[-1] == 3 and recipe.grayscale_probability > 0
    if grays and recipe.grayscale_first:
        images = _select(parameters['grayscale'], to_grayscale(images), images)
    if recipe.jitter_probability > 0:
        images = _jitter(images, recipe, parameters)
    if grays and not recipe.grayscale_first:
        images = _select(parameters['grayscale'], to_grayscale(images), images)
    kernel = kernel_size(recipe, images.shape[1])
    if kernel > 1 and recipe.blur_probability > 0:
        blurred = gaussian_blur(images, parameters['sigma'], kernel, dtype, recipe.blur_edges)
        images = _select(parameters['blur'], blurred, images)
    if recipe.solarize_probability > 0:
        inverted = solarize(images, recipe.solarize_threshold)
        images = _select(parameters['solarize'], inverted, images)
    return jnp.clip(images, 0.0, 1.0)


def _jitter(images, recipe, parameters):
    """The four colour operations, clipped after each, in each example's own order."""
    operations = {
        'brightness': lambda images, factor: adjust_brightness(
            images, factor, recipe.brightness_mode
        ),
        'contrast': lambda images, factor: adjust_contrast(images, factor, recipe.colour_mode),
        'saturation': lambda images, factor: adjust_saturation(images, factor, recipe.colour_mode),
        'hue': adjust_hue,
    }
    names = JITTER if images.shape[-1] == 3 else ('brightness', 'contrast')
    names = [name for name in names if getattr(recipe, name) > 0]
    # The turns among those that do something, so that nothing is computed for the others.
    active = jnp.array([JITTER.index(name) for name in names])
    ranks = jnp.argsort(parameters['order'], axis=1)[:, active]
    turns = (ranks[:, :, None] > ranks[:, None, :]).sum(axis=2)  # `[n, operation]`
    for position in range(len(names)):
        before = images
        for i, name in enumerate(names):
            selected = parameters['jitter'] & (turns[:, i] == position)
            changed = jnp.clip(operations[name](before, parameters[name]), 0.0, 1.0)
            images = _select(selected, changed, images)
    return images


def _select(selected, changed, images):
    return jnp.where(selected[:, None, None, None], changed, images)


def flip(images: jax.Array) -> jax.Array:
    """Mirrors images left to right."""
    return images[:, :, ::-1]


def rotate(images: jax.Array, degrees: jax.Array) -> jax.Array:
    """Turns each image counter-clockwise by its `degrees` `[n]`, bilinear, black from beyond."""
    height, width = images.shape[1:3]
    angle = (degrees * (math.pi / 180))[:, None, None]
    y = jnp.arange(height)[None, :, None] - (height - 1) / 2
    x = jnp.arange(width)[None, None, :] - (width - 1) / 2
    source_y = jnp.sin(angle) * x + jnp.cos(angle) * y + (height - 1) / 2
    source_x = jnp.cos(angle) * x - jnp.sin(angle) * y + (width - 1) / 2

    def turn(image, rows, columns):
        return jax.vmap(
            lambda plane: jax.scipy.ndimage.map_coordinates(plane, (rows, columns), order=1),
            in_axes=2,
            out_axes=2,
        )(image)

    return jax.vmap(turn)(images, source_y, source_x)


def adjust_brightness(images: jax.Array, factor: jax.Array, mode: str) -> jax.Array:
    """Multiplies ('multiplicative') or shifts ('additive') each image by its factor `[n]`."""
    factor = factor[:, None, None, None]
    return images * factor if mode == 'multiplicative' else images + factor


def adjust_contrast(images: jax.Array, factor: jax.Array, mode: str = 'tensorflow') -> jax.Array:
    """Scales the distance to a mean by factor `[n]`.

    The mean is each channel's ('tensorflow', as `tf.image.adjust_contrast`) or that of the luma
    ('blend', as PIL's `ImageEnhance.Contrast`).
    """
    means = luma(images) if mode == 'blend' else images
    mean = means.mean(axis=(1, 2), keepdims=True)
    return mean + (images - mean) * factor[:, None, None, None]


def adjust_saturation(images: jax.Array, factor: jax.Array, mode: str = 'tensorflow') -> jax.Array:
    """Scales what makes a picture coloured by factor `[n]`.

    That is the saturation of HSV ('tensorflow', as `tf.image.adjust_saturation`) or the distance to
    the pixel's luma ('blend', as PIL's `ImageEnhance.Color`).
    """
    if mode == 'blend':
        grey = luma(images)
        return grey + (images - grey) * factor[:, None, None, None]
    # With value and hue fixed, saturation scales the distance to the largest channel, up to 1.
    value, chroma = _value_and_chroma(images)
    factor = jnp.minimum(factor[:, None, None, None], value / jnp.maximum(chroma, 1e-12))
    return value - (value - images) * factor


def adjust_hue(images: jax.Array, delta: jax.Array) -> jax.Array:
    """Turns the hue by delta `[n]`, in turns of the colour circle; as `tf.image.adjust_hue`."""
    value, chroma = (plane[..., 0] for plane in _value_and_chroma(images))
    red, green, blue = (images[..., i] for i in range(3))
    scale = 1 / jnp.maximum(chroma, 1e-12)
    hue = jnp.where(  # in sixths of a turn; any number will do for grey
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    hue += 6 * delta[:, None, None]
    hue -= 6 * jnp.floor(hue / 6)
    # How far each channel lies below the value, in units of the chroma.
    below = (2 - jnp.abs(hue - 3), jnp.abs(hue - 2) - 1, jnp.abs(hue - 4) - 1)
    return jnp.stack([value - chroma * jnp.clip(depth, 0.0, 1.0) for depth in below], axis=-1)


def luma(images: jax.Array) -> jax.Array:
    """The brightness `[n, h, w, 1]` of colours, with PIL's weights (ITU-R 601)."""
    if images.shape[-1] == 1:
        return images
    return 0.299 * images[..., :1] + 0.587 * images[..., 1:2] + 0.114 * images[..., 2:]


def _value_and_chroma(images):
    value = images.max(axis=-1, keepdims=True)
    return value, value - images.min(axis=-1, keepdims=True)


def to_grayscale(images: jax.Array) -> jax.Array:
    """Luma in all three channels, with the weights of `tf.image.rgb_to_grayscale`."""
    grey = 0.2989 * images[..., :1] + 0.587 * images[..., 1:2] + 0.114 * images[..., 2:]
    return jnp.broadcast_to(grey, images.shape)


def gaussian_blur(
    images: jax.Array,
    sigma: jax.Array,
    kernel_size: int,
    dtype: str = 'float32',
    edges: str = 'zeros',
) -> jax.Array:
    """Blurs each image with its sigma `[n]` in pixels; odd `kernel_size`.

    Beyond the edges lie zeros, or ('extend', as in PIL) the edge's own pixels. Two products with
    banded matrices, whose factors are of `dtype`.
    """
    precision = (0.5 / jnp.square(sigma))[:, None, None]
    radius = kernel_size // 2
    taps = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    total = jnp.exp(-precision * jnp.square(taps)[None, None]).sum(axis=2, keepdims=True)

    def band(length):
        pixel = jnp.arange(length, dtype=jnp.float32)
        offset = (pixel[:, None] - pixel[None, :])[None]
        weights = jnp.exp(-precision * jnp.square(offset)) * (jnp.abs(offset) <= radius) / total
        if edges == 'extend':  # what a row lacks lies beyond the edge that it is nearer to
            edge = jnp.where(pixel < length // 2, 0, length - 1)[:, None] == pixel[None, :]
            weights += (1 - weights.sum(axis=2, keepdims=True)) * edge[None]
        return weights

    height, width = images.shape[1:3]
    return _separable('nsh,nhwc->nswc', images, band(height), band(width), dtype)


def solarize(images: jax.Array, threshold: float) -> jax.Array:
    """Inverts the values at or above the threshold."""
    return jnp.where(images < threshold, images, 1 - images)
