"""Other programs' weights: which layout they have, and what is read from them."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from simclr_jax.config import ConfigError
from simclr_jax.weights import byol, foreign, heads, public, simclr, timm, torch_layout, torchvision
from simclr_jax.weights import transformers as hugging_face
from simclr_jax.weights.description import Weights, check_variables
from simclr_jax.weights.pickles import Call, UnreadableError, as_dict

# In the order in which timm and transformers prefer them.
_NAMES = ('model.safetensors', 'pytorch_model.bin', 'pytorch_model.pth', 'model.pth')
_SUFFIXES = ('.safetensors', '.pth', '.pt', '.pth.tar', '.bin', '.pkl', '.ckpt')
_MOCO_V3 = next(row for row in public.CHECKPOINTS if row.name == 'MoCo v3')
_ALLOWANCE = 1 << 20  # bytes that tensors may have beyond twice their file's size


def read(path: str | os.PathLike, classifier: bool = False) -> Weights:
    """Reads weights of any layout that is known, and executes nothing.

    The layout is recognized by the keys, the architecture by the shapes; padding, epsilon and
    preprocessing are those of the layout. `origin` says what was found: `layout`, `file`, `sha256`,
    and `dropped`, what else was in the file.

    Args:
      path: a safetensors file, a file of `torch.save`, a pickle of BYOL's, a folder of timm's or
        transformers', or a TensorFlow checkpoint of SimCLR's (its name without `.index`, or its
        folder).
      classifier: whether to read its classifier, too.

    Raises:
      ConfigError: there is no such file, it is damaged, or it is of no layout that is known, or a
        classifier is asked for and it has none.
    """
    path = os.path.expanduser(os.fspath(path))
    prefix = simclr.checkpoint_prefix(path)
    if prefix:
        weights, name, sha256 = simclr.read(prefix), prefix, _sha256(simclr.files_of(prefix))
    else:
        name, beside = _find(path)
        content = foreign.open_file(name)
        try:
            weights = _from_content(content, name, beside, classifier)
        except UnreadableError as error:
            raise ConfigError(f'{name}: {error}') from error
        sha256 = content.sha256
    origin = dict(weights.origin) | {'file': os.path.basename(name), 'sha256': sha256}
    weights = dataclasses.replace(weights, origin=origin)
    check_variables(weights, path)
    # Of its own: the file may change, or go, while the weights are in use.
    variables = jax.tree.map(_own, weights.variables)
    return dataclasses.replace(weights, variables=variables)


def _own(value: np.ndarray) -> np.ndarray:
    base = value
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    mine = isinstance(base, np.ndarray) and value.flags.c_contiguous and value.dtype == np.float32
    return value if mine else np.array(value, np.float32, order='C')


def _sha256(paths: list[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with epath.Path(path).open('rb') as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _find(path: str) -> tuple[str, dict[str, Any]]:
    """Returns the file of weights that a path stands for, and the JSON files beside it by name.

    Raises:
      ConfigError: there is none.
    """
    place = epath.Path(path)
    if not place.is_dir():
        if not place.exists():
            raise ConfigError(f'{path}: there is no such file or folder')
        # Only what is beside a file of that name is about it.
        return path, _beside(place.parent) if place.name in _NAMES else {}
    names = sorted(file.name for file in place.iterdir())
    others = [name for name in names if name.endswith(_SUFFIXES)]
    found = [name for name in _NAMES if name in names][:1] or others
    if len(found) == 1:
        return os.path.join(path, found[0]), _beside(place)
    if any(name.endswith('.index.json') for name in names):
        raise ConfigError(f'{path}: its weights are in several parts; give a file with all of them')
    if found:
        raise ConfigError(f'{path}: has several files of weights, {", ".join(found[:5])}; give one')
    if 'saved_model.pb' in names:
        raise ConfigError(
            f'{path}: is a SavedModel of TensorFlow; give the checkpoint that it was made from, '
            'such as model.ckpt-250228'
        )
    if any(name.endswith('.index') for name in names):
        raise ConfigError(f'{path}: has several TensorFlow checkpoints; give the name of one')
    few = f'it has {", ".join(names[:5])}' if names else 'it is empty'
    raise ConfigError(
        f'{path}: is a folder without weights: {few}. A folder is a workdir with '
        f'encoder.safetensors, or has {", ".join(_NAMES)} or a TensorFlow checkpoint'
    )


def _beside(folder: epath.Path) -> dict[str, Any]:
    found = {}
    for name in ('config.json', 'preprocessor_config.json'):
        path = folder / name
        if not path.is_file():
            continue
        try:
            found[name] = json.loads(path.read_text())
        except (ValueError, RecursionError, OSError) as error:
            raise ConfigError(f'{path}: is no JSON: {error}') from error
        if not isinstance(found[name], dict):
            raise ConfigError(f'{path}: is no JSON object')
    return found


def _from_content(
    content: foreign.Content, path: str, beside: Mapping[str, Any], classifier: bool
) -> Weights:
    if byol.recognizes(content.tree):
        return byol.from_content(content, path)
    for wrapper, row, tensors in _candidates(content):
        prefix = public.match(tensors, row)
        if prefix is None:
            continue
        beginnings = [*row.drops, *(prefix + head for head in row.heads)]
        left_out = public.dropped(tensors, beginnings)
        inner = {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if not key.startswith(tuple(beginnings))
        }
        shapes = {key: value.shape for key, value in inner.items()}
        if not any(layout.recognizes(shapes) for layout in (torchvision, timm, hugging_face)):
            continue
        _check_size(inner, content, path)
        weights = _read_inner(inner, row, content, path, beside)
        if classifier:
            weights = heads.add(
                weights,
                inner,
                path,
                config=beside.get('config.json'),
                metadata=content.metadata,
            )
        layout = row.name or weights.origin['layout']
        left_out = [*left_out, *weights.origin.get('dropped', ())]
        if wrapper and isinstance(content.tree, dict):
            left_out += [str(key) for key in content.tree if key != wrapper]
        return dataclasses.replace(weights, origin={'layout': layout, 'dropped': left_out})
    raise ConfigError(f'{path}: {_what_tree(content)}')


def _candidates(
    content: foreign.Content,
) -> Iterator[tuple[str, public.Checkpoint, dict[str, np.ndarray]]]:
    """Yields each row of the table with each state dict that it may be about."""
    tensors = {}
    for row in public.CHECKPOINTS:
        for wrapper in row.inside:
            if wrapper not in tensors:
                node = (as_dict(content.tree) or {}).get(wrapper) if wrapper else content.tree
                tensors[wrapper] = content.tensors(node)
            if tensors[wrapper]:
                yield wrapper, row, tensors[wrapper]


def _check_size(tensors: Mapping[str, np.ndarray], content: foreign.Content, path: str) -> None:
    """Checks that the tensors are no more than their file has: several may be of one storage."""
    size = sum(4 * math.prod(value.shape) for value in tensors.values())
    if size > 2 * content.size + _ALLOWANCE:
        raise ConfigError(
            f'{path}: is damaged: its tensors have {size:,} bytes, the file {content.size:,}'
        )


def _read_inner(
    tensors: dict[str, np.ndarray],
    row: public.Checkpoint,
    content: foreign.Content,
    path: str,
    beside: Mapping[str, Any],
) -> Weights:
    """Reads an encoder that is in torchvision's, timm's or transformers' layout."""
    shapes = {key: value.shape for key, value in tensors.items()}
    config, metadata = beside.get('config.json'), content.metadata
    if hugging_face.recognizes(shapes):
        return hugging_face.from_tensors(
            tensors,
            path,
            config=config,
            preprocessor=beside.get('preprocessor_config.json'),
            metadata=metadata,
        )
    patches = shapes.get('patch_embed.proj.weight')
    if config is not None and 'architecture' in config:
        weights = timm.from_tensors(tensors, path, config=config, metadata=metadata)
    elif patches:
        heads = row.num_heads.get(patches[0], _heads(tensors, patches[0]))
        weights = timm.from_tensors(tensors, path, metadata=metadata, num_heads=heads)
    else:
        weights = torchvision.from_tensors(tensors, path, metadata=metadata)
    if row.name:
        preprocess = dataclasses.replace(weights.preprocess, interpolation=row.interpolation)
        weights = dataclasses.replace(weights, preprocess=preprocess)
    return weights


