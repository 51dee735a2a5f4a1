"""What a folder of pictures holds: each file looked at once, remembered, in splits and classes."""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from simclr_jax.config import ConfigError
from simclr_jax.data import pictures
from simclr_jax.data.pictures import Checked

_VERSION = 3  # of the cached index
SPLITS = ('train', 'test', 'all')
_TEST_SHARE = 0.1
_NAMED = 5  # bad pictures named in the log
_BATCH = 256  # files that a thread looks at between two updates of the progress bar


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """The pictures below a folder, by name, and those that are left out.

    Attributes:
      names: paths below the folder, sorted.
      kinds: place in `pictures.KINDS` of each, `[n]` uint8.
      sizes: height and width of each, upright, in pixels, `[n, 2]` int32.
      orientations: EXIF's number of each, 1 to 8, `[n]` uint8.
      peaks: the largest value of each that has more than 8 bits, 0 for the others, `[n]` float32.
      pages: 2 for each TIFF of several pages, 1 for the others, `[n]` uint8.
      bad: path to the reason why it is left out.
    """

    names: Sequence[str]
    kinds: np.ndarray
    sizes: np.ndarray
    orientations: np.ndarray
    peaks: np.ndarray
    pages: np.ndarray
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
    found = dict(_walk(root, ''))  # name -> [size, mtime]
    looked = {n: Checked(*known[n][1]) for n in found if known.get(n, (None,))[0] == found[n]}
    new = [name for name in found if name not in looked]
    if new:
        looked |= _look_at(root, new)
    if new or len(known) != len(found):
        _save(file, {name: [found[name], looked[name]] for name in sorted(found)})
    good = sorted(name for name in found if looked[name].kind != pictures.BAD)
    if not good:
        raise ConfigError(
            f'data.path={path!r}: holds no picture that can be read among {len(found)} files '
            f'ending in {", ".join(pictures.SUFFIXES)}'
        )
    checked = [looked[name] for name in good]
    return Index(
        tuple(good),
        np.array([pictures.KINDS.index(one.kind) for one in checked], np.uint8),
        np.array([[one.height, one.width] for one in checked], np.int32),
        np.array([one.orientation for one in checked], np.uint8),
        np.array([one.peak for one in checked], np.float32),
        np.array([one.pages for one in checked], np.uint8),
        {name: looked[name].reason for name in sorted(found.keys() - set(good))},
    )


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


def _look_at(root: str, names: list[str]) -> dict[str, Checked]:
    def look(name: str) -> Checked:
        try:
            with open(os.path.join(root, name), 'rb') as file:
                return pictures.check(file.read())
        except OSError as error:
            return Checked(pictures.BAD, reason=error.strerror)

    looked, start = {}, time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        parts = [names[i : i + _BATCH] for i in range(0, len(names), _BATCH)]
        found_in = executor.map(lambda part: list(map(look, part)), parts)
        for part, found in zip(parts, found_in, strict=True):
            looked |= dict(zip(part, found, strict=True))
            rate = len(looked) / max(time.monotonic() - start, 1e-9)
            _progress(f'indexing {root}: {len(looked):,} of {len(names):,} files, {rate:,.0f}/s')
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return looked


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
