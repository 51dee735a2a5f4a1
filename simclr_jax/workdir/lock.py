"""One run, one workdir: a lock that names the process that holds it."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from etils import epath

from simclr_jax import files, parallel
from simclr_jax.config import ConfigError

_NAME = 'lock'
# What flock answers where a mount has no locks, or has lost its lock server.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_BEAT = 20.0  # seconds between signs of life
_DEAD = 90.0  # seconds without one


@contextlib.contextmanager
def hold(workdir: str, flag: str = '--workdir') -> Iterator[None]:
    """Makes the workdir and keeps every other process out of it until the end of the block.

    What is not a workdir, but as much the property of one run, is named by another `flag`.

    On a file system the kernel drops the lock of a process that dies, however it dies. A bucket and
    some network mounts have no locks: there the holder renews a file, and one that has not been
    renewed for a minute and a half is taken over.

    Raises:
      ConfigError: another process holds it, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        problem = None
        if parallel.is_main_process():
            try:
                stack.enter_context(
                    _by_signs(workdir, flag) if '://' in workdir else _local(workdir, flag)
                )
            except ConfigError as error:
                problem = error
        (failed,) = parallel.from_main_process([int(problem is not None)])
        if failed:
            raise problem or ConfigError(
                f'{flag}={workdir}: process 0 could not lock it; its message has the reason'
            )
        yield


@contextlib.contextmanager
def _local(workdir: str, flag: str) -> Iterator[None]:
    path = os.path.join(workdir, _NAME)
    if os.path.exists(workdir) and not os.path.isdir(workdir):
        raise ConfigError(f'{flag}={workdir}: is a file; name a directory')
    try:
        os.makedirs(workdir, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(
            f'{flag}={workdir}: cannot be written ({error.strerror}); name another one'
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            os.close(descriptor)
            print(
                f'warning: {workdir} is on a file system without locks ({error.strerror}): a file '
                'that is renewed keeps other processes out instead',
                file=sys.stderr,
                flush=True,
            )
            with _by_signs(workdir, flag, f'{_NAME}.json'):
                yield
            return
        holder = os.pread(descriptor, 1000, 0).decode(errors='replace')
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise _in_use(workdir, flag, holder) from error
        raise ConfigError(
            f'{flag}={workdir}: cannot be locked ({error.strerror}); name another one'
        ) from error
    with contextlib.suppress(OSError):  # a full disk; the lock itself needs no room
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _myself().encode(), 0)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


@contextlib.contextmanager
def _by_signs(workdir: str, flag: str, name: str = _NAME) -> Iterator[None]:
    path = epath.Path(workdir) / name
    found = _read(path)
    if found and time.time() - found['seen'] < _DEAD:
        raise _in_use(workdir, flag, found['holder'])
    myself, done = _myself(), threading.Event()

    def sign() -> None:
        files.write_text(path, json.dumps({'holder': myself, 'seen': time.time()}))

    def beat() -> None:
        while not done.wait(_BEAT):
            with contextlib.suppress(Exception):  # the next one may get through
                sign()

    path.parent.mkdir(parents=True, exist_ok=True)
    sign()
    if (found := _read(path)) and found['holder'] != myself:  # two at the same moment
        raise _in_use(workdir, flag, found['holder'])
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        path.unlink(missing_ok=True)


def _read(path: epath.Path) -> dict | None:
    try:
        found = json.loads(path.read_text())
        return {'holder': str(found['holder']), 'seen': float(found['seen'])}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _myself() -> str:
    now = datetime.datetime.now().astimezone().isoformat(' ', 'seconds')
    return f'process {os.getpid()} on {socket.gethostname()}, since {now}'


def _in_use(workdir: str, flag: str, holder: str) -> ConfigError:
    return ConfigError(
        f'{flag}={workdir}: is in use by {holder or "another process"}; wait for it or stop it, '
        f'or give another {flag}'
    )
