"""Probabilities that mean what they say: one temperature, and how far off they are.

Temperature scaling and the expected calibration error are those of Guo et al., "On Calibration of
Modern Neural Networks", arXiv:1706.04599, sections 4.2 and 2. Both want pictures that the
classifier was not trained on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, softmax

BINS = 15  # as in the paper
LARGEST = 100.0  # temperature, of logits that say nothing; its inverse is the smallest


class Reliability(NamedTuple):
    """Predictions by how sure they are: bin i has confidences in `(edges[i], edges[i + 1]]`.

    Attributes:
      edges: `[bin + 1]`, from 0 to 1.
      counts: predictions in each bin, `[bin]` int64.
      confidence: their mean probability, `[bin]`, NaN of an empty bin.
      accuracy: the share of them that is right, `[bin]`, NaN of an empty bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature that makes held-out labels likeliest, in [0.01, 100].

    It minimizes the mean negative log-likelihood of `logits / temperature`, which is convex in
    1 / temperature: the derivative's only root is found in float64. It changes no prediction, only
    how sure it is.

    Args:
      logits: `[n, label]`, of pictures that were not trained on.
      labels: `[n]`, -1 where unknown; or, where a picture may have several, `[n, label]` of 0 and
        1, with a row of NaN or -1 where unknown.

    Returns:
      The temperature; 1 where these labels do not say any: there are none, or each is the
      likeliest already, so that every lower temperature would look better still.

    Raises:
      ValueError: shapes do not fit, or a logit is not finite.
    """
    logits, labels = _known(logits, labels)
    if not len(logits):
        return 1.0
    slope = _slope_of_several if labels.ndim == 2 else _slope_of_one
    derivative, at_infinity = slope(logits, labels)
    if at_infinity <= 0:
        return 1.0
    lowest, highest = 1 / LARGEST, LARGEST  # of the inverse
    if derivative(lowest) >= 0:
        return LARGEST
    if derivative(highest) <= 0:
        return 1 / LARGEST
    return float(1 / brentq(derivative, lowest, highest, xtol=1e-12, rtol=1e-12))


def negative_log_likelihood(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> float:
    """Returns the mean over pictures; of several labels a picture, over pictures and labels.

    The arguments are those of `fit_temperature`. It is NaN where no label is known.
    """
    logits, labels = _known(logits, labels)
    scaled = logits / temperature
    if labels.ndim == 2:
        losses = np.logaddexp(0, scaled) - labels * scaled
    else:
        own = np.take_along_axis(scaled, labels[:, None], 1)[:, 0]
        losses = np.logaddexp.reduce(scaled, axis=1) - own
    return float(losses.mean()) if len(losses) else float('nan')


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """Returns how often predictions are right, by how sure they are.

    Of one label a picture, a prediction is the likeliest label, with its probability. Of several,
    each label of each picture is one: whether it is there, with the probability that it is.

    Args:
      probabilities: `[n, label]`.
      labels: as of `fit_temperature`.
      bins: how many, all of the same width.

    Raises:
      ValueError: shapes do not fit, or a probability is not finite.
    """
    probabilities, labels = _known(probabilities, labels)
    if labels.ndim == 2:
        confidence, right = probabilities.reshape(-1), labels.reshape(-1)
    else:
        confidence = probabilities.max(axis=1, initial=0)
        right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side='left') - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid='ignore'):
        means = [
            np.bincount(place, np.asarray(values, np.float64), bins) / counts
            for values in (confidence, right)
        ]
    return Reliability(edges, counts, *means)


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> float:
    """Returns the mean over predictions of how far their bin's accuracy is from its confidence.

    It is in [0, 1], and NaN where no label is known. The arguments are those of `reliability`.
    """
    found = reliability(probabilities, labels, bins)
    gaps = np.nan_to_num(np.abs(found.accuracy - found.confidence))
    total = found.counts.sum()
    return float((found.counts * gaps).sum() / total) if total else float('nan')


def figures(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, Any]:
    """Returns how far off the probabilities of test pictures are, ready for JSON.

    Args:
      logits: `[n, label]`, of one label a picture.
      labels: `[n]`, -1 where unknown.
      temperature: of the classifier; it was not chosen on these pictures.

    Returns:
      `temperature`, and `before` and `after` it the `expected_calibration_error` in [0, 1] and the
      mean `negative_log_likelihood`; also, of `after`, the bins of `reliability`, lists of which an
      empty bin's confidence and accuracy are None.
    """
    found: dict[str, Any] = {'temperature': temperature}
    for name, divisor in (('before', 1.0), ('after', temperature)):
        probabilities = softmax(np.asarray(logits, np.float64) / divisor, axis=1)
        found[name] = {
            'expected_calibration_error': expected_calibration_error(probabilities, labels),
            'negative_log_likelihood': negative_log_likelihood(logits, labels, divisor),
        }
    bins = reliability(probabilities, labels)._asdict()
    found['after'] |= {
        name: [None if value != value else value for value in values.tolist()]
        for name, values in bins.items()
    }
    return found


def _known(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 values and whole labels of the pictures whose labels are known."""
    values, labels = np.asarray(values, np.float64), np.asarray(labels)
    fits = labels.shape in (values.shape[:1], values.shape)
    if values.ndim != 2 or not fits:
        raise ValueError(f'values of shape {values.shape} and labels of shape {labels.shape}')
    known = labels >= 0 if labels.ndim == 1 else (labels >= 0).all(axis=1)
    values, labels = values[known], labels[known].astype(np.int64)
    if not np.isfinite(values).all():
        raise ValueError('a value is not finite')
    if labels.size and labels.max() >= (values.shape[1] if labels.ndim == 1 else 2):
        raise ValueError(f'the label {labels.max()} of {values.shape[1]} outputs')
    return values, labels


Slope = tuple[Callable[[float], float], float]


def _slope_of_one(logits: np.ndarray, labels: np.ndarray) -> Slope:
    """Returns the derivative of the loss by the inverse temperature, and its limit at infinity."""
    # Beside the own logit: an equal shift of all of a row changes nothing.
    beside = logits - np.take_along_axis(logits, labels[:, None], 1)

    def derivative(inverse: float) -> float:
        return float((softmax(inverse * beside, axis=1) * beside).sum(axis=1).mean())

    return derivative, float(beside.max(axis=1).mean())


def _slope_of_several(logits: np.ndarray, labels: np.ndarray) -> Slope:
    def derivative(inverse: float) -> float:
        return float((logits * (expit(inverse * logits) - labels)).mean())

    return derivative, float((np.maximum(logits, 0) - labels * logits).mean())
