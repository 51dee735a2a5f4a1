"""Compares the transfer protocol's regressions with scikit-learn's, at all 45 strengths.

    python benchmarks/transfer_optimum.py runs/mine digits:train

All pictures of the data that have a label, as one encoder sees them. A row of
`benchmarks/results/transfer_optimum.csv` for each strength; for each solver:

* `above`: the objective, summed cross-entropy + l2 / 2 * |kernel|^2, relative to the least that any
  of them found, less 1. It is computed in long double from the parameters, by one function for all.
* `converged`: whether it says so.
* `seconds`: as long as other work on the machine made them.

`newton` is ours. scikit-learn's are its Newton-Cholesky and its L-BFGS, with tolerances at which
neither should stop early, and its L-BFGS with its own defaults, as ssl-transfer runs it.
"""

import csv
import pathlib
import sys
import time
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression

import simclr_jax
from simclr_jax.data import listing
from simclr_jax.evaluate import newton
from simclr_jax.evaluate.transfer import STRENGTHS

RESULTS = pathlib.Path(__file__).parent / 'results/transfer_optimum.csv'
SOLVERS = {
    'newton_cholesky': {'solver': 'newton-cholesky', 'tol': 1e-10, 'max_iter': 1000},
    'lbfgs': {'solver': 'lbfgs', 'tol': 1e-12, 'max_iter': 5000},
    'lbfgs_defaults': {'solver': 'lbfgs'},
}
NAMES = ('newton', *SOLVERS)
FIELDS = [f'{name}_{what}' for name in NAMES for what in ('above', 'converged', 'seconds')]


def main(encoder: str, data: str) -> None:
    found = listing.open_listing(data)
    pictures = [one for one in found.read(range(len(found))) if one.label >= 0]
    features = simclr_jax.load(encoder)([one.encoded for one in pictures])
    labels = np.array([one.label for one in pictures])
    print(f'{len(labels)} examples, {features.shape[1]} features', flush=True)
    falling = sorted(STRENGTHS, reverse=True)
    fits = newton.fit_path(features, labels, falling, num_classes=len(found.label_names))
    with RESULTS.open('w', newline='') as file:
        writer = csv.DictWriter(file, ['l2', 'objective', *FIELDS], lineterminator='\n')
        writer.writeheader()
        for l2 in falling:
            writer.writerow(compare(fits, features, labels, l2))
            file.flush()


def compare(fits, features: np.ndarray, labels: np.ndarray, l2: float) -> dict[str, str]:
    row, values, start = {'l2': f'{l2:.3e}'}, {}, time.monotonic()
    fit = next(fits)
    row |= {'newton_seconds': seconds(start), 'newton_converged': fit.converged}
    values['newton'] = objective(features, labels, fit.kernel, fit.bias, l2)
    for name, how in SOLVERS.items():
        start = time.monotonic()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter('always')
            made = LogisticRegression(C=1 / l2, **how).fit(features.astype(np.float64), labels)
        row |= {f'{name}_seconds': seconds(start), f'{name}_converged': not warned}
        values[name] = objective(features, labels, made.coef_.T, made.intercept_, l2)
    best = min(values.values())
    row['objective'] = f'{best:.12g}'
    return row | {f'{name}_above': f'{value / best - 1:.1e}' for name, value in values.items()}


def seconds(start: float) -> str:
    return f'{time.monotonic() - start:.2f}'


def objective(features, labels, kernel, bias, l2: float) -> float:
    """By differences to the own class's logit, so that no loss is rounded."""
    rows = np.arange(len(labels))
    kernel = kernel.astype(np.longdouble)
    logits = features.astype(np.longdouble) @ kernel + bias
    others = logits - logits[rows, labels][:, None]
    others[rows, labels] = -np.inf
    top = np.maximum(others.max(axis=1), 0)
    rest = np.exp(others - top[:, None]).sum(axis=1)
    loss = np.sum(top + np.log1p(rest + np.expm1(-top)))
    return float(loss + np.longdouble(0.5) * l2 * np.sum(kernel**2))


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
