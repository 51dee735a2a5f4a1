"""Linear evaluation: how well a linear classifier reads the labels off frozen features."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from scipy.linalg import solve_triangular

from simclr_jax.evaluate import logistic, subsets
from simclr_jax.evaluate.predictions import Predictions, join, of_logits
from simclr_jax.evaluate.rows import Rows, blocks

# In units of features whose mean squared norm is 1, so that they mean the same at every width.
L2_GRID = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
# One label a class leaves nothing to hold out. Accuracy is flat around this value: on handwritten
# digits' training split it is within 0.6 points of the best strength from 1e-6 to 0.1, for pixels
# and for trained features (random features gain three points from a strength above 1).
L2_WITHOUT_HOLDOUT = 1e-2
HOLDOUT_FRACTION = 0.2
FOLDS = 5
MAX_FOLDED = 10_000  # examples; of more, a fifth tells the strengths apart as well


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
    mesh: Mesh | None = None,
) -> dict[str, dict]:
    """Test accuracy in [0, 1] of logistic regression on features `[example, dim]`.

    Returns `{'all': {'mean', 'std', 'l2', 'converged'}, '10': ..., '1': ...}`, ready for JSON: mean
    and standard deviation over the draws of that many labels a class, the strength chosen for every
    draw, and whether all the fits that were tested converged.

    Features are standardized with the mean and deviation of all training features, which takes no
    labels. The strength is the one with the best held-out log-likelihood, on a fifth of the
    training labels ('all') or over five folds of the drawn ones; the fit that is tested sees all of
    them. For one label a class it is `L2_WITHOUT_HOLDOUT`. Test labels are only counted. Examples
    labelled -1 are left out, but for the standardization. Training examples are spread over the
    devices of `mesh`, by default those of this process; every process of several gives the same
    arguments and gets all results.
    """
    standardize = standardization(train_features, test_features)
    train, train_labels = subsets.labelled(train_features, train_labels)
    test, test_labels = subsets.labelled(test_features, test_labels)
    train, test = (dataclasses.replace(rows, transform=standardize) for rows in (train, test))
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
        coordinates, basis = _shrink(train.take(chosen))
        fits = _fit_tasks(
            coordinates, train_labels[chosen], list(tasks.values()), grid, num_classes, mesh
        )
        for count, fit in zip(tasks, fits, strict=True):
            kernel = fit.kernel if basis is None else basis @ fit.kernel
            correct = predict(test, kernel, fit.bias) == test_labels
            runs[count].append((np.mean(correct), fit.l2, fit.converged))
    return {count: _summary(results) for count, results in runs.items()}


def linear_predictions(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    chosen: np.ndarray | None = None,
    *,
    num_classes: int,
    seed: int = 0,
    l2_grid: Sequence[float] = L2_GRID,
    mesh: Mesh | None = None,
) -> Predictions:
    """Returns what one regression of `linear_eval` says of test features `[example, dim]`.

    Args:
      train_features: `[example, dim]`; all of them decide the standardization.
      train_labels: `[example]`, -1 where there is none.
      test_features: `[example, dim]`.
      chosen: places of the training examples to learn from, whose strength folds choose; None for
        all that have a label, a fifth of which chooses it.
      num_classes: of the labels.
      seed: of what is held out.
      l2_grid: the strengths.
      mesh: as in `linear_eval`.
    """
    standardize = standardization(train_features, test_features)
    by_folds, index = chosen is not None, chosen
    if chosen is None:
        index = np.flatnonzero(train_labels != subsets.UNLABELLED)
    rows, labels = Rows(train_features, index, standardize), np.asarray(train_labels)[index]
    kernel, bias = _regression(rows, labels, by_folds, num_classes, seed, l2_grid, mesh)
    test = Rows(test_features, np.arange(len(test_features)), standardize)
    return join([of_logits(part) for part in _logits(test, kernel, bias)])


def linear_classifier(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    seed: int = 0,
    l2_grid: Sequence[float] = L2_GRID,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the regression of `linear_eval` as a layer, float32 kernel and bias.

    `features @ kernel + bias` are its logits, of features that are not standardized: that is part
    of the kernel, `[dim, class]`, and of the bias, `[class]`.

    Args:
      features: `[example, dim]`.
      labels: `[example]`, -1 where there is none. Folds choose the strength, of more than
        `MAX_FOLDED` examples a fifth that is held out.
      num_classes: of the labels.
      seed: of what is held out.
      l2_grid: the strengths.
      mesh: as in `linear_eval`.
    """
    standardize = standardization(features, features[:0])
    index = np.flatnonzero(np.asarray(labels) != subsets.UNLABELLED)
    rows, labels = Rows(features, index, standardize), np.asarray(labels)[index]
    by_folds = len(index) <= MAX_FOLDED
    kernel, bias = _regression(rows, labels, by_folds, num_classes, seed, l2_grid, mesh)
    kernel = np.asarray(kernel, np.float64) * standardize.factor[:, None]
    bias = bias - standardize.mean.astype(np.float64) @ kernel
    return kernel.astype(np.float32), bias.astype(np.float32)


