"""Few-shot accuracy by ridge regression in closed form, as big_vision's `fewshot_lsr.py` has it.

It takes no choice and no iterations, so it is cheap and always the same: which examples are drawn
is all that varies.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from simclr_jax.evaluate import subsets
from simclr_jax.evaluate.rows import Rows, blocks

SHOTS = (1, 5, 10, 25)  # labels a class
SEEDS = 3
L2 = 2.0**10
BIAS = 100.0  # the constant feature: so large that its weight is hardly regularized


class Ridge(NamedTuple):
    """A ridge regression: `score` is linear in standardized features.

    Attributes:
      mean: of the features it was fitted to, `[dim]`.
      deviation: theirs, plus 1e-5, `[dim]`.
      kernel: `[dim + 1, class]`; its last row is for `BIAS`.
    """

    mean: np.ndarray
    deviation: np.ndarray
    kernel: np.ndarray

    def score(self, features: np.ndarray) -> np.ndarray:
        """Returns scores `[example, class]` float64 of features `[example, dim]`."""
        standard = (np.asarray(features, np.float64) - self.mean) / self.deviation
        return standard @ self.kernel[:-1] + BIAS * self.kernel[-1]


def few_shot_eval(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    l2: float = L2,
) -> dict[str, dict[str, float]]:
    """Top-1 test accuracy in [0, 1] with few labels a class.

    Returns `{'1': {'mean', 'std'}, '5': ...}` over the seeds. Examples labelled -1 are left out. A
    class with fewer examples gives all of them, as in big_vision. Draws of one seed are nested.

    Args:
      train_features: `[example, dim]`.
      train_labels: `[example]`, -1 where there is none.
      test_features: `[example, dim]`.
      test_labels: as those of the training.
      num_classes: how many there are.
      shots: labels a class, above 0.
      seeds: draws of them.
      l2: of the ridge; big_vision's configs have 2**10.

    Raises:
      ValueError: there are no labelled examples.
    """
    train, train_labels = subsets.labelled(train_features, train_labels)
    test, test_labels = subsets.labelled(test_features, test_labels)
    if not len(train_labels) or not len(test_labels):
        raise ValueError('no labelled examples to fit, or none to test: read splits with labels.')
    result = {}
    for count in shots:
        accuracies = []
        for seed in range(seeds):
            chosen = subsets.draw_at_most(train_labels, count, seed)
            ridge = fit_ridge(train[chosen], train_labels[chosen], num_classes, l2)
            accuracies.append(_accuracy(ridge, test, test_labels))
        result[str(count)] = {
            'mean': float(np.mean(accuracies)),
            'std': float(np.std(accuracies)),
        }
    return result


def fit_ridge(features: np.ndarray, labels: np.ndarray, num_classes: int, l2: float = L2) -> Ridge:
    """Minimizes the squared distance to one-hot targets of -1 and 1, plus l2 * |kernel|^2.

    Features are standardized; a constant one of `BIAS` is added, whose weight is penalized too.

    Args:
      features: `[example, dim]`.
      labels: `[example]`, from 0.
      num_classes: how many there are.
      l2: above 0.
    """
    features = np.asarray(features, np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-5
    standard = (features - mean) / deviation
    standard = np.pad(standard, ((0, 0), (0, 1)), constant_values=BIAS)
    targets = 2.0 * np.eye(num_classes)[labels] - 1.0
    examples, dim = standard.shape
    if examples >= dim:
        matrix = standard.T @ standard + l2 * np.eye(dim)
        kernel = np.linalg.solve(matrix, standard.T @ targets)
    else:  # the smaller of two equal systems
        matrix = standard @ standard.T + l2 * np.eye(examples)
        kernel = standard.T @ np.linalg.solve(matrix, targets)
    return Ridge(mean, deviation, kernel)


def _accuracy(ridge: Ridge, features: Rows, labels: np.ndarray) -> float:
    found = [ridge.score(features[rows]).argmax(axis=1) for rows in blocks(features.shape)]
    return float(np.mean(np.concatenate(found) == labels))
