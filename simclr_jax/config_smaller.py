"""Settings that need less memory than those given, the mildest first."""

import math
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.config import RESNETS, ConfigError
from simclr_jax.config_checks import validate

_MAX_ACCUMULATION = 64
_SMALLEST = 32  # pixels, of the pictures that are suggested
_BY_SIZE = ('resnet_tiny', *(name for name in RESNETS if name != 'resnet_tiny'))


def down_to(config: ConfigDict, limits: dict[str, Any]) -> dict[str, Any]:
    """Returns encoder, picture size and batch of `limits` where they are less than the config's."""
    found = {}
    for name in ('batch_size', 'data.image_size'):
        section, _, field = name.rpartition('.')
        if limits[name] < (config[section] if section else config)[field]:
            found[name] = limits[name]
    order = [config.model.encoder, limits['model.encoder']]
    if set(order) <= set(_BY_SIZE) and min(order, key=_BY_SIZE.index) != order[0]:
        found['model.encoder'] = order[1]
    return found


def changes(
    config: ConfigDict,
    devices: int,
    over: float,
    first: dict[str, Any] | None = None,
    *,
    recompute: bool = True,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns fields that need less memory, the mildest first, in two groups.

    The first keeps encoder, pictures and batch: micro-batches and recomputation. The second takes
    a smaller batch, then smaller pictures, then a smaller encoder.

    Args:
      config: what does not fit.
      devices: over which the batch has to divide.
      over: how many times the memory there is it needs.
      first: what the second group begins with, if anything.
      recompute: whether `model.remat` is worth a try.
    """
    over = min(max(over, 1.0), 1024.0)
    batch, steps = config.batch_size, config.optimizer.accumulation_steps
    full = {'model.remat': 'full'} if recompute else {}
    same, smaller = [], [first] if first else []
    if recompute and config.model.remat == 'none' and over < 2:
        same.append({'model.remat': 'blocks'})
    wanted = steps * 2 ** max(1, math.ceil(math.log2(over)))
    while wanted <= _MAX_ACCUMULATION and batch % (wanted * devices) == 0 and batch // wanted >= 2:
        micro_batches = {'optimizer.accumulation_steps': wanted}
        same += [micro_batches, micro_batches | full] if full else [micro_batches]
        wanted *= 2
    half = batch // 2 ** max(1, math.ceil(math.log2(over)))
    while half >= 2 and half % devices == 0:
        smaller.append({'batch_size': half} | full)
        half //= 2
    size = _smaller_size(config.data.image_size, over)
    if size < config.data.image_size:
        smaller.append({'data.image_size': size})
    if config.model.encoder in RESNETS and config.model.encoder not in ('resnet18', 'resnet_tiny'):
        smaller.append({'model.encoder': 'resnet18', 'data.image_size': size})
    same, smaller = ([c for c in group if _is_possible(config, c)] for group in (same, smaller))
    return same, smaller


def _smaller_size(size: int, over: float) -> int:
    """A multiple of a ViT's patches with `1 / over` of the pixels."""
    return min(size, max(_SMALLEST, int(size / math.sqrt(over)) // 16 * 16))


def changed(config: ConfigDict, fields: dict[str, Any]) -> ConfigDict:
    """Returns a copy of the config with other values in some fields."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.update_from_flattened_dict(fields)
    return copy


def _is_possible(config: ConfigDict, fields: dict[str, Any]) -> bool:
    try:
        validate(changed(config, fields))
    except ConfigError:
        return False
    return True
