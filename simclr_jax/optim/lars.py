"""LARS, as SimCLR and as BYOL and MoCo v3 use it."""

from collections.abc import Callable
from typing import Any

import optax


def lars(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    rate_inside_momentum: bool,
) -> optax.GradientTransformation:
    """Layer-wise adaptive rates: `trust_coefficient * |w| / |g + wd w|` scales `g + wd w`.

    That ratio is 1 where the weight or the gradient is zero. The forms of `rate_inside_momentum`
    differ only while the rate changes.

    Args:
      learning_rate: a number or a schedule.
      weight_decay: added to the gradient before the adaptation, as `weight_decay * w`.
      momentum: decay of the velocity, in [0, 1).
      trust_coefficient: the paper's eta (arXiv:1708.03888).
      mask: tree of booleans, or a function of the parameters that returns one: True is decayed and
        adapted, False is plain momentum SGD. None decays and adapts every leaf.
      rate_inside_momentum: True is `v = m v + lr g; w -= v`, as SimCLR (`lars_optimizer.py`);
        False is `v = m v + g; w -= lr v`, as BYOL (`utils/optimizers.py`) and MoCo v3.
    """
    adapt = optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient)
    rate = optax.scale_by_learning_rate(learning_rate)
    velocity = optax.trace(momentum)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        adapt if mask is None else optax.masked(adapt, mask),
        *((rate, velocity) if rate_inside_momentum else (velocity, rate)),
    )
