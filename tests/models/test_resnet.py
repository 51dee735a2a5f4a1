import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.factory import create_encoder
from simclr_jax.models.normalization import NormScope
from simclr_jax.models.resnet import BasicBlock, BottleneckBlock, ResNet


def small_resnet(block=BasicBlock, **fields):
    defaults = {'stage_sizes': (1, 1), 'widths': (4, 6), 'strides': (1, 2)}
    return ResNet(block=block, **defaults | fields)


def random_variables(encoder, shape, seed=0):
    """Every parameter and statistic away from its initial value, variances positive."""
    shapes = jax.eval_shape(
        lambda rng: encoder.init(rng, jnp.zeros(shape), train=True), jax.random.key(0)
    )
    rng = np.random.default_rng(seed)

    def draw(x):
        if x.ndim == 1:
            return rng.uniform(0.2, 1.2, size=x.shape).astype(x.dtype)
        fan_in = x.size // x.shape[-1]
        return rng.normal(size=x.shape, scale=fan_in**-0.5).astype(x.dtype)

    return jax.tree.map(draw, shapes)


class Reference:
    """The forward pass at evaluation, in float64 loops that share nothing with the module."""

    def __init__(self, variables, padding, stem):
        self.params, self.stats = variables['params'], variables['batch_stats']
        self.padding, self.stem = padding, stem

    def pads(self, size, kernel, stride, same):
        if not same:
            return (kernel - 1) // 2, (kernel - 1) // 2
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)  # TensorFlow's SAME
        return total // 2, total - total // 2

    def windows(self, x, kernel, stride, same, fill):
        _, height, width, _ = x.shape
        pads = [self.pads(size, kernel, stride, same) for size in (height, width)]
        x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
        rows = range(0, x.shape[1] - kernel + 1, stride)
        columns = range(0, x.shape[2] - kernel + 1, stride)
        return np.stack(
            [
                np.stack([x[:, i : i + kernel, j : j + kernel] for j in columns], axis=1)
                for i in rows
            ],
            axis=1,
        )  # [n, rows, columns, kernel, kernel, channel]

    def conv(self, x, params, stride):
        kernel = np.asarray(params['kernel'], np.float64)
        windows = self.windows(x, kernel.shape[0], stride, self.padding == 'same', 0.0)
        return np.einsum('nijxyc,xycd->nijd', windows, kernel)

    def selective(self, x, params, stats, stride):
        x = self.conv(x, params['conv'], stride)
        x = np.maximum(self.norm(x, params['norm'], stats['norm']), 0)
        streams = np.split(x, 2, axis=-1)
        image = (streams[0] + streams[1]).mean(axis=(1, 2))
        image = self.norm(image @ params['mix1']['kernel'], params['mix_norm'], stats['mix_norm'])
        logits = np.split(np.maximum(image, 0) @ params['mix2']['kernel'], 2, axis=-1)
        first = 1 / (1 + np.exp(logits[1] - logits[0]))[:, None, None]
        return first * streams[0] + (1 - first) * streams[1]

    def average(self, x, stride):
        """TensorFlow's: SAME at stride 1, which ignores padding; one row of zeros at stride 2."""
        result = np.zeros((len(x), -(-x.shape[1] // stride), -(-x.shape[2] // stride), x.shape[3]))
        for i, j in np.ndindex(*result.shape[1:3]):
            window = x[:, i * stride : i * stride + 2, j * stride : j * stride + 2]
            count = 4 if stride == 2 else window.shape[1] * window.shape[2]
            result[:, i, j] = window.sum(axis=(1, 2)) / count
        return result

    def norm(self, x, params, stats):
        scale = params['scale'] / np.sqrt(stats['var'].astype(np.float64) + 1e-5)
        return (x - stats['mean']) * scale + params['bias']

    def block(self, x, name, stride, strided_conv):
        params, stats = self.params[name], self.stats[name]
        count = sum(key.startswith('conv') for key in params)
        selective = 'norm' in params['conv2']
        y = x
        for i in range(1, count + 1):
            if selective and i == 2:
                y = self.selective(y, params['conv2'], stats['conv2'], stride)
                continue
            y = self.conv(y, params[f'conv{i}'], stride if i == strided_conv else 1)
            y = self.norm(y, params[f'norm{i}'], stats[f'norm{i}'])
            y = np.maximum(y, 0) if i < count else y
        if 'shortcut_conv' in params:
            if selective:
                x, stride = self.average(x, stride), 1
            x = self.conv(x, params['shortcut_conv'], stride)
            x = self.norm(x, params['shortcut_norm'], stats['shortcut_norm'])
        return np.maximum(x + y, 0)

    def __call__(self, x, strided_conv):
        x = x.astype(np.float64)
        strides = (2, 1, 1) if self.stem == 'imagenet' else (1,)
        suffixes = ('1', '2', '3') if 'stem_conv1' in self.params else ('',)
        for suffix, stride in zip(suffixes, strides, strict=False):
            x = self.conv(x, self.params[f'stem_conv{suffix}'], stride)
            norm = f'stem_norm{suffix}'
            x = np.maximum(self.norm(x, self.params[norm], self.stats[norm]), 0)
        if self.stem == 'imagenet':
            x = self.windows(x, 3, 2, self.padding != 'torch', -np.inf).max(axis=(3, 4))
        x = self.block(x, 'stage1_block0', 1, strided_conv)
        x = self.block(x, 'stage2_block0', 2, strided_conv)
        return x.mean(axis=(1, 2))


@pytest.mark.parametrize(
    ('block', 'padding', 'stem', 'sk_ratio'),
    [
        (BasicBlock, 'torch', 'imagenet', 0.0),
        (BasicBlock, 'simclr', 'imagenet', 0.0),
        (BasicBlock, 'same', 'imagenet', 0.0),
        (BasicBlock, 'torch', 'small', 0.0),
        (BottleneckBlock, 'torch', 'imagenet', 0.0),
        (BottleneckBlock, 'same', 'small', 0.0),
        (BottleneckBlock, 'simclr', 'imagenet', 0.0625),
        (BottleneckBlock, 'simclr', 'small', 0.0625),
    ],
)
def test_forward_equals_a_float64_loop(block, padding, stem, sk_ratio):
    encoder = small_resnet(block, padding=padding, stem=stem, sk_ratio=sk_ratio)
    # An even and an odd side, and five channels.
    images = np.random.default_rng(1).normal(size=(2, 20, 13, 5)).astype(np.float32)
    variables = random_variables(encoder, images.shape)
    features = jax.jit(encoder.apply, static_argnames='train')(variables, images, train=False)
    strided_conv = 1 if block is BasicBlock else 2  # the 3x3 of a bottleneck
    expected = Reference(variables, padding, stem)(images, strided_conv)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ('stem', 'strides', 'expected'),
    [
        ('imagenet', (1, 2, 2, 2), [16, 8, 4, 2]),  # of 64 pixels: halved by the stem and its pool
        ('small', (1, 2, 2, 2), [64, 32, 16, 8]),
        ('small', (1, 2, 1, 2), [64, 32, 32, 16]),
    ],
)
@pytest.mark.parametrize('padding', ['torch', 'same'])
def test_sizes_of_the_stages(stem, strides, expected, padding):
    encoder = ResNet(
        (1, 1, 1, 1), BasicBlock, (8, 8, 8, 8), strides=strides, stem=stem, padding=padding
    )

    def stages(images):
        _, variables = encoder.init_with_output(
            jax.random.key(0), images, train=True, capture_intermediates=True
        )
        return variables['intermediates']

    shapes = jax.eval_shape(stages, jnp.zeros((1, 64, 64, 3)))
    sizes = [shapes[f'stage{i}_block0']['__call__'][0].shape[1] for i in (1, 2, 3, 4)]
    assert sizes == expected


def test_batch_norm_is_global_on_eight_devices():
    encoder = small_resnet(stem='small')
    images = np.random.default_rng(1).normal(size=(16, 8, 8, 3)).astype(np.float32)
    images += np.arange(16, dtype=np.float32)[:, None, None, None]  # devices see other statistics
    variables = random_variables(encoder, images.shape)

    @jax.jit
    def step(images):
        def loss(params):
            features, new = encoder.apply(
                variables | {'params': params}, images, train=True, mutable=['batch_stats']
            )
            return jnp.mean(features[:, 0] ** 2), (features, new)

        return jax.grad(loss, has_aux=True)(variables['params'])

    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = step(jax.device_put(images, jax.NamedSharding(mesh, jax.P('data'))))
    # The sums cancel, so rounding shows; with statistics of each device nothing would agree.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max()),
        sharded,
        step(images),
    )


def test_every_normalization_has_the_scope():
    """Selective kernels, shortcuts, stem: one image changes those of its group."""
    scope = NormScope('groups', 4)
    fields = {'stem': 'imagenet', 'sk_ratio': 0.0625, 'norm_scope': scope}
    encoder = small_resnet(BottleneckBlock, **fields)
    images = np.random.default_rng(1).normal(size=(12, 8, 8, 3)).astype(np.float32)
    variables = random_variables(encoder, images.shape)
    apply = jax.jit(
        lambda images: encoder.apply(variables, images, train=True, mutable=['batch_stats'])[0],
        compiler_options={'xla_backend_optimization_level': 0},
    )
    changed = images.copy()
    changed[6] *= -1
    moved = (np.asarray(apply(images)) != np.asarray(apply(changed))).any(axis=1)
    assert set(np.flatnonzero(moved)) == {4, 5, 6, 7}


def test_training_updates_the_statistics_and_evaluation_uses_them():
    encoder = small_resnet(stem='small')
    images = np.random.default_rng(1).normal(size=(8, 8, 8, 3)).astype(np.float32)
    variables = random_variables(encoder, images.shape)
    apply = jax.jit(encoder.apply, static_argnames=('train', 'mutable'))

    _, new = apply(variables, images, train=True, mutable=('batch_stats',))
    stem = variables['params']['stem_conv']['kernel']
    activations = jax.lax.conv_general_dilated(
        images, stem, (1, 1), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    old, updated = variables['batch_stats']['stem_norm'], new['batch_stats']['stem_norm']
    for name, batch in (('mean', activations.mean((0, 1, 2))), ('var', activations.var((0, 1, 2)))):
        np.testing.assert_allclose(updated[name], 0.9 * old[name] + 0.1 * batch, rtol=1e-5)

    # Evaluation looks at the running statistics alone: an image's features do not depend on others.
    features = apply(variables, images, train=False)
    repeated = np.repeat(images[:1], 8, axis=0)
    np.testing.assert_allclose(apply(variables, repeated, train=False)[0], features[0], rtol=1e-5)
    assert jnp.abs(apply(variables | new, images, train=False) - features).max() > 0.01


@pytest.mark.parametrize('block', [BasicBlock, BottleneckBlock])
@pytest.mark.parametrize('zero', [True, False])
def test_last_scale_of_each_block_starts_at_zero(block, zero):
    encoder = small_resnet(block, stem='small', zero_init_last_scale=zero)

    def scales(rng):
        params = encoder.init(rng, jnp.zeros((1, 8, 8, 3)), train=True)['params']
        flat = jax.tree_util.tree_leaves_with_path(params)
        return {f'{k[0].key}/{k[1].key}': x for k, x in flat if k[-1].key == 'scale'}

    # Only the scales are asked for, so that no random kernel is compiled.
    zeros = {name for name, scale in jax.jit(scales)(jax.random.key(0)).items() if not scale.any()}
    last = 'norm2' if block is BasicBlock else 'norm3'
    assert zeros == ({f'stage1_block0/{last}', f'stage2_block0/{last}'} if zero else set())


def test_convolutions_start_as_torchvision_s():
    encoder = ResNet((1,), BasicBlock, (64,), strides=(1,), stem='small')

    @jax.jit
    def kernel_of(rng):  # only one, so that only one is compiled
        params = encoder.init(rng, jnp.zeros((1, 8, 8, 3)), train=True)['params']
        return params['stage1_block0']['conv1']['kernel']

    kernel = np.asarray(kernel_of(jax.random.key(0, impl='rbg')))  # quicker to compile, too
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    assert np.abs(kernel).max() > 3 * kernel.std()  # not truncated


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    exact = small_resnet(stem='small')
    rounded = small_resnet(stem='small', dtype=jnp.bfloat16)
    images = np.random.default_rng(1).normal(size=(8, 8, 8, 3)).astype(np.float32)
    variables = random_variables(rounded, images.shape)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}

    def last_block(images):
        _, new = rounded.apply(
            variables, images, train=False, mutable='intermediates', capture_intermediates=True
        )
        return new['intermediates']['stage2_block0']['__call__'][0]

    def outputs(encoder):
        apply = jax.jit(encoder.apply, static_argnames=('train', 'mutable'))
        return apply(variables, images, train=True, mutable='batch_stats')

    assert jax.eval_shape(last_block, images).dtype == jnp.bfloat16
    features, new = outputs(rounded)
    assert features.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(new)} == {jnp.dtype('float32')}
    difference = jnp.abs(features - outputs(exact)[0]).max()
    assert 0 < difference < 0.05 * jnp.abs(features).max()


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'stem': 'large'}, "stem='large'; it must be one of imagenet, small"),
        ({'padding': 'valid'}, "padding='valid'; it must be one of torch, simclr, same"),
        ({'sk_ratio': 0.1}, r'sk_ratio=0.1: only bottleneck blocks'),
        ({'strides': (1, 2, 2)}, r'strides=\(1, 2, 2\) must have one number a stage'),
    ],
)
def test_errors_name_the_field(fields, message):
    encoder = small_resnet(**fields)
    with pytest.raises(ValueError, match=message):
        encoder.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=True)


