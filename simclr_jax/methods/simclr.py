"""SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709; v2: arXiv 2006.10029)."""

import dataclasses

import jax
from flax import linen as nn

from simclr_jax.losses import nt_xent
from simclr_jax.methods.base import Aux, Tree, embedding_std, merge_views, split_views
from simclr_jax.models.heads import MLPHead


class SimCLRNetwork(nn.Module):
    """Encoder and projector: images `[n, h, w, c]` to features and projections `[n, dim]`."""

    encoder: nn.Module
    projector: nn.Module

    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        features = self.encoder(images, train)
        return features, self.projector(features, train)


@dataclasses.dataclass(frozen=True)
class SimCLR:
    """Both views of an image attract; every other view of the global batch repels.

    Both views go through batch normalization together, as one batch (`tf2/model.py`).
    """

    encoder: nn.Module
    total_steps: int
    temperature: float = 0.1
    num_layers: int = 2
    hidden_dim: int = 2048
    output_dim: int = 128
    loss_scale: float = 1.0
    dtype: str = 'float32'

    @property
    def network(self) -> SimCLRNetwork:
        projector = MLPHead(
            hidden_dim=self.hidden_dim,
            output_dim=self.output_dim,
            num_layers=self.num_layers,
            output_norm='scale_only',
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
        )
        return SimCLRNetwork(self.encoder, projector)

    def init(self, rng: jax.Array, views: jax.Array) -> tuple[Tree, Tree]:
        return self.network.init(rng, merge_views(views), train=True), ()

    def loss(self, params, variables, extra, views, rng, step) -> tuple[jax.Array, Aux]:
        (features, projections), variables = self.network.apply(
            {'params': params, **variables}, merge_views(views), train=True, mutable=['batch_stats']
        )
        loss = self.loss_scale * nt_xent(split_views(projections), self.temperature)
        metrics = {'embedding_std': embedding_std(projections)}
        embeddings = split_views(projections)
        return loss, Aux(variables, split_views(features), metrics, embeddings=embeddings)

    def update_extra(self, extra: Tree, state, aux: Aux, step) -> Tree:
        return extra
