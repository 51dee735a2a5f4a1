"""Logistic regressions to the last digits: Newton's method in float64.

`logistic.py` fits many regressions at once, in float32, as close as a choice among them needs. Here
one is fitted after another, so that its value is that of anybody else's solver: weak regularization
leaves losses of 1e-6 an example, of which float32 keeps no digit.

Examples are spread over the devices. Each adds up its own; parameters are on all of them.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.linalg import solve_triangular

from simclr_jax.evaluate.logistic import chunks
from simclr_jax.evaluate.rows import Rows, local_mesh, put_rows
from simclr_jax.parallel import DATA_AXIS

TOLERANCE = 1e-8  # of the objective: what another step would still gain
_NOTHING = 1e-15  # a gain that is none: the losses of a class without examples only tend to 0
MAX_STEPS = 100
_RESIDUAL = 0.1  # of the linear equations of a step, in the norm of their preconditioner
_MAX_INNER = 1000
_MAX_HALVINGS = 40


class Fit(NamedTuple):
    """One regression.

    Attributes:
      kernel: `[dim, class]` float64.
      bias: `[class]` float64.
      objective: its value, `[]`; of several labels an example, that of each class, `[class]`.
      converged: whether what another step would gain is below `TOLERANCE` of the objective.
    """

    kernel: np.ndarray
    bias: np.ndarray
    objective: np.ndarray
    converged: bool


class Data(NamedTuple):
    """Examples on the devices, in the first axis. Filling weighs nothing.

    Attributes:
      features: `[example, dim]` float32.
      targets: `[example]` int32; of several labels an example `[example, class]` float32, 0 or 1.
      weights: `[example]` float32, 0 or 1.
    """

    features: jax.Array
    targets: jax.Array
    weights: jax.Array


class Point(NamedTuple):
    """Parameters `[dim + 1, problem, class]`, the bias last, and the objective there: its gradient
    of that shape and its value `[problem]`.
    """

    params: jax.Array
    gradient: jax.Array
    value: jax.Array


def fit_path(
    features: np.ndarray | Rows,
    targets: np.ndarray,
    strengths: Sequence[float],
    *,
    num_classes: int,
    mesh: Mesh | None = None,
) -> Iterator[Fit]:
    """Minimizes the summed cross-entropy + l2 / 2 * |kernel|^2 for one strength after another.

    The bias is free. That is scikit-learn's `LogisticRegression(C=1 / l2)` of three classes or
    more; of two, its one logit in place of two has another penalty. A fit starts at the one before:
    let the strengths fall. Features may have any scale.

    Args:
      features: `[example, dim]` float32; finite.
      targets: the class of each example, `[example]`, from 0; or `[example, class]` of 0 and 1, for
        a regression of two classes (sigmoid) for each class.
      strengths: l2, above 0.
      num_classes: how many there are.
      mesh: the devices, by default those of this process. Every process of several gives the same
        arguments and gets all results.

    Yields:
      The fit of each strength.
    """
    mesh = mesh or local_mesh()
    several = np.ndim(targets) == 2
    problems, classes = (num_classes, 1) if several else (1, num_classes)
    examples, dim = features.shape
    chunk, padded = chunks(examples, dim + num_classes, mesh)
    dtype = np.float32 if several else np.int32
    options = {'chunk': chunk, 'several': several, 'mesh': mesh}
    with jax.enable_x64(True):
        data = Data(
            put_rows(features, padded, mesh),
            put_rows(np.asarray(targets, dtype), padded, mesh),
            put_rows(np.ones(examples, np.float32), padded, mesh),
        )
        params = _zeros(dim=dim, problems=problems, classes=classes, mesh=mesh)
    for strength in strengths:
        with jax.enable_x64(True):  # not across the yield: the caller has its own types
            params, found = _fit(data, params, float(strength), options)
        yield found


def scores(features: np.ndarray | Rows, fit: Fit) -> np.ndarray:
    """Returns logits `[example, class]` float64 of `features` `[example, dim]`."""
    size = max(1, 2**22 // max(1, features.shape[1]))
    made = [
        np.asarray(features[start : start + size], np.float64) @ fit.kernel + fit.bias
        for start in range(0, len(features), size)
    ]
    return np.concatenate([np.zeros((0, len(fit.bias))), *made])


def _fit(data: Data, params: jax.Array, l2: float, options: dict) -> tuple[jax.Array, Fit]:
    point, matrix = _begin(data, params, l2, **options)
    factor = _inverse_factor(np.asarray(matrix), options['mesh'])
    converged = False
    for _ in range(MAX_STEPS):
        point, gain, moved = _step(data, point, factor, l2, **options)
        converged = bool(np.all(np.asarray(gain) <= TOLERANCE * np.asarray(point.value) + _NOTHING))
        if converged or not moved:
            break
    found = np.asarray(point.params)
    kernel = found[:-1].reshape(len(found) - 1, -1)
    value = np.asarray(point.value)
    return point.params, Fit(
        kernel, found[-1].ravel(), value if options['several'] else value[0], converged
    )


def _inverse_factor(matrix: np.ndarray, mesh: Mesh) -> jax.Array:
    """Returns the inverse of a matrix's Cholesky factor; a TPU has no Cholesky in float64."""
    lower = np.linalg.cholesky(matrix)
    inverse = solve_triangular(lower, np.eye(len(lower)), lower=True)
    sharding = NamedSharding(mesh, P())
    return jax.make_array_from_callback(inverse.shape, sharding, lambda index: inverse[index])


