"""MoCo v3 (Chen et al. 2021, https://arxiv.org/abs/2104.02057)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from simclr_jax.losses import info_nce
from simclr_jax.methods.base import (
    Aux,
    Representation,
    Tree,
    embedding_std,
    in_micro_batches,
    start_from,
)
from simclr_jax.methods.networks import PredictionNetwork
from simclr_jax.models.heads import MLPHead, torch_linear_init
from simclr_jax.models.normalization import GLOBAL, NormScope
from simclr_jax.optim.schedules import target_decay


@dataclasses.dataclass(frozen=True)
class MoCoV3:
    """Each view's prediction attracts the other view's key; the batch's other keys repel it.

    As the original (`moco/builder.py`): there is no queue; each view has a forward pass, and so
    batch statistics, of its own; keys come from a moving average of encoder and projector that
    starts as their copy and runs in training mode, without gradient. The loss is twice the
    temperature times the cross-entropy of both directions.

    Behind a ResNet, the projector has two layers; behind a ViT it has three (`num_layers`), and the
    predictor ends with batch normalization, too (`predictor_norm`).
    """

    encoder: nn.Module
    total_steps: int
    temperature: float = 1.0
    hidden_dim: int = 4096
    output_dim: int = 256
    base_decay: float = 0.99
    num_layers: int = 2
    predictor_norm: bool = False
    accumulation_steps: int = 1
    norm_scope: NormScope = GLOBAL
    dtype: str = 'float32'

    @property
    def network(self) -> PredictionNetwork:
        def head(num_layers: int, output_norm: str) -> MLPHead:
            return MLPHead(
                self.hidden_dim,
                self.output_dim,
                num_layers,
                output_norm=output_norm,
                kernel_init=torch_linear_init,
                norm_scope=self.norm_scope,
                dtype=self.dtype,
            )

        projector = head(self.num_layers, 'plain')
        predictor = head(2, 'plain' if self.predictor_norm else 'none')
        return PredictionNetwork(self.encoder, projector, predictor)

    def representation(self) -> Representation:
        return Representation(self.encoder)

    def init(self, rng: jax.Array, views: jax.Array, encoder: Tree = None) -> tuple[Tree, Tree]:
        variables = start_from(self.network.init(rng, views[:, 0], train=True), encoder)
        return dict(variables), {name: _without_predictor(tree) for name, tree in variables.items()}

    def loss(self, params, variables, extra, views, rng, step) -> tuple[jax.Array, Aux]:
        def forward(statistics: Tree, views: jax.Array):
            variables, key_variables = statistics
            features, queries, keys = [], [], []
            for view in range(2):  # slices of the unsharded view axis: no image moves
                (feature, query), variables = self.network.apply(
                    {'params': params, **variables},
                    views[:, view],
                    train=True,
                    mutable=['batch_stats'],
                )
                key, key_variables = self.network.apply(
                    {'params': extra['params'], **key_variables},
                    views[:, view],
                    train=True,
                    mutable=['batch_stats'],
                    method='project',
                )
                features.append(feature)
                queries.append(query)
                keys.append(jax.lax.stop_gradient(key))
            outputs = (features, queries, keys)
            return tuple(jnp.stack(x, axis=1) for x in outputs), (variables, key_variables)

        key_variables = {name: tree for name, tree in extra.items() if name != 'params'}
        (features, queries, keys), (variables, key_variables) = in_micro_batches(
            forward, (variables, key_variables), views, self.accumulation_steps
        )
        loss = info_nce(queries[:, 0], keys[:, 1], self.temperature)
        loss = 2 * self.temperature * (loss + info_nce(queries[:, 1], keys[:, 0], self.temperature))
        metrics = {
            'embedding_std': embedding_std(keys[:, 0]),
            'target_decay': (target_decay(self.base_decay, step, self.total_steps), jnp.ones(())),
        }
        return loss, Aux(variables, features, metrics, carry=key_variables, embeddings=queries)

    def update_extra(self, extra: Tree, state, aux: Aux, step) -> Tree:
        # The original averages before each forward pass of the keys, by that step's decay. What
        # follows this update is the average that step + 1 starts with; that of step 0 is of two
        # equal networks.
        decay = target_decay(self.base_decay, step + 1, self.total_steps)
        online = _without_predictor(state.params)
        params = optax.incremental_update(online, extra['params'], 1 - decay)
        return {'params': params, **aux.carry}

    def chance_loss(self, batch_size: int) -> float:
        return 4 * self.temperature * math.log(batch_size)


def _without_predictor(tree: Tree) -> Tree:
    return {part: tree[part] for part in ('encoder', 'projector') if part in tree}
