"""Unit-length rows."""

import jax
import jax.numpy as jnp


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Scales the rows `[..., dim]` to unit length, in float32.

    A row whose squared length is below `epsilon` is divided by `sqrt(epsilon)` instead, so a row of
    zeros stays zero and its gradient is finite (`tf.math.l2_normalize`; BYOL's `utils/helpers.py`).
    """
    x = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, epsilon))
