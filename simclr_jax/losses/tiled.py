"""NT-Xent without the matrix of logits: in memory, what grows with the batch is its rows."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from simclr_jax.losses.normalize import l2_normalize

# Logits of unit rows lie in [-1/T, 1/T]. From this temperature on, float32 holds exp(logit - 1/T)
# of the least of them (e^-67) and of what is 20 nats below it, so that one exponential serves the
# row and the column, and no maximum is looked for. Below it, each row keeps its running maximum.
_LOWEST_FIXED_SHIFT = 0.03
_FLOOR = -1e30  # below every logit, and finite: a difference of two infinities is NaN


def tiled_nt_xent(
    projections: jax.Array,
    temperature: float,
    *,
    tile: int = 1024,
    mesh: jax.sharding.Mesh | None = None,
    axis: str | None = None,
) -> jax.Array:
    """The value and the gradients of `nt_xent` of `[batch, view=2, dim]`, a float32 scalar.

    The logits live in tiles of at most `tile` x `tile`, and the backward pass computes them again.
    On one device each pair of tiles that mirror one another is one product. With a `mesh`, the
    batch is sharded over `axis` (by default over all axes): every device gathers all rows, computes
    the logits of its own, and scatters its part of the gradient of the others'.

    Raises:
      ValueError: the projections are not `[batch, 2, dim]`, the batch does not divide by the
        devices, the temperature is not positive, or the tile is below 2.
    """
    axes = () if mesh is None else mesh.axis_names if axis is None else (axis,)
    devices = math.prod(mesh.shape[name] for name in axes)
    _check(projections, temperature, tile, devices)
    if devices > 1:

        def local_loss(projections, temperature):
            losses = _losses(projections, temperature, tile, axes)
            return lax.pmean(jnp.mean(losses), axes)

        loss = jax.shard_map(local_loss, mesh=mesh, in_specs=(P(axes), P()), out_specs=P())
        return loss(projections, jnp.asarray(temperature, jnp.float32))
    # A traced temperature has no value to look at.
    known = not isinstance(temperature, jax.core.Tracer)
    if known and temperature >= _LOWEST_FIXED_SHIFT:
        rows = 2 * projections.shape[0]
        blocks = _split(projections.astype(jnp.float32), tile)
        losses = _mirrored(blocks, rows, float(temperature)).reshape(-1)[:rows]
    else:
        losses = _losses(projections, temperature, tile, ())
    return jnp.mean(losses)


def _check(projections: jax.Array, temperature: float, tile: int, devices: int) -> None:
    if projections.ndim != 3 or projections.shape[1] != 2:
        raise ValueError(
            f'projections has shape {projections.shape}; it must be [batch, view, dim] with 2 views'
        )
    if projections.shape[0] % devices:
        raise ValueError(
            f'projections has a batch of {projections.shape[0]}, which does not divide by the '
            f'{devices} devices; make it a multiple of {devices}'
        )
    if not isinstance(temperature, jax.core.Tracer) and temperature <= 0:
        raise ValueError(f'temperature={temperature}; it must be positive, as 0.1 is')
    if tile < 2:
        raise ValueError(f'tile={tile}; it must hold the two rows of a pair, as 1024 does')


def _split(x, tile):
    """Blocks `[block, row, dim]` of `[batch, 2, dim]`: whole pairs, the last padded with zeros.

    Blocks of nearly equal size pad less than full ones and a rest. None is all padding.
    """
    batch, _, dim = x.shape
    count = -(-batch // (tile // 2))
    size = -(-batch // count)
    return jnp.pad(x, ((0, count * size - batch), (0, 0), (0, 0))).reshape(count, 2 * size, dim)


def _unit_rows(x, temperature):
    """Normalized rows whose products are the logits: each factor has half of the temperature."""
    return l2_normalize(x) / jnp.sqrt(temperature)


def _product(a, b):
    # Accelerators round to bfloat16 or TF32 by default, and the temperature magnifies what is lost.
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _block(x, i):
    return lax.dynamic_index_in_dim(x, i, keepdims=False)


def _add_to_block(x, i, update):
    return lax.dynamic_update_index_in_dim(x, _block(x, i) + update, i, 0)


def _partners(block):
    """The rows of a block exchanged within each pair: row i ^ 1 at i."""
    return block.reshape(-1, 2, block.shape[1])[:, ::-1].reshape(block.shape)


def _without_self(tile, value):
    """A tile on the diagonal, with `value` where a row meets itself."""
    return jnp.where(jnp.eye(len(tile), dtype=bool), value, tile)


def _padding_offset(count, size, rows):
    """What to add to the logits `[count, size]` of blocks of which the first `rows` are real."""
    real = jnp.arange(count * size) < rows
    return jnp.where(real, 0.0, -jnp.inf).reshape(count, size)


# One device: the tiles on and above the diagonal.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _mirrored(x, rows, temperature):
    """The losses `[block, row]` of blocks, by tiles that serve their rows and their columns.

    It takes rows not normalized yet, and finishes their gradient block by block: a batch of 8,192
    pairs is 8 MiB for each array that a chain of small functions would keep.
    """
    return _mirrored_forward(x, rows, temperature)[0]


def _mirrored_forward(x, rows, temperature):
    shift = 1 / temperature
    z = _unit_rows(x, temperature)
    offset = _padding_offset(*x.shape[:2], rows) - shift  # of a column

    def row(i, carry):
        sums, positives = carry
        own = _block(z, i)

        def column(j, carry):
            sums, own_sum = carry
            e = jnp.exp(_product(own, _block(z, j).T) + _block(offset, j)[None])
            return _add_to_block(sums, j, jnp.sum(e, axis=0)), own_sum + jnp.sum(e, axis=1)

        e = jnp.exp(_product(own, own.T) + _block(offset, i)[None])
        carry = sums, jnp.sum(_without_self(e, 0.0), axis=1)
        sums, own_sum = lax.fori_loop(i + 1, len(z), column, carry)
        positive = jnp.sum(own * _partners(own), axis=1)
        return _add_to_block(sums, i, own_sum), _add_to_block(positives, i, positive)

    zeros = jnp.zeros(offset.shape)
    sums, positives = lax.fori_loop(0, len(z), row, (zeros, zeros))
    return shift + jnp.log(sums) - positives, (x, sums)


def _mirrored_backward(rows, temperature, residuals, cotangent):
    x, sums = residuals
    shift = 1 / temperature
    z = _unit_rows(x, temperature)
    weights = cotangent / sums  # what exp(logit - shift) counts in a row

    def row(i, gradient):  # [block, dim, row]: the product with a tile's transpose is slower
        own, own_weights, own_cotangent = (_block(a, i) for a in (z, weights, cotangent))

        def column(j, carry):
            gradient, own_gradient = carry
            other = _block(z, j)
            # Logit ij is logit ji: it acts through the normalizer of row i and that of row j.
            weight = own_weights[:, None] + _block(weights, j)[None]
            p = jnp.exp(_product(own, other.T) - shift) * weight
            gradient = _add_to_block(gradient, j, _product(own.T, p))
            return gradient, own_gradient + _product(p, other)

        weight = own_weights[:, None] + own_weights[None]
        p = jnp.exp(_product(own, own.T) - shift) * weight
        own_gradient = _product(_without_self(p, 0.0), own)
        pull = own_cotangent + _partners(own_cotangent[:, None])[:, 0]
        own_gradient -= pull[:, None] * _partners(own)
        gradient, own_gradient = lax.fori_loop(i + 1, len(z), column, (gradient, own_gradient))
        # No later block adds to this one.
        own_gradient += _block(gradient, i).T
        _, pull_back = jax.vjp(functools.partial(_unit_rows, temperature=temperature), _block(x, i))
        return lax.dynamic_update_index_in_dim(gradient, pull_back(own_gradient)[0].T, i, 0)

    gradient = jnp.zeros((len(x), x.shape[2], x.shape[1]))
    return (jnp.swapaxes(lax.fori_loop(0, len(x), row, gradient), 1, 2),)


_mirrored.defvjp(_mirrored_forward, _mirrored_backward)


# Any number of devices, any temperature: own rows against every row, one maximum a row.


def _losses(projections, temperature, tile, axes):
    """The losses `[batch, view]` of these rows, among those of all devices along `axes`."""
    z = _unit_rows(projections, temperature)
    positive = jnp.sum(z[:, 0] * z[:, 1], axis=-1)  # [batch]; the same for both views
    blocks = every = _split(z, tile)
    first = 0
    if axes:
        every = lax.all_gather(blocks, axes, tiled=True)
        first = lax.axis_index(axes) * len(blocks)
    rows = 2 * len(z)
    normalizer = _normalizers(blocks, every, first, rows).reshape(-1)[:rows]
    return normalizer.reshape(-1, 2) - positive[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalizers(blocks, every, first, rows):
    """Normalizers `[block, row]` of `blocks`, which are those of `every` from `first` on."""
    return _normalizers_forward(blocks, every, first, rows)[0]


def _tiles(blocks, every, rows):
    """Returns `step(own, i, k) -> j, block j, logits [row, column]`: the k-th tile of block i.

    It is the one of block j = i + k, cyclically: the first is on the diagonal.
    """
    count, size, _ = blocks.shape
    offset = jnp.tile(_padding_offset(count, size, rows), (len(every) // count, 1))

    def step(own, i, k):
        j = (i + k) % len(every)
        other = _block(every, j)
        return j, other, _product(own, other.T) + _block(offset, j)[None]

    return step


def _normalizers_forward(blocks, every, first, rows):
    tiles = _tiles(blocks, every, rows)

    def row(i):
        own = _block(blocks, i)

        def merge(carry, logits):
            top, total = carry
            new_top = jnp.maximum(top, jnp.max(logits, axis=1))
            e = jnp.exp(logits - new_top[:, None])
            return new_top, total * jnp.exp(top - new_top) + jnp.sum(e, axis=1)

        def step(k, carry):
            return merge(carry, tiles(own, first + i, k)[2])

        start = jnp.full(len(own), _FLOOR), jnp.zeros(len(own))
        start = merge(start, _without_self(tiles(own, first + i, 0)[2], -jnp.inf))
        return lax.fori_loop(1, len(every), step, start)

    top, total = lax.map(row, jnp.arange(len(blocks)))
    return top + jnp.log(total), (blocks, every, first, top, total)


def _normalizers_backward(rows, residuals, cotangent):
    blocks, every, first, top, total = residuals
    tiles = _tiles(blocks, every, rows)
    weights = cotangent / total

    def row(gradient, i):
        own, own_top, own_weights = _block(blocks, i), _block(top, i), _block(weights, i)

        def accumulate(carry, j, other, logits):
            gradient, own_gradient = carry
            p = jnp.exp(logits - own_top[:, None]) * own_weights[:, None]
            gradient = _add_to_block(gradient, j, _product(own.T, p))
            return gradient, own_gradient + _product(p, other)

        def step(k, carry):
            return accumulate(carry, *tiles(own, first + i, k))

        j, other, logits = tiles(own, first + i, 0)
        start = gradient, jnp.zeros_like(own)
        start = accumulate(start, j, other, _without_self(logits, -jnp.inf))
        return lax.fori_loop(1, len(every), step, start)

    start = jnp.zeros_like(jnp.swapaxes(every, 1, 2))
    every_gradient, gradient = lax.scan(row, start, jnp.arange(len(blocks)))
    return gradient, jnp.swapaxes(every_gradient, 1, 2), None


_normalizers.defvjp(_normalizers_forward, _normalizers_backward)
