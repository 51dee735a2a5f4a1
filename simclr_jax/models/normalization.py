"""The batch normalization that every encoder and head uses, and its scope."""

import dataclasses

import jax
from flax import linen as nn
from jax import numpy as jnp

MOMENTUM, EPSILON = 0.9, 1e-5  # SimCLR `run.py`, BYOL `configs/byol.py`
SCOPES = ('global', 'groups', 'device')


@dataclasses.dataclass(frozen=True)
class NormScope:
    """Which rows of a batch share their statistics in training.

    Attributes:
      name: 'global', the whole batch, on however many devices it is; 'groups' of consecutive rows;
        'device', as many groups as there are devices, which need not talk to one another.
      size: rows a group of 'groups'; the number of devices for 'device'.
    """

    name: str = 'global'
    size: int = 0

    def num_groups(self, rows: int) -> int:
        """How many groups `rows` rows make.

        Raises:
          ValueError: they do not divide evenly, or there is no such scope.
        """
        if self.name not in SCOPES:
            raise ValueError(f'norm_scope={self.name!r}; it must be one of {", ".join(SCOPES)}')
        if self.name == 'global':
            return 1
        if rows % self.size:
            raise ValueError(
                f'norm_scope={self.name!r} of size {self.size}: {rows} rows do not divide by it'
            )
        return self.size if self.name == 'device' else rows // self.size


GLOBAL = NormScope()


def batch_norm(
    train: bool,
    dtype: jnp.dtype,
    *,
    scope: NormScope = GLOBAL,
    use_scale: bool = True,
    use_bias: bool = True,
    scale_init: nn.initializers.Initializer = nn.initializers.ones,
    name: str | None = None,
) -> nn.Module:
    """Batch normalization over all axes but the last, decay 0.9, epsilon 1e-5.

    Statistics are those of `scope`, 'global' under `jit` however the batch is sharded, and the
    running averages where `train` is False. They and the parameters are float32, and the same
    whatever the scope; the result is of `dtype`.
    """
    fields = {
        'dtype': dtype,
        'use_scale': use_scale,
        'use_bias': use_bias,
        'scale_init': scale_init,
        'name': name,
    }
    if train and scope.name != 'global':
        return GroupedBatchNorm(scope, **fields)
    return nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM, epsilon=EPSILON, **fields)


class GroupedBatchNorm(nn.Module):
    """`nn.BatchNorm` in training, with the statistics of each group of rows by themselves.

    The running averages follow the mean over groups of their means and of their variances: what
    devices that normalize apart would keep, if they averaged it.
    """

    norm_scope: NormScope
    dtype: jnp.dtype
    use_scale: bool
    use_bias: bool
    scale_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[n, ..., dim]` to the same of `dtype`."""
        dim = x.shape[-1]
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (dim,))
        running_var = self.variable('batch_stats', 'var', jnp.ones, (dim,))
        # An initialization sees a batch of any size, and keeps no statistics.
        groups = 1 if self.is_initializing() else self.norm_scope.num_groups(len(x))
        y = x.astype(jnp.float32).reshape(groups, -1, dim)
        mean = y.mean(axis=1, keepdims=True)
        # Two passes: a group is small, and the difference of two means would cancel.
        var = jnp.square(y - mean).mean(axis=1, keepdims=True)
        if not self.is_initializing():
            for running, batch in ((running_mean, mean), (running_var, var)):
                running.value = MOMENTUM * running.value + (1 - MOMENTUM) * batch.mean(axis=(0, 1))
        scale = jax.lax.rsqrt(var + EPSILON)
        if self.use_scale:
            scale *= self.param('scale', self.scale_init, (dim,))[None, None]
        y = (y - mean) * scale
        if self.use_bias:
            y += self.param('bias', nn.initializers.zeros, (dim,))[None, None]
        return y.reshape(x.shape).astype(self.dtype)
