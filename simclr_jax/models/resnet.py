"""Residual networks without a classifier (He et al., arXiv:1512.03385)."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models.convolution import PADDINGS, conv
from simclr_jax.models.folded import folded_conv_norm, pooled_conv_norm_relu
from simclr_jax.models.normalization import GLOBAL, NormScope, batch_norm
from simclr_jax.models.selective_kernel import SelectiveKernel, average_windows

STEMS = ('imagenet', 'small')
REMATS = ('none', 'blocks', 'full')
FROZEN_NORMS = ('running', 'batch')


class _Block(nn.Module):
    """What the two kinds of block share: `width` is the number of base filters."""

    width: int
    stride: int
    padding: str
    zero_init_last_scale: bool
    sk_ratio: float
    norm_scope: NormScope
    fold_norm: bool
    dot_1x1: bool
    project: bool  # the shortcut, whether it changes its shape or not
    dtype: jnp.dtype
    dilations: tuple[int, int] = (1, 1)  # of the first 3x3 convolution, and of what follows it

    def residual(
        self, x: jax.Array, layers: Sequence[tuple[int, int, int, int]], train: bool
    ) -> jax.Array:
        """Convolutions, added to the input or to its projection.

        `layers` are (features, kernel, stride, dilation).
        """
        block_conv = partial(conv, padding=self.padding, dtype=self.dtype, dot=self.dot_1x1)
        norm = partial(batch_norm, train, self.dtype, scope=self.norm_scope)
        last_scale = nn.initializers.zeros if self.zero_init_last_scale else nn.initializers.ones

        y = x
        for i, (features, kernel, stride, dilation) in enumerate(layers[:-1], 1):
            if self.sk_ratio and kernel == 3:
                selective = SelectiveKernel(
                    features,
                    stride,
                    self.sk_ratio,
                    self.padding,
                    self.norm_scope,
                    self.dtype,
                    dilation,
                    name=f'conv{i}',
                )
                y = selective(y, train)
            else:
                made = block_conv(features, kernel, stride, name=f'conv{i}', dilation=dilation)
                y = made(y)
                y = nn.relu(norm(name=f'norm{i}')(y))
        features, kernel, stride, dilation = layers[-1]
        names = {'conv_name': f'conv{len(layers)}', 'norm_name': f'norm{len(layers)}'}
        widen = partial(folded_conv_norm, train=train, padding=self.padding, dtype=self.dtype)
        if self.fold_norm and kernel == 1:
            y = widen(y, features, stride, scale_init=last_scale, **names)
        else:
            name = names['conv_name']
            y = block_conv(features, kernel, stride, name=name, dilation=dilation)(y)
            y = norm(scale_init=last_scale, name=names['norm_name'])(y)
        if self.project or x.shape != y.shape:
            stride = self.stride
            if self.sk_ratio:
                x, stride = average_windows(x, stride), 1
            names = {'conv_name': 'shortcut_conv', 'norm_name': 'shortcut_norm'}
            if self.fold_norm:
                x = widen(x, features, stride, **names)
            else:
                x = block_conv(features, 1, stride, name='shortcut_conv')(x)
                x = norm(name='shortcut_norm')(x)
        return nn.relu(x + y)


class BasicBlock(_Block):
    """Two 3x3 convolutions: ResNet-18 and ResNet-34."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        first, second = self.dilations
        layers = [(self.width, 3, self.stride, first), (self.width, 3, 1, second)]
        return self.residual(x, layers, train)


