"""A folder of pictures: indexed once, then records with random access like any other source."""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from simclr_jax.config import ConfigError
from simclr_jax.data import example, pictures

_VERSION = 1  # of the cached index
SPLITS = ('train', 'test', 'all')
_TEST_SHARE = 0.1
_NAMED = 5  # bad pictures named in the log
_BATCH = 256  # files that a thread looks at between two updates of the progress bar


@dataclasses.dataclass(frozen=True)
class Index:
    """The pictures below a folder, by name, and those that are left out.

    Attributes:
      names: paths below the folder, sorted.
      kinds: `pictures.PLAIN` or `pictures.OTHER` for each.
      bad: path to the reason why it is left out.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    bad: dict[str, str]

    def label_names(self) -> tuple[str, ...] | None:
        """The sub-folders, where there are two or more and every picture is in one of them."""
        labels = {label_of(name) for name in self.names}
        return tuple(sorted(labels)) if len(labels) > 1 and '' not in labels else None


def label_of(name: str) -> str:
    """The sub-folder that a picture is in, '' for one beside them."""
    return name.partition('/')[0] if '/' in name else ''


def in_split(name: str, split: str) -> bool:
    """Whether a picture is in 'train', 'test' (a tenth, by its name) or 'all'."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'big')
    return split == 'all' or (digest / 2**64 < _TEST_SHARE) == (split == 'test')


def check_there(path: str, field: str = 'data.path') -> None:
    """Raises ConfigError where there is no such folder."""
    if not path or not os.path.isdir(os.path.expanduser(path)):
        raise ConfigError(
            f'{field}={path!r}: is not a folder; name the one that holds the pictures'
        )


def read_index(path: str, cache: pathlib.Path) -> Index:
    """Indexes a folder; files that are as they were at the last time are not looked at again.

    Args:
      path: the folder.
      cache: where the index is kept, a JSON file for each folder.

    Raises:
      ConfigError: the folder is not there, or holds no picture.
    """
    check_there(path)
    root = os.path.abspath(os.path.expanduser(path))
    file = cache / f'{hashlib.sha256(root.encode()).hexdigest()[:16]}.json'
    known = _load(file)
    found = dict(_walk(root, ''))  # name -> (size, mtime)
    kinds = {name: known[name][1] for name in found if known.get(name, (None,))[0] == found[name]}
    new = [name for name in found if name not in kinds]
    if new:
        kinds |= _look_at(root, new)
    if new or len(known) != len(found):
        _save(file, {name: [found[name], kinds[name]] for name in sorted(found)})
    good = sorted(name for name in found if not kinds[name].startswith(pictures.BAD))
    if not good:
        raise ConfigError(
            f'data.path={path!r}: holds no picture that can be read among {len(found)} files '
            f'ending in {", ".join(pictures.SUFFIXES)}'
        )
    bad = {name: kinds[name].partition(': ')[2] for name in sorted(found.keys() - set(good))}
    return Index(tuple(good), tuple(kinds[name] for name in good), bad)


def check_bad(bad: dict[str, str], total: int, path: str, max_fraction: float) -> None:
    """Raises ConfigError, with a list, where more than `max_fraction` of `total` files are bad."""
    if len(bad) > max_fraction * total:
        listed = [f'  {name}: {reason}' for name, reason in bad.items()]
        raise ConfigError(
            f'data.path={path!r}: {len(bad)} of {total} files are no pictures that can be read, '
            f'more than data.max_bad_fraction={max_fraction}; remove them, or allow more:\n'
            + '\n'.join(listed)
        )


def describe_bad(bad: dict[str, str]) -> str:
    """'3 files are left out: a.jpg (empty), ...', the first few named."""
    listed = [f'{name} ({reason})' for name, reason in list(bad.items())[:_NAMED]]
    more = ', ...' if len(bad) > _NAMED else ''
    return f'{len(bad)} bad pictures are left out: {", ".join(listed)}{more}'


class Reader:
    """Reads the records of some pictures of an index; a picture that is gone is left out.

    A file that can no longer be read as it was indexed gives its place to the next one, so that a
    batch stays full; it is named in `bad`.
    """

    def __init__(self, path: str, index: Index, split: str, max_bad_fraction: float):
        self._root = os.path.abspath(os.path.expanduser(path))
        self.num_files = len(index.names) + len(index.bad)
        self.bad = dict(index.bad)  # name to reason, of all that was left out so far
        check_bad(self.bad, self.num_files, path, max_bad_fraction)
        chosen = [i for i, name in enumerate(index.names) if in_split(name, split)]
        self._names = [index.names[i] for i in chosen]
        self._plain = [index.kinds[i] == pictures.PLAIN for i in chosen]
        names = index.label_names()
        numbers = {name: i for i, name in enumerate(names or ())}
        self._labels = [numbers.get(label_of(name)) for name in self._names]
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        return len(self._names)

    def __call__(self, indices: Iterable[int]) -> list[bytes]:
        return list(self._executor.map(self._read, map(int, indices)))

    def _read(self, index: int) -> bytes:
        for place in range(index, index + len(self)):
            i = place % len(self)
            name = self._names[i]
            try:
                with open(os.path.join(self._root, name), 'rb') as file:
                    encoded = file.read()
                if not self._plain[i]:
                    encoded = pictures.as_bmp(encoded)
                elif not encoded.startswith(b'\xff\xd8') or len(encoded) < 4:
                    raise OSError('no longer a JPEG')
                return example.serialize(encoded, self._labels[i])
            except Exception as error:
                with self._lock:
                    if name not in self.bad:
                        self.bad[name] = f'can no longer be read: {error}'
                        print(f'{name}: {self.bad[name]}; left out', flush=True)
        raise OSError(f'none of the pictures in {self._root} can be read any more')


def _walk(root: str, prefix: str) -> Iterator[tuple[str, list[int]]]:
    """Yields name, [size, time of the last change] of the files that may be pictures."""
    with os.scandir(os.path.join(root, prefix)) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.name.startswith('.'):
                continue
            if entry.is_dir():
                yield from _walk(root, name + '/')
            elif entry.name.lower().endswith(pictures.SUFFIXES):
                status = entry.stat()
                yield name, [status.st_size, status.st_mtime_ns]


def _look_at(root: str, names: list[str]) -> dict[str, str]:
    def kind(name: str) -> str:
        try:
            with open(os.path.join(root, name), 'rb') as file:
                return pictures.check(file.read())
        except OSError as error:
            return f'{pictures.BAD}: {error.strerror}'

    kinds, start = {}, time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        parts = [names[i : i + _BATCH] for i in range(0, len(names), _BATCH)]
        found_in = executor.map(lambda part: list(map(kind, part)), parts)
        for part, found in zip(parts, found_in, strict=True):
            kinds |= dict(zip(part, found, strict=True))
            rate = len(kinds) / max(time.monotonic() - start, 1e-9)
            _progress(f'indexing {root}: {len(kinds):,} of {len(names):,} files, {rate:,.0f}/s')
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return kinds


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f'\r{text}\x1b[K', end='', file=sys.stderr, flush=True)


def _load(file: pathlib.Path) -> dict[str, list]:
    try:
        saved = json.loads(file.read_text())
        return saved['files'] if saved['version'] == _VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # none yet, or damaged: it is made anew


def _save(file: pathlib.Path, files: dict[str, list]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f'.{os.getpid()}.tmp')
    temporary.write_text(json.dumps({'version': _VERSION, 'files': files}))
    temporary.replace(file)
