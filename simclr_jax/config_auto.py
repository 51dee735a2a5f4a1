"""Settings that follow from the machine: what `config.auto` lists, where the user set nothing.

A recipe for any machine lists such fields in `config.auto`, and has the values for the largest one.
A field that is given on the command line is no longer in the list. The choice is made once, when
the run begins, and stored with its config: started again on another machine, the run goes on as it
began.
"""

import dataclasses
import json
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.config import AUTO_FIELDS, ConfigError, as_flags
from simclr_jax.config_checks import validate

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What a run has found.

    Attributes:
      platform: JAX's name of it: 'cpu', 'gpu', 'tpu', ...
      kind: the device's own name, such as 'Tesla T4'.
      devices: how many, over all processes.
      memory: bytes that a program may use on one device; None where it is not known.
      bfloat16: whether the device computes with bfloat16, rather than convert it.
    """

    platform: str
    kind: str
    devices: int
    memory: float | None
    bfloat16: bool


@dataclasses.dataclass(frozen=True)
class _Size:
    """An encoder, its pictures and its batch, and the memory that their train step takes.

    `bfloat16` and `float32` are GiB over all devices. Those in float32 are XLA's count for a CPU;
    the TPU compiler's for bfloat16, doubled, since GPUs keep more and none was measured.
    """

    encoder: str
    image_size: int
    batch_size: int
    bfloat16: float
    float32: float


_ON_CPU = _Size('resnet_tiny', 64, 128, 0.6, 0.6)
_LARGEST = _Size('resnet50', 224, 256, 24.0, 49.0)
_SIZES = (
    _LARGEST,
    _Size('resnet50', 224, 128, 12.0, 24.5),
    _Size('resnet18', 128, 256, 5.5, 6.0),
    _Size('resnet18', 96, 128, 1.6, 1.7),
)


def choose(hardware: Hardware) -> tuple[dict[str, Any], str]:
    """Returns a value for each of `AUTO_FIELDS`, and why in a few words."""
    dtype = 'bfloat16' if hardware.bfloat16 else 'float32'
    if hardware.platform == 'cpu':
        size, why = _ON_CPU, 'no GPU or TPU'
    elif hardware.platform == 'tpu':
        size, why = _LARGEST, hardware.kind
    else:
        together = (hardware.memory or 0) * hardware.devices / GIB
        fitting = (size for size in _SIZES if getattr(size, dtype) <= together)
        size = next(fitting, _SIZES[-1])
        known = hardware.memory is not None
        memory = f'{hardware.memory / GIB:.0f} GiB' if known else 'an unknown amount of memory'
        why = f'{hardware.devices} x {hardware.kind} with {memory}'
        if not hardware.bfloat16:
            why += ' and no units for bfloat16'
    batch = max(1, size.batch_size // hardware.devices) * hardware.devices
    chosen = (max(batch, 2), size.image_size, size.encoder, dtype, dtype)
    return dict(zip(AUTO_FIELDS, chosen, strict=True)), why


def settle(
    config: ConfigDict, hardware: Hardware, saved_json: str | None = None
) -> tuple[ConfigDict, str | None]:
    """Returns the config with a value for each field of `config.auto`, and a line that says why.

    Args:
      config: as `config_loading.load` returns it; it is not changed.
      hardware: what there is.
      saved_json: the config that the run began with, whose values are kept.

    Raises:
      ConfigError: a value that was given does not go with one that was chosen.
    """
    if not config.auto:
        return config, None
    saved = parse_saved(saved_json)
    fields, why = choose(hardware)
    chosen = {name: fields[name] for name in config.auto if name not in saved}
    kept = {name: saved[name] for name in config.auto if name in saved}
    settled = config.copy_and_resolve_references()
    with settled.unlocked():
        settled.update_from_flattened_dict(chosen | kept | {'auto': ()})
    try:
        validate(settled)
    except ConfigError as error:
        raise ConfigError(f'{error}\n{_line(chosen | kept, why)}') from error
    return settled, _line(chosen, why) if chosen else None


def _line(fields: dict[str, Any], why: str) -> str:
    return f'chosen for this machine ({why}), where nothing was given: {as_flags(fields)}'


def parse_saved(saved_json: str | None) -> dict[str, Any]:
    """Returns the fields of a saved config; none where it is damaged, which others report."""
    try:
        return dict(json.loads(saved_json or '{}'))
    except (ValueError, TypeError):
        return {}
