"""The linear transfer protocol of SimCLR (appendix B.8.1) and BYOL (appendix D), on given features.

A logistic regression on frozen features, as they are: 45 strengths of its l2 penalty, the best one
on the validation examples, fitted again to the training and validation examples, tested once.
"""

from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from simclr_jax.evaluate import metrics, newton
from simclr_jax.evaluate.rows import Rows, blocks

# The papers' grid; summed cross-entropy + l2 / 2 * |kernel|^2, as scikit-learn's C = 1 / l2.
STRENGTHS = tuple(np.logspace(-6, 5, 45).tolist())


class Part(NamedTuple):
    """Some examples.

    Attributes:
      features: `[example, dim]` float32.
      labels: `[example]`, from 0; or `[example, class]` of 0 and 1, with several labels an example.
      counted: `[example, class]` bool, of several: what a measure counts, as `metrics` has it; all
        where None. A fit takes what does not count for 0.
    """

    features: np.ndarray | Rows
    labels: np.ndarray
    counted: np.ndarray | None = None


def transfer_eval(
    train: Part,
    validation: Part,
    test: Part,
    *,
    num_classes: int,
    metric: str,
    strengths: tuple[float, ...] = STRENGTHS,
    mesh: Mesh | None = None,
    say=lambda done: None,
) -> dict[str, Any]:
    """Returns how well a linear classifier reads the labels of the test examples off the features.

    `{'value', 'test': {measure: share}, 'l2', 'converged', 'validation': [{'l2', 'value',
    'objective'}, ...]}`, ready for JSON: `value` is `metric` on the test examples, and `validation`
    has each strength, rising. Of strengths that are equally good the strongest is chosen. Test
    labels are only counted.

    Args:
      train: what is fitted while the strength is chosen.
      validation: what the strength is chosen on.
      test: what is tested.
      num_classes: how many there are.
      metric: a name of `metrics.METRICS`.
      strengths: of the penalty, above 0.
      mesh: the devices that examples are spread over, by default those of this process; every
        process of several gives the same arguments and gets all results.
      say: is told how many of the fits are done.

    Raises:
      ValueError: features are not finite, or labels are none of the classes.
    """
    parts = {'train': train, 'validation': validation, 'test': test}
    for name, part in parts.items():
        _check(name, part, num_classes)
    measure = metrics.METRICS[metric]
    falling = sorted(strengths, reverse=True)
    options = {'num_classes': num_classes, 'mesh': mesh}
    found = []
    fits = newton.fit_path(train.features, train.labels, falling, **options)
    for l2, fit in zip(falling, fits, strict=True):
        value = measure(newton.scores(validation.features, fit), *_truth(validation))
        objective = float(np.sum(fit.objective))
        found.append({'l2': l2, 'value': value, 'objective': objective, 'converged': fit.converged})
        say(len(found))
    best = max(found, key=lambda one: one['value'])  # the first of equals, so the strongest
    both = _joined(train.features, validation.features)
    labels = np.concatenate([train.labels, validation.labels])
    (fit,) = newton.fit_path(both, labels, [best['l2']], **options)
    scores = newton.scores(test.features, fit)
    tested = {metric: measure(scores, *_truth(test))}
    if test.counted is None:
        tested = metrics.measure(scores, test.labels) | tested
    return {
        'value': tested[metric],
        'test': tested,
        'l2': best['l2'],
        'converged': fit.converged and all(one.pop('converged') for one in found),
        'validation': found[::-1],
    }


def _truth(part: Part) -> tuple[np.ndarray, ...]:
    return (part.labels,) if part.counted is None else (part.labels, part.counted)


def _joined(first: np.ndarray | Rows, second: np.ndarray | Rows) -> np.ndarray | Rows:
    """Both, one after the other; not copied where they are rows of one array."""
    if isinstance(first, Rows) and isinstance(second, Rows) and first.values is second.values:
        return Rows(first.values, np.concatenate([first.index, second.index]), first.transform)
    return np.concatenate([first[:], second[:]])


def _check(name: str, part: Part, num_classes: int) -> None:
    features, labels = part.features, np.asarray(part.labels)
    if len(features) != len(labels) or not len(labels):
        raise ValueError(
            f'{name} has {len(features)} features and {len(labels)} labels: they must be equal, '
            'and not 0.'
        )
    if labels.ndim == 2:
        if labels.shape[1] != num_classes or not np.isin(labels, (0, 1)).all():
            raise ValueError(
                f'labels of {name} must be [example, {num_classes}] of 0 and 1, and are '
                f'{labels.shape}: leave unlabelled examples out.'
            )
    elif labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f'labels of {name} run from {labels.min()} to {labels.max()}, outside 0 to '
            f'{num_classes - 1}: leave unlabelled examples out.'
        )
    for rows in blocks(features.shape):
        if not np.isfinite(features[rows]).all():
            raise ValueError(
                f'{name} has features that are not finite: look at the encoder that made them.'
            )
