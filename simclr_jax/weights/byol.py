"""BYOL's checkpoints (google-deepmind/deepmind-research `byol/`), `pretrain_res50x1.pkl`.

A pickle, by dill, of Haiku's parameters: `{'experiment_state': (online_params, target_params,
online_state, target_state, opt_state), 'step', 'rng'}`. Kernels have our axes. Every layer with a
stride is padded as `SAME`: in a ResNet that pads on both sides alike these weights lose 4.6 points,
in silence (deepmind-research#84).
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from simclr_jax.config import ConfigError
from simclr_jax.weights import torch_layout
from simclr_jax.weights.description import Preprocess, Weights
from simclr_jax.weights.foreign import Content
from simclr_jax.weights.pickles import Call, as_dict

LAYOUT = 'BYOL'
_STATE = 'experiment_state'
_PARAMS, _STATISTICS = (0, 'online_params'), (2, 'online_state')  # its evaluation takes these
_HEADS = ('projector', 'predictor', 'classifier')
_STEM = re.compile(r'(?:.*/)?initial_(conv|batchnorm)(?:_1)?')
_BLOCK = re.compile(
    r'(?:.*/)?block_group_(\d+)/(?:~/)?block_(\d+)/(?:~/)?'
    r'(shortcut_)?(conv|batchnorm)(?:_(\d))?'
)
_LEAVES = {'w': 'kernel', 'scale': 'scale', 'offset': 'bias'}
_AVERAGES = {'mean_ema': 'mean', 'var_ema': 'var'}


def recognizes(tree: Any) -> bool:
    """Whether this is what the pickle of one of BYOL's checkpoints describes."""
    return _STATE in (as_dict(tree) or {})


def from_content(content: Content, path: str) -> Weights:
    """Reads the online network, without projector, predictor and classifier.

    Raises:
      ConfigError: a layer is missing or unknown, or there is no such encoder.
      UnreadableError: an array is damaged.
    """
    state = as_dict(content.tree)[_STATE]
    params, dropped = _modules(state, _PARAMS, content, path)
    statistics, _ = _modules(state, _STATISTICS, content, path)
    arrays = {}
    for name, leaves in params.items():
        for leaf, value in leaves.items():
            arrays[f'params/encoder/{_place(name, path)}/{_LEAVES.get(leaf, leaf)}'] = value
    for name, leaves in statistics.items():
        module, _, average = name.removesuffix('/').rpartition('/')
        if average in _AVERAGES and 'average' in leaves:
            module = _place(module.removesuffix('/~'), path)
            arrays[f'batch_stats/encoder/{module}/{_AVERAGES[average]}'] = leaves['average']
    # Haiku's batch normalization keeps [1, 1, 1, dim].
    arrays = {
        name: value if name.endswith('kernel') else value.reshape(-1)
        for name, value in arrays.items()
    }
    architecture = dataclasses.replace(
        torch_layout.resnet_of(*_blocks(arrays, path), f'{path}: {LAYOUT}'), padding='same'
    )
    preprocess = Preprocess(
        224,
        0.875,
        'bicubic',
        mean=torch_layout.IMAGENET_MEAN,
        std=torch_layout.IMAGENET_STD,
        channels=arrays['params/encoder/stem_conv/kernel'].shape[2],
    )
    origin = {'layout': LAYOUT, 'network': 'online', 'dropped': ['target', *dropped]}
    return Weights(architecture, preprocess, origin, unflatten_dict(arrays, sep='/'))


def _modules(
    state: Any, part: tuple[int, str], content: Content, path: str
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Returns the encoder's modules of a part of the state, and the heads that were dropped."""
    place, name = part
    found = None
    if isinstance(state, Call) and isinstance(state.arguments, tuple):
        found = state.arguments[place] if len(state.arguments) > place else None
    elif isinstance(state, tuple | list) and len(state) > place:
        found = state[place]
    elif isinstance(state, dict):
        found = state.get(name)
    modules = as_dict(found)
    if not modules:
        raise ConfigError(f'{path}: {LAYOUT}: has no {name} in its {_STATE}')
    kept, dropped = {}, set()
    for module, leaves in modules.items():
        heads = [head for head in _HEADS if head in str(module)]
        if heads:
            dropped.update(heads)
        elif isinstance(module, str):
            kept[module] = content.tensors(leaves)
    return kept, sorted(dropped)


def _place(module: str, path: str) -> str:
    """Returns our name of a module of Haiku's."""
    match = _STEM.fullmatch(module)
    if match:
        return 'stem_conv' if match[1] == 'conv' else 'stem_norm'
    match = _BLOCK.fullmatch(module)
    if not match or bool(match[3]) == bool(match[5]):
        raise ConfigError(
            f'{path}: {LAYOUT}: has the layer {module[:120]!a}, which is none of a ResNet of '
            "utils/networks.py that is not of its second version ('v2')"
        )
    kind = 'conv' if match[4] == 'conv' else 'norm'
    layer = f'shortcut_{kind}' if match[3] else f'{kind}{int(match[5]) + 1}'
    return f'stage{int(match[1]) + 1}_block{int(match[2])}/{layer}'


def _blocks(arrays: Mapping[str, np.ndarray], path: str) -> tuple[tuple[int, ...], list[int], bool]:
    """Returns what `torch_layout.resnet_of` asks for."""
    stem = arrays.get('params/encoder/stem_conv/kernel', np.zeros(()))
    if stem.ndim != 4:
        raise ConfigError(f'{path}: {LAYOUT}: has no initial_conv')
    blocks = {re.search(r'/stage(\d+)_block(\d+)/', name) for name in arrays} - {None}
    places = {(int(match[1]), int(match[2])) for match in blocks}
    depths = [sum(stage == place[0] for place in places) for stage in sorted(dict(places))]
    bottleneck = 'params/encoder/stage1_block0/conv3/kernel' in arrays
    return (stem.shape[3], stem.shape[2], *stem.shape[:2]), depths, bottleneck
