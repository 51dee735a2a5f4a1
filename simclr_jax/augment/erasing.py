"""Random erasing (arXiv:1708.04896), as timm has it (`timm/data/random_erasing.py`).

It is the last operation of a view, and works on normalized pixels: noise of all sizes, which the
host's views, of whole levels, could not hold. So it is made inside the train step, for the views of
both backends alike.
"""

import jax
import jax.numpy as jnp

from simclr_jax.augment.jax_draws import Parameters, view_keys
from simclr_jax.augment.recipe import ViewRecipe

_TRIES = 10  # to find a box that fits into the picture, as in timm
_ERASING = 2  # a fold of an example's key; jax_draws.py has 1


def erase_views(
    views: jax.Array,
    index: jax.Array,
    recipes: tuple[ViewRecipe, ...],
    *,
    seed: int,
    step: jax.Array,
) -> jax.Array:
    """Erases boxes of views `[batch, view, height, width, channel]`, as each view's recipe says.

    What is drawn is a function of (seed, step, example, view); `index` `[batch]` says which example
    it is. Pixels are normalized: 0 is the mean colour, 1 a standard deviation. Where no recipe
    erases, the views are returned as they are.
    """
    if not any(recipe.erase_probability > 0 for recipe in recipes):
        return views
    made = []
    for view, recipe in enumerate(recipes):
        keys = view_keys(seed, step, view, index)
        made.append(
            erase(views[:, view], jax.vmap(jax.random.fold_in, (0, None))(keys, _ERASING), recipe)
        )
    return jnp.stack(made, axis=1)


def erase(images: jax.Array, keys: jax.Array, recipe: ViewRecipe) -> jax.Array:
    """Erases boxes of normalized images `[n, height, width, channel]`, for a key `[n]` each."""
    if recipe.erase_probability == 0:
        return images
    drawn = sample_boxes(recipe, keys, images.shape[1], images.shape[2])
    covered = cover(drawn['boxes'], images.shape[1], images.shape[2])
    inside = (covered & drawn['erased'][:, None, None])[..., None]
    if recipe.erase_mode == 'const':
        return jnp.where(inside, jnp.zeros((), images.dtype), images)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)
    return jnp.where(inside, noise, images)


def sample_boxes(recipe: ViewRecipe, keys: jax.Array, height: int, width: int) -> Parameters:
    """Draws for each of `keys` `[n]` whether, `erased`, and where, `boxes` `[n, box, 4]`."""
    shape = (recipe.erase_count, _TRIES, 4)
    numbers = jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 2)
    whether, how_many = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys).T
    count = 1 + jnp.floor(how_many * recipe.erase_count).astype(jnp.int32)
    return {
        'erased': whether < recipe.erase_probability,
        'boxes': boxes_of(recipe, numbers, count, height, width),
    }


def boxes_of(
    recipe: ViewRecipe, numbers: jax.Array, count: jax.Array, height: int, width: int
) -> jax.Array:
    """Boxes int32 `[n, box, 4]` (y, x, height, width); of no height beyond `count` `[n]`.

    `numbers` `[n, box, try, 4]` in [0, 1) are those of area, aspect, y and x. The first try that
    fits counts; where none does the box has no height.
    """
    low, high = recipe.erase_area
    area = (low + numbers[..., 0] * (high - low)) * (height * width) / count[:, None, None]
    low, high = recipe.erase_aspect
    aspect = low * jnp.power(high / low, numbers[..., 1])
    tall, wide = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    y = jnp.floor(numbers[..., 2] * (height - tall + 1))
    x = jnp.floor(numbers[..., 3] * (width - wide + 1))
    fits = (tall < height) & (wide < width)
    first = jnp.argmax(fits, axis=2)[..., None, None]
    boxes = jnp.stack([y, x, tall, wide], axis=-1)
    boxes = jnp.take_along_axis(boxes, first, axis=2)[:, :, 0]
    used = fits.any(axis=2) & (jnp.arange(numbers.shape[1])[None] < count[:, None])
    return jnp.where(used[..., None], boxes, 0).astype(jnp.int32)


def cover(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Which pixels, bool `[n, height, width]`, lie in one of the boxes `[n, box, 4]`."""
    top, left, tall, wide = (boxes[..., i][..., None] for i in range(4))
    y, x = (jnp.arange(length)[None, None] for length in (height, width))
    rows, columns = (y >= top) & (y < top + tall), (x >= left) & (x < left + wide)
    return (rows[..., :, None] & columns[..., None, :]).any(axis=1)
