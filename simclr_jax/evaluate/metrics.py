"""What a classifier's scores are worth: the measures that the transfer data sets are reported in.

All are shares in [0, 1]. Labels have one class an example, or several: a matrix of 0 and 1.
"""

import numpy as np

MANY_CLASSES = 10  # with more, the five likeliest are a measure too
_TENTHS = np.arange(11)


def top_1(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples whose best score is their class's (of equals, the first).

    Args:
      scores: `[example, class]`, any finite numbers; higher is likelier.
      labels: `[example]`, from 0.

    Raises:
      ValueError: the shapes do not fit, or a label or a score is impossible.
    """
    scores, labels = _check(scores, labels)
    return float(np.mean(np.argmax(scores, axis=1) == labels))


def top_k(scores: np.ndarray, labels: np.ndarray, k: int = 5) -> float:
    """The share of examples whose class is among the `k` best scores; arguments as `top_1`.

    Of equal scores, the lower class is before the higher one, as `top_1` and argmax have it.
    """
    scores, labels = _check(scores, labels)
    own = scores[np.arange(len(labels)), labels][:, None]
    before = np.arange(scores.shape[1]) < labels[:, None]
    rank = np.sum((scores > own) | ((scores == own) & before), axis=1)
    return float(np.mean(rank < k))


def mean_per_class(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the classes of the share of each that is found; arguments as `top_1`.

    It is scikit-learn's `balanced_accuracy_score`: a class without examples has no part in it.
    """
    scores, labels = _check(scores, labels)
    right = (np.argmax(scores, axis=1) == labels).astype(np.float64)
    counts = np.bincount(labels)
    found = np.bincount(labels, weights=right)
    return float(np.mean(found[counts > 0] / counts[counts > 0]))


def average_precision_11(
    scores: np.ndarray, targets: np.ndarray, counted: np.ndarray | None = None
) -> float:
    """PASCAL VOC 2007's average precision of one class, at the recalls 0, 0.1, ..., 1.

    `VOCevalcls.m` of the development kit: at each of them the best precision that is reached with
    at least that recall, and their mean. An example that is not counted, as one whose only objects
    are marked difficult, is neither right nor wrong there. Of equal scores the earlier example
    comes first, as MATLAB's `sort` has it.

    Args:
      scores: `[example]`; higher is likelier.
      targets: `[example]` of 0 and 1.
      counted: `[example]` bool; all, where None.

    Returns:
      The average precision; NaN where no counted example has the class.
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 1 or scores.shape != targets.shape:
        raise ValueError(
            f'scores is {scores.shape}, targets {targets.shape}: both must be [example].'
        )
    if not np.isin(targets, (0, 1)).all():
        raise ValueError('targets has values other than 0 and 1: leave unlabelled examples out.')
    if counted is not None:
        scores, targets = scores[counted], targets[counted]
    if not np.isfinite(scores).all():
        raise ValueError('scores has values that are not finite: look at what made them.')
    right = targets[np.argsort(-scores, kind='stable')] > 0
    found = np.cumsum(right)
    if not len(found) or not found[-1]:
        return float('nan')
    precision = found / np.arange(1, len(found) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # with at least that recall
    # In whole numbers: 3 of 10 is a recall of 0.3, which is less than the float 3 * 0.1.
    return float(np.mean(best[np.searchsorted(10 * found, _TENTHS * found[-1])]))


def mean_average_precision_11(
    scores: np.ndarray, targets: np.ndarray, counted: np.ndarray | None = None
) -> float:
    """The mean of `average_precision_11` over the classes that any counted example has.

    Args:
      scores: `[example, class]`.
      targets: `[example, class]` of 0 and 1.
      counted: `[example, class]` bool; all, where None.

    Raises:
      ValueError: the shapes do not fit, or no example has any class.
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(
            f'scores is {scores.shape}, targets {targets.shape}: both must be [example, class].'
        )
    each = [
        average_precision_11(
            scores[:, i], targets[:, i], None if counted is None else counted[:, i]
        )
        for i in range(scores.shape[1])
    ]
    if np.isnan(each).all():
        raise ValueError('targets has no 1 that counts: there is nothing to find.')
    return float(np.nanmean(each))


# Name in results to the function of scores `[example, class]` and labels.
METRICS = {
    'top_1': top_1,
    'top_5': top_k,
    'mean_per_class': mean_per_class,
    'mean_average_precision_11': mean_average_precision_11,
}
SEVERAL = 'mean_average_precision_11'  # the one of several labels an example


def measure(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns all measures that suit `labels` `[example]`, or `[example, class]`, by name."""
    if np.ndim(labels) == 2:
        return {SEVERAL: mean_average_precision_11(scores, labels)}
    names = ['top_1', 'mean_per_class']
    names += ['top_5'] if np.shape(scores)[1] > MANY_CLASSES else []
    return {name: METRICS[name](scores, labels) for name in names}


def _check(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f'scores is {scores.shape}, labels {labels.shape}: they must be [example, class] and '
            '[example].'
        )
    if not len(labels):
        raise ValueError('labels is empty: there is nothing to measure.')
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(
            f'labels runs from {labels.min()} to {labels.max()}, but scores has the classes 0 to '
            f'{scores.shape[1] - 1}: leave unlabelled examples out.'
        )
    if not np.isfinite(scores).all():
        raise ValueError('scores has values that are not finite: look at what made them.')
    return scores, labels