@pytest.mark.parametrize('remat', ['blocks', pytest.param('full', marks=pytest.mark.slow)])
def test_rematerialization_changes_what_is_computed_and_not_the_result(remat):
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    fields = {'stage_sizes': (1,), 'widths': (4,), 'strides': (2,), 'stem': 'small'}
    plain = ResNet(block=BasicBlock, **fields)
    recomputing = ResNet(block=BasicBlock, **fields, remat=remat)
    variables = jax.jit(lambda: plain.init(jax.random.key(0, impl='rbg'), images, True))()
    shapes = jax.eval_shape(lambda: recomputing.init(jax.random.key(0), images, True))
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)

    def gradients(model):
        def loss(params):
            tree = {'params': params, 'batch_stats': variables['batch_stats']}
            features, new = model.apply(tree, images, True, mutable=['batch_stats'])
            return jnp.sin(features).sum(), new

        lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(variables['params'])
        compiled = lowered.compile({'xla_backend_optimization_level': 0})
        return compiled(variables['params']), lowered.as_text().count('convolution')

    (got, count), (want, plain_count) = gradients(recomputing), gradients(plain)
    assert count > plain_count
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_refuses_another_rematerialization():
    model = ResNet(stage_sizes=(1,), widths=(4,), strides=(1,), block=BasicBlock, remat='block')
    with pytest.raises(ValueError, match="remat='block'"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), True))


@pytest.mark.parametrize('stem', ['small', pytest.param('imagenet', marks=pytest.mark.slow)])
def test_features_in_bfloat16_are_those_in_float32_but_for_rounding(stem):
    """XLA's CPU compiler of jax 0.11 made NaN of the last block, added and averaged at once."""
    encoders = [
        create_encoder('resnet_tiny', image_size=32, stem=stem, dtype=dtype)
        for dtype in ('float32', 'bfloat16')
    ]
    images = np.random.default_rng(0).uniform(size=(8, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(encoders[0].init, static_argnames='train')(
        jax.random.key(0), images, train=False
    )
    exact, rounded = (
        np.asarray(jax.jit(encoder.apply, static_argnames='train')(variables, images, train=False))
        for encoder in encoders
    )
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=0.02 * np.abs(exact).max())
