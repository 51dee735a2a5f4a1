"""What is known of a folder's files, as bytes: a line of JSON, a table, the names, the reasons.

A million files take some 60 MB. It is the cached index on the disk, what the first process sends to
the others, and the list of pictures that a run keeps in its workdir.
"""

import dataclasses
import json
import os
import pathlib
import zlib

import numpy as np

from simclr_jax.data import pictures
from simclr_jax.data.folder_files import Names

_FORMAT = 1  # of the bytes
_VERSION = 5  # of what is said of a file; a new one has every file looked at again

TABLE = np.dtype(
    [
        ('size', '<i8'),  # bytes
        ('time', '<i8'),  # nanoseconds, of the last change
        ('length', '<u2'),  # bytes of the name
        ('height', '<u2'),  # pixels, of the upright picture
        ('width', '<u2'),
        ('kind', 'u1'),  # place in pictures.KINDS
        ('orientation', 'u1'),  # EXIF's, 1 to 8
        ('peak', '<f4'),  # the largest value of more than 8 bits, else 0
        ('pages', 'u1'),  # 2 for a TIFF of several
        ('test', '?'),  # whether the name is in the tenth that is 'test'
    ]
)


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """Files that were looked at.

    Attributes:
      names: sorted.
      table: a row of `TABLE` for each.
      reasons: place of each bad one to the reason.
      packed: the bytes that it was read from, None where it was not.
    """

    names: Names
    table: np.ndarray
    reasons: dict[int, str]
    packed: bytes | None = None

    def chosen(self, places: np.ndarray) -> 'Known':
        """Returns what is known of some of the files, in rising order of their places `[m]`."""
        new = {int(old): i for i, old in enumerate(places)} if self.reasons else {}
        reasons = {new[i]: reason for i, reason in self.reasons.items() if i in new}
        return Known(self.names.chosen(places), self.table[places], reasons)


EMPTY = Known(Names(b'', ()), np.zeros(0, TABLE), {})


def pack(known: Known) -> bytes:
    """Returns it as bytes."""
    if known.packed is not None:
        return known.packed
    reasons = json.dumps(known.reasons).encode()
    names = known.names.joined()
    body = memoryview(np.ascontiguousarray(known.table)).cast('B'), names, reasons
    crc32 = 0
    for part in body:
        crc32 = zlib.crc32(part, crc32)
    head = {
        'format': _FORMAT,
        'version': [_VERSION, *pictures.KINDS],
        'files': len(known.names),
        'names': len(names),
        'crc32': crc32,
    }
    return b''.join((json.dumps(head).encode(), b'\n', *body))  # one copy of what is large


def unpack(packed: bytes, names_only: bool = False) -> Known:
    """Reads what `pack` made.

    Args:
      packed: the bytes.
      names_only: take them also where an older version said what the files are.

    Raises:
      ValueError: it is damaged, or of another version.
    """
    try:
        end = packed.index(b'\n') + 1
        head = json.loads(packed[:end])
        version = [_VERSION, *pictures.KINDS]
        if head['format'] != _FORMAT or (not names_only and head['version'] != version):
            raise ValueError('is of another version')
        if head['crc32'] != zlib.crc32(memoryview(packed)[end:]):
            raise ValueError('is damaged')
        table = np.frombuffer(packed, TABLE, head['files'], end)
        start = end + table.nbytes
        stop = start + head['names']
        reasons = {int(place): why for place, why in json.loads(packed[stop:]).items()}
        names = Names(packed, table['length'], start)
        return Known(names, table, reasons, packed if head['version'] == version else None)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError('is damaged') from error


def load(path: pathlib.Path) -> Known:
    """Reads a cached index; one that is missing, damaged or of another version is empty."""
    try:
        return unpack(path.read_bytes())
    except (OSError, ValueError):
        return EMPTY


def save(path: pathlib.Path, known: Known) -> None:
    """Writes a cached index; a reader finds the old one or all of the new one.

    Raises:
      OSError: there is no room, or no permission.
    """
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(pack(known))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def match(
    known: Known, names: Names, sizes: np.ndarray, times: np.ndarray | None = None
) -> np.ndarray:
    """Returns the place in `known` of each file, -1 for one that is new or changed, `[n]` int32.

    Args:
      known: what is known.
      names: of the files, sorted.
      sizes: their bytes, `[n]`.
      times: of their last change, `[n]`; None where that does not matter.
    """
    if known.names == names:  # the common case, without copies of what has a million rows
        places = np.arange(len(names), dtype=np.int32)
        then = known.table
    else:
        places = _match_names(known.names, names)
        then = known.table[places] if len(known.table) else np.zeros(len(names), TABLE)
    changed = then['size'] != sizes
    if times is not None:
        changed |= then['time'] != times
    places[changed] = -1
    return places


def _match_names(known: Names, names: Names) -> np.ndarray:
    places, j = np.full(len(names), -1, np.int32), 0
    there = known.raw(0) if len(known) else None
    for i in range(len(names)):
        name = names.raw(i)
        while there is not None and there < name:
            j += 1
            there = known.raw(j) if j < len(known) else None
        if there == name:
            places[i] = j
    return places
