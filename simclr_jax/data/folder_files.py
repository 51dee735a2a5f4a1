"""The files below a folder that may be pictures: found by one walk, kept compactly.

Names are bytes here, as they are on the disk: not all of them are UTF-8.
"""

import errno
import os
import stat
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from simclr_jax.config import ConfigError, RunError

# What a mount answers when what is behind it has gone. A single file may answer EIO, too.
GONE = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENXIO, errno.ENODEV, errno.EHOSTDOWN)
GONE += (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOLINK)
_WAITS = (0.2, 1.0, 3.0)  # seconds before a file is tried again that a mount may have lost
_FAILED = 20  # files in a row after which it is not the files


class Names(Sequence[str]):
    """Many names in one piece of memory: a million take some 40 MB, where strings take 90."""

    def __init__(
        self, joined: bytes | bytearray, lengths: Sequence[int] | np.ndarray, start: int = 0
    ):
        self._within = joined  # from `start` on, one name after the other
        self._ends = np.cumsum(lengths, dtype=np.int64)
        if len(joined) < 2**32:
            self._ends = self._ends.astype(np.uint32)
        self._ends += start
        self._start = start

    def __len__(self) -> int:
        return len(self._ends)

    def joined(self) -> memoryview:
        """Returns the bytes of all names, one after the other."""
        return memoryview(self._within)[self._start : self._ends[-1] if len(self) else self._start]

    def raw(self, place: int) -> bytes:
        """Returns a name as it is on the disk."""
        start = self._ends[place - 1] if place else self._start
        return bytes(self._within[start : self._ends[place]])

    def __getitem__(self, place: int) -> str:
        if not 0 <= place < len(self):
            raise IndexError(place)
        return readable(self.raw(place))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Names)
            and len(self) == len(other)
            and self.joined() == other.joined()
            and np.array_equal(self.lengths(), other.lengths())
        )

    __hash__ = None

    def lengths(self) -> np.ndarray:
        """Returns the number of bytes of each name, `[n]` uint16."""
        lengths = np.empty(len(self), np.uint16)
        lengths[:1] = self._ends[:1] - self._start
        np.subtract(self._ends[1:], self._ends[:-1], out=lengths[1:], casting='unsafe')
        return lengths

    def chosen(self, places: Sequence[int]) -> 'Names':
        """Returns the names at `places`, in that order."""
        joined, lengths = bytearray(), array('H')
        for place in places:
            name = self.raw(place)
            joined += name
            lengths.append(len(name))
        return Names(joined, lengths)

    def folders(self, start: int, stop: int, skip: int) -> Iterator[tuple[bytes, int, int]]:
        """Yields `(sub-folder, start, stop)` of the names between `start` and `stop`, in order.

        Args:
          start: the first name.
          stop: the one after the last.
          skip: bytes at the beginning of all these names that are passed over.

        Names that have no `/` after that come as one piece, with b'' for the sub-folder.
        """
        loose = start
        while start < stop:
            name = self.raw(start)
            slash = name.find(b'/', skip)
            if slash < 0:
                start += 1
                continue
            if loose < start:
                yield b'', loose, start
            after = self._first_from(name[:slash] + b'0', start, stop)  # '0' follows '/'
            yield name[skip:slash], start, after
            start = loose = after
        if loose < stop:
            yield b'', loose, stop

    def _first_from(self, name: bytes, low: int, high: int) -> int:
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.raw(middle) < name else (low, middle)
        return low


class Files(NamedTuple):
    """What a walk found.

    Attributes:
      names: of the files that may be pictures, sorted by their bytes.
      sizes: bytes of each, `[n]` int64.
      times: nanoseconds of its last change, `[n]` int64.
      odd: entry to the reason why it, and what is below it, cannot be read.
      again: folder that is left out since it is read under another name, and why.
    """

    names: Names
    sizes: np.ndarray
    times: np.ndarray
    odd: dict[str, str]
    again: dict[str, str]


def readable(name: bytes) -> str:
    """Returns a name as text that can be printed and written anywhere."""
    return name.decode('utf-8', 'backslashreplace')


class Folder:
    """Reads files below a folder, and tells a bad file from a folder that has gone.

    Attributes:
      root: its path.
      name: the field that names it, and its value.
      failed: how many files in a row could not be read, as if what they are on had gone.
    """

    def __init__(self, root: bytes, path: str, field: str):
        """Raises ConfigError where there is no such folder, RunError where it does not answer."""
        self.root, self.name = root, f'{field}={path!r}'
        self._lock = threading.Lock()
        self.failed = 0
        try:
            self._identity = _identity(root)
        except OSError as error:
            if error.errno in GONE:
                raise self.gone(error) from error
            problems = {errno.ENOENT: 'is not there', errno.ENOTDIR: 'is not a folder'}
            problem = problems.get(error.errno, f'cannot be read ({error.strerror})')
            raise ConfigError(
                f'{self.name}: {problem}; name the one that holds the pictures'
            ) from error

    def read(self, name: bytes) -> bytes:
        """Returns the content of a file.

        Raises:
          OSError: this file cannot be read.
          RunError: the whole folder has gone, also after some seconds.
        """
        for wait in (*_WAITS, None):
            try:
                with open(os.path.join(self.root, name), 'rb') as file:
                    content = file.read()
                self.failed = 0
                return content
            except OSError as error:
                problem = self._problem()
                if wait is not None and (problem or error.errno in GONE):
                    time.sleep(wait)
                    continue
                if error.errno in GONE:
                    with self._lock:
                        self.failed += 1
                        if self.failed >= _FAILED:
                            problem = error
                if problem:
                    raise self.gone(problem) from error
                raise
        raise AssertionError

    def gone(self, error: OSError) -> RunError:
        """Returns what to say where the folder has gone."""
        return RunError(
            f'{self.name}: does not answer any more ({error.strerror}); '
            'bring it back (is it mounted?) and start the same command again, which goes on from '
            'the last checkpoint'
        )

    def _problem(self) -> OSError | None:
        """Returns why the folder has gone, None where it is there."""
        try:
            if _identity(self.root) != self._identity:  # what is under the mount point
                return OSError(errno.ENODEV, 'another folder is in its place')
            with os.scandir(self.root) as entries:
                next(entries, None)
            return None
        except OSError as error:
            return error


