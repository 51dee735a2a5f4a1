"""NT-Xent without the matrix of logits: in memory, what grows with the batch is its rows."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from simclr_jax.losses.checks import check_pairs, check_temperature, is_known
from simclr_jax.losses.normalize import l2_normalize

# Logits of unit rows lie in [-1/T, 1/T]. From this temperature on, float32 holds the exponentials
# of all of them (e^-33 to e^33) and their sums, so that no maximum is looked for and one
# exponential serves its row and its column. Below it, each row keeps its running maximum.
_LOWEST_PLAIN = 0.03
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
    Two tiles that mirror one another are one product, where the temperature is a number of at least
    0.03. With a `mesh`, the batch is sharded over `axis` (by default over all axes): every device
    gathers all rows, and scatters what its tiles give to the others' sums and gradients.

    Raises:
      ValueError: the projections are not `[batch, 2, dim]`, the batch does not divide by the
        devices, the temperature is not positive, or the tile is below 2.
    """
    check_pairs(projections)
    check_temperature(temperature)
    axes = () if mesh is None else mesh.axis_names if axis is None else (axis,)
    devices = math.prod(mesh.shape[name] for name in axes)
    if projections.shape[0] % devices:
        raise ValueError(
            f'projections has a batch of {projections.shape[0]}, which does not divide by the '
            f'{devices} devices; make it a multiple of {devices}'
        )
    if tile < 2:
        raise ValueError(f'tile={tile}; it must hold the two rows of a pair, as 1024 does')
    if devices == 1:
        return jnp.mean(_losses(projections, temperature, tile, ()))

    def local_loss(projections, temperature):
        return lax.pmean(jnp.mean(_losses(projections, temperature, tile, axes)), axes)

    # A traced temperature has no value to look at, and an array of one is traced in there.
    if is_known(temperature):
        known = float(temperature)
        loss = jax.shard_map(
            lambda x: local_loss(x, known), mesh=mesh, in_specs=P(axes), out_specs=P()
        )
        return loss(projections)
    loss = jax.shard_map(local_loss, mesh=mesh, in_specs=(P(axes), P()), out_specs=P())
    return loss(projections, jnp.asarray(temperature, jnp.float32))


def _losses(projections, temperature, tile, axes):
    """The losses `[batch * view]` of these rows, among those of all devices along `axes`."""
    rows = 2 * projections.shape[0]
    if is_known(temperature) and temperature >= _LOWEST_PLAIN:
        blocks = _split(projections.astype(jnp.float32), tile)
        return _mirrored(blocks, rows, float(temperature), axes).reshape(-1)[:rows]
    return _running_losses(projections, temperature, tile, axes)


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


# Temperatures known and not too low: each product serves its rows and its columns.


def _half(every, first, i):
    """How many blocks after its own block `i` is multiplied with, cyclically.

    It leaves to the others the half that they share with it.
    """
    count = len(every)
    # Of an even number of blocks, two are opposite one another.
    return (count - 1) // 2 + jnp.where((count % 2 == 0) & (first + i < count // 2), 1, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _mirrored(x, rows, temperature, axes):
    """The losses `[block, row]` of blocks, of which the first `rows` rows are no padding.

    It takes rows not normalized yet, and finishes their gradient block by block: a batch of 8,192
    pairs is 8 MiB for each array that a chain of small functions would keep.
    """
    return _mirrored_forward(x, rows, temperature, axes)[0]


def _gather(x, axes):
    return lax.all_gather(x, axes, tiled=True) if axes else x


def _scatter(x, axes):
    return lax.psum_scatter(x, axes, tiled=True) if axes else x


def _mirrored_forward(x, rows, temperature, axes):
    z = _unit_rows(x, temperature)
    every = _gather(z, axes)
    first = lax.axis_index(axes) * len(x) if axes else 0
    # A column of padding counts nothing. Sums along a tile are products: XLA's own are slower.
    real = (jnp.arange(x.shape[0] * x.shape[1]) < rows).astype(jnp.float32).reshape(x.shape[:2])
    every_real = jnp.tile(real, (len(every) // len(x), 1))

    def row(i, sums):
        own, own_real = _block(z, i), _block(real, i)

        def column(k, carry):
            sums, own_sum = carry
            j = (first + i + k) % len(every)
            e = jnp.exp(_product(own, _block(every, j).T))
            own_sum += _product(e, _block(every_real, j))
            return _add_to_block(sums, j, _product(own_real, e)), own_sum

        e = _without_self(jnp.exp(_product(own, own.T)), 0.0)
        carry = sums, _product(e, own_real)
        stop = 1 + _half(every, first, i)
        sums, own_sum = lax.fori_loop(1, stop, column, carry)
        return _add_to_block(sums, first + i, own_sum)

    sums = lax.fori_loop(0, len(z), row, jnp.zeros_like(every[..., 0]))
    sums = _scatter(sums, axes)
    positives = jnp.sum(z.reshape(len(x), -1, 2, x.shape[2]).prod(axis=2), axis=-1)
    losses = jnp.log(sums) - jnp.repeat(positives, 2, axis=1)
    return losses, (x, every, sums)


def _mirrored_backward(rows, temperature, axes, residuals, cotangent):
    x, every, sums = residuals
    z = _unit_rows(x, temperature)
    first = lax.axis_index(axes) * len(x) if axes else 0
    weights = cotangent / sums  # what exp(logit) counts in a row
    every_weight = _gather(weights, axes)

    def row(i, gradient):
        own, own_weight = _block(z, i), _block(weights, i)

        def column(k, carry):
            gradient, own_gradient = carry
            j = (first + i + k) % len(every)
            other = _block(every, j)
            # Logit ij is logit ji: it acts through the normalizer of row i and that of row j.
            weight = own_weight[:, None] + _block(every_weight, j)[None]
            p = jnp.exp(_product(own, other.T)) * weight
            return _add_to_block(gradient, j, _product(p.T, own)), own_gradient + _product(p, other)

        weight = own_weight[:, None] + own_weight[None]
        p = _without_self(jnp.exp(_product(own, own.T)) * weight, 0.0)
        carry = gradient, _product(p, own)
        stop = 1 + _half(every, first, i)
        gradient, own_gradient = lax.fori_loop(1, stop, column, carry)
        return _add_to_block(gradient, first + i, own_gradient)

    gradient = lax.fori_loop(0, len(z), row, jnp.zeros_like(every))
    gradient = _scatter(gradient, axes)

    def finish(i, gradient):
        pull = _block(cotangent, i)[:, None]
        own = _block(gradient, i) - (pull + _partners(pull)) * _partners(_block(z, i))
        _, pull_back = jax.vjp(functools.partial(_unit_rows, temperature=temperature), _block(x, i))
        return lax.dynamic_update_index_in_dim(gradient, pull_back(own)[0], i, 0)

    return (lax.fori_loop(0, len(z), finish, gradient),)


_mirrored.defvjp(_mirrored_forward, _mirrored_backward)


# Any number of devices, any temperature: own rows against every row, one maximum a row.


def _running_losses(projections, temperature, tile, axes):
    z = _unit_rows(projections, temperature)
    positive = jnp.sum(z[:, 0] * z[:, 1], axis=-1)  # [batch]; the same for both views
    blocks = every = _split(z, tile)
    first = 0
    if axes:
        every = lax.all_gather(blocks, axes, tiled=True)
        first = lax.axis_index(axes) * len(blocks)
    rows = 2 * len(z)
    normalizer = _normalizers(blocks, every, first, rows).reshape(-1)[:rows]
    return (normalizer.reshape(-1, 2) - positive[:, None]).reshape(-1)


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
