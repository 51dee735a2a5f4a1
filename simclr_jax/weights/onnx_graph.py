"""An encoder as an ONNX graph, node by node, from its variables.

Every layer that the encoders have is here, with every padding: nothing goes through a tracer, so
names are those of the variables, and nothing is dropped on the way.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from simclr_jax.models import normalization
from simclr_jax.models.resnet import BasicBlock, ResNet
from simclr_jax.models.vit import POOLED_NORM, VisionTransformer
from simclr_jax.weights import torch_layout
from simclr_jax.weights.description import Weights

# Inputs of Slice: where it starts, ends, and along which axis; all tokens but the class token.
_PATCHES = {'first_patch': 1, 'last_patch': np.iinfo(np.int64).max, 'tokens': 1}
OPSET, IR_VERSION = 17, 8  # of 2022: the first with LayerNormalization


def build(weights: Weights) -> onnx.ModelProto:
    """Returns the model: `images` float32 `[n, channel, size, size]` to `features` `[n, dim]`.

    With a classifier its outputs are `logits` `[n, label]` and `features`.
    """
    module, graph = weights.architecture.module(), _Graph(weights.variables)
    size, channels = weights.preprocess.size, weights.preprocess.channels
    if isinstance(module.encoder, ResNet):
        made = _resnet(graph, module.encoder, size)
    else:
        made = _vit(graph, module.encoder, size)
    if module.head_layers:
        made = _head(graph, made, module)
    graph.add('Identity', [made], name='features')
    outputs = [('features', graph.dim)]
    if weights.classifier:
        graph.add('Identity', [graph.dense('features', 'classifier')], name='logits')
        outputs.insert(0, ('logits', graph.dim))
    images = helper.make_tensor_value_info('images', TensorProto.FLOAT, ['n', channels, size, size])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ['n', dim]) for name, dim in outputs
    ]
    made = helper.make_model(
        helper.make_graph(graph.nodes, 'encoder', [images], outputs, graph.constants),
        opset_imports=[helper.make_opsetid('', OPSET)],
        ir_version=IR_VERSION,
        producer_name='simclr_jax',
    )
    if weights.classifier:
        names = made.metadata_props.add()
        names.key, names.value = 'labels', json.dumps(weights.classifier.names)
    onnx.checker.check_model(made, full_check=True)  # shapes, too
    return made


class _Graph:
    """Nodes and constants so far; a node's output has the node's name."""

    def __init__(self, variables: dict[str, Any]):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.dim = 0  # of what was made last
        self._variables = variables
        self._known: set[str] = set()

    def add(self, kind: str, inputs: Sequence[str], *, name: str = '', **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        name = name or f'{kind.lower()}_{len(self.nodes)}'
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        if name not in self._known:
            self._known.add(name)
            self.constants.append(numpy_helper.from_array(np.asarray(value, order='C'), name))
        return name

    def variable(self, path: str, collection: str = 'params') -> np.ndarray:
        tree = self._variables[collection]
        for part in path.split('/'):
            tree = tree[part]
        return np.asarray(tree, np.float32)

    def has(self, path: str) -> bool:
        tree = self._variables['params']
        for part in path.split('/'):
            if part not in tree:
                return False
            tree = tree[part]
        return True

    def conv(self, x: str, path: str, stride: int, pads: Sequence[int]) -> str:
        """Adds the convolution at `path`; `pads` are those before and after, of both axes."""
        kernel = self.variable(f'{path}/kernel')
        self.dim = kernel.shape[-1]
        inputs = [x, self.constant(f'{path}/kernel', kernel.transpose(3, 2, 0, 1))]
        if self.has(f'{path}/bias'):
            inputs.append(self.constant(f'{path}/bias', self.variable(f'{path}/bias')))
        return self.add(
            'Conv',
            inputs,
            name=path,
            kernel_shape=kernel.shape[:2],
            strides=[stride, stride],
            pads=[pads[0], pads[0], pads[1], pads[1]],
        )

    def batch_norm(self, x: str, path: str) -> str:
        """Adds the batch normalization at `path`, as in evaluation."""
        values = {
            'scale': self.variable(f'{path}/scale'),
            'bias': self.variable(f'{path}/bias'),
            'mean': self.variable(f'{path}/mean', 'batch_stats'),
            'var': self.variable(f'{path}/var', 'batch_stats'),
        }
        inputs = [self.constant(f'{path}/{name}', value) for name, value in values.items()]
        epsilon = normalization.EPSILON
        return self.add('BatchNormalization', [x, *inputs], name=path, epsilon=epsilon)

    def dense(self, x: str, path: str) -> str:
        """Adds a dense layer over the last axis; attention's kernels become matrices."""
        kernel = self.variable(f'{path}/kernel')
        inputs = math.prod(kernel.shape[:-1]) if path.endswith('/out') else kernel.shape[0]
        kernel = kernel.reshape(inputs, -1)
        self.dim = kernel.shape[1]
        x = self.add('MatMul', [x, self.constant(f'{path}/kernel', kernel)], name=path)
        if not self.has(f'{path}/bias'):
            return x
        bias = self.constant(f'{path}/bias', self.variable(f'{path}/bias').reshape(-1))
        return self.add('Add', [x, bias])

    def layer_norm(self, x: str, path: str, epsilon: float) -> str:
        inputs = [
            self.constant(f'{path}/{name}', self.variable(f'{path}/{name}'))
            for name in ('scale', 'bias')
        ]
        return self.add('LayerNormalization', [x, *inputs], name=path, axis=-1, epsilon=epsilon)

    def reshape(self, x: str, *shape: int) -> str:
        """0 keeps a side, -1 is what is left."""
        name = 'shape_' + '_'.join(map(str, shape)).replace('-', 'm')
        return self.add('Reshape', [x, self.constant(name, np.array(shape, np.int64))])


