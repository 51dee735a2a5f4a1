"""What a classifier says of test pictures, and how good that is.

Of every picture the likeliest classes are kept, not all of them: enough for top-5 accuracy, the
confusion matrix and the most confident mistakes, and small enough to keep for every draw.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

KEPT = 5  # classes of each picture
_MANY_CLASSES = 10  # with more than these the top-5 accuracy is told, too


class Predictions(NamedTuple):
    """The likeliest classes of each test picture, the likeliest first; of equals, the first class.

    Attributes:
      classes: `[example, k]` int32, k = min(5, number of classes).
      probabilities: `[example, k]` float32, in [0, 1].
    """

    classes: np.ndarray
    probabilities: np.ndarray


def likeliest(probabilities: np.ndarray) -> Predictions:
    """Returns the likeliest classes by `probabilities` `[example, class]`, each row's sum 1."""
    order = np.argsort(-probabilities, axis=1, kind='stable')[:, :KEPT]
    return Predictions(
        order.astype(np.int32), np.take_along_axis(probabilities, order, 1).astype(np.float32)
    )


def of_logits(logits: np.ndarray) -> Predictions:
    """Returns the likeliest classes by `logits` `[example, class]`, their softmax in float64."""
    logits = np.asarray(logits, np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return likeliest(shares / shares.sum(axis=1, keepdims=True))


def join(parts: Sequence[Predictions]) -> Predictions:
    """Returns the predictions of one part after the other."""
    return Predictions(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def confusion(predictions: Predictions, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns how many pictures of each class, a row, were taken for each class, a column.

    Args:
      predictions: of n pictures.
      labels: `[n]`; a picture without one (-1) is not counted.
      num_classes: of the classifier.

    Returns:
      `[class, class]` int64; its diagonal are the right ones.
    """
    known = np.asarray(labels) >= 0
    place = labels[known].astype(np.int64) * num_classes + predictions.classes[known, 0]
    return np.bincount(place, minlength=num_classes**2).reshape(num_classes, num_classes)


def top_accuracy(predictions: Predictions, labels: np.ndarray, k: int) -> float:
    """Returns the share in [0, 1] of pictures whose label is among their `k` likeliest classes.

    A picture without a label (-1) is not counted.

    Raises:
      ValueError: k is above the number of classes that are kept of each picture.
    """
    if k > predictions.classes.shape[1]:
        raise ValueError(f'k is {k}: only {predictions.classes.shape[1]} classes are kept.')
    known = np.asarray(labels) >= 0
    return float(np.mean((predictions.classes[known, :k] == labels[known, None]).any(axis=1)))


def figures(draws: Sequence[Predictions], labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    """Returns the accuracies in [0, 1] of one method, ready for JSON.

    Args:
      draws: what the method says of the test pictures, by each draw of its training labels.
      labels: of the test pictures, `[n]`, -1 where there is none.
      num_classes: of the classifier.

    Returns:
      `mean` and `std` over the draws, `draws` (each of them), `per_class` (a list: the mean over
      the draws of the share of its pictures that are right; None of a class without pictures)
      and, with more than ten classes, `top_5` with its `mean` and `std`.
    """
    accuracies = [top_accuracy(predictions, labels, 1) for predictions in draws]
    counts = np.mean([confusion(predictions, labels, num_classes) for predictions in draws], axis=0)
    right, all_ = np.diag(counts), counts.sum(axis=1)
    found = _spread(accuracies) | {
        'draws': accuracies,
        'per_class': [float(r / n) if n else None for r, n in zip(right, all_, strict=True)],
    }
    if num_classes > _MANY_CLASSES:
        found['top_5'] = _spread([top_accuracy(predictions, labels, 5) for predictions in draws])
    return found


def confident_mistakes(predictions: Predictions, labels: np.ndarray, most: int) -> np.ndarray:
    """Returns the places of at most `most` wrong pictures, the surest first, `[n]`."""
    wrong = np.flatnonzero((labels >= 0) & (predictions.classes[:, 0] != labels))
    return wrong[np.argsort(-predictions.probabilities[wrong, 0], kind='stable')][:most]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {'mean': float(np.mean(values)), 'std': float(np.std(values))}
