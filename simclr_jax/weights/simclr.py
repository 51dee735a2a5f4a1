"""SimCLR's checkpoints (google-research/simclr), v1 and v2, of TensorFlow 1.

Layers are numbered in the order in which `resnet.py` made them: `base_model/conv2d`, `conv2d_1`,
... In the first block of each group the shortcut comes before the other convolutions. v2 keeps a
moving average of all of it under `ema_model/`, which its evaluation does not take.

TensorFlow reads the file, and is imported for nothing else.
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import unflatten_dict

from simclr_jax.config import ConfigError
from simclr_jax.models.factory import RESNETS
from simclr_jax.models.resnet import BottleneckBlock
from simclr_jax.weights.description import Architecture, Head, Preprocess, Weights

LAYOUT = 'SimCLR'
_BASE, _HEAD = 'base_model/', 'head_contrastive/'
_NUMBERED = re.compile(rf'{_BASE}(conv2d|batch_normalization)(?:_(\d+))?/')
_LEAVES = {  # of batch normalization
    'gamma': ('params', 'scale'),
    'beta': ('params', 'bias'),
    'moving_mean': ('batch_stats', 'mean'),
    'moving_variance': ('batch_stats', 'var'),
}
_ERRORS = (ValueError, RuntimeError, LookupError, TypeError)  # what its reader makes of its own
_SIDE = 224  # pixels; the small stem is for CIFAR's 32


def checkpoint_prefix(path: str) -> str | None:
    """Returns the name of the checkpoint that a file of it, or a folder, stands for, if one does.

    A folder has a file `checkpoint`, which names its last one, or a single `*.index`.
    """
    prefix = re.sub(r'\.(index|meta|data-\d{5}-of-\d{5})$', '', path)
    if epath.Path(f'{prefix}.index').is_file():
        return prefix
    folder = epath.Path(path)
    if not folder.is_dir():
        return None
    indices = sorted(file.name for file in folder.iterdir() if file.name.endswith('.index'))
    names = indices if len(indices) == 1 else []
    if (folder / 'checkpoint').is_file():
        with (folder / 'checkpoint').open('rb') as file:
            named = re.search(rb'model_checkpoint_path: "([^"]*)"', file.read(4096))
        last = os.path.basename(named[1].decode(errors='replace')) if named else ''
        names = [f'{last}.index'] if f'{last}.index' in indices else names
    return os.path.join(path, names[0].removesuffix('.index')) if names else None


def files_of(prefix: str) -> list[str]:
    """Returns the files that hold the variables of a checkpoint."""
    folder, name = os.path.split(prefix)
    parts = re.compile(re.escape(name) + r'\.(index|data-\d{5}-of-\d{5})')
    names = sorted(file.name for file in epath.Path(folder or '.').iterdir())
    return [os.path.join(folder, name) for name in names if parts.fullmatch(name)]


def read(prefix: str) -> Weights:
    """Reads the encoder, and the projection head, of which no layer is used at first.

    `architecture.head_layers` of 1 gives the features that SimCLR v2 fine-tunes from.

    Raises:
      ConfigError: it is another model's checkpoint, is damaged, or TensorFlow is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ConfigError(
            f'{prefix}: a TensorFlow checkpoint is read by TensorFlow: pip install tensorflow'
        ) from error
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, *_ERRORS) as error:
        raise ConfigError(f'{prefix}: is a damaged TensorFlow checkpoint: {error}') from error
    tensors = _Tensors(prefix, reader, shapes, (tf.errors.OpError, *_ERRORS))
    architecture, places = _architecture(shapes, prefix)
    arrays = {}
    for name, variable in places.items():
        value = tensors.read(variable)
        # The two layers that mix selective kernels are 1x1 convolutions there.
        arrays[name] = value[0, 0] if re.search(r'/mix\d/kernel$', name) else value
    head, of_head = _head(tensors)
    if head:
        architecture = dataclasses.replace(architecture, head=head)
        arrays |= of_head
    small = architecture.stem == 'small'
    size, crop = (32, 1.0) if small else (_SIDE, 0.875)
    channels = int(shapes[f'{_BASE}conv2d/kernel'][2])
    preprocess = Preprocess(
        size, crop, 'bicubic', channels=channels
    )  # pixels in [0, 1] as they are
    used = {_BASE.rstrip('/'), *([_HEAD.rstrip('/')] if head else [])}
    dropped = sorted({name.split('/')[0] for name in shapes} - used)
    origin = {'layout': LAYOUT, 'network': 'base_model', 'dropped': dropped}
    return Weights(architecture, preprocess, origin, unflatten_dict(arrays, sep='/'))


class _Tensors:
    """The variables of a checkpoint."""

    def __init__(self, prefix: str, reader: Any, shapes: Mapping[str, Any], errors: tuple):
        self.prefix, self.reader, self.shapes, self.errors = prefix, reader, shapes, errors

    def read(self, name: str) -> np.ndarray:
        try:
            value = np.asarray(self.reader.get_tensor(name))
        except self.errors as error:
            raise ConfigError(f'{self.prefix}: {name} is damaged: {error}') from error
        if value.dtype.kind != 'f':
            raise ConfigError(f'{self.prefix}: {name} is of type {value.dtype}; weights are floats')
        return value


