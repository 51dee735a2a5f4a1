"""From pixels to what an encoder reads."""

import jax
import jax.numpy as jnp


def normalize_images(
    images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
    """Turns uint8 images `[..., channel]` into float32, `(image / 255 - mean) / std`.

    Floats are in [0, 1] already.
    """
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255.0
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean, std = (jnp.asarray(values, jnp.float32).reshape(shape) for values in (mean, std))
    return (images - mean) / std