def _pads(padding: str, size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns the pixels before and after, of TensorFlow's SAME or of both sides alike."""
    if padding != 'SAME':
        return ((kernel - 1) // 2,) * 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _out(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> int:
    return (size + sum(pads) - kernel) // stride + 1


def _resnet(graph: _Graph, net: ResNet, size: int) -> str:
    padding = 'SAME' if net.padding == 'same' else 'torch'
    pool_padding = 'torch' if net.padding == 'torch' else 'SAME'

    def conv(x: str, path: str, stride: int, size: int) -> tuple[str, int]:
        kernel = graph.variable(f'encoder/{path}/kernel').shape[0]
        pads = _pads(padding, size, kernel, stride)
        return graph.conv(x, f'encoder/{path}', stride, pads), _out(size, kernel, stride, pads)

    def norm(x: str, path: str) -> str:
        return graph.batch_norm(x, f'encoder/{path}')

    def selective_kernel(x: str, path: str, stride: int, size: int) -> tuple[str, int]:
        x, size = conv(x, f'{path}/conv', stride, size)
        x = graph.add('Relu', [norm(x, f'{path}/norm')])
        dim = graph.dim // 2
        halves = graph.constant(f'halves_{dim}', np.array([dim, dim], np.int64))

        def split(x: str) -> list[str]:
            names = [f'{x}_first', f'{x}_second']
            graph.nodes.append(helper.make_node('Split', [x, halves], names, axis=1))
            return names

        image = graph.add('GlobalAveragePool', [graph.add('Add', split(x))])
        image = graph.dense(graph.reshape(image, 0, -1), f'encoder/{path}/mix1')
        image = graph.reshape(image, 0, -1, 1, 1)
        image = graph.add('Relu', [norm(image, f'{path}/mix_norm')])
        image = graph.dense(graph.reshape(image, 0, -1), f'encoder/{path}/mix2')
        mixing = graph.add('Softmax', [graph.reshape(image, 0, 2, -1)], axis=1)
        mixed = graph.add('Mul', [x, graph.reshape(mixing, 0, -1, 1, 1)])
        graph.dim = dim
        return graph.add('Add', split(mixed)), size

    def block(x: str, path: str, stride: int, size: int) -> tuple[str, int]:
        shortcut, shortcut_stride, shortcut_size, y = x, stride, size, x
        last = 2 if net.block is BasicBlock else 3
        strides = [stride, 1] if last == 2 else [1, stride, 1]
        for i in range(1, last + 1):
            name = f'{path}/conv{i}'
            if graph.has(f'encoder/{name}/conv'):
                y, size = selective_kernel(y, name, strides[i - 1], size)
                continue
            y, size = conv(y, name, strides[i - 1], size)
            y = norm(y, f'{path}/norm{i}')
            y = graph.add('Relu', [y]) if i < last else y
        if graph.has(f'encoder/{path}/shortcut_conv'):
            if net.sk_ratio:
                shortcut, shortcut_stride = _average_windows(graph, shortcut, stride), 1
            shortcut, _ = conv(shortcut, f'{path}/shortcut_conv', shortcut_stride, shortcut_size)
            shortcut = norm(shortcut, f'{path}/shortcut_norm')
        return graph.add('Relu', [graph.add('Add', [shortcut, y])], name=path), size

    x = 'images'
    stem = ['1', '2', '3'] if graph.has('encoder/stem_conv1') else ['']
    for suffix in stem:
        stride = 2 if net.stem == 'imagenet' and suffix in ('', '1') else 1
        x, size = conv(x, f'stem_conv{suffix}', stride, size)
        x = graph.add('Relu', [norm(x, f'stem_norm{suffix}')])
    if net.stem == 'imagenet':
        pads = _pads(pool_padding, size, 3, 2)
        x = graph.add(
            'MaxPool', [x], kernel_shape=[3, 3], strides=[2, 2], pads=[pads[0]] * 2 + [pads[1]] * 2
        )
        size = _out(size, 3, 2, pads)
    for stage, (count, stride) in enumerate(zip(net.stage_sizes, net.strides, strict=True), 1):
        for i in range(count):
            x, size = block(x, f'stage{stage}_block{i}', stride if i == 0 else 1, size)
    return graph.reshape(graph.add('GlobalAveragePool', [x]), 0, -1)


def _average_windows(graph: _Graph, x: str, stride: int) -> str:
    """`selective_kernel.average_windows`: what is outside counts at stride 2 alone."""
    return graph.add(
        'AveragePool',
        [x],
        kernel_shape=[2, 2],
        strides=[stride, stride],
        pads=[0, 0, 1, 1],
        count_include_pad=int(stride == 2),
    )


def _vit(graph: _Graph, net: VisionTransformer, size: int) -> str:
    side, heads = size // net.patch_size, net.num_heads
    head_dim, token = net.dim // heads, net.has_token
    x = graph.conv('images', 'encoder/patch_projection', net.patch_size, (0, 0))
    x = graph.add('Transpose', [graph.reshape(x, 0, net.dim, -1)], perm=[0, 2, 1])
    if token:
        count = graph.add('Shape', [x], start=0, end=1)
        one = graph.constant('one_token', np.array([1, net.dim], np.int64))
        shape = graph.add('Concat', [count, one], axis=0)
        value = graph.constant('encoder/class_token', graph.variable('encoder/class_token'))
        x = graph.add('Concat', [graph.add('Expand', [value, shape]), x], axis=1)
    if net.positions == 'learned':
        positions = graph.variable('encoder/positions')
    else:
        positions = torch_layout.position_tensor(side, net.dim, token)
    x = graph.add('Add', [x, graph.constant('encoder/positions', positions)])

    def attention(x: str, path: str) -> str:
        parts = []
        for name, axes in (('query', [0, 2, 1, 3]), ('key', [0, 2, 3, 1]), ('value', [0, 2, 1, 3])):
            y = graph.reshape(graph.dense(x, f'{path}/{name}'), 0, 0, heads, head_dim)
            parts.append(graph.add('Transpose', [y], perm=axes))
        scale = graph.constant('attention_scale', np.array(head_dim**-0.5, np.float32))
        scores = graph.add('MatMul', [graph.add('Mul', [parts[0], scale]), parts[1]])
        y = graph.add('MatMul', [graph.add('Softmax', [scores], axis=-1), parts[2]])
        y = graph.reshape(graph.add('Transpose', [y], perm=[0, 2, 1, 3]), 0, 0, net.dim)
        return graph.dense(y, f'{path}/out')

    for block in range(net.depth):
        path = f'encoder/block{block}'
        y = graph.layer_norm(x, f'{path}/norm1', net.epsilon)
        x = graph.add('Add', [x, attention(y, f'{path}/attention')])
        y = graph.dense(graph.layer_norm(x, f'{path}/norm2', net.epsilon), f'{path}/dense1')
        y = graph.dense(_gelu(graph, y), f'{path}/dense2')
        x = graph.add('Add', [x, y])
    if net.pooling == 'patches':
        ends = (graph.constant(name, np.array([at], np.int64)) for name, at in _PATCHES.items())
        x = graph.add('Slice', [x, *ends])
    if net.pooling != 'token':
        x = graph.add('ReduceMean', [x], axes=[1], keepdims=0)
        path = f'encoder/{POOLED_NORM}'
        return graph.layer_norm(x, path, net.epsilon) if net.pooling == 'patches' else x
    first = graph.constant('first', np.array(0, np.int64))
    return graph.layer_norm(graph.add('Gather', [x, first], axis=1), 'encoder/norm', net.epsilon)


def _gelu(graph: _Graph, x: str) -> str:
    """The exact one, `x / 2 * (1 + erf(x / sqrt(2)))`."""
    root = graph.constant('root_half', np.array(0.5**0.5, np.float32))
    one, half = (graph.constant(str(v), np.array(v, np.float32)) for v in (1.0, 0.5))
    y = graph.add('Erf', [graph.add('Mul', [x, root])])
    return graph.add('Mul', [graph.add('Mul', [x, half]), graph.add('Add', [y, one])])


def _head(graph: _Graph, x: str, module: Any) -> str:
    """Adds the layers of the projection head that are kept (`MLPHead`)."""
    head = module.projector
    for layer in range(1, module.head_layers + 1):
        x = graph.dense(x, f'projector/dense{layer}')
        if layer < head.num_layers:
            x = _vector_norm(graph, x, f'projector/norm{layer}') if head.hidden_norm else x
            x = graph.add('Relu', [x])
        elif head.output_norm != 'none':
            x = _vector_norm(graph, x, f'projector/norm{layer}')
    return x


def _vector_norm(graph: _Graph, x: str, path: str) -> str:
    """Adds a batch normalization of vectors, which may lack its scale or its bias."""
    mean, var = (graph.variable(f'{path}/{name}', 'batch_stats') for name in ('mean', 'var'))
    scale = (var.astype(np.float64) + normalization.EPSILON) ** -0.5
    if graph.has(f'{path}/scale'):
        scale *= graph.variable(f'{path}/scale')
    shift = -mean * scale
    if graph.has(f'{path}/bias'):
        shift += graph.variable(f'{path}/bias')
    x = graph.add('Mul', [x, graph.constant(f'{path}/times', scale.astype(np.float32))])
    return graph.add(
        'Add', [x, graph.constant(f'{path}/plus', shift.astype(np.float32))], name=path
    )
