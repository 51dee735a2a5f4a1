"""Multinomial logistic regressions, many at once over the same features, by L-BFGS.

Examples are spread over the devices, and so is what L-BFGS remembers: a device computes the sums
over its own examples, and adds up its own part of the gradient. An evaluation gathers the
parameters and scatters the gradient, which is what one all-reduce of the gradient would move.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.evaluate.rows import Rows, local_mesh, put_rows
from simclr_jax.parallel import DATA_AXIS

MEMORY = 8
MAX_LOGITS = 2**25  # at once on a device, over all problems: 128 MiB


class Fit(NamedTuple):
    """`kernel` `[problem, dim, class]`, `bias` `[problem, class]`, and for every problem the
    minimized `objective`, the negative log-likelihood of `held_out`, summed, and `converged`.
    """

    kernel: np.ndarray
    bias: np.ndarray
    objective: np.ndarray
    held_out: np.ndarray
    converged: np.ndarray


class Data(NamedTuple):
    """What the regressions are fitted to: examples in the first axis, spread over the devices.

    `features` `[example, dim]`, `labels` `[example]` int32, `weights` and `held_out` `[example,
    problem]`, and `l2` `[problem]`, which every device has. Filling weighs nothing.
    """

    features: jax.Array
    labels: jax.Array
    weights: jax.Array
    held_out: jax.Array
    l2: jax.Array


class State(NamedTuple):
    """Where L-BFGS stands. Vectors are `[row, problem, class]`, spread over the devices by rows:
    `dim` rows of the kernel, the bias, and zeros that make the rows divide evenly.
    """

    point: jax.Array  # `[2, row, problem, class]`: the parameters, and the gradient there
    direction: jax.Array  # of the next step, `[row, problem, class]`
    pairs: jax.Array  # `[memory, 2, row, problem, class]`: what the last steps added to `point`
    inverses: jax.Array  # `[memory, problem]`: of the pairs' curvature; 0 if a pair does not count
    oldest: jax.Array  # `[]`: its place in the memory
    value: jax.Array  # `[problem]`, as all below: of the objective
    held_out: jax.Array
    length: jax.Array  # of the next step, in units of `direction`
    scale: jax.Array  # of the first estimate of the inverse Hessian
    converged: jax.Array


_STATE_SPECS = State(P(None, DATA_AXIS), P(DATA_AXIS), P(None, None, DATA_AXIS), *[P()] * 7)
_DATA_SPECS = Data(*[P(DATA_AXIS)] * 4, P())


def fit(
    features: np.ndarray | Rows,
    labels: np.ndarray,
    weights: np.ndarray,
    l2: np.ndarray,
    *,
    num_classes: int,
    held_out: np.ndarray | None = None,
    tolerance: float = 1e-4,
    max_steps: int = 300,
    mesh: Mesh | None = None,
) -> Fit:
    """Minimizes, for every problem, the mean cross-entropy + l2 / 2 * |kernel|^2; the bias is free.

    `features` `[example, dim]` and `labels` `[example]` are shared; `weights` `[problem, example]`
    say what a problem's mean is over, `l2` `[problem]` is its strength, `held_out`
    `[problem, example]` weighs the examples whose log-likelihood is reported. The first step suits
    features whose mean squared norm is about 1. A problem has converged once no entry of its
    gradient exceeds `tolerance`. Examples are spread over the devices of `mesh`, by default those
    of this process; every process of several gives the same arguments and gets all results.
    """
    mesh = mesh or local_mesh()
    held_out = np.zeros_like(weights) if held_out is None else held_out
    problems, (examples, dim) = len(weights), features.shape
    chunk, padded = chunks(examples, problems * num_classes, mesh)
    total = np.sum(weights, axis=1, keepdims=True, dtype=np.float64)
    everything = np.arange(examples)
    data = Data(
        put_rows(features, padded, mesh),
        put_rows(np.asarray(labels, np.int32), padded, mesh),
        put_rows(
            Rows(weights.T, everything, lambda rows: (rows / total.T).astype(np.float32)),
            padded,
            mesh,
        ),
        put_rows(Rows(held_out.T, everything, lambda rows: rows.astype(np.float32)), padded, mesh),
        _replicate(np.asarray(l2, np.float32), mesh),
    )
    step = partial(turn, tolerance=tolerance, chunk=chunk, mesh=mesh)
    state = _start(dim=dim, problems=problems, classes=num_classes, mesh=mesh)
    for _ in range(max_steps):
        state, done = step(state, data)
        if done:
            break
    params = np.asarray(_gather(state.point, mesh=mesh)[0])
    rest = (np.asarray(x) for x in (state.value, state.held_out, state.converged))
    return Fit(params[:dim].swapaxes(0, 1), params[dim], *rest)


def chunks(examples: int, logits: int, mesh: Mesh) -> tuple[int, int]:
    """Returns how many examples a device looks at at once, and the number of all with filling.

    Args:
      examples: how many there are.
      logits: of an example, over all problems.
      mesh: the devices.
    """
    of_device = max(1, -(-examples // mesh.devices.size))
    count = -(-of_device // max(1, MAX_LOGITS // logits))
    chunk = -(-of_device // count)
    if count > 1:  # TPUs keep rows by eights: other chunks would be a copy of all examples
        chunk = -(-chunk // 8) * 8
    return chunk, mesh.devices.size * count * chunk


def abstract(
    examples: int, dim: int, problems: int, classes: int, mesh: Mesh
) -> tuple[State, Data, int]:
    """Returns what `turn` takes, as shapes without values, and its `chunk`."""

    def of(spec, shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    chunk, padded = chunks(examples, problems * classes, mesh)
    state = jax.eval_shape(partial(_zeros, dim, problems, classes, mesh.devices.size))
    state = State(*(of(s, x.shape, x.dtype) for s, x in zip(_STATE_SPECS, state, strict=True)))
    rows = P(DATA_AXIS)
    data = Data(
        of(rows, (padded, dim)),
        of(rows, (padded,), jnp.int32),
        of(rows, (padded, problems)),
        of(rows, (padded, problems)),
        of(P(), (problems,)),
    )
    return state, data, chunk


@partial(jax.jit, static_argnames=('chunk', 'mesh'), donate_argnames='state')
def turn(
    state: State, data: Data, *, tolerance: float, chunk: int, mesh: Mesh
) -> tuple[State, jax.Array]:
    """A step of L-BFGS (Nocedal and Wright, algorithm 7.5) with backtracking, of all problems.

    It evaluates one point; a problem that refuses its own halves its step and waits for the next
    turn. The objective is convex, so that a pair's curvature needs no Wolfe condition. Returns the
    state, and whether no problem can go on.
    """
    return jax.shard_map(
        partial(_turn, chunk=chunk),
        mesh=mesh,
        in_specs=(_STATE_SPECS, _DATA_SPECS, P()),
        out_specs=(_STATE_SPECS, P()),
        check_vma=False,  # sums over the devices are equal on all
    )(state, data, jnp.asarray(tolerance, jnp.float32))


def _turn(state: State, data: Data, tolerance: jax.Array, *, chunk: int) -> tuple[State, jax.Array]:
    params, gradient = state.point
    move = _each(state.length) * state.direction
    value, held_out, new_gradient = _objective(data, params + move, chunk)
    new = jnp.stack([params + move, new_gradient])
    pair = new - state.point
    change = pair[1]
    slope, curvature, size = _dots((gradient, move), (move, change), (change, change))
    rounding = 1e-6 * jnp.abs(state.value)
    accepted = value <= state.value + 1e-4 * slope + rounding
    convex = accepted & (curvature > 1e-8 * size)
    # An inverse curvature of zero takes the pair out of its problem's two loops.
    inverse = jnp.where(convex, 1.0 / jnp.where(convex, curvature, 1.0), 0.0)
    keep = jnp.any(convex)

    def remember(memory, newest):
        oldest = jax.lax.dynamic_index_in_dim(memory, state.oldest, keepdims=False)
        newest = jnp.where(keep, newest, oldest)
        return jax.lax.dynamic_update_index_in_dim(memory, newest, state.oldest, 0)

    point = jnp.where(accepted[None, None, :, None], new, state.point)
    steepest = jnp.max(jnp.abs(point[1]), axis=(0, 2))
    length = jnp.where(accepted, 1.0, 0.5 * state.length)
    converged = jax.lax.pmax(steepest, DATA_AXIS) <= tolerance
    state = State(
        point,
        state.direction,
        remember(state.pairs, pair),
        remember(state.inverses, inverse),
        (state.oldest + keep) % MEMORY,
        jnp.where(accepted, value, state.value),
        jnp.where(accepted, held_out, state.held_out),
        length,
        jnp.where(convex, curvature / jnp.where(convex, size, 1.0), state.scale),
        converged,
    )
    # Below this length float32 sees no decrease.
    done = jnp.all(converged | (length < 1e-6))
    return state._replace(direction=-_inverse_hessian_times(point[1], state)), done


def _inverse_hessian_times(vector: jax.Array, state: State) -> jax.Array:
    """The two loops; places in the memory that are still empty do nothing."""

    def backwards(vector, place):
        move, change = state.pairs[place]
        (along,) = _dots((move, vector))
        alpha = state.inverses[place] * along
        return vector - _each(alpha) * change, alpha

    def forwards(vector, place_and_alpha):
        place, alpha = place_and_alpha
        move, change = state.pairs[place]
        (along,) = _dots((change, vector))
        return vector + _each(alpha - state.inverses[place] * along) * move, None

    places = (state.oldest + jnp.arange(MEMORY)) % MEMORY
    vector, alphas = jax.lax.scan(backwards, vector, places, reverse=True)
    return jax.lax.scan(forwards, _each(state.scale) * vector, (places, alphas))[0]


def _each(values: jax.Array) -> jax.Array:
    """Values of every problem beside vectors."""
    return values[None, :, None]


def _dots(*pairs: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Inner products of vectors, of every problem, `[pair, problem]`."""
    products = [jnp.sum(a * b, axis=(0, 2)) for a, b in pairs]
    return jax.lax.psum(jnp.stack(products), DATA_AXIS)


