"""An encoder with a linear classifier: what fine-tuning trains and a classifier file holds."""

import jax
import jax.numpy as jnp
from flax import linen as nn

HEAD_INITS = {  # how the classifier's kernel starts; its bias starts at 0
    'zero': nn.initializers.zeros,  # `zero_init_logits_layer` of SimCLR's `run.py`
    'timm': nn.initializers.normal(0.02),  # of a ViT; cut off at -2 and 2, which is never reached
    'normal': nn.initializers.normal(0.01),  # VICReg `evaluate.py`, MoCo, MAE's linear probe
    # MAE's `main_finetune.py`, by the same `trunc_normal_` as timm's.
    'trunc_normal': nn.initializers.normal(2e-5),
}


class ClassifierNetwork(nn.Module):
    """Encoder, the first layers of its projection head where some are kept, and a classifier.

    Its parameters are `{'encoder', 'projector' (where `head_layers`), 'classifier': {'kernel':
    [dim, classes], 'bias': [classes]}}`; of the projector, only the layers that are kept.

    What precedes a block is frozen by the encoder's own `first_trained`. With `frozen_encoder`, the
    classifier alone is trained: encoder and projector get no gradient, and their batch
    normalization uses and keeps its running averages, as in SimCLR (`fine_tune_after_block=4`).
    """

    encoder: nn.Module
    projector: nn.Module | None = None
    head_layers: int = 0  # of the projector that are kept; 0 is without it
    classes: int = 2
    head_init: str = 'zero'  # one of HEAD_INITS
    frozen_encoder: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Float `[n, height, width, channel]` to features `[n, dim]` and logits `[n, classes]`.

        Both are float32, whatever the encoder computes in.

        Raises:
          ValueError: there is no such start of the head, or layers to keep but no projector.
        """
        if self.head_init not in HEAD_INITS:
            raise ValueError(
                f'head_init={self.head_init!r}; it must be one of {", ".join(HEAD_INITS)}'
            )
        if self.head_layers and self.projector is None:
            raise ValueError(f'head_layers={self.head_layers} needs a projector')
        encoder_trains = train and not self.frozen_encoder
        features = self.encoder(images, encoder_trains)
        if self.head_layers:
            features = self.projector(features, encoder_trains, layers=self.head_layers)
        if self.frozen_encoder:
            features = jax.lax.stop_gradient(features)
        features = features.astype(jnp.float32)
        classifier = nn.Dense(
            self.classes, kernel_init=HEAD_INITS[self.head_init], name='classifier'
        )
        return features, classifier(features)
