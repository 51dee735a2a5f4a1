"""MoCo v1 (He et al. 2020, https://arxiv.org/abs/1911.05722) and v2 (arXiv 2003.04297)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from simclr_jax.losses import info_nce
from simclr_jax.losses.normalize import l2_normalize
from simclr_jax.methods.base import (
    Aux,
    Representation,
    Tree,
    embedding_std,
    in_micro_batches,
    start_from,
)
from simclr_jax.methods.networks import ProjectionNetwork
from simclr_jax.models.heads import MLPHead, torch_linear_init
from simclr_jax.models.normalization import GLOBAL, NormScope


@dataclasses.dataclass(frozen=True)
class MoCo:
    """A query attracts the key of its image's other view; a queue of earlier keys repels it.

    As the original (`moco/builder.py`): view 0 gives the queries; view 1 gives the keys, through a
    moving average of the query network that starts as its copy and runs in training mode, without
    gradient. The queue starts random; the whole global batch of keys replaces its oldest rows. It
    is replicated: every device holds all of it and enqueues the same keys.

    The v1 head is one linear layer (`num_layers=1`, where `hidden_dim` has no effect) at
    temperature 0.07, the v2 head two layers with a ReLU between them at 0.2.

    The original normalizes on each device by itself, and shuffles the keys before it, so that a
    query and its key do not share batch statistics: `shuffle`, with an encoder of `norm_scope`
    'device' or 'groups'. Its 8 devices with 32 images each are groups of 32, on any number of
    devices. Under 'global' statistics there is nothing to shuffle: a query, its key and no key of
    the queue share them, and that is the leak. They can tell the network which key is the positive
    (the author in facebookresearch/moco issue 46). solo-learn's MoCo v2+ has them all the same.
    """

    encoder: nn.Module
    total_steps: int
    queue_size: int = 65536
    temperature: float = 0.2
    decay: float = 0.999
    num_layers: int = 2
    hidden_dim: int = 2048
    output_dim: int = 128
    shuffle: bool = False
    accumulation_steps: int = 1
    norm_scope: NormScope = GLOBAL
    dtype: str = 'float32'

    @property
    def network(self) -> ProjectionNetwork:
        projector = MLPHead(
            hidden_dim=self.hidden_dim,
            output_dim=self.output_dim,
            num_layers=self.num_layers,
            hidden_bias=True,
            output_bias=True,
            hidden_norm=False,
            norm_scope=self.norm_scope,
            kernel_init=torch_linear_init,
            dtype=self.dtype,
        )
        return ProjectionNetwork(self.encoder, projector)

    def representation(self) -> Representation:
        return Representation(self.encoder)

    def init(self, rng: jax.Array, views: jax.Array, encoder: Tree = None) -> tuple[Tree, Tree]:
        network_rng, queue_rng = jax.random.split(rng)
        variables = self.network.init(network_rng, views[:, 0], train=True)
        variables = start_from(variables, encoder)
        queue = jax.random.normal(queue_rng, (self.queue_size, self.output_dim))
        extra = {
            'key_network': variables,
            'queue': l2_normalize(queue),
            'pointer': jnp.zeros((), jnp.int32),  # the oldest row
        }
        return dict(variables), extra

    def loss(self, params, variables, extra, views, rng, step) -> tuple[jax.Array, Aux]:
        if self.queue_size % views.shape[0]:  # a slice past the end would land on the wrong rows
            raise ValueError(
                f'moco.queue_size={self.queue_size}: must be a multiple of the batch size '
                f'{views.shape[0]}'
            )

        def forward(statistics: Tree, views: jax.Array):
            variables, key_variables = statistics
            (features, queries), variables = self.network.apply(
                {'params': params, **variables}, views[:, 0], train=True, mutable=['batch_stats']
            )
            images = views[:, 1]
            if self.shuffle:
                order = jax.random.permutation(rng, len(images))
                images = images[order]
            (_, keys), key_variables = self.network.apply(
                {'params': key_params, **key_variables}, images, train=True, mutable=['batch_stats']
            )
            if self.shuffle:
                keys = keys[jnp.argsort(order)]
            outputs = (features, queries, jax.lax.stop_gradient(keys))
            return outputs, (variables, key_variables)

        key_variables = dict(extra['key_network'])
        key_params = key_variables.pop('params')
        (features, queries, keys), (variables, key_variables) = in_micro_batches(
            forward, (variables, key_variables), views, self.accumulation_steps
        )
        loss = info_nce(queries, keys, self.temperature, extra['queue'])
        metrics = {'embedding_std': embedding_std(queries)}
        # The probe sees the one view that the query encoder sees.
        carry = key_variables, l2_normalize(keys)
        embeddings = jnp.stack([queries, keys], axis=1)
        return loss, Aux(variables, features[:, None], metrics, carry=carry, embeddings=embeddings)

    def update_extra(self, extra: Tree, state, aux: Aux, step) -> Tree:
        # The original averages before each forward pass of the keys. Averaging after each update
        # is the same sequence, since its first average is of two equal networks.
        key_params = extra['key_network']['params']
        key_params = optax.incremental_update(state.params, key_params, 1 - self.decay)
        key_variables, keys = aux.carry
        pointer = extra['pointer']
        return {
            'key_network': {'params': key_params, **key_variables},
            'queue': jax.lax.dynamic_update_slice_in_dim(extra['queue'], keys, pointer, axis=0),
            'pointer': (pointer + len(keys)) % self.queue_size,
        }

    def chance_loss(self, batch_size: int) -> float:
        return math.log(1 + self.queue_size)
