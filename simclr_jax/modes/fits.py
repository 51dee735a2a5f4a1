"""Trainings on fewer labels than the run has, and from scratch: what a comparison asks for."""

from collections.abc import Callable

import jax

from simclr_jax.config import SCRATCH, Length, RunError
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.comparison import Trial
from simclr_jax.evaluate.predictions import Predictions
from simclr_jax.methods.base import Tree
from simclr_jax.train import memory
from simclr_jax.train.out_of_memory import TRAINING, explained
from simclr_jax.train.quiet import train_quietly
from simclr_jax.train.setup import Run, assemble


class Fits:
    """Trains as a run does, on other pictures; programs are compiled once for each length."""

    def __init__(self, run: Run, predict: Callable[[Tree], Predictions]):
        """Takes the parts of the run, and what predicts the test pictures by given variables."""
        self._run, self._predict = run, predict
        self._programs: dict[Length, jax.stages.Compiled] = {}

    @explained('training', TRAINING)
    def __call__(self, trial: Trial, source: Source) -> Predictions:
        """Returns what a classifier that is trained on `source` says of the test pictures.

        Args:
          trial: 'scratch' starts at random, 'fine_tuned' as the run did; the budget is the same.
          source: what it learns from.

        Raises:
          RunError: the training diverged.
          ConfigError: there are fewer pictures than a batch has, and batches end with an epoch.
        """
        run = self._run
        few = assemble(run.config, run.mesh, source, run.start)
        if few.length not in self._programs:
            self._programs[few.length] = memory.compile_step(few, None)
        state = run.init_at_random() if trial.way == SCRATCH else run.init()
        try:
            state = train_quietly(few, self._programs[few.length], state)
        except RunError as error:
            raise RunError(f'{trial.name}: {error}') from error
        return self._predict(state.all_variables())
