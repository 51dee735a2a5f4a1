"""Self-supervised pretraining of image encoders in JAX: SimCLR, BYOL and what follows them."""

from __future__ import annotations

import os
import typing

if typing.TYPE_CHECKING:
    from simclr_jax.weights.classifier import Classifier
    from simclr_jax.weights.encoder import Encoder

__version__ = '0.1.0'


def load(
    path: str | os.PathLike, dtype: str = 'float32', classifier: bool = False
) -> Encoder | Classifier:
    """Loads an encoder, or a classifier: a `classifier.safetensors` gives one.

    ```
    encoder = simclr_jax.load('runs/mine')
    features = encoder(images)     # uint8 [n, height, width, 3] or a list of paths -> [n, dim]
    maps = encoder.maps(images)    # -> [n, height / 32, width / 32, dim] of a ResNet
    labels, probabilities = classifier.predict(images)    # of a classifier -> [n] each
    ```

    Neither TensorFlow nor the data are needed, and nothing in a file is executed.

    Args:
      path: a workdir, an encoder file, or another library's weights: a file or folder of
        torchvision, timm or transformers, or a method's public checkpoint.
      dtype: of the arithmetic, 'float32' or 'bfloat16', whatever it was trained with.
      classifier: whether it has to be a classifier: then that of another library's file is read,
        too, which is left out otherwise.

    Raises:
      simclr_jax.config.ConfigError: there is nothing, or nothing that is known, or it is damaged.
    """
    # JAX takes most of a second to import; whoever wants the version alone need not wait.
    from simclr_jax.weights.classifier import of_weights
    from simclr_jax.weights.loading import read_weights

    return of_weights(read_weights(path, classifier), dtype)
