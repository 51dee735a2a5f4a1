"""Multinomial logistic regressions, many at once over the same features, by L-BFGS."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MEMORY = 8
MAX_LOGITS = 2**26  # at once, over all problems: 256 MiB


class Fit(NamedTuple):
    """`kernel` `[problem, dim, class]`, `bias` `[problem, class]`, and for every problem the
    minimized `objective`, the negative log-likelihood of `held_out`, summed, and `converged`.
    """

    kernel: np.ndarray
    bias: np.ndarray
    objective: np.ndarray
    held_out: np.ndarray
    converged: np.ndarray


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    l2: np.ndarray,
    *,
    num_classes: int,
    held_out: np.ndarray | None = None,
    tolerance: float = 1e-4,
    max_steps: int = 300,
) -> Fit:
    """Minimizes, for every problem, the mean cross-entropy + l2 / 2 * |kernel|^2; the bias is free.

    `features` `[example, dim]` and `labels` `[example]` are shared; `weights` `[problem, example]`
    say what a problem's mean is over, `l2` `[problem]` is its strength, `held_out`
    `[problem, example]` weighs the examples whose log-likelihood is reported. The first step suits
    features whose mean squared norm is about 1. A problem has converged once no entry of its
    gradient exceeds `tolerance`.
    """
    held_out = np.zeros_like(weights) if held_out is None else held_out
    problems, examples = weights.shape
    chunk = min(examples, max(1, MAX_LOGITS // (problems * num_classes)))
    weights = weights / np.sum(weights, axis=1, keepdims=True, dtype=np.float64)
    # A column of ones carries the bias. Examples that fill the last chunk weigh nothing.
    features = np.pad(features.astype(np.float32), ((0, 0), (0, 1)), constant_values=1.0)
    data = jax.device_put(
        (
            _chunked(features, chunk),
            _chunked(np.asarray(labels, np.int32), chunk),
            _chunked(weights.T.astype(np.float32), chunk),
            _chunked(held_out.T.astype(np.float32), chunk),
            np.asarray(l2, np.float32),
        )
    )
    shape = (problems, features.shape[1], num_classes)

    def evaluate(params):
        value, held, gradient = jax.device_get(_objective(*data, params.reshape(shape)))
        return value, held, gradient.reshape(problems, -1)

    params, *rest = _minimize(
        evaluate, np.zeros((problems, np.prod(shape[1:])), np.float32), tolerance, max_steps
    )
    params = params.reshape(shape)
    return Fit(params[:, :-1], params[:, -1], *rest)


def _chunked(array: np.ndarray, chunk: int) -> np.ndarray:
    missing = -len(array) % chunk
    if missing:
        array = np.pad(array, ((0, missing),) + ((0, 0),) * (array.ndim - 1))
    return array.reshape(-1, chunk, *array.shape[1:])


def _minimize(evaluate: Callable, params: np.ndarray, tolerance: float, max_steps: int):
    """L-BFGS (Nocedal and Wright, algorithm 7.5) with backtracking, all `[problem, size]` in step.

    Every turn evaluates one point; a problem that refuses its own halves its step and waits for the
    next turn. The objective is convex, so that a pair's curvature needs no Wolfe condition.
    """
    problems = len(params)
    # The first turn steps nowhere, from an infinite value: it evaluates the starting point.
    value, held = np.full(problems, np.inf, np.float32), np.zeros(problems, np.float32)
    gradient, direction = np.zeros_like(params), np.zeros_like(params)
    length, scale = np.ones(problems, np.float32), np.ones(problems, np.float32)
    pairs = deque(maxlen=MEMORY)
    for _ in range(max_steps):
        move = length[:, None] * direction
        new_value, new_held, new_gradient = evaluate(params + move)
        rounding = 1e-6 * np.abs(value)
        accepted = new_value <= value + 1e-4 * _dot(gradient, move) + rounding
        change = new_gradient - gradient
        curvature, size = _dot(move, change), _dot(change, change)
        convex = accepted & (curvature > 1e-8 * size)
        if convex.any():
            # An inverse curvature of zero takes the pair out of its problem's two loops.
            inverse = np.divide(1.0, curvature, out=np.zeros_like(curvature), where=convex)
            pairs.append((move, change, inverse))
            np.divide(curvature, size, out=scale, where=convex)
        params = np.where(accepted[:, None], params + move, params)
        gradient = np.where(accepted[:, None], new_gradient, gradient)
        value, held = np.where(accepted, new_value, value), np.where(accepted, new_held, held)
        length = np.where(accepted, 1.0, 0.5 * length).astype(np.float32)
        converged = np.max(np.abs(gradient), axis=1) <= tolerance
        # Below this length float32 sees no decrease.
        if np.all(converged | (length < 1e-6)):
            break
        direction = -_inverse_hessian_times(gradient, pairs, scale)
    return params, value, held, converged


def _inverse_hessian_times(vector: np.ndarray, pairs: deque, scale: np.ndarray) -> np.ndarray:
    alphas = []
    for move, change, inverse in reversed(pairs):
        alphas.append(inverse * _dot(move, vector))
        vector = vector - alphas[-1][:, None] * change
    vector = scale[:, None] * vector
    for (move, change, inverse), alpha in zip(pairs, reversed(alphas), strict=True):
        vector += (alpha - inverse * _dot(change, vector))[:, None] * move
    return vector


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum('ps,ps->p', a, b)


@jax.jit
def _objective(features, labels, weights, held_out, l2, params):
    """Value `[problem]`, held-out loss `[problem]` and gradient `[problem, dim + 1, class]`.

    The examples come in chunks `[chunk, example, ...]`, whose sums are added one after another.
    """
    problems, rows, classes = params.shape
    matrix = jnp.swapaxes(params, 0, 1).reshape(rows, problems * classes)

    def add_chunk(total, chunk):
        features, labels, weights, held_out = chunk
        logits = jnp.matmul(features, matrix, precision='highest')
        logits = logits.reshape(-1, problems, classes)
        logits = logits - jnp.max(logits, axis=-1, keepdims=True)
        one_hot = jax.nn.one_hot(labels, classes)[:, None, :]
        exponentials = jnp.exp(logits)
        normalizer = jnp.sum(exponentials, axis=-1, keepdims=True)
        loss = jnp.log(normalizer[..., 0]) - jnp.sum(logits * one_hot, axis=-1)
        error = (exponentials / normalizer - one_hot) * weights[..., None]
        error = error.reshape(-1, problems * classes)
        gradient = jnp.matmul(features.T, error, precision='highest')
        parts = (jnp.sum(loss * weights, axis=0), jnp.sum(loss * held_out, axis=0), gradient)
        return jax.tree.map(jnp.add, total, parts), None

    total = (jnp.zeros(problems), jnp.zeros(problems), jnp.zeros_like(matrix))
    chunks = (features, labels, weights, held_out)
    (loss, held, gradient), _ = jax.lax.scan(add_chunk, total, chunks)
    decay = l2[:, None, None] * params.at[:, -1].set(0.0)
    gradient = jnp.swapaxes(gradient.reshape(rows, problems, classes), 0, 1) + decay
    return loss + 0.5 * jnp.sum(decay * params, axis=(1, 2)), held, gradient
