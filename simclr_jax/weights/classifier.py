"""A classifier that is ready to be used: from pictures to labels and their probabilities."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.models.classifier import ClassifierNetwork
from simclr_jax.weights import description
from simclr_jax.weights.description import Tree, Weights
from simclr_jax.weights.encoder import Encoder, Images


class Prediction(NamedTuple):
    """The likeliest labels of pictures.

    Attributes:
      labels: names, `[n]`, or `[n, top]` with the likeliest first.
      probabilities: of these, float32 in [0, 1], of the same shape.
    """

    labels: np.ndarray
    probabilities: np.ndarray


class Classifier(Encoder):
    """An encoder with a classifier.

    ```
    classifier = simclr_jax.load('runs/mine')
    labels, probabilities = classifier.predict(images)    # [n] each
    labels, probabilities = classifier.predict(images, top=5)    # [n, 5] each
    ```

    All that an `Encoder` has is here, too: called, it gives features. Images are what an `Encoder`
    takes, with the same errors.
    """

    def __post_init__(self):
        super().__post_init__()
        if self.weights.classifier is None:
            raise ConfigError('weights: have no classifier')

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the logits."""
        return self.weights.classifier.names

    @functools.cached_property
    def network(self) -> ClassifierNetwork:
        """`network.apply(weights.variables, inputs, train=False)` gives features and logits."""
        return self.weights.network(self.dtype)

    def predict(self, images: Images, top: int | None = None) -> Prediction:
        """Returns the likeliest label of each picture, or the `top` likeliest ones.

        Where a picture may have several labels, these are the likeliest ones still; compare their
        probabilities with a threshold, such as 0.5.

        Raises:
          ConfigError: `top` is no number from 1 to that of the labels, or of `images`.
        """
        if top is not None and not 1 <= top <= len(self.names):
            raise ConfigError(f'top={top}: must be 1 to {len(self.names)}, the number of labels')
        order, values = likeliest(self.probabilities(images), top or 1)
        labels = np.array(self.names, np.str_)[order]
        return Prediction(labels, values) if top else Prediction(labels[:, 0], values[:, 0])

    def probabilities(self, images: Images) -> np.ndarray:
        """Returns the probability of every label, `[n, label]` float32 in [0, 1].

        Each row's sum is 1, except where a picture may have several labels.
        """
        return self.of_logits(self.logits(images))

    def logits(self, images: Images) -> np.ndarray:
        """Returns what the network says, `[n, label]` float32; no temperature divides it."""
        return self._run(images, self._logits)

    def features(self, images: Images) -> np.ndarray:
        """Returns what the classifier sees of pictures, `[n, dim]` float32."""
        return self(images)

    def of_logits(self, logits: np.ndarray) -> np.ndarray:
        """Turns logits `[n, label]` into calibrated probabilities, float32; computes in float64."""
        return probabilities_of(logits, self.weights.classifier)

    def forward_logits(self, views: np.ndarray) -> jax.Array:
        """Starts to compute logits `[batch, label]`; as `forward` does features."""
        return self._logits(self._on_devices, self._spread(views))

    def __repr__(self) -> str:
        count = len(self.names)
        labels = f'; {count:,} labels' + ', several a picture' * self.weights.classifier.several
        return (
            super().__repr__().replace('<Encoder', '<Classifier').removesuffix('>') + f'{labels}>'
        )

    @functools.cached_property
    def _head(self) -> Tree:
        head = self.weights.variables['params']['classifier']
        return jax.device_put(head, parallel.replicated(self._mesh))

    def _logits(self, variables: Tree, views: np.ndarray) -> jax.Array:
        return _dense(self._head, self._features(variables, views))


@jax.jit
def _dense(head: Tree, features: jax.Array) -> jax.Array:
    # As exact as float32 is, on every chip: the classifier is small beside the encoder.
    logits = jnp.matmul(features, head['kernel'], precision='highest')
    return logits + head['bias'][None]


def probabilities_of(logits: np.ndarray, classifier: description.Classifier) -> np.ndarray:
    """Returns the probabilities of labels, `[n, label]` float32; computes in float64."""
    scaled = np.asarray(logits, np.float64) / classifier.temperature
    if classifier.several:
        with np.errstate(over='ignore'):  # of a logit of -800: the probability is 0
            return np.float32(1 / (1 + np.exp(-scaled)))
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.float32(shares / shares.sum(axis=1, keepdims=True))


def likeliest(probabilities: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers and probabilities of the likeliest labels, `[n, top]`; of equals, the first.

    Args:
      probabilities: `[n, label]`.
      top: how many.
    """
    order = np.argsort(-probabilities, axis=1, kind='stable')[:, :top]
    return order, np.take_along_axis(probabilities, order, 1)


def of_weights(weights: Weights, dtype: str = 'float32') -> Encoder:
    """Returns the `Classifier` of weights that have one, else the `Encoder`."""
    return Classifier(weights, dtype) if weights.classifier else Encoder(weights, dtype)
