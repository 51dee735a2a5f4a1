"""This library's own file: an encoder or a classifier, with all that is needed to use it.

It is a safetensors file. The tensors are the variables, named by their path
(`params/encoder/stem_conv/kernel`). The header's metadata holds one entry, `simclr_jax`: JSON with
the `format`, the `architecture`, the `preprocess`, the `classifier` if there is one, the `origin`
and the `checksum` of all the rest. Reading it takes no config, no data and no TensorFlow.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax.traverse_util import unflatten_dict

from simclr_jax import files
from simclr_jax.config import ConfigError
from simclr_jax.weights.description import (
    Architecture,
    Classifier,
    Preprocess,
    Weights,
    check_variables,
    flat,
    from_json,
    to_json,
)

NAME = 'encoder.safetensors'  # in a workdir
CLASSIFIER_NAME = 'classifier.safetensors'  # with a classifier
FORMAT = 1  # of what is written; rises where an older version would misread it
_KEY = 'simclr_jax'

# As a format of `--mode=export` (`formats.py`).
PACKAGES = ()
INPUT = 'nhwc'
FILES = 'The file of weights is the whole of it.'


def save(path: str | os.PathLike, weights: Weights) -> None:
    """Writes the file in one move: whatever happens, there is the old one or all of the new.

    Raises:
      OSError: the disk is full, or failed; the old file is as it was.
    """
    described, tensors = _parts(weights)
    described['checksum'] = _checksum(described, tensors)
    metadata = {_KEY: json.dumps(described)}  # one entry: of two the order would be random
    files.write_bytes(epath.Path(path), safetensors.numpy.save(tensors, metadata))


def checksum(weights: Weights) -> str:
    """Returns what a file of these weights has as its checksum, wherever they come from."""
    return _checksum(*_parts(weights))


def _parts(weights: Weights) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the description, but for its checksum, and the tensors by name."""
    tensors = {
        name: np.ascontiguousarray(value, np.float32)
        for name, value in sorted(flat(weights.variables).items())
    }
    described = {
        'format': FORMAT,
        'architecture': to_json(weights.architecture),
        'preprocess': to_json(weights.preprocess),
        'origin': dict(weights.origin),
    }
    if weights.classifier:
        described['classifier'] = to_json(weights.classifier)
    return described, tensors


def name_of(weights: Weights) -> str:
    """Returns what the file of these weights is called in a workdir."""
    return CLASSIFIER_NAME if weights.classifier else NAME


def is_native(metadata: dict[str, str]) -> bool:
    """Whether a safetensors file with this metadata is one of ours."""
    return _KEY in metadata


def read(path: str | os.PathLike) -> Weights:
    """Reads and checks a file that `save` wrote.

    Raises:
      ConfigError: it is not there, is none of this library's files, is damaged, or of a newer
        format.
    """
    try:
        content = epath.Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f'{path}: there is no such file') from error
    try:
        tensors = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'{path}: is no safetensors file, or is damaged: {error}') from error
    described = _describe(path, content)
    if described.pop('checksum', None) != _checksum(described, tensors):
        raise ConfigError(f'{path}: is damaged: its content does not match its checksum')
    classifier = described.get('classifier')
    weights = Weights(
        from_json(Architecture, described.get('architecture'), f'{path}: architecture'),
        from_json(Preprocess, described.get('preprocess'), f'{path}: preprocess'),
        described.get('origin', {}),
        unflatten_dict(tensors, sep='/'),
        None if classifier is None else from_json(Classifier, classifier, f'{path}: classifier'),
    )
    check_variables(weights, str(path))
    return weights


def _describe(path: str | os.PathLike, content: bytes) -> dict[str, Any]:
    """Returns the JSON of a file that safetensors has read, so its header is one."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], 'little')])
    try:
        described = json.loads(header['__metadata__'][_KEY])
        version = described['format']
    except KeyError as error:
        raise ConfigError(
            f"{path}: holds tensors, but no description of {_KEY}: it is not this library's"
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f'{path}: is damaged: its description is no JSON object') from error
    if version != FORMAT:
        raise ConfigError(
            f'{path}: is of format {version}, but this version of simclr_jax reads format '
            f'{FORMAT}; install a newer simclr_jax'
        )
    return described


def _checksum(described: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 of the description and of each tensor with its name and shape, in their order."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f'\n{name} {value.dtype} {value.shape}\n'.encode())
        digest.update(value)
    return digest.hexdigest()


def check(weights: Weights) -> None:
    """Every encoder and every classifier can be written so."""


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes the file into a folder."""
    save(folder / name_of(weights), weights)


def lines(weights: Weights, folder: str) -> list[str]:
    """Returns the Python lines that load an exported file."""
    what = 'classifier' if weights.classifier else 'encoder'
    return ['import simclr_jax', '', f"{what} = simclr_jax.load('{folder}/{name_of(weights)}')"]


def features(weights: Weights) -> str:
    """Returns the expression that turns normalized `images` into features."""
    if weights.classifier:
        return 'classifier.network.apply(classifier.weights.variables, images, train=False)[1]'
    return 'encoder.module.apply(encoder.variables, images, train=False)'


def use(weights: Weights) -> list[str]:
    """Returns the lines that turn `picture` into features."""
    if weights.classifier:
        return ['features = classifier.logits([numpy.array(picture)])']
    return ['features = encoder([numpy.array(picture)])']
