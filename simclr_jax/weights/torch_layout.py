"""What the layouts of PyTorch libraries have in common: their axes, and how keys are checked.

A layout is a table `{their key: our names}`: one name, or the three of a query, key and value that
are one tensor there. Both directions follow from it.
"""

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from simclr_jax.config import ConfigError
from simclr_jax.models.factory import RESNETS, VITS
from simclr_jax.models.resnet import BottleneckBlock
from simclr_jax.models.vit import sincos_positions
from simclr_jax.weights import heads
from simclr_jax.weights.description import (
    Architecture,
    Preprocess,
    Tree,
    Weights,
    expected_shapes,
    flat,
    from_json,
    to_json,
)

Table = dict[str, tuple[str, ...]]
Tensors = Mapping[str, np.ndarray]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What torchvision's models see: Resize(256), CenterCrop(224), ToTensor, Normalize.
TORCHVISION = Preprocess(224, 0.875, 'bilinear', True, IMAGENET_MEAN, IMAGENET_STD)
_ATTENTION = ('query', 'key', 'value')
_NOTES = {'simclr_jax_architecture': Architecture, 'simclr_jax_preprocess': Preprocess}
_COUNTER = 'num_batches_tracked'  # of PyTorch's BatchNorm; says nothing about the function
_STATISTICS = {'mean': 'running_mean', 'var': 'running_var'}
_SINCOS_ERROR = 1e-5  # of positions that another library computed in float32


def leaf_name(name: str) -> str:
    """Returns what PyTorch calls the last part of one of our names: weight, bias, ..."""
    return {'kernel': 'weight', 'scale': 'weight', **_STATISTICS}.get(name, name)


def resnet_table(names: Iterable[str], rename: Mapping[str, str]) -> Table:
    """Returns the table of a ResNet.

    Args:
      names: ours, `collection/encoder/stage1_block0/conv1/kernel`.
      rename: pattern of a module's path, `stage1_block0/conv1`, to what replaces it.
    """
    table = {}
    for name in names:
        _, _, *module, leaf = name.split('/')
        table[f'{_renamed("/".join(module), rename)}.{leaf_name(leaf)}'] = (name,)
    return table


def vit_table(names: Iterable[str], rename: Mapping[str, str], joined: str = '') -> Table:
    """Returns the table of a ViT.

    Args:
      names: ours, `params/encoder/block0/norm1/scale`.
      rename: pattern of a path without its leaf, or of a parameter's, to what replaces it.
      joined: what replaces `block0/attention` where query, key and value are one tensor, with
        `{leaf}` in it.
    """
    table = {}
    for name in names:
        _, _, *path = name.split('/')
        *module, leaf = path
        if joined and module[-1:] == ['query']:
            key = _renamed('/'.join(module[:-1]), rename) + joined.format(leaf=leaf_name(leaf))
            table[key] = tuple(name.replace('/query/', f'/{part}/') for part in _ATTENTION)
        elif joined and module[-1:] and module[-1] in _ATTENTION:
            continue
        elif module:
            table[f'{_renamed("/".join(module), rename)}.{leaf_name(leaf)}'] = (name,)
        else:
            table[_renamed(leaf, rename)] = (name,)
    return table


def _renamed(path: str, rename: Mapping[str, str]) -> str:
    for pattern, replacement in rename.items():
        match = re.fullmatch(pattern, path)
        if match:
            # An empty name is of a module that only holds others.
            return match.expand(replacement)
    raise KeyError(path)


def to_torch(name: str, value: np.ndarray) -> np.ndarray:
    """Returns a variable with PyTorch's axes: convolutions OIHW, dense layers `[out, in]`."""
    value = np.asarray(value, np.float32)
    if name.endswith('kernel'):
        if value.ndim == 4:
            return value.transpose(3, 2, 0, 1)
        inputs = math.prod(value.shape[:-1]) if '/out/' in name else value.shape[0]
        return value.reshape(inputs, -1).T
    if name.endswith('bias'):
        return value.reshape(-1)
    return value


