"""SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709; v2: arXiv 2006.10029)."""

import dataclasses
import math

import jax
from flax import linen as nn
from jax.sharding import Mesh

from simclr_jax.losses import nt_xent, tiled_nt_xent
from simclr_jax.methods.base import (
    Aux,
    Representation,
    Tree,
    embedding_std,
    in_micro_batches,
    merge_views,
    split_views,
    start_from,
)
from simclr_jax.methods.networks import ProjectionNetwork
from simclr_jax.models.heads import MLPHead
from simclr_jax.models.normalization import GLOBAL, NormScope

_LARGE = 2**22  # logits a device: 16 MiB, of which the dense loss holds several copies


@dataclasses.dataclass(frozen=True)
class SimCLR:
    """Both views of an image attract; every other view of the global batch repels.

    Both views go through batch normalization together, as one batch (`tf2/model.py`).

    The second version's head has three layers, and what is kept of it for evaluation and
    fine-tuning is the first, `eval_layer=1` (v2, section 3; `ft_proj_selector` of `run.py`).
    """

    encoder: nn.Module
    total_steps: int
    temperature: float = 0.1
    num_layers: int = 2
    hidden_dim: int = 2048
    output_dim: int = 128
    loss_scale: float = 1.0
    eval_layer: int = 0
    loss_impl: str = 'auto'  # 'dense', 'tiled', or 'auto': tiled where the logits are many
    accumulation_steps: int = 1
    mesh: Mesh | None = None  # over all of whose axes the batch is sharded; None is one device
    norm_scope: NormScope = GLOBAL
    dtype: str = 'float32'

    @property
    def network(self) -> ProjectionNetwork:
        projector = MLPHead(
            hidden_dim=self.hidden_dim,
            output_dim=self.output_dim,
            num_layers=self.num_layers,
            output_norm='scale_only',
            kernel_init=nn.initializers.normal(0.01),
            norm_scope=self.norm_scope,
            dtype=self.dtype,
        )
        return ProjectionNetwork(self.encoder, projector)

    def representation(self) -> Representation:
        return Representation(self.encoder, self.network.projector, self.eval_layer)

    def init(self, rng: jax.Array, views: jax.Array, encoder: Tree = None) -> tuple[Tree, Tree]:
        variables = self.network.init(rng, merge_views(views), train=True)
        return start_from(variables, encoder), ()

    def loss(self, params, variables, extra, views, rng, step) -> tuple[jax.Array, Aux]:
        def forward(variables: Tree, views: jax.Array):
            outputs, variables = self.network.apply(
                {'params': params, **variables},
                merge_views(views),
                train=True,
                mutable=['batch_stats'],
            )
            return tuple(map(split_views, outputs)), variables

        (features, projections), variables = in_micro_batches(
            forward, variables, views, self.accumulation_steps
        )
        loss = self.loss_scale * self._nt_xent(projections)
        metrics = {'embedding_std': embedding_std(merge_views(projections))}
        return loss, Aux(variables, features, metrics, embeddings=projections)

    def _nt_xent(self, projections: jax.Array) -> jax.Array:
        devices = self.mesh.devices.size if self.mesh else 1
        large = (2 * len(projections)) ** 2 / devices > _LARGE
        if self.loss_impl == 'tiled' or (self.loss_impl == 'auto' and large):
            return tiled_nt_xent(projections, self.temperature, mesh=self.mesh)
        return nt_xent(projections, self.temperature)

    def update_extra(self, extra: Tree, state, aux: Aux, step) -> Tree:
        return extra

    def chance_loss(self, batch_size: int) -> float:
        return self.loss_scale * math.log(2 * batch_size - 1)
