"""The contrastive loss of MoCo."""

import jax
import jax.numpy as jnp

from simclr_jax.losses.normalize import l2_normalize


def info_nce(
    queries: jax.Array, keys: jax.Array, temperature: float, queue: jax.Array | None = None
) -> jax.Array:
    """Mean InfoNCE of queries and keys `[n, dim]`, row i of one belonging to row i of the other.

    Rows are normalized here. Without a queue the candidates of a query are all the keys (MoCo v3,
    `moco/builder.py`, which multiplies by twice the temperature); with a queue `[k, dim]` they are
    its own key and the queue's rows (MoCo, eq. 1, arXiv:1911.05722). Under `jit` with the batch
    sharded, the keys are the global batch's. No gradient is stopped here: the methods want none
    into keys and queue, and see to it themselves.

    Returns:
      A float32 scalar.

    Raises:
      ValueError: the shapes do not match, or the temperature is not positive.
    """
    if queries.ndim != 2 or queries.shape != keys.shape:
        raise ValueError(
            f'queries has shape {queries.shape} and keys has {keys.shape}; '
            'they must be [n, dim] and equal'
        )
    if queue is not None and (queue.ndim != 2 or queue.shape[1] != keys.shape[1]):
        raise ValueError(f'queue has shape {queue.shape}; it must be [k, dim={keys.shape[1]}]')
    # A traced temperature has no value to look at.
    if not isinstance(temperature, jax.core.Tracer) and temperature <= 0:
        raise ValueError(f'temperature={temperature}; it must be positive, as 0.2 is')

    queries, keys = l2_normalize(queries), l2_normalize(keys)
    positive = jnp.sum(queries * keys, axis=-1) / temperature  # [n]
    others = keys if queue is None else l2_normalize(queue)
    # Accelerators round to bfloat16 or TF32 by default, and the temperature magnifies what is lost.
    logits = jnp.matmul(queries, others.T, precision=jax.lax.Precision.HIGHEST) / temperature
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    if queue is not None:  # the own key is no row of it; this copies no [n, k] logits
        normalizer = jnp.logaddexp(normalizer, positive)
    return jnp.mean(normalizer - positive)
