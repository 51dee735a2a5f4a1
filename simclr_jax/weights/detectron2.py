"""The layout of detectron2's ResNets, as MoCo's converter writes it: one way.

`encoder.pkl` is what `detection/convert-pretrain-to-detectron2.py` of facebookresearch/moco makes:
`{'model': arrays, '__author__': ..., 'matching_heuristics': True}`. It is a pickle, as detectron2
takes a file with this suffix to be. It is written by the few opcodes below: this package does not
import `pickle`.
"""

import pathlib
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from simclr_jax.models.factory import RESNETS
from simclr_jax.models.resnet import BasicBlock
from simclr_jax.weights import readme, torch_layout, torchvision
from simclr_jax.weights.description import Weights

PACKAGES = ('torch', 'detectron2')
CLASSIFIES = False  # its ResNets are backbones
INPUT = 'nchw'
FILES = "`encoder.pkl` is for detectron2's ResNets, in the layout of MoCo's converter."
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
    if weights.preprocess.channels != 3:
        raise torch_layout.cannot('detectron2', 'grey pictures', 'torchvision', 'timm')


def to_tensors(weights: Weights) -> dict[str, np.ndarray]:
    """Returns the arrays of `model`.

    Raises:
      ConfigError: detectron2 cannot express the encoder.
    """
    check(weights)
    names = torch_layout.encoder_names(weights)
    table = torch_layout.resnet_table(names, torchvision.RESNET)
    tensors = torch_layout.write(weights, table, counters=False)
    return {_renamed(key): value for key, value in tensors.items()}


def _renamed(key: str) -> str:
    """The converter's replacements."""
    if 'layer' not in key:
        key = f'stem.{key}'
    key = re.sub(r'layer(\d)', lambda match: f'res{int(match[1]) + 1}', key)
    key = re.sub(r'bn(\d)', r'conv\1.norm', key)
    return key.replace('downsample.0', 'shortcut').replace('downsample.1', 'shortcut.norm')


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `encoder.pkl`."""
    content = {
        'model': to_tensors(weights),
        '__author__': _AUTHOR,
        'matching_heuristics': True,
    }
    (folder / 'encoder.pkl').write_bytes(pickled(content))


def lines(weights: Weights, folder: str) -> list[str]:
    """Returns the Python lines that load an exported file as `model`."""
    architecture, preprocess = weights.architecture, weights.preprocess
    basic = RESNETS[architecture.encoder]['block'] is BasicBlock
    stem = 64 * architecture.width
    mean, std = (
        [round(255 * value, 6) for value in torch_layout.per_channel(values, 3)]
        for values in (preprocess.mean, preprocess.std)
    )
    return [
        'import torch',
        'from detectron2.checkpoint import DetectionCheckpointer',
        'from detectron2.config import get_cfg',
        'from detectron2.modeling import build_backbone',
        '',
        'cfg = get_cfg()',
        "cfg.MODEL.BACKBONE.NAME = 'build_resnet_backbone'",
        f"cfg.MODEL.WEIGHTS = '{folder}/encoder.pkl'",
        f"cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.DEPTH = 'RGB', {architecture.encoder[6:]}",
        f'cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = {mean}, {std}',
        f'cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = {stem}',
        f'cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = {stem if basic else 4 * stem}',
        f'cfg.MODEL.RESNETS.WIDTH_PER_GROUP = {stem}',
        'cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False',
        "cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.OUT_FEATURES = 'BN', ['res5']",
        "cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.FREEZE_AT = 'cpu', 0",
        'model = build_backbone(cfg).eval()',
        'DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)',
    ]


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
    """Returns a pickle of nested dicts of text, booleans and float32 arrays, of protocol 3."""
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
    elif isinstance(value, np.ndarray) and value.dtype == np.float32:
        yield from _array(value)
    else:
        raise TypeError(f'{type(value).__name__} is not written')


def _array(value: np.ndarray) -> Iterator[bytes]:
    """What an array's `__reduce__` says: `_reconstruct(ndarray, (0,), b'b')`, and a state."""
    yield b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n'
    yield _tuple(0) + _joined(b'b') + b'\x87R'
    yield b'(' + _joined(1) + _tuple(*value.shape)
    yield b'cnumpy\ndtype\n' + _joined('f4') + b'\x89\x88\x87R'  # little-endian: its state
    yield b'(' + _joined(3) + _joined('<') + b'NNN' + 2 * _joined(-1) + _joined(0) + b'tb'
    yield b'\x89' + _joined(value.astype('<f4').tobytes()) + b'tb'


def _tuple(*values: int) -> bytes:
    return b'(' + b''.join(map(_joined, values)) + b't'


def _joined(value: Any) -> bytes:
    return b''.join(_opcodes(value))