def open_folder(path: str, field: str = 'data.path') -> Folder:
    """Opens a folder as a user names it.

    Raises:
      ConfigError: there is none, or it is in a bucket.
      RunError: it does not answer.
    """
    if '://' in path:
        raise ConfigError(
            f'{field}={path!r}: pictures in a bucket are not read; copy them to a disk, or mount '
            'the bucket and name the folder'
        )
    if not path:
        raise ConfigError(
            f"{field}='': is not a folder; name the one that holds the pictures, "
            f'for example --config.{field}=~/pictures'
        )
    return Folder(os.fsencode(os.path.abspath(os.path.expanduser(path))), path, field)


def _identity(root: bytes) -> tuple[int, int]:
    status = os.stat(root)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return status.st_dev, status.st_ino


def walk(folder: Folder, suffixes: tuple[str, ...]) -> Files:
    """Finds every file below a folder that ends in one of `suffixes`, in either case.

    Links are followed, but no folder is read twice. What starts with a dot is passed over.

    Raises:
      RunError: the folder has gone.
      ConfigError: the folder itself may not be listed.
    """
    return _Walk(folder, tuple(suffix.encode() for suffix in suffixes)).run()


class _Walk:
    def __init__(self, folder: Folder, suffixes: tuple[bytes, ...]):
        self.folder, self.root, self.suffixes = folder, folder.root, suffixes
        self.below = os.path.join(self.root, b'')
        self.top = os.path.realpath(self.root)
        self.real = {self.top: b''}  # real path of each folder to the name it is read under
        self.joined, self.lengths = bytearray(), array('H')
        self.sizes, self.times = array('q'), array('q')
        self.odd: dict[str, str] = {}
        self.again: dict[str, str] = {}

    def run(self) -> Files:
        # Sorted in each folder, a sub-folder by its name and '/': so all names come out sorted.
        stack = [(b'', self.top, iter(self.list(b'')))]
        while stack:
            prefix, real, keys = stack[-1]
            key = next(keys, None)
            if key is None:
                stack.pop()
            elif not key.endswith(b'/'):
                self.add(prefix + key)
            elif (below := self.enter(prefix + key, real)) is not None:
                stack.append((prefix + key, below, iter(self.list(prefix + key))))
        return Files(
            Names(self.joined, np.frombuffer(self.lengths, np.uint16)),
            np.frombuffer(self.sizes, np.int64),
            np.frombuffer(self.times, np.int64),
            self.odd,
            self.again,
        )

    def list(self, prefix: bytes) -> list[bytes]:
        """Returns the names in a folder that matter, sorted; those of folders end in '/'."""
        keys = []
        try:
            with os.scandir(os.path.join(self.root, prefix)) as entries:
                for entry in entries:
                    if not entry.name.startswith(b'.') and (key := self.key(prefix, entry)):
                        keys.append(key)
        except OSError as error:
            if error.errno in GONE:
                raise self.folder.gone(error) from error
            if not prefix:
                raise ConfigError(
                    f'{self.folder.name}: cannot be listed ({error.strerror})'
                ) from error
            self.odd[readable(prefix)] = error.strerror
        keys.sort()
        return keys

    def key(self, prefix: bytes, entry: os.DirEntry) -> bytes | None:
        try:
            if entry.is_dir():
                return entry.name + b'/'
            if entry.name.lower().endswith(self.suffixes):
                return entry.name
            if entry.is_symlink():
                entry.stat()  # a link to nothing may have been one to a folder of pictures
        except OSError as error:
            self.odd[readable(prefix + entry.name)] = _reason(error)
        return None

    def enter(self, name: bytes, parent: bytes) -> bytes | None:
        """Returns the real path of a folder; None where it is not to be read."""
        path = os.path.join(self.root, name[:-1])
        real = os.path.join(parent, os.path.basename(path))
        if os.path.islink(path):
            real = os.path.realpath(path)
            inside = os.path.relpath(real, self.top)
            if _is_around(inside):
                self.again[readable(name)] = 'a link back to a folder that it is in'
                return None
            if not inside.startswith(b'.') and b'/.' not in inside:
                self.again[readable(name)] = f'a link to {readable(inside)}/, which is read anyway'
                return None
        if real in self.real:
            self.again[readable(name)] = f'read as {readable(self.real[real])} already'
            return None
        self.real[real] = name
        return real

    def add(self, name: bytes) -> None:
        try:
            status = os.stat(self.below + name)  # a million times
        except OSError as error:
            self.odd[readable(name)] = _reason(error)
            return
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            self.odd[readable(name)] = 'not a file'
            return
        self.joined += name
        self.lengths.append(len(name))
        self.sizes.append(status.st_size)
        self.times.append(status.st_mtime_ns)


def _is_around(inside: bytes) -> bool:
    """Whether a relative path is that of the folder itself or of one above it."""
    return set(inside.split(b'/')) <= {b'.', b'..'}


def _reason(error: OSError) -> str:
    return 'a link to nothing' if error.errno == errno.ENOENT else str(error.strerror)
