"""TFRecord files with random access: the place of every record, found once from the lengths alone.

A file is a sequence of [length: uint64][its checksum: uint32][record][its checksum: uint32], so
that finding a record's place reads twelve bytes of each before it, and decodes none.
"""

import hashlib
import os
import pathlib
import struct
from collections.abc import Callable, Sequence

import numpy as np

from simclr_jax.config import ConfigError

_HEADER = struct.Struct('<QI')


def open_records(
    parts: Sequence[tuple[str, int, int]], cache: pathlib.Path
) -> tuple[Callable[[Sequence[int]], list[bytes]], int]:
    """Opens parts of files as one list of records.

    Args:
      parts: `(path, first record, number of records)` in their order.
      cache: where the places are kept, an array for each file.

    Returns:
      A function from indices to records, safe to call from several threads, and their number.

    Raises:
      ConfigError: a file is cut short.
    """
    places = []  # of each record: file, offset, length
    for number, (path, first, count) in enumerate(parts):
        found = _places(path, cache)[first : first + count]
        if len(found) != count:
            raise ConfigError(f'{path}: has {len(found)} of {count} records; prepare it again')
        places.append(np.column_stack([np.full(count, number), found]))
    places = np.concatenate(places)
    files = [os.open(path, os.O_RDONLY) for path, _, _ in parts]  # until the process ends

    def read(indices: Sequence[int]) -> list[bytes]:
        chosen = places[np.asarray(indices, np.int64)].tolist()
        return [os.pread(files[file], length, offset) for file, offset, length in chosen]

    return read, len(places)


def _places(path: str, cache: pathlib.Path) -> np.ndarray:
    """Offset and length `[record, 2]` of each record of a file."""
    status = os.stat(path)
    key = f'{os.path.abspath(path)}:{status.st_size}:{status.st_mtime_ns}'
    saved = cache / f'{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy'
    if saved.exists():
        return np.load(saved, allow_pickle=False)
    found, offset = [], 0
    file = os.open(path, os.O_RDONLY)
    while header := os.pread(file, _HEADER.size, offset):
        length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else status.st_size
        if offset + _HEADER.size + length + 4 > status.st_size:
            raise ConfigError(f'{path}: is cut short after {len(found)} records; prepare it again')
        found.append((offset + _HEADER.size, length))
        offset += _HEADER.size + length + 4
    os.close(file)
    cache.mkdir(parents=True, exist_ok=True)
    temporary = saved.with_suffix(f'.{os.getpid()}.npy')
    np.save(temporary, np.array(found, np.int64).reshape(-1, 2))
    temporary.replace(saved)
    return np.load(saved, allow_pickle=False)
