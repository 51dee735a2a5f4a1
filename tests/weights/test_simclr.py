"""SimCLR's TensorFlow checkpoints against its network, written in TensorFlow's own operations.

The network is that of google-research/simclr `resnet.py` and `model_util.py`, at evaluation; each
layer takes the next number as it is made, as TensorFlow 1 numbered them.
"""

import dataclasses
import os

import jax
import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.config import ConfigError
from simclr_jax.weights import layouts, simclr
from simclr_jax.weights.description import flat

BLOCKS = {'resnet18': (2, 2, 2, 2), 'resnet50': (3, 4, 6, 3)}


class Network:
    """Makes variables as they are asked for, and keeps them by name."""

    def __init__(self, encoder, width=1, sk_ratio=0.0, small=False, seed=0):
        self.blocks, self.bottleneck = BLOCKS[encoder], encoder == 'resnet50'
        self.width, self.sk_ratio, self.small = width, sk_ratio, small
        self.rng, self.variables, self.counts = np.random.default_rng(seed), {}, {}

    def variable(self, name, value):
        return self.variables.setdefault(name, value.astype(np.float32))

    def scope(self, kind):
        number = self.counts[kind] = self.counts.get(kind, -1) + 1
        return f'base_model/{kind}' + (f'_{number}' if number else '')

    def kernel(self, scope, *shape):
        std = (2 / np.prod(shape[:-1])) ** 0.5
        return self.variable(f'{scope}/kernel', self.rng.normal(size=shape) * std)

    def conv(self, x, filters, size, stride):
        if stride > 1:
            before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
            x = tf.pad(x, [[0, 0], [before, after], [before, after], [0, 0]])
        kernel = self.kernel(self.scope('conv2d'), size, size, x.shape[-1], filters)
        return tf.nn.conv2d(x, kernel, stride, 'SAME' if stride == 1 else 'VALID')

    def norm(self, x, relu=True, scope='', center=True, scale=1.0):
        scope, dim = scope or self.scope('batch_normalization'), x.shape[-1]
        draw = lambda: self.rng.normal(size=dim)  # noqa: E731
        gamma = self.variable(f'{scope}/gamma', scale * (1 + 0.1 * draw()))
        beta = self.variable(f'{scope}/beta', 0.1 * draw()) if center else None
        mean = self.variable(f'{scope}/moving_mean', 0.1 * draw())
        variance = self.variable(f'{scope}/moving_variance', 0.7 + 0.3 * np.abs(draw()))
        x = tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-5)
        return tf.nn.relu(x) if relu else x

    def selective(self, x, filters, stride):
        x = self.norm(self.conv(x, 2 * filters, 3, stride))
        x = tf.stack(tf.split(x, 2, axis=3))
        image = tf.reduce_mean(tf.reduce_sum(x, axis=0), [1, 2], keepdims=True)
        image = self.norm(self.conv(image, max(int(filters * self.sk_ratio), 32), 1, 1))
        mixing = tf.stack(tf.split(self.conv(image, 2 * filters, 1, 1), 2, axis=3))
        return tf.reduce_sum(x * tf.nn.softmax(mixing, axis=0), axis=0)

    def block(self, x, filters, stride, project):
        shortcut, out = x, filters * (4 if self.bottleneck else 1)
        if project:
            if self.sk_ratio:
                if stride > 1:
                    shortcut = tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]])
                padding = 'SAME' if stride == 1 else 'VALID'
                shortcut = tf.nn.avg_pool2d(shortcut, 2, stride, padding)
                shortcut = self.conv(shortcut, out, 1, 1)
            else:
                shortcut = self.conv(shortcut, out, 1, stride)
            shortcut = self.norm(shortcut, relu=False)
        if self.bottleneck:
            x = self.norm(self.conv(x, filters, 1, 1))
        if self.sk_ratio:
            x = self.selective(x, filters, stride)
        else:
            x = self.norm(self.conv(x, filters, 3, stride))
        x = self.conv(x, out, 1 if self.bottleneck else 3, 1)
        # With 1 the features grow to thousands, and rounding in the softmax of selective kernels
        # with them: a change of the picture's last bit then changes them by 1e-4.
        return tf.nn.relu(self.norm(x, relu=False, scale=0.3) + shortcut)

    def __call__(self, x):
        self.counts = {}
        filters = 64 * self.width
        if self.small:
            x = self.norm(self.conv(x, filters, 3, 1))
        else:
            if self.sk_ratio:
                x = self.norm(self.conv(x, filters // 2, 3, 2))
                x = self.norm(self.conv(x, filters // 2, 3, 1))
                x = self.norm(self.conv(x, filters, 3, 1))
            else:
                x = self.norm(self.conv(x, filters, 7, 2))
            x = tf.nn.max_pool2d(x, 3, 2, 'SAME')
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = self.block(x, filters * 2**stage, stride, block == 0)
        return tf.reduce_mean(x, [1, 2])

    def head(self, x, layers, dim=128):
        """Returns what follows each layer."""
        outputs, middle = [x], x.shape[-1]
        for i in range(layers):
            last, scope = i == layers - 1, f'head_contrastive/nl_{i}'
            x = x @ self.kernel(f'{scope}/dense', x.shape[-1], dim if last else middle)
            x = self.norm(x, not last, f'{scope}/batch_normalization', center=not last)
            outputs.append(x)
        return outputs

    def save(self, prefix, ema=False):
        """Writes a checkpoint as training leaves it: with momentum, and v2's with its averages."""
        rest = {'global_step': np.int64(250228)}
        rest |= {f'{name}/Momentum': value for name, value in self.variables.items()}
        rest['head_supervised/linear_layer/dense/kernel'] = np.zeros((8, 10), np.float32)
        rest['head_supervised/linear_layer/dense/bias'] = np.zeros(10, np.float32)
        if ema:
            rest |= {f'ema_model/{name}': value * 2 for name, value in self.variables.items()}
        everything = self.variables | rest
        tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=list(everything),
            shape_and_slices=[''] * len(everything),
            tensors=[tf.convert_to_tensor(value) for value in everything.values()],
        )


def pictures(size=64):
    return np.random.default_rng(1).random((2, size, size, 3)).astype(np.float32)


def features_of(weights, images, **change):
    module = dataclasses.replace(weights.architecture, **change).module()
    return jax.jit(lambda variables: module.apply(variables, images, False))(weights.variables)


def difference(ours, theirs) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


R50 = {'encoder': 'resnet50'}


@pytest.mark.parametrize(
    ('fields', 'layers', 'wrong'),
    [
        ({'encoder': 'resnet18'}, 2, ['same']),
        pytest.param(R50, 2, ['same', 'torch'], marks=pytest.mark.slow),
        pytest.param(R50 | {'sk_ratio': 0.0625}, 3, ['same', 'torch'], marks=pytest.mark.slow),
        pytest.param(R50 | {'width': 2}, 3, ['same', 'torch'], marks=pytest.mark.slow),
    ],
    ids=['resnet18', 'v1_resnet50', 'v2_selective', 'v2_width_2'],
)
def test_features_are_those_of_tensorflow_with_its_padding_and_with_no_other(
    fields, layers, wrong, tmp_path
):
    network, images = Network(**fields), pictures()
    theirs = network(images)
    outputs = network.head(theirs, layers)
    network.save(tmp_path / 'model.ckpt-250228', ema=layers == 3)
    weights = layouts.read(tmp_path / 'model.ckpt-250228')
    assert weights.architecture.padding == 'simclr' and weights.architecture.head_layers == 0
    found = difference(features_of(weights, images), theirs)
    name = ', '.join(map(str, fields.values()))
    print(f'SimCLR, {name}: {found:.1e}')
    assert found < 1e-4
    for layer in range(1, layers + 1):  # what `ft_proj_selector` selects
        ours = features_of(weights, images, head_layers=layer)
        assert difference(ours, outputs[layer]) < 1e-4
    for padding in wrong:
        off = difference(features_of(weights, images, padding=padding), theirs)
        print(f'SimCLR, {name}, with the padding of {padding}: {off:.1e}')
        assert off > 1e-3


def test_the_small_stem(tmp_path):
    network, images = Network('resnet18', small=True), pictures(32)
    theirs = network(images)
    network.save(tmp_path / 'model.ckpt-1')
    weights = layouts.read(tmp_path / 'model.ckpt-1')
    assert (weights.architecture.stem, weights.preprocess.size) == ('small', 32)
    assert difference(features_of(weights, images), theirs) < 1e-4
    assert weights.architecture.head is None


@pytest.fixture(scope='module')
def network():
    network = Network('resnet18')
    network.head(network(pictures(32)), 2)
    return network


def test_what_names_a_checkpoint(network, tmp_path):
    network.save(tmp_path / 'model.ckpt-250228')
    weights = layouts.read(tmp_path)
    assert weights.origin['dropped'] == ['global_step', 'head_supervised']
    assert weights.preprocess.mean == (0.0,) and weights.preprocess.std == (1.0,)
    assert weights.preprocess.crop == 0.875 and weights.architecture.head.num_layers == 2
    other = layouts.read(f'{tmp_path}/model.ckpt-250228.data-00000-of-00001')
    assert other.origin == weights.origin
    for name in ('model.ckpt-250228', 'model.ckpt-250228.index', '.'):
        found = simclr.checkpoint_prefix(os.path.normpath(tmp_path / name))
        assert found == f'{tmp_path}/model.ckpt-250228'
    (tmp_path / 'model.ckpt-1.index').touch()
    with pytest.raises(ConfigError, match='several TensorFlow checkpoints'):
        layouts.read(tmp_path)
    (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "/gone/model.ckpt-1"\n')
    assert simclr.checkpoint_prefix(str(tmp_path)) == f'{tmp_path}/model.ckpt-1'


def test_damaged_checkpoints_are_refused(network, tmp_path):
    network.save(tmp_path / 'good')
    good = flat(layouts.read(tmp_path / 'good').variables)
    refused = 0
    for name in ('good.data-00000-of-00001', 'good.index'):
        path = tmp_path / name
        content = path.read_bytes()
        for damaged in (
            content[:1000] + b'\xff\x00\xff' + content[1003:],
            content[: len(content) // 2] + bytes(9) + content[len(content) // 2 + 9 :],
            content[: len(content) // 2],
        ):
            path.write_bytes(damaged)
            try:
                found = flat(layouts.read(tmp_path / 'good').variables)
            except ConfigError as error:
                assert str(error).startswith(f'{tmp_path}/good: ')
                refused += 1
            else:  # it may be the momentum, which nobody reads
                assert all(np.array_equal(found[name], good[name]) for name in good)
        path.write_bytes(content)
    assert refused >= 3


def test_checkpoints_of_other_models_are_refused(network, tmp_path):
    other = Network('resnet18')
    other.variables = network.variables.copy()
    del other.variables['base_model/conv2d_7/kernel']
    other.save(tmp_path / 'bad')
    with pytest.raises(ConfigError, match='20 convolutions'):
        layouts.read(tmp_path / 'bad')
    other.variables = {'model/w': np.zeros(3, np.float32)}
    other.save(tmp_path / 'bad')
    with pytest.raises(ConfigError, match='not one of SimCLR'):
        layouts.read(tmp_path / 'bad')
