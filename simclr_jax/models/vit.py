"""Vision transformers without a classifier, as MoCo v3 has them (arXiv:2104.02057)."""

import math

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
        )(y)
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
    a parameter `[1, token, dim]`, the class token's first, for pictures of one size. Where
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
    drop_path: float = 0.0  # of the last block; earlier ones have less, the first has none
    remat: str = 'none'  # otherwise the backward pass computes each block again, from its input
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, pool: bool = True) -> jax.Array:
        """Float `[n, height, width, channel]` to float32 features `[n, dim]`.

        Without `pool`, to the patches' outputs `[n, height / patch, width / patch, dim]`,
        normalized as the class token is, where the features come from it.
        """
        self._check(images)
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
            x += jnp.asarray(sincos_positions(height, width, self.dim), self.dtype)[None]
        if self.has_token:
            init = nn.initializers.normal(1e-6)
            token = self.param('class_token', init, (1, 1, self.dim)).astype(self.dtype)
            x = jnp.concatenate([jnp.tile(token, (count, 1, 1)), x], axis=1)
        if self.positions == 'learned':
            x += self._learned_positions(images, x.shape[1]).astype(self.dtype)
        if self.first_trained:
            x = jax.lax.stop_gradient(x)
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
        token, x = (x[:, 0], x[:, 1:]) if self.has_token else (None, x)
        if self.pooling == 'token':
            norm = layer_norm(self.dtype, 'norm', self.epsilon)
            x = norm(token if pool else x).astype(jnp.float32)
            return x if pool else x.reshape(count, height, width, self.dim)
        x = x.astype(jnp.float32)
        if not pool:
            return x.reshape(count, height, width, self.dim)
        x = jnp.mean(x, axis=1)
        if self.pooling == 'patches':
            x = layer_norm(self.dtype, POOLED_NORM, self.epsilon)(x).astype(jnp.float32)
        return x

    @property
    def has_token(self) -> bool:
        """Whether a class token is among what attends to each other."""
        return self.pooling != 'mean'

    def _learned_positions(self, images: jax.Array, tokens: int) -> jax.Array:
        """Returns the positions `[1, token, dim]` of images of this size, and of no other."""
        if self.has_variable('params', 'positions'):
            known = self.get_variable('params', 'positions').shape[1]
            if known != tokens:
                side = math.isqrt(known - self.has_token) * self.patch_size
                raise ValueError(
                    f'images have shape {images.shape}; the learned positions are for {side} x '
                    f'{side} pixels'
                )
        init = nn.initializers.truncated_normal(0.02)
        return self.param('positions', init, (1, tokens, self.dim))

    def _check(self, images: jax.Array) -> None:
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
