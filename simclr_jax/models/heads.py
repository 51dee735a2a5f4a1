"""The multi-layer perceptrons that follow an encoder."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models.normalization import GLOBAL, NormScope, batch_norm

OUTPUT_NORMS = {  # name -> (use_scale, use_bias) of the last batch normalization
    'affine': (True, True),
    'scale_only': (True, False),
    'plain': (False, False),
}


# PyTorch's default for Linear kernels, U(+-1 / sqrt(fan in)). It draws biases too; ours are 0.
torch_linear_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class MLPHead(nn.Module):
    """`num_layers` dense layers, with batch normalization and ReLU between them.

    | head | layers | hidden_bias | output_bias | output_norm |
    |---|---|---|---|---|
    | SimCLR v1, v2 projector (`model_util.py`; kernel N(0, 0.01)) | 2, 3 | no | no | scale_only |
    | BYOL projector and predictor (`utils/networks.py`) | 2 | yes | no | none |
    | MoCo v1 projector (`moco/builder.py`) | 1 | - | yes | none |
    | MoCo v2 projector, `hidden_norm=False` | 2 | yes | yes | none |
    | MoCo v3 projector (`moco/builder.py`) | 2 | no | no | plain |
    | MoCo v3 predictor of a ResNet | 2 | no | no | none |
    | MoCo v3 projector, predictor of a ViT | 3, 2 | no | no | plain |
    """

    hidden_dim: int
    output_dim: int
    num_layers: int = 2
    hidden_bias: bool = False
    output_bias: bool = False
    hidden_norm: bool = True  # batch normalization before each ReLU
    output_norm: str = 'none'  # 'none', 'affine', 'scale_only' or 'plain' (neither scale nor bias)
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    norm_scope: NormScope = GLOBAL
    dtype: jnp.dtype = jnp.float32  # of the computation

    @nn.compact
    def __call__(self, features: jax.Array, train: bool, layers: int | None = None) -> jax.Array:
        """`[n, dim]` to float32 `[n, output_dim]`, or what follows the first `layers` layers."""
        if self.output_norm != 'none' and self.output_norm not in OUTPUT_NORMS:
            raise ValueError(
                f'output_norm={self.output_norm!r}; '
                f'it must be one of none, {", ".join(OUTPUT_NORMS)}'
            )
        x = features
        for layer in range(1, self.num_layers):
            x = self._dense(self.hidden_dim, self.hidden_bias, f'dense{layer}')(x)
            if self.hidden_norm:
                x = self._norm(train, name=f'norm{layer}')(x)
            x = nn.relu(x)
            if layer == layers:
                return x.astype(jnp.float32)
        x = self._dense(self.output_dim, self.output_bias, f'dense{self.num_layers}')(x)
        if self.output_norm != 'none':
            use_scale, use_bias = OUTPUT_NORMS[self.output_norm]
            name = f'norm{self.num_layers}'
            x = self._norm(train, use_scale=use_scale, use_bias=use_bias, name=name)(x)
        return x.astype(jnp.float32)

    def _dense(self, features: int, use_bias: bool, name: str) -> nn.Dense:
        return nn.Dense(
            features, use_bias, dtype=self.dtype, kernel_init=self.kernel_init, name=name
        )

    def _norm(self, train: bool, **fields) -> nn.Module:
        return batch_norm(train, self.dtype, scope=self.norm_scope, **fields)
