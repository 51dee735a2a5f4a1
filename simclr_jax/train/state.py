"""Everything a run needs to go on: a pytree that is checkpointed whole."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from simclr_jax.methods.base import Method, Tree
from simclr_jax.train.probe import OnlineProbe


@struct.dataclass
class TrainState:
    """State after `step` updates, which have consumed exactly `step` batches.

    Attributes:
      step: scalar int32.
      params: what the optimizer trains; `params['encoder']` is what is kept.
      variables: mutable collections of the network: running statistics.
      opt_state: the optimizer's.
      extra: the method's own: EMA target, queue.
      probe: the online probe's state; None where there is none.
      skipped: scalar int32; updates that were left out because they were not finite. Negative
        where the last one of them has frozen the state: -(updates) then, until it is `thawed`.
    """

    step: jax.Array
    params: Tree
    variables: Tree
    opt_state: Any
    extra: Tree
    probe: Tree
    skipped: jax.Array

    def thawed(self) -> 'TrainState':
        """Returns the state before the update that has frozen it, with the count from then."""
        return self.replace(skipped=jnp.where(self.skipped < 0, -self.skipped - 1, self.skipped))

    def encoder_variables(self) -> Tree:
        """Returns what `encoder.apply` takes."""
        return encoder_part({'params': self.params, **self.variables})

    def all_variables(self) -> Tree:
        """Returns what `method.representation().apply` takes."""
        return {'params': self.params, **self.variables}


def encoder_part(variables: Tree) -> Tree:
    """Returns the encoder's variables; one without batch normalization has parameters only."""
    return {name: tree['encoder'] for name, tree in variables.items() if 'encoder' in tree}


def init_state(
    method: Method,
    tx: optax.GradientTransformation,
    probe: OnlineProbe | None,
    seed: int,
    views_shape: tuple[int, ...],
    start: Tree = None,
) -> TrainState:
    """Initializes from the seed; traceable, so that `jax.jit` can place every array.

    Args:
      method: the method.
      tx: the optimizer.
      probe: the online probe, if any.
      seed: of every parameter.
      views_shape: `(batch, view, height, width, channel)`; its batch size does not matter.
      start: the variables to start from, as `method.init` takes them; None for random ones.
    """
    rng = jax.random.key(seed)
    views = jnp.zeros((2, *views_shape[1:]))
    variables, extra = method.init(jax.random.fold_in(rng, 0), views, start)
    params = variables.pop('params')
    probe_state = None
    if probe is not None:
        features = jax.eval_shape(
            lambda: method.encoder.apply(
                encoder_part({'params': params, **variables}), views[:, 0], train=False
            )
        )
        probe_state = probe.init(features.shape[-1])
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, variables, tx.init(params), extra, probe_state, zero)
