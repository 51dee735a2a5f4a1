"""The classifier in other libraries' layouts: a dense layer under a key of its own, both ways."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax.config import ConfigError
from simclr_jax.weights.description import Classifier, Weights, from_json, to_json

KEYS = {  # layout -> the layer's name in a ResNet, and in a ViT
    'torchvision': ('fc', 'heads.head'),
    'timm': ('fc', 'head'),
    'transformers': ('classifier.1', 'classifier'),
}
_NOTE = 'simclr_jax_classifier'  # of a safetensors file's metadata


def key_of(weights: Weights, layout: str) -> str:
    """Returns what a layout calls the classifier of such an encoder."""
    return KEYS[layout][weights.architecture.is_vit]


def to_tensors(weights: Weights, layout: str) -> dict[str, np.ndarray]:
    """Returns the classifier as PyTorch has it: weight `[label, dim]` and bias; {} without one."""
    if weights.classifier is None:
        return {}
    key, head = key_of(weights, layout), weights.variables['params']['classifier']
    return {
        f'{key}.weight': np.ascontiguousarray(np.asarray(head['kernel'], np.float32).T),
        f'{key}.bias': np.asarray(head['bias'], np.float32),
    }


def metadata(weights: Weights) -> dict[str, str]:
    """Returns what is noted of the classifier beside tensors that say no names."""
    return {_NOTE: json.dumps(to_json(weights.classifier))} if weights.classifier else {}


def with_temperature_inside(weights: Weights) -> Weights:
    """Returns the same classifier with a temperature of 1: kernel and bias are divided by it.

    So the plain softmax, or sigmoid, of any other library gives the calibrated probabilities.
    """
    classifier = weights.classifier
    if classifier is None or classifier.temperature == 1:
        return weights
    head = {
        name: np.float32(np.asarray(value, np.float64) / classifier.temperature)
        for name, value in weights.variables['params']['classifier'].items()
    }
    variables = dict(weights.variables)
    variables['params'] = {**variables['params'], 'classifier': head}
    classifier = dataclasses.replace(classifier, temperature=1.0)
    return dataclasses.replace(weights, variables=variables, classifier=classifier)


def add(
    weights: Weights,
    tensors: Mapping[str, np.ndarray],
    path: str,
    *,
    config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Weights:
    """Returns an encoder of another library together with the classifier in the same file.

    Args:
      weights: the encoder, as its layout was read.
      tensors: the state dict that it was read from.
      path: of the file, for errors.
      config: what `config.json` beside it says.
      metadata: of a safetensors file.

    Returns:
      Weights whose labels have the names that the file or `config` says, else '0', '1', ...

    Raises:
      ConfigError: there is no classifier, or the names are not as many as its outputs.
    """
    key = key_of(weights, weights.origin['layout'])
    found = [tensors.get(f'{key}.{leaf}') for leaf in ('weight', 'bias')]
    if any(value is None for value in found) or [np.ndim(value) for value in found] != [2, 1]:
        raise ConfigError(
            f'{path}: has no classifier, which is {key}.weight and {key}.bias in the layout of '
            f'{weights.origin["layout"]}; --mode=finetune makes one from labels'
        )
    kernel, bias = np.float32(found[0]).T, np.float32(found[1])
    classifier = _noted(metadata or {}, path) or Classifier(_names(config or {}, len(bias)))
    if len(classifier.names) != len(bias):
        raise ConfigError(
            f'{path}: its classifier has {len(bias)} outputs, but names for '
            f'{len(classifier.names)} labels'
        )
    variables = dict(weights.variables)
    head = {'kernel': np.ascontiguousarray(kernel), 'bias': bias}
    variables['params'] = {**variables['params'], 'classifier': head}
    dropped = [name for name in weights.origin.get('dropped', ()) if not _is(name, key)]
    origin = dict(weights.origin) | {'dropped': dropped}
    return Weights(weights.architecture, weights.preprocess, origin, variables, classifier)


def _is(name: str, key: str) -> bool:
    return name.removesuffix('.weight').removesuffix('.bias') == key


def _noted(metadata: Mapping[str, str], path: str) -> Classifier | None:
    if _NOTE not in metadata:
        return None
    try:
        value = json.loads(metadata[_NOTE])
    except (ValueError, RecursionError) as error:
        raise ConfigError(f'{path}: is damaged: its metadata is no JSON') from error
    return from_json(Classifier, value, f'{path}: {_NOTE}')


def _names(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Returns the names of the labels by transformers' `id2label` or timm's `label_names`."""
    by_number, listed = config.get('id2label'), config.get('label_names')
    if isinstance(by_number, dict) and len(by_number) == count:
        names = [by_number.get(str(number)) for number in range(count)]
    else:
        names = listed if isinstance(listed, list) else []
    known = all(isinstance(name, str) for name in names) and len(set(names)) == count
    return tuple(names) if known else tuple(map(str, range(count)))
