"""The normalization that every encoder and head uses."""

from flax import linen as nn
from jax import numpy as jnp


def batch_norm(
    train: bool,
    dtype: jnp.dtype,
    *,
    use_scale: bool = True,
    use_bias: bool = True,
    scale_init: nn.initializers.Initializer = nn.initializers.ones,
    name: str | None = None,
) -> nn.BatchNorm:
    """Batch normalization, decay 0.9, epsilon 1e-5 (SimCLR `run.py`, BYOL `configs/byol.py`).

    Statistics are those of the global batch under `jit`, however it is sharded, and the running
    averages where `train` is False. They and the parameters are float32; the result is of `dtype`.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        use_scale=use_scale,
        use_bias=use_bias,
        scale_init=scale_init,
        name=name,
    )
