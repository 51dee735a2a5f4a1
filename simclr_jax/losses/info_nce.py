"""The contrastive loss of MoCo."""

import functools

import jax
import jax.numpy as jnp

from simclr_jax.losses.checks import check_temperature
from simclr_jax.losses.normalize import l2_normalize

_LARGE = 2**26  # logits: 256 MiB over all devices, of which there would be several copies
_TILE = 4096  # candidates at a time


def info_nce(
    queries: jax.Array, keys: jax.Array, temperature: float, queue: jax.Array | None = None
) -> jax.Array:
    """Mean InfoNCE of queries and keys `[n, dim]`, row i of one belonging to row i of the other.

    Rows are normalized here. Without a queue the candidates of a query are all the keys (MoCo v3,
    `moco/builder.py`, which multiplies by twice the temperature); with a queue `[k, dim]` they are
    its own key and the queue's rows (MoCo, eq. 1, arXiv:1911.05722). Under `jit` with the batch
    sharded, the keys are the global batch's. Where there are more than 2^26 logits, they are never
    there at once: candidates come in tiles, and the backward pass computes them again.

    No gradient is stopped here: the methods want none into keys and queue, and see to it.

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
    check_temperature(temperature)

    queries, keys = l2_normalize(queries), l2_normalize(keys)
    positive = jnp.sum(queries * keys, axis=-1) / temperature  # [n]
    others = keys if queue is None else l2_normalize(queue)
    large = len(queries) * len(others) > _LARGE
    normalizer = _normalizers(queries, others, temperature, _TILE if large else len(others))
    if queue is not None:  # the own key is no row of it; this copies no [n, k] logits
        normalizer = jnp.logaddexp(normalizer, positive)
    return jnp.mean(normalizer - positive)


def _normalizers(
    queries: jax.Array, others: jax.Array, temperature: float | jax.Array, tile: int
) -> jax.Array:
    """`logsumexp(queries others^T / temperature)` `[n]`, over at most `tile` others at a time."""

    def logits(others: jax.Array) -> jax.Array:
        # Accelerators round to bfloat16 or TF32 by default, and the temperature magnifies that.
        product = jnp.matmul(queries, others.T, precision=jax.lax.Precision.HIGHEST)
        return product / temperature

    if len(others) <= tile:
        return jax.nn.logsumexp(logits(others), axis=-1)
    count = -(-len(others) // tile)
    size = -(-len(others) // count)
    padded = jnp.pad(others, ((0, count * size - len(others)), (0, 0)))
    offset = jnp.where(jnp.arange(count * size) < len(others), 0.0, -jnp.inf)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # a scan keeps the two passes apart
    def add(carry, block):
        top, total = carry
        block, offset = block
        block_logits = logits(block) + offset[None]
        # The result is the same whatever is subtracted, and so has no gradient through it.
        new_top = jnp.maximum(top, jax.lax.stop_gradient(block_logits).max(axis=1))
        e = jnp.exp(block_logits - new_top[:, None])
        return (new_top, total * jnp.exp(top - new_top) + e.sum(axis=1)), None

    start = (jnp.full(len(queries), -1e30), jnp.zeros(len(queries)))
    blocks = (padded.reshape(count, size, -1), offset.reshape(count, size))
    (top, total), _ = jax.lax.scan(add, start, blocks)
    return top + jnp.log(total)
