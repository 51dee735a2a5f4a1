"""The layout of detectron2's ResNets, as MoCo's converter writes it: one way.

`encoder.pkl` is what `detection/convert-pretrain-to-detectron2.py` of facebookresearch/moco makes:
`{'model': arrays, '__author__': ..., 'matching_heuristics': True}`, key by key, without the
projection head: the converter leaves a MoCo file's in, as `stem.fc.*`, and detectron2 ignores it.
It is a pickle, as detectron2 takes a file with this suffix to be. It is written by the few opcodes
below: this package does not import `pickle`.
"""

import pathlib
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from simclr_jax.models.factory import RESNETS
from simclr_jax.models.resnet import BasicBlock
from simclr_jax.weights import detectron2_configs, readme, torch_layout, torchvision
from simclr_jax.weights.description import Weights

PACKAGES = ('torch', 'detectron2')
CLASSIFIES = False  # its ResNets are backbones
INPUT = 'nchw'
FILES = (
    "`encoder.pkl` is for detectron2's ResNets, in the layout of MoCo's converter; the `.yaml` "
    'files are configs that train a detector.'
)
_AUTHOR = 'simclr_jax'
_DEPTHS = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152')


def check(weights: Weights) -> None:
    """Checks that detectron2's ResNets can compute these features.

    Raises:
      ConfigError: they cannot; it says why, and which format can.
    """
    architecture = weights.architecture
    torch_layout.check_expressible(weights, 'detectron2')
    if architecture.encoder not in _DEPTHS:
        raise torch_layout.cannot('detectron2', architecture.encoder, 'torchvision', 'timm')
    if architecture.stem != 'imagenet':
        raise torch_layout.cannot(
            'detectron2',
            f'stem={architecture.stem!r}: the first layer is fixed there',
            'torchvision',
        )
    if architecture.width > 1 and RESNETS[architecture.encoder]['block'] is BasicBlock:
        raise torch_layout.cannot(
            'detectron2',
            f'width={architecture.width} of {architecture.encoder}: 64 filters are fixed there',
            'torchvision',
        )


def to_tensors(weights: Weights) -> dict[str, np.ndarray]:
    """Returns the arrays of `model`.

    Raises:
      ConfigError: detectron2 cannot express the encoder.
    """
    check(weights)
    names = torch_layout.encoder_names(weights)
    table = torch_layout.resnet_table(names, torchvision.RESNET)
    tensors = torch_layout.write(weights, table)
    return {_renamed(key): value for key, value in tensors.items()}


def _renamed(key: str) -> str:
    """The converter's replacements."""
    if 'layer' not in key:
        key = f'stem.{key}'
    key = re.sub(r'layer(\d)', lambda match: f'res{int(match[1]) + 1}', key)
    key = re.sub(r'bn(\d)', r'conv\1.norm', key)
    return key.replace('downsample.0', 'shortcut').replace('downsample.1', 'shortcut.norm')


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `encoder.pkl` and the configs; these name the folder as it is called."""
    content = {
        'model': to_tensors(weights),
        '__author__': _AUTHOR,
        'matching_heuristics': True,
    }
    (folder / 'encoder.pkl').write_bytes(pickled(content))
    for name, tree in detectron2_configs.configs(weights, folder.name).items():
        (folder / name).write_text(detectron2_configs.text(name, tree), encoding='utf-8')


def lines(weights: Weights, folder: str) -> list[str]:
    """Returns the Python lines that load an exported file as `model`."""
    fields = {
        'BACKBONE.NAME': 'build_resnet_backbone',
        'BACKBONE.FREEZE_AT': 0,
        'DEVICE': 'cpu',
        'WEIGHTS': f'{folder}/encoder.pkl',
        'RESNETS.NORM': 'BN',
        'RESNETS.OUT_FEATURES': ['res5'],
        **detectron2_configs.pixel_fields(weights),
    }
    for key, value in detectron2_configs.resnet_fields(weights).items():
        fields[f'RESNETS.{key}'] = value
    return [
        'import torch',
        'from detectron2.checkpoint import DetectionCheckpointer',
        'from detectron2.config import get_cfg',
        'from detectron2.modeling import build_backbone',
        '',
        'cfg = get_cfg()',
        f'cfg.INPUT.FORMAT = {detectron2_configs.picture_format(weights)!r}',
        *[f'cfg.MODEL.{key} = {value!r}' for key, value in fields.items()],
        'model = build_backbone(cfg).eval()',
        'DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)',
    ]


def sections(weights: Weights, folder: str) -> list[str]:
    """Returns what else README.md says: how a detector is trained."""
    return detectron2_configs.sections(weights, folder)


def features(weights: Weights) -> str:
    """Returns the expression that turns `images` into features."""
    del weights
    return "model(images)['res5'].mean((2, 3))"


def use(weights: Weights) -> list[str]:
    """Returns the lines that turn `picture` into features."""
    return [
        *readme.normalize_lines(weights, torch=True),
        'with torch.no_grad():',
        f'    features = {features(weights)}',
    ]


def pickled(value: Any) -> bytes:
    """Returns a pickle, of protocol 3, of nested dicts of text, booleans and arrays."""
    return b'\x80\x03' + _joined(value) + b'.'


def _opcodes(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        yield b'}('
        for key, item in value.items():
            yield from _opcodes(key)
            yield from _opcodes(item)
        yield b'u'
    elif isinstance(value, bool):
        yield b'\x88' if value else b'\x89'
    elif isinstance(value, int):
        yield b'J' + struct.pack('<i', value)
    elif isinstance(value, str):
        encoded = value.encode()
        yield b'X' + struct.pack('<I', len(encoded)) + encoded
    elif isinstance(value, bytes):
        yield b'B' + struct.pack('<I', len(value)) + value
    elif isinstance(value, np.ndarray) and value.dtype in (np.float32, np.int64):
        yield from _array(value)
    else:
        raise TypeError(f'{type(value).__name__} is not written')


def _array(value: np.ndarray) -> Iterator[bytes]:
    """What an array's `__reduce__` says: `_reconstruct(ndarray, (0,), b'b')`, and a state."""
    yield b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n'
    yield _tuple(0) + _joined(b'b') + b'\x87R'
    yield b'(' + _joined(1) + _tuple(*value.shape)
    little = value.astype(value.dtype.newbyteorder('<'))
    yield b'cnumpy\ndtype\n' + _joined(little.dtype.str[1:]) + b'\x89\x88\x87R'
    yield b'(' + _joined(3) + _joined('<') + b'NNN' + 2 * _joined(-1) + _joined(0) + b'tb'
    yield b'\x89' + _joined(little.tobytes()) + b'tb'


def _tuple(*values: int) -> bytes:
    return b'(' + b''.join(map(_joined, values)) + b't'


def _joined(value: Any) -> bytes:
    return b''.join(_opcodes(value))
