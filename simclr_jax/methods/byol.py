"""BYOL (Grill et al. 2020, https://arxiv.org/abs/2006.07733)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from simclr_jax.losses import regression_loss
from simclr_jax.methods.base import (
    Aux,
    Representation,
    Tree,
    embedding_std,
    in_micro_batches,
    start_from,
)
from simclr_jax.methods.networks import PredictionNetwork
from simclr_jax.models.heads import MLPHead
from simclr_jax.models.normalization import GLOBAL, NormScope
from simclr_jax.optim.schedules import target_decay


@dataclasses.dataclass(frozen=True)
class BYOL:
    """Each view's prediction matches the other view's projection by a moving average of the net.

    As the original (`byol/byol_experiment.py`): each view has a forward pass, and so batch
    statistics, of its own; the target runs in training mode and starts from another random
    initialization; of an encoder that is given, both start as copies.
    """

    encoder: nn.Module
    total_steps: int
    hidden_dim: int = 4096
    output_dim: int = 256
    base_decay: float = 0.996
    accumulation_steps: int = 1
    norm_scope: NormScope = GLOBAL
    dtype: str = 'float32'

    @property
    def network(self) -> PredictionNetwork:
        def head() -> MLPHead:
            return MLPHead(
                self.hidden_dim,
                self.output_dim,
                hidden_bias=True,
                norm_scope=self.norm_scope,
                dtype=self.dtype,
            )

        return PredictionNetwork(self.encoder, head(), head())

    def representation(self) -> Representation:
        return Representation(self.encoder)

    def init(self, rng: jax.Array, views: jax.Array, encoder: Tree = None) -> tuple[Tree, Tree]:
        online_rng, target_rng = jax.random.split(rng)
        target = self.network.init(target_rng, views[:, 0], train=True, method='project')
        online = self.network.init(online_rng, views[:, 0], train=True)
        return start_from(online, encoder), start_from(target, encoder)

    def loss(self, params, variables, extra, views, rng, step) -> tuple[jax.Array, Aux]:
        def forward(statistics: Tree, views: jax.Array):
            variables, target_variables = statistics
            features, predictions, targets = [], [], []
            for view in range(2):  # slices of the unsharded view axis: no image moves
                (feature, prediction), variables = self.network.apply(
                    {'params': params, **variables},
                    views[:, view],
                    train=True,
                    mutable=['batch_stats'],
                )
                target, target_variables = self.network.apply(
                    {'params': extra['params'], **target_variables},
                    views[:, view],
                    train=True,
                    mutable=['batch_stats'],
                    method='project',
                )
                features.append(feature)
                predictions.append(prediction)
                targets.append(jax.lax.stop_gradient(target))
            outputs = (features, predictions, targets)
            return tuple(jnp.stack(x, axis=1) for x in outputs), (variables, target_variables)

        target_variables = {name: tree for name, tree in extra.items() if name != 'params'}
        (features, predictions, targets), (variables, target_variables) = in_micro_batches(
            forward, (variables, target_variables), views, self.accumulation_steps
        )
        loss = regression_loss(predictions, targets[:, ::-1]).sum(axis=1).mean()
        metrics = {
            'embedding_std': embedding_std(targets[:, 0]),
            'target_decay': (target_decay(self.base_decay, step, self.total_steps), jnp.ones(())),
        }
        return loss, Aux(
            variables, features, metrics, carry=target_variables, embeddings=predictions
        )

    def update_extra(self, extra: Tree, state, aux: Aux, step) -> Tree:
        online = {name: state.params[name] for name in ('encoder', 'projector')}
        decay = target_decay(self.base_decay, step, self.total_steps)
        params = optax.incremental_update(online, extra['params'], 1 - decay)
        return {'params': params, **aux.carry}

    def chance_loss(self, batch_size: int) -> None:
        return None  # a network that tells nothing apart has the lowest loss, not the highest
