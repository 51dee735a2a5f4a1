"""Checkpoints that were damaged, cut short or could not be written."""

import pathlib
import resource
import shutil
import subprocess

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from simclr_jax import parallel
from simclr_jax.config import RunError
from simclr_jax.workdir import checksums
from simclr_jax.workdir.checkpoint import Checkpoints, abstract_like


def tree(value: float) -> dict:
    sharding = parallel.replicated(parallel.make_mesh())
    values = {'a': np.full((1000,), value, np.float32), 'b': {'c': np.ones((3, 5), np.float32)}}
    return jax.device_put(values, sharding)


def saved(workdir, steps, keep=3) -> Checkpoints:
    checkpoints = Checkpoints(str(workdir), keep)
    for step in steps:
        checkpoints.save(step, tree(step))
    assert checkpoints.wait()
    return checkpoints


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('two')
    saved(workdir, (10, 20)).close()
    return workdir


def restored(checkpoints: Checkpoints) -> float:
    like = abstract_like(tree(0), parallel.replicated(parallel.make_mesh()))
    return float(checkpoints.restore(checkpoints.latest_step(), like)['a'][0])


def names(workdir) -> list[str]:
    # Orbax clears what is left of a failed save when it likes.
    found = (path.name for path in (workdir / 'checkpoints').iterdir())
    return sorted(name for name in found if not name.endswith('.orbax-checkpoint-tmp'))


def test_the_last_few_stay_in_the_layout_of_orbax(tmp_path):
    checkpoints = saved(tmp_path, (10, 20, 30, 40))
    assert names(tmp_path) == ['20', '30', '40'] and restored(checkpoints) == 40
    with ocp.CheckpointManager(tmp_path / 'checkpoints') as manager:
        assert manager.latest_step() == 40
        state = manager.restore(40, args=ocp.args.StandardRestore())
    np.testing.assert_array_equal(state['a'], np.full((1000,), 40, np.float32))


def test_the_list_is_what_sha256sum_reads(two):
    folder = two / 'checkpoints/20'
    lines = (folder / checksums.NAME).read_text().splitlines()
    files = {str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()}
    assert {line.partition('  ')[2] for line in lines} == files
    program = subprocess.run(
        ['sha256sum', '--check', '--quiet', '-'],
        input='\n'.join(lines[:-1]) + '\n',
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr


def cut(path: pathlib.Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: pathlib.Path):
    path.write_bytes(b'')


def flip(path: pathlib.Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize('harm', [cut, empty, pathlib.Path.unlink, flip])
def test_harm_to_any_file_is_named_and_the_one_before_is_used(two, tmp_path, capsys, harm):
    found = sorted(p for p in (two / 'checkpoints/20').rglob('*') if p.is_file())
    assert len(found) >= 10
    for number, file in enumerate(found):
        workdir = tmp_path / str(number)
        shutil.copytree(two, workdir)
        victim = workdir / file.relative_to(two)
        harm(victim)
        checkpoints = Checkpoints(str(workdir), 3)
        assert checkpoints.latest_step() == 10
        errors = capsys.readouterr().err
        assert f'checkpoint 20 is not used: {victim}: is ' in errors
        assert restored(checkpoints) == 10
        checkpoints.close()


def test_a_damaged_one_is_replaced_when_the_run_gets_there_again(two, tmp_path):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    flip(tmp_path / 'checkpoints/20/_CHECKPOINT_METADATA')
    checkpoints = saved(tmp_path, (15,))
    assert names(tmp_path) == ['10', '15']  # 20 was of the steps that are taken anew
    checkpoints.save(20, tree(21))
    assert checkpoints.wait() and restored(checkpoints) == 21


def test_with_none_left_an_error_names_all_and_touches_nothing(two, tmp_path):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    for step in (10, 20):
        flip(tmp_path / f'checkpoints/{step}/default/manifest.ocdbt')
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    checkpoints = Checkpoints(str(tmp_path), 3)
    with pytest.raises(RunError, match=r'(?s)no checkpoint there is whole.*20/d.*10/d'):
        checkpoints.latest_step()
    checkpoints.close()
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before


def test_a_save_cut_short_is_no_damage(two, tmp_path, capsys):
    (tmp_path / 'checkpoints').mkdir()
    shutil.copytree(two / 'checkpoints/20', tmp_path / 'checkpoints/20')
    (tmp_path / 'checkpoints/20' / checksums.NAME).unlink()
    (tmp_path / 'checkpoints/20.saving').touch()
    checkpoints = Checkpoints(str(tmp_path), 3)
    assert checkpoints.latest_step() is None  # the first save of a run: it starts anew
    assert 'its save was cut short' in capsys.readouterr().err
    checkpoints.save(10, tree(10))
    assert checkpoints.wait() and names(tmp_path) == ['10']
    checkpoints.close()


# What Orbax leaves of a save that failed: a coroutine that its closed event loop cannot end.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_failed_saves_are_warnings_until_the_third_in_a_row(tmp_path, capsys):
    checkpoints = saved(tmp_path, (10,))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # as a disk that is full: no file may grow beyond this
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, unlimited[1]))
        checkpoints.save(20, tree(20))
        assert not checkpoints.wait()
        checkpoints.save(30, tree(30))
        assert not checkpoints.wait()
        assert restored(checkpoints) == 10
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        checkpoints.save(40, tree(40))  # there is room again: the count starts anew
        assert checkpoints.wait() and names(tmp_path) == ['10', '40']
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, unlimited[1]))
        with pytest.raises(RunError, match='third time in a row'):
            checkpoints.save_and_wait(50, tree(50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert restored(checkpoints) == 40
    warnings = capsys.readouterr().err
    assert 'saving step 20' in warnings and 'File too large' in warnings


def test_what_has_to_be_on_disk_first_fails_the_save(tmp_path, capsys):
    checkpoints = Checkpoints(str(tmp_path), 3)

    def first():
        raise OSError(28, 'No space left on device')

    checkpoints.save(10, tree(10), first)
    assert not checkpoints.wait() and checkpoints.latest_step() is None
    assert 'No space left on device' in capsys.readouterr().err