class BottleneckBlock(_Block):
    """1x1, 3x3 and 1x1 with four times the features: ResNet-50 and deeper.

    The stride is on the 3x3 ('v1.5', as in SimCLR and torchvision).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers = [
            (self.width, 1, 1, 1),
            (self.width, 3, self.stride, self.dilations[0]),
            (4 * self.width, 1, 1, 1),
        ]
        return self.residual(x, layers, train)


class ResNet(nn.Module):
    """A ResNet up to its global average pooling.

    `padding` says where strided layers pad: 'torch' puts (k - 1) / 2 on both sides; 'simclr' too,
    but the max-pooling has TensorFlow's `SAME`, as in the original SimCLR; 'same' is `SAME` in all
    layers, as in BYOL.

    `sk_ratio` above 0 gives the bottleneck blocks selective kernels and average-pooled shortcuts,
    and the 'imagenet' stem three 3x3 convolutions (ResNet-D): SimCLR v2's encoders, at 0.0625.

    `padding` also says whose network it is otherwise. Convolutions start as there do
    (`KERNEL_INITS`), and in ResNet-18 and 34 the shortcut of the very first block is projected, as
    in SimCLR (`resnet.py`) and BYOL (`utils/networks.py`); with 'torch' only shortcuts that change
    their shape are.

    `first_trained` is the first stage that is trained, counted from 1; the stem and the stages
    before it get no gradient. 0 trains everything. With `frozen_norm` 'running' they use and keep
    their running averages in training too; with 'batch' they use the batch's statistics and go on
    averaging them, as SimCLR does (`fine_tune_after_block` of `resnet.py`).

    The last `dilated` stages keep the size of their input: their stride is 1, and their kernels
    look at pixels further apart, as those did that are trained with a stride. Parameters stay the
    same (`replace_stride_with_dilation` of torchvision, `output_stride` of timm).

    `remat` says what the backward pass computes again from what the forward pass kept: with
    'blocks' each block, from its input; with 'full' each stage, from its input, block by block.

    `fold_norm` normalizes the 1x1 convolutions that end a block through their kernels, and pools
    the 'imagenet' stem before it normalizes (`folded.py`): the same function in less memory.

    `dot_1x1` computes the 1x1 convolutions as matrix products, which is faster on a CPU.

    Parameters and running statistics are float32 whatever `dtype`, that of the computation.
    """

    stage_sizes: Sequence[int]  # blocks a stage
    block: type[_Block]
    widths: Sequence[int] = (64, 128, 256, 512)  # base filters a stage; the stem has the first
    width_multiplier: int = 1  # of `widths`
    strides: Sequence[int] = (1, 2, 2, 2)  # of each stage's first block
    stem: str = 'imagenet'  # 'imagenet': 7x7 stride 2, max-pool stride 2; 'small': 3x3 stride 1
    padding: str = 'torch'
    zero_init_last_scale: bool = True  # of each block, which then starts as the identity
    sk_ratio: float = 0.0  # of selective kernels; 0 is without
    norm_scope: NormScope = GLOBAL
    first_trained: int = 0
    frozen_norm: str = 'running'
    dilated: int = 0
    remat: str = 'none'
    fold_norm: bool = False
    dot_1x1: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, layers: Sequence[int] | None = None
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Float `[n, height, width, channel]` to float32 features `[n, dim]`.

        Of `layers`, stages counted from 1, to their maps instead: a tuple of float32 `[n, height /
        stride, width / stride, dim]`, rounded up; with the 'imagenet' stem strides are 4, 8, 16
        and 32. The features are the mean of the last one.

        Raises:
          ValueError: a field is wrong, or there is no such stage.
        """
        self._check_fields(layers)
        maps = {}
        run_stage = ResNet._stage
        if self.remat == 'full':
            run_stage = nn.remat(run_stage, static_argnums=(2, 3))
        for stage in range(1 + len(self.stage_sizes)):  # 0 is the stem
            frozen = stage < self.first_trained
            stage_trains = train and not (frozen and self.frozen_norm == 'running')
            if stage == 0:
                x = self._stem(images, stage_trains)
            else:
                x = run_stage(self, x, stage, stage_trains)
            if frozen:
                x = jax.lax.stop_gradient(x)
            maps[stage] = x
            if layers is not None and stage == max(layers):
                break
        if layers is not None:
            return tuple(maps[stage].astype(jnp.float32) for stage in layers)
        if x.dtype == jnp.bfloat16:
            # Changes nothing, but the average stays out of the kernel that adds the last block's
            # convolutions: on CPUs, XLA of jax 0.11 and 0.12 gives NaN where one kernel does both.
            x = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))

    def _stage(self, x: jax.Array, stage: int, train: bool) -> jax.Array:
        block = self.block
        if self.remat != 'none':
            block = nn.remat(block, static_argnums=(2,))
        before, dilation = self._dilation(stage - 1), self._dilation(stage)
        stride = self.strides[stage - 1] if before == dilation else 1
        for i in range(self.stage_sizes[stage - 1]):
            x = block(
                self.widths[stage - 1] * self.width_multiplier,
                stride if i == 0 else 1,
                self.padding,
                self.zero_init_last_scale,
                self.sk_ratio,
                self.norm_scope,
                self.fold_norm,
                self.dot_1x1,
                self.padding != 'torch' and i == 0,
                self.dtype,
                (before if i == 0 else dilation, dilation),
                name=f'stage{stage}_block{i}',
            )(x, train)
        return x

    def stride(self, stage: int) -> int:
        """Pixels of a picture, down and across, to a place of a stage's map."""
        stem = 4 if self.stem == 'imagenet' else 1
        return stem * math.prod(self.strides[:stage]) // self._dilation(stage)

    def _dilation(self, stage: int) -> int:
        """Returns how far apart the pixels are, after `stage`, that are neighbours with strides."""
        return math.prod(self.strides[len(self.strides) - self.dilated : stage])

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        width = self.widths[0] * self.width_multiplier
        if self.stem == 'small':
            layers = [(width, 3, 1)]
        elif self.sk_ratio:
            layers = [(width // 2, 3, 2), (width // 2, 3, 1), (width, 3, 1)]
        else:
            layers = [(width, 7, 2)]
        pool_padding = ((1, 1), (1, 1)) if self.padding == 'torch' else 'SAME'
        if self.fold_norm and self.stem == 'imagenet' and not self.sk_ratio:
            return pooled_conv_norm_relu(
                x,
                width,
                train,
                padding=self.padding,
                pool_padding=pool_padding,
                dtype=self.dtype,
                conv_name='stem_conv',
                norm_name='stem_norm',
            )
        for i, layer in enumerate(layers, 1):
            suffix = str(i) if len(layers) > 1 else ''
            x = conv(*layer, self.padding, self.dtype, f'stem_conv{suffix}')(x)
            norm = batch_norm(train, self.dtype, scope=self.norm_scope, name=f'stem_norm{suffix}')
            x = nn.relu(norm(x))
        if self.stem == 'imagenet':
            x = nn.max_pool(x, (3, 3), (2, 2), pool_padding)
        return x

    def _check_fields(self, layers: Sequence[int] | None):
        if layers is not None and not all(0 < layer <= len(self.stage_sizes) for layer in layers):
            raise ValueError(f'layers={layers}: there are the stages 1 to {len(self.stage_sizes)}')
        if not 0 <= self.dilated <= len(self.stage_sizes):
            raise ValueError(f'dilated={self.dilated}; there are {len(self.stage_sizes)} stages')
        if self.stem not in STEMS:
            raise ValueError(f'stem={self.stem!r}; it must be one of {", ".join(STEMS)}')
        if self.padding not in PADDINGS:
            raise ValueError(f'padding={self.padding!r}; it must be one of {", ".join(PADDINGS)}')
        if self.remat not in REMATS:
            raise ValueError(f'remat={self.remat!r}; it must be one of {", ".join(REMATS)}')
        if self.frozen_norm not in FROZEN_NORMS:
            raise ValueError(
                f'frozen_norm={self.frozen_norm!r}; it must be one of {", ".join(FROZEN_NORMS)}'
            )
        if self.first_trained > len(self.stage_sizes):
            raise ValueError(
                f'first_trained={self.first_trained}; there are {len(self.stage_sizes)} stages'
            )
        if self.sk_ratio and self.block is not BottleneckBlock:
            raise ValueError(f'sk_ratio={self.sk_ratio}: only bottleneck blocks have it; take 0')
        if not len(self.stage_sizes) == len(self.widths) == len(self.strides):
            raise ValueError(
                f'stage_sizes={self.stage_sizes}, widths={self.widths} and strides={self.strides} '
                'must have one number a stage each'
            )
