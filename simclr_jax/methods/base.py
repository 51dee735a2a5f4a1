"""What a method is to the loop, and what methods share.

A method is a frozen dataclass in a file of its own. The loop and the step know only the protocol
below; `methods/factory.py` knows the names.
"""

import functools
from collections.abc import Callable
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
    """An objective. `views` are floats `[batch, view, height, width, channel]`.

    One that has `supervised = True` learns from labels: its `loss` takes `labels` `[batch]` int32
    by name, -1 where there is none. One that has `taught = True` learns from another network, which
    stays as it is: its `loss` takes the variables of that, `teacher`, by name. One that has
    `classifies = True` trains a classifier: its `init` takes all the variables that a file of
    weights holds in place of the encoder's. One that has `dense = True` learns from the labels of
    pixels: its `labels` are `[batch, height, width]`.
    """

    encoder: nn.Module

    def representation(self) -> nn.Module:
        """Returns what evaluation applies to all the variables of `init`, `params` included."""

    def init(self, rng: jax.Array, views: jax.Array, encoder: Tree = None) -> tuple[Tree, Tree]:
        """Returns `variables` (with `params`, whose `encoder` is what is kept) and `extra`.

        Where `encoder`, the variables of one, is given, the encoder starts as it, and so does every
        network of `extra` that follows it; heads start at random all the same.
        """

    def loss(
        self, params: Tree, variables: Tree, extra: Tree, views: jax.Array, rng: jax.Array, step
    ) -> tuple[jax.Array, Aux]:
        """Returns the scalar loss over the global batch; `variables` are without `params`."""

    def update_extra(self, extra: Tree, state: Any, aux: Aux, step: jax.Array) -> Tree:
        """Returns the next `extra`: EMA target, queue, centre.

        It is called after the optimizer's update: `state` has the new parameters, and `step` is the
        number of the step that made them.
        """

    def chance_loss(self, batch_size: int) -> float | None:
        """Returns the loss of an encoder that tells no two images apart, for the report.

        None where such an encoder does not stand out by its loss.
        """


def is_supervised(method: Method) -> bool:
    """Whether a method learns from labels."""
    return getattr(method, 'supervised', False)


def is_taught(method: Method) -> bool:
    """Whether a method learns from another network."""
    return getattr(method, 'taught', False)


def is_classifier(method: Method) -> bool:
    """Whether a method trains a classifier."""
    return getattr(method, 'classifies', False)


def is_dense(method: Method) -> bool:
    """Whether a method learns from labels of pixels."""
    return getattr(method, 'dense', False)


def start_from(variables: Tree, encoder: Tree | None) -> Tree:
    """Returns a network's variables with those of `encoder`, if any, in its encoder's place."""
    if encoder is None:
        return variables
    return {
        name: {**tree, 'encoder': encoder[name]} if name in encoder else tree
        for name, tree in variables.items()
    }


class Representation(nn.Module):
    """The encoder's output, or the output of layer `head_layers` of the projector."""

    encoder: nn.Module
    projector: nn.Module | None = None
    head_layers: int = 0

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Float `[n, height, width, channel]` to float32 features `[n, dim]`."""
        features = self.encoder(images, train)
        if not self.head_layers:
            return features
        return self.projector(features, train, layers=self.head_layers)


def in_micro_batches(
    forward: Callable[[Tree, Tree], tuple[Tree, Tree]],
    statistics: Tree,
    views: Tree,
    count: int,
) -> tuple[Tree, Tree]:
    """Embeds `views` in `count` micro-batches: the memory of one, the loss over all of them.

    `forward(statistics, views) -> (outputs, statistics)` is a forward pass in training mode, whose
    outputs have the batch as first axis, as have `views`, an array or a tree of some. Only they
    are kept: the backward pass, which knows the loss of the whole batch by then, embeds each
    micro-batch again and adds up the gradients of the parameters (GradCache, arXiv:2101.06983).
    Without batch normalization these gradients equal those of the whole batch. With it, each
    micro-batch has statistics of its own, and the running averages take one after the other.

    Micro-batch `i` has the rows `i, i + count, ...`: the same number from every chip, so none has
    to move.

    Returns:
      Outputs of the whole batch in its order, and the last statistics.

    Raises:
      ValueError: the batch does not divide by `count`.
    """
    if count == 1:
        return forward(statistics, views)
    rows = len(jax.tree.leaves(views)[0])
    if rows % count:
        raise ValueError(
            f'optimizer.accumulation_steps={count}: does not divide the batch of {rows}'
        )
    micro_batches = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]), views)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # a scan keeps the two passes apart
    def embed(statistics, i):
        rows = jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False), micro_batches
        )
        outputs, statistics = forward(statistics, rows)
        return statistics, outputs

    statistics, outputs = jax.lax.scan(embed, statistics, jnp.arange(count))
    outputs = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), outputs)
    return outputs, statistics


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
