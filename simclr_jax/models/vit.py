"""Vision transformers without a classifier, as MoCo v3 has them (arXiv:2104.02057)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

POOLINGS = ('token', 'mean', 'patches')
POSITIONS = ('sincos', 'learned')
EPSILON = 1e-6  # of LayerNorm, in MoCo v3 (`vits.py`) and timm
POOLED_NORM = 'fc_norm'  # timm's name of the LayerNorm behind the average of the patches
PATCH_PROJECTION = 'patch_projection'  # the name of the layer that MoCo v3 does not train


def sincos_positions(height: int, width: int, dim: int) -> np.ndarray:
    """Fixed positions of a grid of patches, row by row: float32 `[height * width, dim]`.

    The sine and the cosine of the row at `dim / 4` frequencies from 1 down to nearly 1 / 10,000,
    then those of the column (`vits.py`).

    Raises:
      ValueError: `dim` does not divide by 4.
    """
    if dim % 4:
        raise ValueError(f'dim={dim}; it must be a multiple of 4')
    frequencies = 10_000.0 ** (-np.arange(dim // 4) / (dim // 4))
    rows, columns = np.divmod(np.arange(height * width), width)
    angles = [np.outer(place, frequencies) for place in (rows, columns)]
    parts = [function(angle) for angle in angles for function in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def interpolated(
    positions: jax.Array, known: tuple[int, int], wanted: tuple[int, int]
) -> jax.Array:
    """Turns positions `[1, patch, dim]` of one grid of patches into those of another, bicubically.

    As timm's `resample_abs_pos_embed`, with antialiasing. Those of the same grid stay as they are.
    """
    if known == wanted:
        return positions
    grid = positions.reshape(1, *known, -1).astype(jnp.float32)
    shape = 1, *wanted, grid.shape[-1]
    made = jax.image.resize(grid, shape, 'cubic', antialias=True)
    return made.reshape(1, -1, shape[-1]).astype(positions.dtype)


def patch_init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Xavier's uniform of a patch as a vector: `+- sqrt(6 / (pixels * channels + dim))`."""
    limit = math.sqrt(6 / (math.prod(shape[:-1]) + shape[-1]))
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class Block(nn.Module):
    """Attention and a perceptron of four times the width, each after a LayerNorm."""

    num_heads: int
    dtype: jnp.dtype
    epsilon: float = EPSILON
    drop_path: float = 0.0  # probability that a picture skips a branch in training

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[n, token, dim]` to the same; needs an rng 'drop_path' where it drops."""
        dim = x.shape[-1]
        init = nn.initializers.xavier_uniform()
        y = layer_norm(self.dtype, 'norm1', self.epsilon)(x)
        y = nn.MultiHeadAttention(
            self.num_heads,
            dtype=self.dtype,
            kernel_init=init,  # of queries, keys and values apart
            force_fp32_for_softmax=True,
            name='attention',
        )(y, sow_weights=self.is_mutable_collection('intermediates'))
        x = x + self._drop(y, train)
        y = layer_norm(self.dtype, 'norm2', self.epsilon)(x)
        y = nn.Dense(4 * dim, dtype=self.dtype, kernel_init=init, name='dense1')(y)
        y = nn.gelu(y, approximate=False)
        y = nn.Dense(dim, dtype=self.dtype, kernel_init=init, name='dense2')(y)
        return x + self._drop(y, train)

    def _drop(self, branch: jax.Array, train: bool) -> jax.Array:
        """Stochastic depth (arXiv:1603.09382), as timm's `DropPath`: what is kept is scaled up."""
        if not (train and self.drop_path):
            return branch
        keep = 1 - self.drop_path
        kept = jax.random.bernoulli(self.make_rng('drop_path'), keep, (len(branch), 1, 1))
        return jnp.where(kept, branch / keep, 0).astype(branch.dtype)


def layer_norm(dtype: jnp.dtype, name: str, epsilon: float = EPSILON) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon, dtype=dtype, name=name)


class VisionTransformer(nn.Module):
    """A ViT up to its class token, or to the average of its patches.

    Positions are fixed (`sincos_positions`) and no parameters, or, where `positions` is 'learned',
    a parameter `[1, token, dim]`, the class token's first. For pictures of another size they are
    interpolated, as timm does (`resample_abs_pos_embed`). Where
    `freeze_patch_projection`, the random projection of the patches gets no gradient, which MoCo v3
    found to make training stable (section 4.2); `PATCH_PROJECTION` is its name, for the optimizer
    to leave it alone.

    Parameters are float32 whatever `dtype`, that of the computation; LayerNorm's statistics and the
    softmax are float32, too.
    """

    dim: int
    depth: int
    num_heads: int
    patch_size: int = 16
    # 'token': the class token after the last LayerNorm. 'mean': no class token; the average of the
    # patches without a last LayerNorm, which MoCo v3 found to cost 7 points (table 7, from memory).
    # 'patches': there is a class token, but the features are the average of the patches alone, and
    # a LayerNorm of it; what MAE fine-tunes, `global_pool='avg'` in timm.
    pooling: str = 'token'
    positions: str = 'sincos'
    epsilon: float = EPSILON  # of LayerNorm
    freeze_patch_projection: bool = True
    first_trained: int = 0  # the first block that is trained, counted from 1; 0: everything is
    # Positions are those of so many patches a side; 0: of as many as there are in the pictures that
    # it is initialized with, or, where they are fixed, in any.
    grid: int = 0
    drop_path: float = 0.0  # of the last block; earlier ones have less, the first has none
    remat: str = 'none'  # otherwise the backward pass computes each block again, from its input
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, layers: Sequence[int] | None = None
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Float `[n, height, width, channel]` to float32 features `[n, dim]`.

        Of `layers`, blocks counted from 1, to their patches instead: a tuple of `[n, height /
        patch, width / patch, dim]`, each normalized as the class token is, where the features come
        from it.

        Raises:
          ValueError: a field is wrong, a side no multiple of the patch, or there is no such block.
        """
        self._check(images, layers)
        x = nn.Conv(
            self.dim,
            (self.patch_size, self.patch_size),
            (self.patch_size, self.patch_size),
            padding='VALID',
            dtype=self.dtype,
            kernel_init=patch_init,
            name=PATCH_PROJECTION,
        )(images)
        if self.freeze_patch_projection:
            x = jax.lax.stop_gradient(x)
        count, height, width, _ = x.shape
        x = x.reshape(count, height * width, self.dim)
        if self.positions == 'sincos':
            x += self._fixed_positions(height, width).astype(self.dtype)
        if self.has_token:
            init = nn.initializers.normal(1e-6)
            token = self.param('class_token', init, (1, 1, self.dim)).astype(self.dtype)
            x = jnp.concatenate([jnp.tile(token, (count, 1, 1)), x], axis=1)
        if self.positions == 'learned':
            x += self._learned_positions(height, width).astype(self.dtype)
        if self.first_trained:
            x = jax.lax.stop_gradient(x)
        tokens = {}
        block_type = Block if self.remat == 'none' else nn.remat(Block, static_argnums=(2,))
        for block in range(self.depth):
            frozen = block + 1 < self.first_trained
            x = block_type(
                self.num_heads,
                self.dtype,
                self.epsilon,
                self.drop_path * block / max(self.depth - 1, 1),  # timm's `linspace`
                name=f'block{block}',
            )(x, train and not frozen)
            if frozen:
                x = jax.lax.stop_gradient(x)
            tokens[block + 1] = x
            if layers is not None and block + 1 == max(layers):
                break
        if layers is not None:
            shape = count, height, width, self.dim
            outputs = [tokens[layer][:, int(self.has_token) :] for layer in layers]
            if self.pooling == 'token':
                norm = layer_norm(self.dtype, 'norm', self.epsilon)
                outputs = [norm(output) for output in outputs]
            return tuple(output.astype(jnp.float32).reshape(shape) for output in outputs)
        if self.pooling == 'token':
            return layer_norm(self.dtype, 'norm', self.epsilon)(x[:, 0]).astype(jnp.float32)
        x = jnp.mean(x[:, int(self.has_token) :].astype(jnp.float32), axis=1)
        if self.pooling == 'patches':
            x = layer_norm(self.dtype, POOLED_NORM, self.epsilon)(x).astype(jnp.float32)
        return x

    @property
    def has_token(self) -> bool:
        """Whether a class token is among what attends to each other."""
        return self.pooling != 'mean'

    def _fixed_positions(self, height: int, width: int) -> jax.Array:
        """Returns the positions `[1, patch, dim]` of a grid of patches."""
        grid = (self.grid, self.grid) if self.grid else (height, width)
        positions = jnp.asarray(sincos_positions(*grid, self.dim))[None]
        return interpolated(positions, grid, (height, width))

    def _learned_positions(self, height: int, width: int) -> jax.Array:
        """Returns the positions `[1, token, dim]` of a grid of patches."""
        extra = int(self.has_token)
        tokens = (self.grid**2 or height * width) + extra
        if self.has_variable('params', 'positions'):
            tokens = self.get_variable('params', 'positions').shape[1]
        init = nn.initializers.truncated_normal(0.02)
        positions = self.param('positions', init, (1, tokens, self.dim))
        side = math.isqrt(tokens - extra)
        if side == height == width:
            return positions
        if self.is_initializing() and not self.grid:
            return positions  # of pictures of this size, which need not be squares
        if side**2 != tokens - extra:
            raise ValueError(
                f'the learned positions are for {tokens - extra} patches, which are no square, so '
                f'that they cannot be those of {height} x {width}'
            )
        patches = interpolated(positions[:, extra:], (side, side), (height, width))
        return jnp.concatenate([positions[:, :extra], patches], axis=1)

    def stride(self, layer: int) -> int:
        """Pixels of a picture, down and across, to a place of a block's map."""
        del layer
        return self.patch_size

    def _check(self, images: jax.Array, layers: Sequence[int] | None) -> None:
        if layers is not None and not all(0 < layer <= self.depth for layer in layers):
            raise ValueError(f'layers={layers}: there are the blocks 1 to {self.depth}')
        if self.pooling not in POOLINGS:
            raise ValueError(f'pooling={self.pooling!r}; it must be one of {", ".join(POOLINGS)}')
        if self.positions not in POSITIONS:
            raise ValueError(
                f'positions={self.positions!r}; it must be one of {", ".join(POSITIONS)}'
            )
        if self.first_trained > self.depth:
            raise ValueError(f'first_trained={self.first_trained}; there are {self.depth} blocks')
        if any(side % self.patch_size for side in images.shape[1:3]):
            raise ValueError(
                f'images have shape {images.shape}; height and width must be multiples of '
                f'patch_size={self.patch_size}'
            )
