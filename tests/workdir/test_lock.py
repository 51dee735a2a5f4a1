"""One process in a workdir at a time; real processes are in test_resumption.py."""

import errno
import fcntl
import json
import os
import socket
import time

import pytest

from simclr_jax.config import ConfigError
from simclr_jax.workdir import lock


def test_the_holder_is_named_and_the_lock_goes_with_it(tmp_path):
    workdir = str(tmp_path / 'runs/one')
    holder = f'is in use by process {os.getpid()} on {socket.gethostname()}, since 2'
    with lock.hold(workdir):
        with pytest.raises(ConfigError, match=holder), lock.hold(workdir):
            pass
        with lock.hold(str(tmp_path / 'runs/two')):
            pass
    with lock.hold(workdir):
        pass


def test_what_a_dead_process_wrote_is_no_lock(tmp_path):
    (tmp_path / 'lock').write_text('process 1 on elsewhere, since 2020-01-01')
    with lock.hold(str(tmp_path)):
        assert str(os.getpid()) in (tmp_path / 'lock').read_text()


def test_a_file_and_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    for workdir in ('file', 'file/below'):
        words = rf'--workdir=.*{workdir}: (is a file|cannot be)'
        with pytest.raises(ConfigError, match=words), lock.hold(str(tmp_path / workdir)):
            pass


def test_in_a_bucket_signs_of_life_hold_the_workdir(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, '_BEAT', 0.01)
    path = tmp_path / 'lock'
    with lock._by_signs(str(tmp_path), '--workdir'):
        first = json.loads(path.read_text())['seen']
        with pytest.raises(ConfigError, match=f'in use by process {os.getpid()}'):
            lock._by_signs(str(tmp_path), '--workdir').__enter__()
        deadline = time.monotonic() + 10
        while json.loads(path.read_text())['seen'] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not path.exists()
    path.write_text(json.dumps({'holder': 'process 1 on elsewhere', 'seen': time.time() - 91}))
    with lock._by_signs(str(tmp_path), '--workdir'):  # silent for too long
        pass


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_on_a_mount_without_locks_signs_of_life_hold_the_workdir(
    tmp_path, monkeypatch, capsys, number
):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, 'flock', flock)
    words = f'in use by process {os.getpid()}'
    with lock.hold(str(tmp_path)):
        assert f'without locks ({os.strerror(number)})' in capsys.readouterr().err
        with pytest.raises(ConfigError, match=words), lock.hold(str(tmp_path)):
            pass
    with lock.hold(str(tmp_path)):
        pass


def test_a_lock_that_fails_otherwise_is_a_line(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(fcntl, 'flock', flock)
    words = r'cannot be locked \(Input/output error\)'
    with pytest.raises(ConfigError, match=words), lock.hold(str(tmp_path)):
        pass
