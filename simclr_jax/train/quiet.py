"""Training without a workdir: no checkpoints, no metrics, for runs that are short or many."""

from collections import deque

import jax
import numpy as np

from simclr_jax import parallel
from simclr_jax.train import inputs
from simclr_jax.train.health import NotFinite
from simclr_jax.train.memory import IN_FLIGHT
from simclr_jax.train.setup import Run
from simclr_jax.train.state import TrainState


def train_quietly(run: Run, program: jax.stages.Compiled, state: TrainState) -> TrainState:
    """Trains from the start to the end, and returns the last state.

    Args:
      run: what is trained; `log` and `checkpoint` of its config are not looked at.
      program: its train step, compiled; of another run of as many steps, which differs in the data
        alone, or in what the encoder starts from, it is the same one.
      state: at step 0, as `run.init` makes it; it is donated, and must not be used again.

    Raises:
      NotFinite: an update was not finite, and `health.on_nonfinite` is not 'skip'.
    """
    losses = deque()
    for batch in inputs.train_batches(run, 0):
        arrays = parallel.put_batch(inputs.for_step(batch, run), run.mesh)
        state, metrics = program(state, arrays, *run.fixed)
        losses.append(metrics['loss'][0])
        if len(losses) > IN_FLIGHT:  # no more steps on the devices than memory was counted for
            losses.popleft().block_until_ready()
    if np.asarray(state.skipped) < 0:
        raise NotFinite(
            f'the update of step {int(state.step) + 1} of {run.length.total_steps} was not finite: '
            'give a lower optimizer.learning_rate'
        )
    return state
