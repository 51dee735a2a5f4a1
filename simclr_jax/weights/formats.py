"""The formats that an encoder is exported to: a module each, and what is written beside it.

A module of a format has

* `PACKAGES`: what has to be installed for the proof; `NEEDED`, where it writes by a package;
* `CLASSIFIES = False`, where it leaves out a classifier;
* `INPUT`: what the loaded model takes, 'nchw' (normalized float32), 'nhwc' (the same) or 'uint8'
  (pixels `[n, size, size, channel]`);
* `check(weights)`, which raises ConfigError for what the format cannot express;
* `write(weights, folder)`, which writes its files;
* `lines(weights, folder)`, the Python lines that load them, `FILES`, what they are;
* `features(weights)`, the expression that then turns `images` into features;
* `use(weights)`, the lines from `picture`, of Pillow, to `features`, for README.md;
* `sections(weights, folder)`, where it has more to say there.
"""

import importlib
import importlib.util
import json
import pathlib
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.numpy

from simclr_jax.config import ConfigError, did_you_mean
from simclr_jax.weights import torch_layout
from simclr_jax.weights.description import Weights

FORMATS = (
    'native',
    'torchvision',
    'timm',
    'transformers',
    'detectron2',
    'onnx',
    'stablehlo',
)


def module_of(name: str) -> ModuleType:
    """Returns the module of a format.

    Raises:
      ConfigError: there is no such format, or what it writes by is not installed.
    """
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS)
        raise ConfigError(f'--format={name}: must be one of {", ".join(FORMATS)}{hint}')
    module = importlib.import_module(f'simclr_jax.weights.{name}')
    missing = not_installed(getattr(module, 'NEEDED', ()))
    if missing:
        raise ConfigError(
            f'--format={name}: needs {", ".join(missing)}: pip install {" ".join(missing)}'
        )
    return module


def not_installed(packages: tuple[str, ...]) -> list[str]:
    """Returns which of these packages cannot be imported."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def save_tensors(path: pathlib.Path, weights: Weights, tensors: dict[str, np.ndarray]) -> None:
    """Writes a safetensors file as PyTorch's libraries read it."""
    safetensors.numpy.save_file(tensors, path, torch_layout.metadata(weights))


def save_json(path: pathlib.Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n')
