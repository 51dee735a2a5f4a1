"""The contrastive loss of SimCLR."""

import jax
import jax.numpy as jnp

from simclr_jax.losses.checks import check_pairs, check_temperature
from simclr_jax.losses.normalize import l2_normalize


def nt_xent(projections: jax.Array, temperature: float) -> jax.Array:
    """Mean NT-Xent over the `2 * batch` rows of `[batch, view=2, dim]`, a float32 scalar.

    Rows are normalized here. The candidates of a row are all the others of the batch, its positive
    is the other view of the same image. Under `jit` with the batch sharded, it is the global one.

    SimCLR, eq. 1 (arXiv:2002.05709). The original code (`objective.py`) returns twice this value.

    Raises:
      ValueError: the projections are not `[batch, 2, dim]`, or the temperature is not positive.
    """
    check_pairs(projections)
    check_temperature(temperature)
    batch = projections.shape[0]
    z = l2_normalize(projections)
    positive = jnp.sum(z[:, 0] * z[:, 1], axis=-1) / temperature  # [batch]; the same for both views
    rows = z.reshape(2 * batch, -1)  # row i and row i ^ 1 are one image
    # Accelerators round to bfloat16 or TF32 by default, and the temperature magnifies what is lost.
    logits = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST) / temperature
    logits = jnp.where(jnp.eye(2 * batch, dtype=bool), -jnp.inf, logits)
    normalizer = jax.nn.logsumexp(logits, axis=-1).reshape(batch, 2)
    return jnp.mean(normalizer - positive[:, None])
