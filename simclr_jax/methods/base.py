"""What a method is to the loop, and what methods share.

A method is a frozen dataclass in a file of its own. The loop and the step know only the protocol
below; `methods/factory.py` knows the names.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

Tree = Any  # a pytree of arrays


@struct.dataclass
class Aux:
    """What a loss gives beside its value.

    Attributes:
      variables: the mutable collections (running statistics) after this forward pass.
      features: the encoder's output for every view, `[batch, view, dim]`, for the online probe.
      metrics: name to (sum, count).
      carry: whatever the method's own `update_extra` needs.
      embeddings: what the loss compares, `[batch, view, dim]`, to be watched for collapse.
    """

    variables: Tree
    features: jax.Array
    metrics: dict[str, tuple[jax.Array, jax.Array]]
    carry: Tree = None
    embeddings: jax.Array | None = None


class Method(Protocol):
    """A self-supervised objective. `views` are floats `[batch, view, height, width, channel]`."""

    encoder: nn.Module

    def init(self, rng: jax.Array, views: jax.Array) -> tuple[Tree, Tree]:
        """Returns `variables` (with `params`, whose `encoder` is what is kept) and `extra`."""

    def loss(
        self, params: Tree, variables: Tree, extra: Tree, views: jax.Array, rng: jax.Array, step
    ) -> tuple[jax.Array, Aux]:
        """Returns the scalar loss over the global batch; `variables` are without `params`."""

    def update_extra(self, extra: Tree, state: Any, aux: Aux, step: jax.Array) -> Tree:
        """Returns `extra` after the update that made `state`: EMA target, queue, centre."""


def merge_views(views: jax.Array) -> jax.Array:
    """Reshapes `[batch, view, ...]` to `[batch * view, ...]`, which moves nothing between chips."""
    return views.reshape(-1, *views.shape[2:])


def split_views(rows: jax.Array, num_views: int = 2) -> jax.Array:
    """Reshapes `[batch * view, ...]` to `[batch, view, ...]`."""
    return rows.reshape(-1, num_views, *rows.shape[1:])


def embedding_std(embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Spread of the normalized embeddings `[n, dim]`: 1 where uniform, 0 where collapsed.

    The standard deviation over the batch, averaged over dimensions, times sqrt(dim) (SimSiam,
    section 4.1). Returned as (sum, count).
    """
    embeddings = embeddings.astype(jnp.float32)
    norm = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    spread = jnp.std(embeddings / jnp.maximum(norm, 1e-12), axis=0).mean()
    return spread * embeddings.shape[-1] ** 0.5, jnp.ones(())