def _architecture(shapes: Mapping[str, Any], prefix: str) -> tuple[Architecture, dict[str, str]]:
    """Returns the encoder, and `{our name: its variable}`.

    Raises:
      ConfigError: there is no such encoder.
    """
    convs, norms = (_numbered(shapes, kind) for kind in ('conv2d', 'batch_normalization'))
    kernels = [tuple(shapes.get(f'{conv}kernel', ())) for conv in convs]
    if not kernels or any(len(shape) != 4 for shape in kernels):
        few = ', '.join(ascii(name[:80])[1:-1] for name in sorted(shapes)[:5])
        raise ConfigError(
            f'{prefix}: is a TensorFlow checkpoint, but not one of SimCLR, whose variables begin '
            f'with {_BASE}conv2d/kernel; it has {few}. In place of a SavedModel, give the '
            'checkpoint that it was made from, model.ckpt-*'
        )
    candidates = itertools.product(RESNETS, ('imagenet', 'small'), (False, True))
    for name, stem, selective in candidates:
        layers = _layers(name, stem, selective)
        first = 7 if stem == 'imagenet' and not selective else 3
        if (len(layers), first) != (len(convs), kernels[0][0]):
            continue
        filters = kernels[0][3] * (2 if selective and stem == 'imagenet' else 1)
        # The last block ends with two 3x3 convolutions in one, two layers that mix, and a 1x1.
        ratio = kernels[-3][3] / kernels[-3][2] if selective else 0.0
        architecture = Architecture(
            name, stem=stem, padding='simclr', width=max(1, filters // 64), sk_ratio=ratio
        )
        places = {
            f'params/encoder/{layer}/kernel': f'{conv}kernel'
            for (layer, _), conv in zip(layers, convs, strict=True)
        }
        # Where a number is missing, so is a variable, which `check_variables` then names.
        for layer, norm in zip([norm for _, norm in layers if norm], norms, strict=False):
            for leaf, (collection, our_leaf) in _LEAVES.items():
                if f'{norm}{leaf}' in shapes:
                    places[f'{collection}/encoder/{layer}/{our_leaf}'] = f'{norm}{leaf}'
        return architecture, places
    raise ConfigError(
        f'{prefix}: {LAYOUT}: has {len(convs)} convolutions, which is what none of '
        f'{", ".join(RESNETS)} has, with selective kernels or without'
    )


def _numbered(shapes: Mapping[str, Any], kind: str) -> list[str]:
    """Returns the scopes of one kind, `base_model/conv2d_12/`, in the order of their numbers."""
    found = {}
    for name in shapes:
        match = _NUMBERED.match(name)
        if match and match[1] == kind:
            found[int(match[2] or 0)] = match[0]
    return [found[number] for number in sorted(found)]


def _layers(name: str, stem: str, selective: bool) -> list[tuple[str, str | None]]:
    """Returns our names of the convolutions and their normalizations, as `resnet.py` makes them."""
    bottleneck = RESNETS[name]['block'] is BottleneckBlock
    sizes = RESNETS[name]['stage_sizes']
    if len(sizes) != 4 or (selective and not bottleneck):
        return []
    deep = selective and stem == 'imagenet'
    layers = [(f'stem_conv{i}', f'stem_norm{i}') for i in (('1', '2', '3') if deep else ('',))]
    for stage, blocks in enumerate(sizes, 1):
        for block in range(blocks):
            place = f'stage{stage}_block{block}'
            if block == 0:
                layers.append((f'{place}/shortcut_conv', f'{place}/shortcut_norm'))
            for i in range(1, 4 if bottleneck else 3):
                if selective and i == 2:
                    layers.append((f'{place}/conv2/conv', f'{place}/conv2/norm'))
                    layers.append((f'{place}/conv2/mix1', f'{place}/conv2/mix_norm'))
                    layers.append((f'{place}/conv2/mix2', None))
                else:
                    layers.append((f'{place}/conv{i}', f'{place}/norm{i}'))
    return layers


def _head(tensors: _Tensors) -> tuple[Head | None, dict[str, np.ndarray]]:
    """Returns the projection head of `model_util.py` and its variables, if there is one.

    Its layers are dense without bias, each with batch normalization, the last without its bias.
    """
    count = 0
    while f'{_HEAD}nl_{count}/dense/kernel' in tensors.shapes:
        count += 1
    arrays = {}
    for i in range(count):
        scope = f'{_HEAD}nl_{i}'
        arrays[f'params/projector/dense{i + 1}/kernel'] = tensors.read(f'{scope}/dense/kernel')
        for leaf, (collection, our_leaf) in _LEAVES.items():
            name = f'{scope}/batch_normalization/{leaf}'
            if name in tensors.shapes:
                place = f'{collection}/projector/norm{i + 1}/{our_leaf}'
                arrays[place] = tensors.read(name)
    kernels = [value for name, value in arrays.items() if name.endswith('kernel')]
    if count < 2 or any(kernel.ndim != 2 for kernel in kernels):
        return None, {}
    head = Head(kernels[0].shape[1], kernels[-1].shape[1], count, output_norm='scale_only')
    return head, arrays
