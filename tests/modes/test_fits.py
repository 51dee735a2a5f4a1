"""What a comparison trains: from scratch in as many steps, with its own rate where it has one."""

import pathlib

import pytest

from simclr_jax.config_loading import FREE_FIELDS, load
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.comparison import Trial
from simclr_jax.modes import fits as lib
from simclr_jax.parallel import make_mesh
from simclr_jax.train.setup import assemble

DIGITS = str(pathlib.Path(__file__).parents[2] / 'configs/finetune_digits.py')
SOURCE = Source(read=None, num_examples=500, image_shape=(8, 8, 1), label_names=tuple('0123456789'))


class State:
    def all_variables(self):
        return 'variables'


@pytest.fixture
def trained(monkeypatch):
    """The runs that would be trained; what they compute is tested in real ones."""
    runs = []
    monkeypatch.setattr(lib.memory, 'compile_step', lambda run, memory: run.schedule)
    monkeypatch.setattr(lib.Run, 'init', lambda run: 'pretrained')
    monkeypatch.setattr(lib.Run, 'init_at_random', lambda run: 'random')
    monkeypatch.setattr(
        lib,
        'train_quietly',
        lambda run, program, state: runs.append((run, program, state)) or State(),
    )
    return runs


@pytest.mark.parametrize('own', [0.0, 0.4])
def test_from_scratch_has_its_own_rate_and_program(own, trained):
    fields = {
        'finetune.scratch_learning_rate': str(own),
        'optimizer.learning_rate': '0.02',
        'finetune.head_learning_rate': '0.1',
    }
    run = assemble(load(DIGITS, fields), make_mesh(), SOURCE)
    fits = lib.Fits(run, lambda variables: variables)
    for way in ('fine_tuned', 'scratch', 'fine_tuned', 'scratch'):
        assert fits(Trial(way, 1), SOURCE) == 'variables'
    (tuned, program, state), (scratch, other, random) = trained[:2]
    assert (state, random) == ('pretrained', 'random')
    assert float(program(0)) == pytest.approx(0.02) and tuned.groups.head_rate == 5
    assert float(other(0)) == pytest.approx(own or 0.02)
    assert scratch.groups.head_rate == (1 if own else 5)
    assert scratch.length == tuned.length and len(fits._programs) == (2 if own else 1)
    assert [p for _, p, _ in trained[2:]] == [program, other]  # compiled once
    assert (
        'finetune.scratch_learning_rate' in FREE_FIELDS
    )  # the run's own training has no part of it
