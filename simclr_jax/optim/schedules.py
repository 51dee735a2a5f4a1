"""Learning rates and target decays over a run."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def scaled_learning_rate(learning_rate: float, batch_size: int, scaling: str) -> float:
    """The peak rate at a global batch size (SimCLR, appendix B.1; `model_util.py`).

    'linear' multiplies by batch / 256, 'sqrt' by sqrt(batch), 'none' by 1.
    """
    factors = {'linear': batch_size / 256, 'sqrt': math.sqrt(batch_size), 'none': 1.0}
    if scaling not in factors:
        raise ValueError(
            f'optimizer.learning_rate_scaling={scaling!r}; it must be one of {", ".join(factors)}'
        )
    return learning_rate * factors[scaling]


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, end: float = 0.0
) -> optax.Schedule:
    """Linear from 0 to `peak` over `warmup_steps`, then half a cosine to `end` at `total_steps`.

    With an `end` above 0 it is MAE's (`util/lr_sched.py`).
    """
    return _rise_and_decay(lambda done: done, peak, warmup_steps, total_steps, end)


def one_cycle(peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Half a cosine from 0 to `peak` over `warmup_steps`, half a one to 0 at `total_steps`.

    Smith 2018 (https://arxiv.org/abs/1803.09820), with the cosines of fast.ai. Its first steps are
    the smallest, while a network just initialized multiplies every difference between two runs.
    """
    return _rise_and_decay(_half_cosine, peak, warmup_steps, total_steps)


def _rise_and_decay(
    rise: Callable[[jax.Array], jax.Array],
    peak: float,
    warmup_steps: int,
    total_steps: int,
    end: float = 0.0,
) -> optax.Schedule:
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f'warmup_steps={warmup_steps}; it must be 0 to below total_steps={total_steps}'
        )

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        warmup = rise(step / max(warmup_steps, 1))
        cosine = _half_cosine((total_steps - step) / (total_steps - warmup_steps))
        if end:
            cosine = end / peak + (1 - end / peak) * cosine
        return peak * jnp.where(step < warmup_steps, warmup, cosine)

    return schedule


def warmup_step_decay(
    peak: float, warmup_steps: int, decay_steps: tuple[int, ...], factor: float = 0.1
) -> optax.Schedule:
    """Linear from 0 to `peak` over `warmup_steps`; `factor` times it from each of `decay_steps` on.

    MoCo v1's (`main_moco.py`), which warms up for 0 steps; SwAV's, with a factor of 0.2.
    """

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        rate = peak * jnp.where(step < warmup_steps, step / max(warmup_steps, 1), 1)
        for boundary in decay_steps:
            rate = rate * jnp.where(step < boundary, 1, factor)
        return rate

    return schedule


def warmup_linear(peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Linear from 0 to `peak` over `warmup_steps`, then linear to 0 at `total_steps`.

    mmsegmentation's 'poly' with a power of 1, in DINOv2's segmentation.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f'warmup_steps={warmup_steps}; it must be 0 to below total_steps={total_steps}'
        )

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        rising = step / max(warmup_steps, 1)
        falling = (total_steps - step) / (total_steps - warmup_steps)
        return peak * jnp.where(step < warmup_steps, rising, jnp.maximum(falling, 0))

    return schedule


def by_epoch(schedule: optax.Schedule, steps_per_epoch: float) -> optax.Schedule:
    """At every step the rate with which its epoch began: a PyTorch scheduler, called once an epoch.

    VICReg's and Barlow Twins' `evaluate.py`. An epoch may have no whole number of steps; it begins
    at the nearest one.
    """

    def constant_over_epochs(step: jax.typing.ArrayLike) -> jax.Array:
        epoch = jnp.floor((jnp.asarray(step) + 0.5) / steps_per_epoch)
        return schedule(epoch * steps_per_epoch)

    return constant_over_epochs


def target_decay(base: float, step: jax.typing.ArrayLike, total_steps: int) -> jax.Array:
    """BYOL's target decay: `base` at step 0, then rising to 1 at the end (`utils/schedules.py`)."""
    return 1 - (1 - base) * _half_cosine((total_steps - jnp.asarray(step)) / total_steps)


def _half_cosine(remaining: jax.Array) -> jax.Array:
    """`(1 + cos(pi (1 - remaining))) / 2`: 1 where all of the run remains, 0 where none does.

    The sine of what remains, since `1 + cos` cancels in float32 towards the end of a long run.
    """
    return jnp.square(jnp.sin(jnp.pi / 2 * jnp.clip(remaining, 0, 1)))
