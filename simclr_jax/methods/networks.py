"""The networks that methods share: an encoder with its heads."""

import jax
from flax import linen as nn


class ProjectionNetwork(nn.Module):
    """Encoder and projector: images `[n, h, w, c]` to features and projections `[n, dim]`."""

    encoder: nn.Module
    projector: nn.Module

    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        features = self.encoder(images, train)
        return features, self.projector(features, train)


class PredictionNetwork(nn.Module):
    """Encoder, projector and predictor; a target network has the first two only."""

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module

    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Images `[n, h, w, c]` to features and predictions `[n, dim]`."""
        features = self.encoder(images, train)
        return features, self.predictor(self.projector(features, train), train)

    def project(self, images: jax.Array, train: bool) -> jax.Array:
        return self.projector(self.encoder(images, train), train)
