"""Linear evaluation: how well a linear classifier reads the labels off frozen features."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_triangular

from simclr_jax.evaluate import logistic, subsets

# In units of features whose mean squared norm is 1, so that they mean the same at every width.
L2_GRID = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
# One label a class leaves nothing to hold out. Accuracy is flat around this value: on handwritten
# digits' training split it is within 0.6 points of the best strength from 1e-6 to 0.1, for pixels
# and for trained features (random features gain three points from a strength above 1).
L2_WITHOUT_HOLDOUT = 1e-2
HOLDOUT_FRACTION = 0.2
FOLDS = 5


def linear_eval(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    labels_per_class: Sequence[str | int] = ('all', 10, 1),
    draws: int = 5,
    seed: int = 0,
    l2_grid: Sequence[float] = L2_GRID,
) -> dict[str, dict]:
    """Test accuracy in [0, 1] of logistic regression on features `[example, dim]`.

    Returns `{'all': {'mean', 'std', 'l2', 'converged'}, '10': ..., '1': ...}`, ready for JSON: mean
    and standard deviation over the draws of that many labels a class, the strength chosen for every
    draw, and whether all the fits that were tested converged.

    Features are standardized with the mean and deviation of all training features, which takes no
    labels. The strength is the one with the best held-out log-likelihood, on a fifth of the
    training labels ('all') or over five folds of the drawn ones; the fit that is tested sees all of
    them. For one label a class it is `L2_WITHOUT_HOLDOUT`. Test labels are only counted. Examples
    labelled -1 are left out, but for the standardization.
    """
    train, test = standardize(train_features, test_features)
    train, train_labels = subsets.drop_unlabelled(train, train_labels)
    test, test_labels = subsets.drop_unlabelled(test, test_labels)
    check_labels(train_labels, test_labels, num_classes)
    grid = np.unique(np.asarray(l2_grid, np.float64))
    if len(grid) == 0 or grid[0] <= 0.0:
        raise ValueError(f'l2_grid is {tuple(l2_grid)}: name at least one strength, all above 0.')

    batches = []
    if 'all' in labels_per_class:
        batches.append((slice(None), {'all': _hold_out(train_labels, seed)}))
    counts = [count for count in labels_per_class if count != 'all']
    for draw in range(draws if counts else 0):
        # Draws are nested: the largest subset contains the others.
        chosen = subsets.draw_subset(train_labels, max(counts), seed, draw)
        tasks = {}
        for count in counts:
            members = np.isin(chosen, subsets.draw_subset(train_labels, count, seed, draw))
            tasks[str(count)] = _folds(train_labels[chosen], members, seed)
        batches.append((chosen, tasks))

    runs = {str(count): [] for count in labels_per_class}
    for chosen, tasks in batches:
        coordinates, basis = _shrink(train[chosen])
        fits = _fit_tasks(
            coordinates, train_labels[chosen], list(tasks.values()), grid, num_classes
        )
        for count, fit in zip(tasks, fits, strict=True):
            logits = jnp.matmul(test, basis @ fit.kernel, precision='highest') + fit.bias[None]
            correct = np.asarray(jnp.argmax(logits, axis=1)) == test_labels
            runs[count].append((np.mean(correct), fit.l2, fit.converged))
    return {count: _summary(results) for count, results in runs.items()}


def standardize(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[example, dim]` features, each with the training mean 0 and variance 1 / dim.

    A feature that is constant over the training examples becomes 0.
    """
    train, test = np.asarray(train, np.float32), np.asarray(test, np.float32)
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise ValueError(
            f'train_features is {train.shape}, test_features {test.shape}: '
            'both must be [example, dim], with the same dim.'
        )
    for name, features in (('train_features', train), ('test_features', test)):
        if not np.isfinite(features).all():
            raise ValueError(
                f'{name} has values that are not finite: look at the encoder that made them.'
            )
    mean = np.mean(train, axis=0, dtype=np.float64)
    # Without a float64 copy of the features, which at ImageNet's scale has 20 GB.
    square = np.einsum('nd,nd->d', train, train, dtype=np.float64)
    deviation = np.sqrt(np.maximum(square / len(train) - mean**2, 0.0))
    # What varies by less than float32 resolves is rounding, not signal.
    constant = deviation <= 1e-6 * np.abs(mean)
    factor = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, deviation))
    factor = (factor / np.sqrt(train.shape[1])).astype(np.float32)
    mean = mean.astype(np.float32)
    return (train - mean) * factor, (test - mean) * factor


