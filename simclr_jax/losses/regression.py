"""The regression loss of BYOL."""

import jax
import jax.numpy as jnp

from simclr_jax.losses.normalize import l2_normalize


def regression_loss(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """`2 - 2 cos(prediction, target)`, in [0, 4], of two `[..., dim]`: float32 `[...]`.

    Computed as the squared distance of the normalized vectors (BYOL, eq. 2, arXiv:2006.07733;
    `utils/helpers.py`). No gradient is stopped here.

    Raises:
      ValueError: the shapes differ.
    """
    if predictions.shape != targets.shape:
        raise ValueError(
            f'predictions has shape {predictions.shape} and targets has {targets.shape}; '
            'they must be equal'
        )
    difference = l2_normalize(predictions) - l2_normalize(targets)
    return jnp.sum(jnp.square(difference), axis=-1)
