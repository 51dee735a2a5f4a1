"""Trainings on fewer labels than the run has, and from scratch: what a comparison asks for."""

from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from simclr_jax.config import SCRATCH, Length, RunError
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.comparison import Trial
from simclr_jax.evaluate.predictions import Predictions
from simclr_jax.methods.base import Tree
from simclr_jax.modes.outputs import with_head
from simclr_jax.train import memory
from simclr_jax.train.out_of_memory import TRAINING, explained
from simclr_jax.train.quiet import train_quietly
from simclr_jax.train.setup import Run, assemble


class Fits:
    """Trains as a run does, on other pictures; programs are compiled once for each length."""

    def __init__(self, run: Run, predict: Callable[[Tree], Predictions]):
        """Takes the parts of the run, and what predicts the test pictures by given variables."""
        self._run, self._predict = run, predict
        self._programs: dict[tuple[Length, bool], jax.stages.Compiled] = {}

    @explained('training', TRAINING)
    def __call__(self, trial: Trial, source: Source) -> Predictions:
        """Returns what a classifier that is trained on `source` says of the test pictures.

        Args:
          trial: 'scratch' starts at random, 'fine_tuned' as the run did; both take as many steps,
            with a learning rate of its own where `finetune.scratch_learning_rate` is given.
          source: what it learns from.

        Raises:
          RunError: the training diverged.
          ConfigError: there are fewer pictures than a batch has, and batches end with an epoch.
        """
        run, scratch = self._run, trial.way == SCRATCH
        config = _from_scratch(run.config) if scratch else run.config
        few = with_head(assemble(config, run.mesh, source, run.start))
        key = few.length, config is not run.config  # what a program depends on
        if key not in self._programs:
            self._programs[key] = memory.compile_step(few, None)
        state = few.init_at_random() if scratch else few.init()
        try:
            state = train_quietly(few, self._programs[key], state)
        except RunError as error:
            raise RunError(f'{trial.name}: {error}') from error
        return self._predict(state.all_variables())


def _from_scratch(config: ConfigDict) -> ConfigDict:
    """Returns the config with the rate of what starts at random, where it has one of its own."""
    rate = config.finetune.scratch_learning_rate
    if not rate:
        return config
    config = config.copy_and_resolve_references()
    config.optimizer.learning_rate = rate
    config.finetune.head_learning_rate = 0.0
    return config
