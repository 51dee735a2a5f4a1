"""Fine-tuning: an encoder and a classifier learn from labels, by cross-entropy."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from simclr_jax.augment import mixing as mixing_lib
from simclr_jax.augment.mixing_recipe import NONE, Mixing
from simclr_jax.methods.base import (
    Aux,
    Representation,
    Tree,
    in_micro_batches,
    merge_views,
    split_views,
)
from simclr_jax.models.classifier import ClassifierNetwork
from simclr_jax.models.vit import POOLED_NORM


@dataclasses.dataclass(frozen=True)
class FineTune:
    """Softmax cross-entropy of one view a picture; a picture without a label (-1) does not count.

    SimCLR section 4.3 and v2 section 2 (`projector`, `head_layers`), BYOL appendix C.1, MAE.

    Attributes:
      encoder: with what it freezes and drops.
      classes: how many there are.
      projector: a projection head of which the first `head_layers` layers are kept.
      head_layers: 0 is without it.
      head_init: a name of `models.classifier.HEAD_INITS`.
      frozen_encoder: whether the classifier alone is trained.
      label_smoothing: share of a label's weight that all classes have alike, in [0, 1).
      mixing: of the batch's pictures and labels with each other.
      accumulation_steps: micro-batches of a step.
    """

    supervised: ClassVar[bool] = True
    classifies: ClassVar[bool] = True

    encoder: nn.Module
    classes: int
    projector: nn.Module | None = None
    head_layers: int = 0
    head_init: str = 'zero'
    frozen_encoder: bool = False
    label_smoothing: float = 0.0
    mixing: Mixing = NONE
    accumulation_steps: int = 1

    @property
    def network(self) -> ClassifierNetwork:
        return ClassifierNetwork(
            self.encoder,
            self.projector if self.head_layers else None,
            self.head_layers,
            self.classes,
            self.head_init,
            self.frozen_encoder,
        )

    def representation(self) -> Representation:
        return Representation(self.encoder, self.network.projector, self.head_layers)

    def init(self, rng: jax.Array, views: jax.Array, start: Tree = None) -> tuple[Tree, Tree]:
        """Returns `variables` and nothing else.

        `start` are the variables of an encoder file: encoder and kept layers start as there, and
        the classifier as `head_init` says.
        """
        variables = self.network.init(rng, merge_views(views), train=False)
        if start is None:
            return variables, ()
        return {
            collection: {
                part: _taken(tree, start[collection][part]) if part != 'classifier' else tree
                for part, tree in parts.items()
            }
            for collection, parts in variables.items()
        }, ()

    def loss(
        self, params, variables, extra, views, rng, step, labels: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """`views` are `[batch, 1, height, width, channel]`, `labels` `[batch]` int32."""
        targets = mixing_lib.smooth_targets(labels, self.classes, self.label_smoothing)
        # Micro-batches have the keys from 0 on.
        key = jax.random.fold_in(rng, len(views))
        images, targets = mixing_lib.mix(self.mixing, key, views[:, 0], targets)
        (features, logits), variables = self.forward(params, variables, images[:, None], rng)
        loss, right = self.of_targets(logits, targets)
        loss /= jnp.maximum(targets.sum(), 1.0)
        return loss, Aux(variables, split_views(features, 1), {'accuracy': right})

    def forward(
        self, params: Tree, variables: Tree, views: jax.Array, rng: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], Tree]:
        """Returns features `[batch, dim]` and logits `[batch, classes]`, and the new statistics."""

        def forward(variables: Tree, rows: tuple[jax.Array, jax.Array]):
            views, places = rows
            # A key of its own for each micro-batch, and the same one when it is embedded again.
            key = jax.random.fold_in(rng, places[0])
            return self.network.apply(
                {'params': params, **variables},
                merge_views(views),
                train=True,
                mutable=['batch_stats'],
                rngs={'drop_path': key},
            )

        rows = views, jnp.arange(len(views))
        return in_micro_batches(forward, variables, rows, self.accumulation_steps)

    def of_targets(
        self, logits: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Returns the sum of the losses, and how many pictures are right, of how many.

        A mixed picture is right by the label that it has most of.

        Args:
          logits: `[batch, classes]`.
          targets: `[batch, classes]`, as `mixing.smooth_targets` makes them; a picture whose row
            has zeros alone does not count.
        """
        known = (targets.sum(-1) > 0).astype(jnp.float32)
        right = (logits.argmax(-1) == targets.argmax(-1)).astype(jnp.float32)
        losses = optax.softmax_cross_entropy(logits, targets)
        return losses.sum(), ((right * known).sum(), known.sum())

    def update_extra(self, extra: Tree, state, aux: Aux, step) -> Tree:
        return extra

    def chance_loss(self, batch_size: int) -> float:
        return math.log(self.classes)


def _taken(tree: Tree, start: Tree) -> Tree:
    """Returns the leaves of `start` that `tree` has; a new LayerNorm behind the average is its own.

    Such a LayerNorm is MAE's `fc_norm`, which no encoder has that was trained by its class token.
    """
    if not isinstance(tree, dict):
        return start
    return {
        name: branch if name == POOLED_NORM and name not in start else _taken(branch, start[name])
        for name, branch in tree.items()
    }