def from_torch(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_torch`; `shape` is that of our variable."""
    if name.endswith('kernel'):
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value.reshape(shape), np.float32)


def write(weights: Weights, table: Table, *, counters: bool = True) -> dict[str, np.ndarray]:
    """Returns the tensors that the table names; `counters` adds PyTorch's `num_batches_tracked`."""
    variables, tensors = flat(weights.variables), {}
    for key, names in table.items():
        parts = [to_torch(name, variables[name]) for name in names]
        tensors[key] = np.ascontiguousarray(np.concatenate(parts) if len(parts) > 1 else parts[0])
        if counters and key.endswith('.running_var'):
            tensors[key.replace('running_var', _COUNTER)] = np.zeros((), np.int64)
    return tensors


def read(tensors: Tensors, table: Table, shapes: Mapping[str, tuple[int, ...]], what: str) -> Tree:
    """Returns the variables that the tensors of a layout hold.

    Args:
      tensors: of the layout, without what was dropped.
      table: of the layout.
      shapes: of our variables, by name.
      what: the file and the model in words, for errors.

    Raises:
      ConfigError: a key is missing, unknown, or of a wrong shape or type.
    """
    check_keys(tensors, table, what)
    variables = {}
    for key, names in table.items():
        parts = [to_torch(name, np.broadcast_to(np.float32(0), shapes[name])) for name in names]
        shape = (len(parts) * parts[0].shape[0], *parts[0].shape[1:])
        tensor = np.asarray(tensors[key])
        if tensor.shape != shape:
            raise ConfigError(f'{what}: {key} is of shape {tensor.shape}, but it wants {shape}')
        if tensor.dtype.kind not in 'fV':  # bfloat16 is of NumPy's kind V
            raise ConfigError(f'{what}: {key} is of type {tensor.dtype}; weights are floats')
        for name, part in zip(names, np.split(tensor, len(names)), strict=True):
            variables[name] = from_torch(name, part, shapes[name])
    return unflatten_dict(variables, sep='/')


def check_keys(keys: Iterable[str], wanted: Iterable[str], what: str) -> None:
    """Checks that these are the keys, but for PyTorch's counters.

    Raises:
      ConfigError: one is missing or unknown.
    """
    wanted = set(wanted)
    keys = {key for key in keys if not key.endswith(_COUNTER)}
    missing, unknown = sorted(wanted - keys), sorted(keys - wanted)
    if missing:
        close = difflib.get_close_matches(missing[0], unknown, 1)
        hint = f'; it has {close[0]}' if close else ''
        raise ConfigError(f'{what}: has no {_listed(missing)}{hint}')
    if unknown:
        raise ConfigError(f'{what}: has {_listed(unknown)}, which it does not know')


def _listed(keys: Sequence[str]) -> str:
    more = f' and {len(keys) - 3} more' if len(keys) > 3 else ''
    return ', '.join(keys[:3]) + more


def without(tensors: Tensors, *prefixes: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Takes out what begins with a prefix; returns the rest, and the keys that were dropped."""
    kept = {key: value for key, value in tensors.items() if not key.startswith(prefixes)}
    return kept, sorted(tensors.keys() - kept.keys())


def resnet_of(
    stem: tuple[int, ...], depths: Sequence[int], bottleneck: bool, what: str
) -> Architecture:
    """Returns the ResNet with this first convolution `[out, in, k, k]` and blocks a stage.

    Raises:
      ConfigError: there is no such encoder.
    """
    stems = {7: 'imagenet', 3: 'small'}
    found = [
        name
        for name, fields in RESNETS.items()
        if tuple(fields['stage_sizes']) == tuple(depths)
        and (fields['block'] is BottleneckBlock) == bottleneck
    ]
    if len(stem) != 4 or stem[2] != stem[3] or stem[2] not in stems or not found:
        kind = 'bottleneck' if bottleneck else 'basic'
        raise ConfigError(
            f'{what}: a first convolution of shape {tuple(stem)} and {list(depths)} {kind} blocks; '
            f'there are {", ".join(RESNETS)}, with a 7x7 or a 3x3 one'
        )
    base = RESNETS[found[0]].get('widths', (64,))[0]
    return Architecture(found[0], stem=stems[stem[2]], width=max(1, stem[0] // base))


def vit_of(
    patch: tuple[int, ...],
    depth: int,
    positions: np.ndarray,
    *,
    token: bool,
    num_heads: int | None,
    epsilon: float,
    what: str,
) -> tuple[Architecture, int]:
    """Returns the ViT with these shapes, and the size of its pictures.

    Args:
      patch: shape of the projection of the patches, `[dim, channel, patch, patch]`.
      depth: the number of blocks.
      positions: `[1, token, dim]`, the class token's first, if it has one.
      token: whether it has a class token, which its features then come from.
      num_heads: as the file says; None where it does not: heads of 64 features, which is what
        PyTorch's libraries have where nothing is said.
      epsilon: of LayerNorm.
      what: the file and the model in words, for errors.

    Raises:
      ConfigError: there is no such encoder.
    """
    dim = patch[0]
    found = [name for name, of in VITS.items() if (of['dim'], of['depth']) == (dim, depth)]
    if len(patch) != 4 or patch[2] != patch[3] or not found:
        known = ', '.join(f'{name} ({of["dim"]}, {of["depth"]})' for name, of in VITS.items())
        raise ConfigError(
            f'{what}: patches of shape {tuple(patch)} and {depth} blocks; there are {known}, '
            'of that width and number of blocks, with square patches'
        )
    heads = num_heads or dim // 64
    if dim % heads:
        raise ConfigError(f'{what}: num_heads={heads} does not divide its width of {dim}')
    count = positions.shape[1] - token if positions.ndim == 3 else 0
    side = math.isqrt(max(count, 0))
    if side**2 != count or not count:
        raise ConfigError(
            f'{what}: has positions of shape {positions.shape}, which are not those of a square'
        )
    architecture = Architecture(
        found[0],
        pooling='token' if token else 'mean',
        num_heads=0 if heads == VITS[found[0]]['num_heads'] else heads,
        patch_size=patch[2],
        positions='sincos' if is_sincos(positions, side, token) else 'learned',
        epsilon=epsilon,
    )
    return architecture, side * patch[2]


def position_tensor(side: int, dim: int, token: bool) -> np.ndarray:
    """Returns the fixed positions as a parameter `[1, token, dim]`; the class token has none."""
    return np.pad(sincos_positions(side, side, dim), ((int(token), 0), (0, 0)))[None]


def is_sincos(positions: np.ndarray, side: int, token: bool) -> bool:
    """Whether these positions are the fixed ones."""
    if positions.shape[-1] % 4:
        return False
    fixed = position_tensor(side, positions.shape[-1], token)
    return bool(np.abs(positions - fixed).max() < _SINCOS_ERROR)


def imagenet(size: int, channels: int) -> Preprocess:
    """Returns torchvision's preprocessing at this size; grey has the mean of the three colours."""
    fields: dict[str, Any] = {'size': size, 'channels': channels}
    if channels == 1:
        fields |= {'mean': (0.449,), 'std': (0.226,)}
    return Preprocess(**TORCHVISION.__dict__ | fields)


def per_channel(values: tuple[float, ...], channels: int) -> list[float]:
    """Returns one number a channel, as other libraries want them."""
    return list(values) if len(values) == channels else list(values) * channels


def shapes_of(architecture: Architecture, preprocess: Preprocess, what: str) -> dict[str, tuple]:
    """Returns `expected_shapes`.

    Raises:
      ConfigError: there is no such encoder.
    """
    try:
        return expected_shapes(architecture, preprocess)
    except ValueError as error:
        raise ConfigError(f'{what}: {error}') from error


def encoder_names(weights: Weights) -> list[str]:
    """Returns the names of the encoder's variables: those of a projection head stay behind."""
    return [name for name in flat(weights.variables) if name.split('/')[1] == 'encoder']


def check_expressible(weights: Weights, library: str) -> None:
    """Checks what none of PyTorch's libraries can express.

    Raises:
      ConfigError: it is such an encoder.
    """
    architecture = weights.architecture
    if architecture.head_layers:
        raise cannot(
            library,
            f'an encoder of which head_layers={architecture.head_layers} layers of the projection '
            'head are kept',
        )
    if architecture.is_vit:
        return
    if architecture.sk_ratio:
        raise cannot(library, f'selective kernels (sk_ratio={architecture.sk_ratio})')
    if architecture.padding != 'torch':
        raise cannot(
            library,
            f'padding={architecture.padding!r}, which shifts the grid of every strided layer, in '
            "silence: PyTorch's ResNets pad on both sides alike",
        )


def cannot(library: str, what: str, *formats: str) -> ConfigError:
    """Returns the error that says which formats can."""
    formats = (*formats, 'onnx', 'stablehlo', 'native')
    able = f'{", ".join(formats[:-1])} and {formats[-1]}'
    return ConfigError(f'--format={library}: cannot express {what}; {able} can')


def metadata(weights: Weights) -> dict[str, str]:
    """Returns the metadata of a safetensors file that PyTorch's libraries read.

    A state dict says neither how many heads a ViT has nor how pictures are prepared, so both are
    noted there for `noted`; the others ignore it.
    """
    architecture = dataclasses.replace(weights.architecture, head=None)
    parts = (architecture, weights.preprocess)
    notes = {key: json.dumps(to_json(part)) for key, part in zip(_NOTES, parts, strict=True)}
    return {'format': 'pt', **notes, **heads.metadata(weights)}


def noted(metadata: Mapping[str, str], path: str) -> tuple[Architecture, Preprocess] | None:
    """Returns what `metadata` noted, None in the files of others.

    Raises:
      ConfigError: it is damaged.
    """
    if not _NOTES.keys() <= metadata.keys():
        return None
    try:
        values = {key: json.loads(metadata[key]) for key in _NOTES}
    except ValueError as error:
        raise ConfigError(f'{path}: is damaged: its metadata is no JSON') from error
    architecture, preprocess = (
        from_json(kind, values[key], f'{path}: {key}') for key, kind in _NOTES.items()
    )
    return architecture, preprocess


def with_positions_of(
    found: Architecture, noted: Architecture, preprocess: Preprocess
) -> tuple[Architecture, Preprocess]:
    """Returns what was noted, but learned positions where the fixed ones were trained since."""
    if noted.positions == 'sincos' and found.positions == 'learned':
        noted = dataclasses.replace(noted, positions='learned')
    return noted, preprocess