def _objective(data: Data, params: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Value `[problem]`, held-out loss `[problem]` and this device's rows of the gradient.

    A device's examples are looked at in chunks, whose sums are added one after another.
    """
    local, problems, classes = params.shape
    dim = data.features.shape[1]
    matrix = jax.lax.all_gather(params, DATA_AXIS, tiled=True).reshape(-1, problems * classes)

    def add_chunk(total, examples):
        features, labels, weights, held_out = examples
        logits = jnp.matmul(features, matrix[:dim], precision='highest') + matrix[None, dim]
        logits = logits.reshape(-1, problems, classes)
        logits = logits - jnp.max(logits, axis=-1, keepdims=True)
        one_hot = jax.nn.one_hot(labels, classes)[:, None, :]
        exponentials = jnp.exp(logits)
        normalizer = jnp.sum(exponentials, axis=-1, keepdims=True)
        loss = jnp.log(normalizer[..., 0]) - jnp.sum(logits * one_hot, axis=-1)
        error = (exponentials / normalizer - one_hot) * weights[..., None]
        error = error.reshape(-1, problems * classes)
        gradient = jnp.matmul(features.T, error, precision='highest')
        parts = jnp.sum(loss * weights, 0), jnp.sum(loss * held_out, 0), gradient, error.sum(0)
        return jax.tree.map(jnp.add, total, parts), None

    zeros = jnp.zeros(problems), jnp.zeros(problems), jnp.zeros_like(matrix[:dim]), matrix[dim] * 0
    examples = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), tuple(data[:4]))
    (loss, held_out, kernel, bias), _ = jax.lax.scan(add_chunk, zeros, examples)
    filling = jnp.zeros((len(matrix) - dim - 1, problems * classes))
    gradient = jnp.concatenate([kernel, bias[None], filling])
    gradient = jax.lax.psum_scatter(gradient, DATA_AXIS, tiled=True)
    row = jax.lax.axis_index(DATA_AXIS) * local + jnp.arange(local)
    decay = jnp.where((row < dim)[:, None, None], _each(data.l2) * params, 0.0)
    loss, held_out = jax.lax.psum((loss, held_out), DATA_AXIS)
    (penalty,) = _dots((decay, params))
    return loss + 0.5 * penalty, held_out, gradient.reshape(params.shape) + decay


def _zeros(dim: int, problems: int, classes: int, devices: int) -> State:
    """Nowhere, with an infinite value: the first turn steps nowhere and evaluates the start."""
    rows = -(-(dim + 1) // devices) * devices
    vector = rows, problems, classes
    one = jnp.ones(problems)
    return State(
        point=jnp.zeros((2, *vector)),
        direction=jnp.zeros(vector),
        pairs=jnp.zeros((MEMORY, 2, *vector)),
        inverses=jnp.zeros((MEMORY, problems)),
        oldest=jnp.int32(0),
        value=one * jnp.inf,
        held_out=one * 0.0,
        length=one,
        scale=one,
        converged=one < 0.0,
    )


@partial(jax.jit, static_argnames=('dim', 'problems', 'classes', 'mesh'))
def _start(*, dim: int, problems: int, classes: int, mesh: Mesh) -> State:
    shardings = State(*(NamedSharding(mesh, spec) for spec in _STATE_SPECS))
    state = _zeros(dim, problems, classes, mesh.devices.size)
    return jax.tree.map(jax.lax.with_sharding_constraint, state, shardings)


def _replicate(array: np.ndarray, mesh: Mesh) -> jax.Array:
    sharding = NamedSharding(mesh, P())
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


@partial(jax.jit, static_argnames='mesh')
def _gather(array: jax.Array, *, mesh: Mesh) -> jax.Array:
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, P()))