@partial(jax.jit, static_argnames=('dim', 'problems', 'classes', 'mesh'))
def _zeros(*, dim: int, problems: int, classes: int, mesh: Mesh) -> jax.Array:
    made = jnp.zeros((dim + 1, problems, classes), jnp.float64)
    return jax.lax.with_sharding_constraint(made, NamedSharding(mesh, P()))


def _on_all(function, mesh: Mesh, inputs: int):
    """Runs `function` of `Data` and `inputs` arrays that are on every device."""
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(P(DATA_AXIS), *[P()] * inputs),
        out_specs=P(),
        check_vma=False,  # sums over the devices are equal on all
    )


@partial(jax.jit, static_argnames=('chunk', 'several', 'mesh'))
def _begin(data: Data, params: jax.Array, l2: float, *, chunk: int, several: bool, mesh: Mesh):
    """Returns the point, and a matrix near the Hessian there.

    It is what the Hessian would be if all classes' probabilities were as uncertain as they are on
    average for each example: one matrix `[dim + 1, dim + 1]` for all classes.
    """

    def begin(data, params, l2):
        terms = _terms(several)

        def second(features, targets, logits):
            weights = terms(logits, targets).curvature()
            return features.T @ (features * weights[:, None])

        gram = _sum(data, params, chunk, second)
        decay = jnp.append(jnp.full(len(params) - 1, l2), 0.0)
        matrix = gram + jnp.diag(decay + 1e-12 * jnp.trace(gram) + 1e-300)
        return _evaluate(data, params, l2, chunk, terms), matrix

    return _on_all(begin, mesh, 2)(data, params, jnp.float64(l2))


@partial(jax.jit, static_argnames=('chunk', 'several', 'mesh'))
def _step(
    data: Data, point: Point, factor: jax.Array, l2: float, *, chunk: int, several: bool, mesh: Mesh
):
    """A step of Newton's method with backtracking (Nocedal and Wright, algorithm 7.1).

    Returns the new point, how much the step was to gain by its quadratic model `[problem]`, and
    whether any problem moved. That gain is what is left to the minimum, near it: it says the same
    whatever the scale of the features.
    """

    def step(data, point, factor, l2):
        terms = _terms(several)
        direction = _direction(data, point, factor, l2, chunk, terms)
        slope = jnp.sum(point.gradient * direction, axis=(0, 2))

        def try_(state):
            length, best, waiting, halvings = state
            new = _evaluate(data, point.params + _each(length) * direction, l2, chunk, terms)
            enough = point.value + 1e-4 * length * slope + 1e-15 * point.value
            accepted = waiting & (new.value <= enough)
            best = Point(
                jnp.where(_each(accepted), new.params, best.params),
                jnp.where(_each(accepted), new.gradient, best.gradient),
                jnp.where(accepted, new.value, best.value),
            )
            waiting = waiting & ~accepted
            return jnp.where(waiting, 0.5 * length, length), best, waiting, halvings + 1

        def go_on(state):
            return jnp.any(state[2]) & (state[3] < _MAX_HALVINGS)

        start = jnp.ones_like(slope), point, slope < 0.0, 0
        _, new, waiting, _ = jax.lax.while_loop(go_on, try_, start)
        return new, -0.5 * slope, jnp.any((slope < 0.0) & ~waiting)

    return _on_all(step, mesh, 3)(data, point, factor, jnp.float64(l2))


def _direction(
    data: Data, point: Point, factor: jax.Array, l2: jax.Array, chunk: int, terms
) -> jax.Array:
    """Solves Hessian @ direction = -gradient by preconditioned conjugate gradients."""

    def precondition(vector):
        flat = vector.reshape(len(vector), -1)
        return (factor.T @ (factor @ flat)).reshape(vector.shape)

    def hessian_times(vector):
        def products(features, targets, logits):
            along = (features @ vector.reshape(len(vector), -1)).reshape(logits.shape)
            made = terms(logits, targets).hessian_times(along)
            return (features.T @ made.reshape(len(made), -1)).reshape(vector.shape)

        return _sum(data, point.params, chunk, products) + _decay(vector, l2)

    def inner(state):
        solution, residual, search, size, count = state
        product = hessian_times(search)
        curvature = _dot(search, product)
        active = (size > aim) & (curvature > 0.0)
        length = jnp.where(active, size / jnp.where(active, curvature, 1.0), 0.0)
        solution = solution + _each(length) * search
        residual = residual - _each(length) * product
        near = precondition(residual)
        new = jnp.where(active, _dot(residual, near), 0.0)
        search = near + _each(jnp.where(active, new / jnp.where(active, size, 1.0), 0.0)) * search
        return solution, residual, search, new, count + 1

    def go_on(state):
        return jnp.any(state[3] > aim) & (state[4] < _MAX_INNER)

    residual = -point.gradient
    search = precondition(residual)
    size = _dot(residual, search)
    aim = _RESIDUAL**2 * size
    start = jnp.zeros_like(residual), residual, search, size, 0
    return jax.lax.while_loop(go_on, inner, start)[0]


