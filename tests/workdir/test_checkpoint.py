"""Checkpoints that were damaged, cut short or could not be written."""

import errno
import gc
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from simclr_jax import parallel
from simclr_jax.config import RunError
from simclr_jax.workdir import checksums
from simclr_jax.workdir.checkpoint import Checkpoints, abstract_like

ROOT = pathlib.Path(__file__).parents[2]


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


def make_a_folder(path: pathlib.Path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize('harm', [cut, empty, pathlib.Path.unlink, flip, make_a_folder])
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


def test_a_file_that_the_disk_does_not_give_back_is_damage(two, capsys, monkeypatch):
    hashed = checksums._hash

    def fail(path):
        if '/20/' in str(path) and path.name == '_METADATA':
            raise OSError(errno.EIO, 'Input/output error', str(path))
        return hashed(path)

    monkeypatch.setattr(checksums, '_hash', fail)
    checkpoints = Checkpoints(str(two), 3)
    assert checkpoints.latest_step() == 10
    assert '_METADATA: is damaged (Input/output error)' in capsys.readouterr().err


def test_a_file_that_may_not_be_read_stops_the_run_in_a_line(two, monkeypatch):
    def forbidden(path):
        raise PermissionError(errno.EACCES, 'Permission denied', str(path))

    monkeypatch.setattr(checksums, '_hash', forbidden)
    words = r"cannot be read: .*Permission denied: '.*/20/.*Nothing was changed"
    with pytest.raises(RunError, match=words):
        Checkpoints(str(two), 3).latest_step()


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
    checkpoints.close()
    gc.collect()  # here, where the warning is expected
    warnings = capsys.readouterr().err
    assert 'saving step 20' in warnings and 'File too large' in warnings


def test_what_has_to_be_on_disk_first_fails_the_save(tmp_path, capsys):
    checkpoints = Checkpoints(str(tmp_path), 3)

    def first():
        raise OSError(28, 'No space left on device')

    checkpoints.save(10, tree(10), first)
    assert not checkpoints.wait() and checkpoints.latest_step() is None
    assert 'No space left on device' in capsys.readouterr().err


def test_a_background_save_that_fails_is_told_when_it_fails(tmp_path, capsys, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, 'No space left on device', str(folder))

    checkpoints = Checkpoints(str(tmp_path), 3)
    monkeypatch.setattr(checksums, 'write', full)
    checkpoints.save(10, tree(10))  # and nothing after it: no wait(), no next save()
    deadline, said = time.monotonic() + 30, ''
    while 'saving step 10' not in said:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        said += capsys.readouterr().err
    assert 'No space left on device; the run goes on' in said
    assert not checkpoints.wait() and 'warning' not in capsys.readouterr().err  # said once
    checkpoints.close()


def test_what_orbax_and_asyncio_say_of_a_failed_save_is_kept_to_a_line(tmp_path):
    script = """
    import resource, sys
    import numpy as np
    from simclr_jax.workdir.checkpoint import Checkpoints

    random = np.random.default_rng(0).standard_normal
    checkpoints = Checkpoints(sys.argv[1], 3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    checkpoints.save(20, {f'a{i}': random(10_000) for i in range(40)})
    assert not checkpoints.wait()
    checkpoints.close()
    """
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(script), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
        check=True,
    )
    [line] = [line for line in done.stderr.splitlines() if 'libtpu' not in line]
    assert line.startswith('warning: saving step 20') and 'File too large' in line


@pytest.mark.slow
def test_a_save_that_fails_in_one_of_two_processes_has_failed_in_both(tmp_path):
    script = """
    import sys
    import jax, numpy as np

    jax.config.update('jax_num_cpu_devices', 2)
    jax.distributed.initialize('127.0.0.1:' + sys.argv[1], 2, int(sys.argv[2]))
    from simclr_jax import parallel
    from simclr_jax.config import RunError
    from simclr_jax.workdir import checksums
    from simclr_jax.workdir.checkpoint import Checkpoints, abstract_like

    me, everywhere = jax.process_index(), parallel.replicated(parallel.make_mesh())
    tree = lambda v: {'a': np.ones(1000) * v, 'b': {'c': np.ones((3, 5))}}
    make = jax.jit(tree, out_shardings=everywhere)
    checkpoints = Checkpoints(sys.argv[3], 3)

    def full(*_):
        raise OSError(28, 'No space left on device')

    checkpoints.save(10, make(10.0))
    assert checkpoints.wait()
    checkpoints.save(20, make(20.0), full if me == 0 else lambda: None)
    assert not checkpoints.wait()
    checkpoints.save(30, make(30.0), full if me == 1 else lambda: None)
    assert not checkpoints.wait()
    checkpoints.save(40, make(40.0))  # tried again
    assert checkpoints.wait() and checkpoints.latest_step() == 40
    like = abstract_like(make(0.0), everywhere)
    assert float(checkpoints.restore(40, like)['a'].addressable_data(0)[0]) == 40
    write, checksums.write = checksums.write, full  # in the background
    checkpoints.save(50, make(50.0))
    assert not checkpoints.wait()
    checksums.write = write
    checkpoints.save_and_wait(60, make(60.0))
    assert checkpoints.latest_step() == 60
    try:
        checkpoints.save_and_wait(70, make(70.0), full if me == 1 else lambda: None)
    except RunError as error:
        print(error)
    checkpoints.close()
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, '-c', textwrap.dedent(script), port]
    processes = [
        subprocess.Popen(
            [*command, str(i), str(tmp_path)],
            cwd=ROOT,
            env=os.environ | {'JAX_PLATFORMS': 'cpu'},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert 'step 20' in outputs[0] and 'step 20' not in outputs[1]
    assert 'step 30' in outputs[1] and 'step 50' in outputs[0]
    assert 'failed in another process, which says why. That was the third time' in outputs[0]
    assert 'No space left on device. That was the third time in a row' in outputs[1]
    assert names(tmp_path) == ['10', '40', '60']
    assert restored(Checkpoints(str(tmp_path), 3)) == 60  # by one process, on eight devices
