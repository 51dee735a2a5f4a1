"""Checkpoints are read without the lock, while a run may write and remove them."""

import shutil

import jax
import numpy as np
import pytest

from simclr_jax import parallel
from simclr_jax.config import ConfigError, RunError
from simclr_jax.workdir import checksums, reader
from simclr_jax.workdir.checkpoint import Checkpoints, abstract_like


def tree(value: float) -> dict:
    sharding = parallel.replicated(parallel.make_mesh())
    return jax.device_put({'a': np.full((1000,), value, np.float32)}, sharding)


def like():
    return abstract_like(tree(0), parallel.replicated(parallel.make_mesh()))


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('three')
    checkpoints = Checkpoints(str(workdir), 3)
    for step in (10, 20, 30):
        checkpoints.save(step, tree(step))
    assert checkpoints.wait()
    checkpoints.close()
    return workdir


@pytest.fixture
def three(made, tmp_path):
    shutil.copytree(made, tmp_path / 'run')
    return tmp_path / 'run'


def value(state) -> float:
    return float(state['a'][0])


def trainer_removes(workdir, step):
    """What a run does to the oldest checkpoint, the list of checksums first."""
    folder = workdir / f'checkpoints/{step}'
    (folder / checksums.NAME).unlink()
    shutil.rmtree(folder)


def test_any_kept_step_can_be_read(three):
    assert reader.find_step(str(three)) == 30
    for step in (10, 20, 30):
        assert reader.find_step(str(three), step) == step
        assert value(reader.restore(str(three), step, like())) == step
    with pytest.raises(ConfigError, match=r'--step=15: .* there are 10, 20, 30'):
        reader.find_step(str(three), 15)


def test_a_workdir_without_a_checkpoint(tmp_path):
    with pytest.raises(ConfigError, match='holds no checkpoint yet'):
        reader.find_step(str(tmp_path))


def test_a_checkpoint_that_is_being_written_is_passed_over_without_a_word(three, capsys):
    (three / f'checkpoints/30/{checksums.NAME}').unlink()
    (three / 'checkpoints/30.saving').touch()
    assert reader.find_step(str(three)) == 20
    assert capsys.readouterr().err == ''
    with pytest.raises(ConfigError, match=r'there are 10, 20$'):
        reader.find_step(str(three), 30)


def test_a_damaged_one_is_named_and_the_one_before_it_read(three, capsys):
    (largest,) = sorted(
        (path for path in (three / 'checkpoints/30').rglob('*') if path.is_file()),
        key=lambda path: path.stat().st_size,
    )[-1:]
    largest.write_bytes(largest.read_bytes()[:-1] + b'?')
    assert reader.find_step(str(three)) == 20
    assert str(largest) in capsys.readouterr().err
    with pytest.raises(RunError, match='--step=30: the checkpoint is damaged'):
        reader.find_step(str(three), 30)


@pytest.mark.parametrize('moment', ['before', 'after'])
def test_one_that_is_removed_while_it_is_read_is_never_half_read(three, moment, monkeypatch):
    restore = Checkpoints.restore
    removed = []

    def restore_slowly(self, step, abstract_state):
        first = not removed
        removed.append(step)
        if first and moment == 'before':
            trainer_removes(three, step)
        state = restore(self, step, abstract_state)
        if first and moment == 'after':  # what was read cannot be trusted
            trainer_removes(three, step)
        return state

    monkeypatch.setattr(Checkpoints, 'restore', restore_slowly)
    with pytest.raises(ConfigError, match=r'--step=10: was removed while it was read.*later step'):
        reader.restore(str(three), 10, like())
    removed.clear()
    state = reader.restore(str(three), 20, like(), latest=True)  # a newer one does as well
    assert value(state) == 30 and not (three / 'checkpoints/20').exists()