def _regression(
    rows: Rows,
    labels: np.ndarray,
    by_folds: bool,
    num_classes: int,
    seed: int,
    l2_grid: Sequence[float],
    mesh: Mesh | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of one regression on standardized features."""
    check_labels(labels, labels, num_classes)
    # Of fewer than three pictures a fifth is none.
    if not by_folds and np.unique(labels, return_counts=True)[1].max() >= 3:
        masks = _hold_out(labels, seed)
    else:
        masks = _folds(labels, np.ones(len(labels), bool), seed)
    coordinates, basis = _shrink(rows)
    grid = np.unique(np.asarray(l2_grid, np.float64))
    [fit] = _fit_tasks(coordinates, labels, [masks], grid, num_classes, mesh)
    return fit.kernel if basis is None else basis @ fit.kernel, fit.bias


@dataclasses.dataclass(frozen=True)
class Standardization:
    """Gives features `[example, dim]` the training mean 0 and variance 1 / dim.

    Attributes:
      mean: `[dim]` float32, subtracted.
      factor: `[dim]` float32, multiplies what is left; 0 for a feature that is constant.
    """

    mean: np.ndarray
    factor: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        centred = np.asarray(features, np.float32) - self.mean
        return np.multiply(centred, self.factor, out=centred)


def standardization(train: np.ndarray, test: np.ndarray) -> Standardization:
    """Returns what gives features `[example, dim]` the training mean 0 and variance 1 / dim.

    A feature that is constant over the training examples becomes 0.
    """
    train, test = np.asarray(train), np.asarray(test)
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise ValueError(
            f'train_features is {train.shape}, test_features {test.shape}: '
            'both must be [example, dim], with the same dim.'
        )
    mean, square = np.zeros(train.shape[1]), np.zeros(train.shape[1])
    # By blocks: a float64 copy of the features of ImageNet has 20 GB.
    for name, features in (('train_features', train), ('test_features', test)):
        for rows in blocks(features.shape):
            block = np.asarray(features[rows], np.float64)
            if not np.isfinite(block).all():
                raise ValueError(
                    f'{name} has values that are not finite: look at the encoder that made them.'
                )
            if features is train:
                mean += block.sum(axis=0) / len(train)
                square += np.einsum('nd,nd->d', block, block) / len(train)
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    # What varies by less than float32 resolves is rounding, not signal.
    constant = deviation <= 1e-6 * np.abs(mean)
    factor = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, deviation))
    factor = (factor / np.sqrt(train.shape[1])).astype(np.float32)
    return Standardization(mean.astype(np.float32), factor)


def predict(features: Rows, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The likeliest class of every example `[example]`, by `kernel` `[dim, class]` and `bias`."""
    found = [jnp.argmax(part, axis=1) for part in _logits(features, kernel, bias)]
    return np.concatenate([np.zeros(0, np.int32), *found])


def _logits(features: Rows, kernel: np.ndarray, bias: np.ndarray) -> Iterator[jax.Array]:
    """Yields the logits `[example, class]` of some examples after the other."""
    kernel, bias = jax.device_put((kernel, bias))
    for rows in blocks((len(features), max(kernel.shape))):
        yield _of_block(features[rows], kernel, bias)


@jax.jit
def _of_block(features, kernel, bias):
    return jnp.matmul(features, kernel, precision='highest') + bias[None]


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


def count_problems(labels: str | int) -> int:
    """Returns how many regressions `linear_eval` fits at once for so many labels a class."""
    if labels == 1:
        return 1  # at `L2_WITHOUT_HOLDOUT`
    return len(L2_GRID) * (2 if labels == 'all' else 1 + min(FOLDS, labels))


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


def _fit_tasks(features, labels, tasks, grid, num_classes, mesh) -> list[_Fit]:
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
        mesh=mesh,
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


def _shrink(rows: Rows) -> tuple[Rows | np.ndarray, np.ndarray | None]:
    """`(coordinates [n, n], basis [dim, n])` where n < dim, with coordinates @ basis.T = features.

    The l2 penalty keeps the kernel in the span of the examples, so the regression is the same.
    Elsewhere the features as they are, and None.
    """
    count, dim = rows.shape
    if count >= dim:
        return rows, None
    features = rows[:].astype(np.float64)
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
