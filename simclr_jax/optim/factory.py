"""From the config's `optimizer` section to an optimizer."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
import optax

from simclr_jax.config import ConfigError
from simclr_jax.optim.groups import Groups, Probes
from simclr_jax.optim.lars import lars
from simclr_jax.optim.schedules import (
    by_epoch,
    one_cycle,
    scaled_learning_rate,
    warmup_cosine,
    warmup_linear,
    warmup_step_decay,
)

OPTIMIZERS = ('lars', 'sgd', 'adamw')
SCHEDULES = ('cosine', 'one_cycle', 'linear', 'steps')


def create_optimizer(
    config: ml_collections.ConfigDict,
    batch_size: int,
    steps_per_epoch: float,
    total_steps: int,
    frozen: Sequence[str] = (),
    groups: Groups | Probes | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer that the `optimizer` section names, and its learning rate at each step.

    Args:
      config: the section; `simclr_jax/config.py` explains its fields.
      batch_size: the global one, which scales the learning rate.
      steps_per_epoch: turns `warmup_epochs` and `decay_epochs` into steps.
      total_steps: where the cosine reaches 0.
      frozen: names of layers that neither a gradient nor weight decay changes.
      groups: which parameters are trained, how fast, and what decays; None trains all alike.

    Raises:
      ValueError: the name, schedule or scaling is unknown.
      ConfigError: the warm-up is as long as the run, or the rate would rise to its end.
    """
    if config.name not in OPTIMIZERS:
        raise ValueError(
            f'optimizer.name={config.name!r}; it must be one of {", ".join(OPTIMIZERS)}'
        )
    if config.schedule not in SCHEDULES:
        raise ValueError(
            f'optimizer.schedule={config.schedule!r}; it must be one of {", ".join(SCHEDULES)}'
        )
    # Rounded down, as in the original SimCLR and BYOL, but not from 28.999999999999996.
    warmup_steps = math.floor(round(config.warmup_epochs * steps_per_epoch, 6))
    if not 0 <= warmup_steps < total_steps:
        example = total_steps / steps_per_epoch / 10
        raise ConfigError(
            f'optimizer.warmup_epochs={config.warmup_epochs}: is {warmup_steps} steps, and the run '
            f'has {total_steps}; give fewer, for example '
            f'--config.optimizer.warmup_epochs={example:.2g}'
        )
    peak = scaled_learning_rate(config.learning_rate, batch_size, config.learning_rate_scaling)
    if config.schedule == 'steps':
        decay_steps = tuple(round(epoch * steps_per_epoch) for epoch in config.decay_epochs)
        schedule = warmup_step_decay(peak, warmup_steps, decay_steps, config.decay_factor)
    elif config.schedule == 'one_cycle':
        schedule = one_cycle(peak, warmup_steps, total_steps)
    elif config.schedule == 'linear':
        schedule = warmup_linear(peak, warmup_steps, total_steps)
    else:
        if config.min_learning_rate > peak:
            raise ConfigError(
                f'optimizer.min_learning_rate={config.min_learning_rate}: is above the rate that '
                f'the run decays from, {peak:.3g}; give a lower one'
            )
        schedule = warmup_cosine(peak, warmup_steps, total_steps, config.min_learning_rate)
    if config.by_epoch:
        schedule = by_epoch(schedule, steps_per_epoch)
    mask = (groups.decayed if groups else decay_mask) if config.exclude_bias_and_norm else None

    if config.name == 'lars':
        tx = lars(
            schedule,
            config.weight_decay,
            config.momentum,
            config.trust_coefficient,
            mask,
            rate_inside_momentum=config.rate_inside_momentum,
        )
    elif config.name == 'sgd':
        # PyTorch's form, and MoCo's: the decay is part of the gradient that the momentum averages.
        tx = optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask),
            optax.sgd(schedule, config.momentum, config.nesterov),
        )
    else:
        tx = optax.adamw(
            schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=mask
        )
    if groups:
        tx = groups.wrap(tx)
    if frozen:
        tx = optax.chain(tx, optax.masked(optax.set_to_zero(), partial(_frozen_mask, names=frozen)))
    return tx, schedule


def _frozen_mask(params: Any, names: Sequence[str]) -> Any:
    def is_frozen(path: tuple[Any, ...], _) -> bool:
        return any(jax.tree_util.keystr((key,), simple=True) in names for key in path)

    return jax.tree_util.tree_map_with_path(is_frozen, params)


def decay_mask(params: Any) -> Any:
    """Tree of booleans: False for every bias and every normalization's scale, True for the rest."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not _is_excluded(path), params)


def excluded_names(params: Any, groups: Groups | Probes | None = None) -> list[str]:
    """The names of what has no weight decay, as 'layer/norm/scale', sorted."""
    mask = groups.decayed(params) if groups else decay_mask(params)
    return sorted(
        jax.tree_util.keystr(path, simple=True, separator='/')
        for path, decayed in jax.tree_util.tree_leaves_with_path(mask)
        if not decayed
    )


def _is_excluded(path: tuple[Any, ...]) -> bool:
    return jax.tree_util.keystr(path[-1:], simple=True) in ('bias', 'scale')