def _evaluate(data: Data, params: jax.Array, l2: jax.Array, chunk: int, terms) -> Point:
    def first(features, targets, logits):
        found = terms(logits, targets)
        error = found.error()
        gradient = (features.T @ error.reshape(len(error), -1)).reshape(params.shape)
        # Filling has features of 0, and a bias of 0 too: it has no gradient, but a loss.
        return jnp.sum(found.loss * features[:, -1:], axis=0), gradient

    loss, gradient = _sum(data, params, chunk, first)
    decay = _decay(params, l2)
    return Point(params, gradient + decay, loss + 0.5 * _dot(decay, params))


def _sum(data: Data, params: jax.Array, chunk: int, function):
    """Adds up `function(features, targets, logits)` over all examples, a chunk at a time.

    `features` `[chunk, dim + 1]` end with a 1, of filling a 0.
    """

    def of(part):
        features, targets, weights = part
        features = jnp.concatenate([features, weights[:, None]], axis=1).astype(params.dtype)
        logits = features @ params.reshape(len(params), -1)
        return function(features, targets, logits.reshape(-1, *params.shape[1:]))

    parts = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), tuple(data))
    shapes = jax.eval_shape(of, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(
        lambda t, part: (jax.tree.map(jnp.add, t, of(part)), None), zeros, parts
    )
    return jax.lax.psum(total, DATA_AXIS)


class _Softmax(NamedTuple):
    """Cross-entropy of `[example, 1, class]` logits, by differences to the own class's logit.

    So a loss, and the probability of all other classes, keep their digits however small they are.
    """

    own: jax.Array  # `[example, 1, class]`, 1 at the own class
    others: jax.Array  # the same shape: probabilities, 0 at the own class
    loss: jax.Array  # `[example, 1]`

    @classmethod
    def of(cls, logits: jax.Array, labels: jax.Array) -> '_Softmax':
        own = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)[:, None, :]
        relative = logits - jnp.sum(logits * own, axis=-1, keepdims=True)
        relative = jnp.where(own > 0, -jnp.inf, relative)
        top = jnp.maximum(jnp.max(relative, axis=-1, keepdims=True), 0.0)
        terms = jnp.exp(relative - top)
        rest = jnp.sum(terms, axis=-1, keepdims=True)
        loss = top + jnp.log1p(rest + jnp.expm1(-top))
        return cls(own, terms / (rest + jnp.exp(-top)), loss[..., 0])

    def error(self) -> jax.Array:
        return self.others - self.own * jnp.sum(self.others, axis=-1, keepdims=True)

    def hessian_times(self, vector: jax.Array) -> jax.Array:
        vector = vector - jnp.sum(vector * self.own, axis=-1, keepdims=True)
        mean = jnp.sum(self.others * vector, axis=-1, keepdims=True)
        made = self.others * (vector - mean)
        return made - self.own * jnp.sum(made, axis=-1, keepdims=True)

    def curvature(self) -> jax.Array:
        """Of every example, over the classes on average, `[example]`."""
        wrong = jnp.sum(self.others, axis=-1)
        total = wrong * (1.0 - wrong) + jnp.sum(self.others * (1.0 - self.others), axis=-1)
        return total[:, 0] / self.others.shape[-1]


class _Sigmoid(NamedTuple):
    """Cross-entropy of `[example, class, 1]` logits, of two classes each."""

    sign: jax.Array  # `[example, class, 1]`: 1 where the target is 0, else -1
    wrong: jax.Array  # probability of what is not the target
    loss: jax.Array  # `[example, class]`

    @classmethod
    def of(cls, logits: jax.Array, targets: jax.Array) -> '_Sigmoid':
        sign = (1.0 - 2.0 * targets.astype(logits.dtype))[..., None]
        against = sign * logits
        return cls(sign, jax.nn.sigmoid(against), jax.nn.softplus(against)[..., 0])

    def error(self) -> jax.Array:
        return self.sign * self.wrong

    def hessian_times(self, vector: jax.Array) -> jax.Array:
        return self.wrong * (1.0 - self.wrong) * vector

    def curvature(self) -> jax.Array:
        """Of every example, over the classes on average, `[example]`."""
        return jnp.mean(self.wrong * (1.0 - self.wrong), axis=(1, 2))


def _terms(several: bool):
    return _Sigmoid.of if several else _Softmax.of


def _decay(params: jax.Array, l2: jax.Array) -> jax.Array:
    """The gradient of the penalty: nothing for the bias."""
    return (l2 * params).at[-1].set(0.0)


def _each(values: jax.Array) -> jax.Array:
    """Values of every problem beside vectors."""
    return values[None, :, None]


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b, axis=(0, 2))