def check_labels(train_labels: np.ndarray, test_labels: np.ndarray, num_classes: int) -> None:
    """Raises ValueError where a split has no labels, or one outside 0 to `num_classes` - 1."""
    for name, labels in (('train_labels', train_labels), ('test_labels', test_labels)):
        if len(labels) == 0:
            raise ValueError(f'{name} has no labelled example: read a split that has labels.')
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(
                f'{name} runs from {labels.min()} to {labels.max()}, outside 0 to '
                f'{num_classes - 1}: set num_classes to {max(labels.max() + 1, 2)}, or mark '
                'unlabelled examples with -1.'
            )


class _Fit(NamedTuple):
    kernel: np.ndarray
    bias: np.ndarray
    l2: float
    converged: bool


def _hold_out(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Masks over the examples: all of them, and those that are not held out."""
    kept, _ = subsets.holdout_split(labels, HOLDOUT_FRACTION, seed)
    return [np.ones(len(labels), bool), np.isin(np.arange(len(labels)), kept)]


def _folds(labels: np.ndarray, members: np.ndarray, seed: int) -> list[np.ndarray]:
    """Masks over the examples: `members`, and those that every fold fits, if there can be folds."""
    smallest = np.unique(labels[members], return_counts=True)[1].min()
    if smallest == 1:
        return [members]
    fold = np.full(len(labels), -1)
    fold[members] = subsets.stratified_folds(labels[members], min(FOLDS, smallest), seed)
    return [members, *(members & (fold != k) for k in range(fold.max() + 1))]


def _fit_tasks(features, labels, tasks, grid, num_classes) -> list[_Fit]:
    """The fit to the first mask of every task, at the strength that its other masks choose.

    All strengths, masks and tasks are one batch of regressions: one compilation, and few calls.
    """
    weights, held_out, strengths = [], [], []
    for masks in tasks:
        candidates = grid if len(masks) > 1 else [L2_WITHOUT_HOLDOUT]
        weights.append(np.repeat(masks, len(candidates), axis=0))
        held_out.append(masks[0][None] & ~weights[-1])
        strengths.append(np.tile(candidates, len(masks)))
    fit = logistic.fit(
        features,
        labels,
        np.concatenate(weights).astype(np.float32),
        np.concatenate(strengths),
        held_out=np.concatenate(held_out).astype(np.float32),
        num_classes=num_classes,
    )
    chosen, start = [], 0
    for masks, l2 in zip(tasks, strengths, strict=True):
        loss = fit.held_out[start : start + len(l2)].reshape(len(masks), -1).sum(axis=0)
        # The first mask's fits come first. The grid ascends: of equals, the strongest.
        best = int(np.flatnonzero(loss == loss.min())[-1])
        problem = start + best
        chosen.append(
            _Fit(fit.kernel[problem], fit.bias[problem], l2[best], fit.converged[problem])
        )
        start += len(l2)
    return chosen


def _shrink(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(coordinates [n, n], basis [dim, n])` where n < dim, with coordinates @ basis.T = features.

    The l2 penalty keeps the kernel in the span of the examples, so the regression is the same.
    """
    if len(features) >= features.shape[1]:
        return features, np.eye(features.shape[1], dtype=np.float32)
    features = features.astype(np.float64)
    gram = features @ features.T
    # Equal examples make it singular. (A QR decomposition would not mind, but is far slower where
    # others use the cores: it enters a threaded BLAS hundreds of times.)
    gram += (1e-9 * np.mean(np.diag(gram)) + 1e-12) * np.eye(len(gram))
    coordinates = np.linalg.cholesky(gram)
    basis = solve_triangular(coordinates, features, lower=True).T
    return coordinates.astype(np.float32), basis.astype(np.float32)


def _summary(results: list[tuple[float, float, bool]]) -> dict:
    accuracies, strengths, converged = zip(*results, strict=True)
    return {
        'mean': float(np.mean(accuracies)),
        'std': float(np.std(accuracies)),
        'l2': [float(l2) for l2 in strengths],
        'converged': bool(np.all(converged)),
    }