def _heads(tensors: Mapping[str, np.ndarray], dim: int) -> int | None:
    """Returns how many heads a ViT has whose positions are MoCo v3's, None for others.

    Its `convert_to_deit.py` leaves nothing else to tell its ViT-S by, which has 12 in place of 6.
    """
    positions = tensors.get('pos_embed', np.zeros(0))
    tokens = positions.shape[1] if positions.ndim == 3 else 0
    side = math.isqrt(max(tokens - 1, 0))
    if not side or side**2 != tokens - 1 or positions.shape[2] != dim:
        return None
    fixed = torch_layout.is_sincos(positions, side, token=True)
    return _MOCO_V3.num_heads.get(dim) if fixed else None


def _what_tree(content: foreign.Content) -> str:
    """Says what a file of no known layout holds, and what to give instead."""
    tree = content.tree
    layouts = ', '.join(
        ['torchvision', 'timm', 'transformers', *public.NAMES, byol.LAYOUT, simclr.LAYOUT]
    )
    known = f'known are the layouts of {layouts}'
    if isinstance(tree, Call):
        name = str(tree.function) if isinstance(tree.function, str) else 'an object'
        if tree.function == 'copyreg._reconstructor' and tree.arguments:
            name = str(tree.arguments[0])
        return (
            f'holds a whole object, {name[:120]!a}, not a state dict; give that instead: '
            'torch.save(model.state_dict(), new_path)'
        )
    top = as_dict(tree)
    if not top:
        return f'holds no tensors by name; {known}'
    keys = list(content.tensors(tree))
    if not keys:
        keys = [key for key in top if isinstance(key, str)]
        for wrapper in ('state_dict', 'model', 'teacher'):
            inner = list(content.tensors(top.get(wrapper)))
            keys = [f'{wrapper}: {key}' for key in inner] or keys
    few = f'it has the keys {", ".join(ascii(key[:80])[1:-1] for key in keys[:6])}'
    few += f' and {len(keys) - 6} more' if len(keys) > 6 else ''
    if 'pytorch-lightning_version' in top:
        return (
            f'is a training checkpoint of Lightning, whose layout depends on the model; {few}. '
            "Give the state dict of its encoder, with torchvision's or timm's names: "
            "torch.save(model.backbone.state_dict(), 'encoder.pth')"
        )
    return f'is of no layout that is known: {few}; {known}'
