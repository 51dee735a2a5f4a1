"""Training without a workdir does what the train loop does."""

import pathlib

import jax
import numpy as np
import pytest

from simclr_jax.config import RunError
from simclr_jax.config_loading import load
from simclr_jax.train import memory
from simclr_jax.train.loop import train
from simclr_jax.train.quiet import train_quietly
from simclr_jax.train.setup import prepare

DIGITS = str(pathlib.Path(__file__).parents[2] / 'configs/simclr_digits.py')
FIELDS = {
    'batch_size': '64',
    'eval.batch_size': '64',
    'epochs': '0.25',
    'optimizer.warmup_epochs': '0',
    'log.tensorboard': 'False',
}


@pytest.mark.slow
def test_it_ends_with_the_bits_of_the_loop(tmp_path):
    run = prepare(load(DIGITS, FIELDS))
    expected, *_ = train(run, str(tmp_path))
    program = memory.compile_step(run, None)
    for _ in range(2):  # the same start and the same program serve again
        found = train_quietly(run, program, run.init())
        assert int(found.step) == run.length.total_steps == 5
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
def test_what_is_not_finite_is_an_error_that_names_the_step_and_the_fix():
    fields = {'optimizer.learning_rate': '1e38', 'optimizer.schedule': 'cosine'}
    run = prepare(load(DIGITS, FIELDS | fields))
    with pytest.raises(RunError, match=r'step \d of 5 .* lower optimizer\.learning_rate'):
        train_quietly(run, memory.compile_step(run, None), run.init())
