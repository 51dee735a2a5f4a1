"""What is in pictures and their masks: each file looked at once, and remembered."""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from simclr_jax.data import mask_decode, pictures
from simclr_jax.data.folder_files import Files, Folder, readable
from simclr_jax.data.folder_index import Counting
from simclr_jax.data.mask_pairs import Pairs

_VERSION = 1  # of what is said of a pair; a new one has every file looked at again
_KEY = np.dtype([('sizes', '<i8', 2), ('times', '<i8', 2), ('names', 'S16')])
_ROW = np.dtype(
    [
        ('key', _KEY),  # of the picture and the mask: bytes, nanoseconds, and a digest of the names
        ('height', '<u2'),  # pixels, of the upright picture
        ('width', '<u2'),
        ('peak', '<f4'),  # the picture's largest value of more than 8 bits, else 0
        ('digest', 'S16'),  # of the picture's bytes
        ('reason', 'S200'),  # why the pair is bad, else b''
        ('values', '<i4'),  # how many there are in the mask
    ]
)
_SAVE_EVERY = 5000  # pairs


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """What was found in `n` pairs.

    Attributes:
      rows: `[n]` of `_ROW`.
      values: those that each mask has, rising, one mask after the other, `[m]` int32.
      counts: pixels of each, `[m]` int64.
    """

    rows: np.ndarray
    values: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def reason(self, pair: int) -> str:
        """Returns why a pair is bad, '' for a good one."""
        return self.rows['reason'][pair].decode()

    def owners(self) -> np.ndarray:
        """The pair that each of `values` is of, `[m]` int64."""
        return np.repeat(np.arange(len(self)), self.rows['values'])

    def pack(self) -> bytes:
        """Returns it as bytes."""
        stream = io.BytesIO()
        np.savez(stream, version=_VERSION, rows=self.rows, values=self.values, counts=self.counts)
        return stream.getvalue()


def unpack(packed: bytes) -> Scan:
    """Reads what `Scan.pack` made; raises ValueError where it is damaged or of another version."""
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as saved:
            if int(saved['version']) != _VERSION or saved['rows'].dtype != _ROW:
                raise ValueError('is of another version')
            return Scan(saved['rows'], saved['values'], saved['counts'])
    except (KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError('is damaged') from error


def scan(folder: Folder, files: Files, pairs: Pairs, cache: pathlib.Path) -> Scan:
    """Looks at each pair; those that are as they were at the last time are not looked at again.

    Args:
      folder: of the files.
      files: those below it.
      pairs: of them.
      cache: the folder where what was found is kept, a file for each folder of pictures.

    Raises:
      RunError: the folder has gone.
    """
    file = cache / f'{hashlib.sha256(folder.root).hexdigest()[:16]}.npz'
    rows = np.zeros(len(pairs.picture), _ROW)
    both = np.stack([pairs.picture, pairs.mask], axis=1)
    rows['key']['sizes'], rows['key']['times'] = files.sizes[both], files.times[both]
    rows['key']['names'] = [
        hashlib.blake2b(b'\0'.join(map(files.names.raw, pair)), digest_size=15).hexdigest()[:16]
        for pair in both.tolist()
    ]
    found: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(rows)
    _recall(file, rows, found)
    new = [i for i, values in enumerate(found) if values is None]
    unread: set[int] = set()

    def look(pair: int) -> None:
        try:
            encoded = [folder.read(files.names.raw(place)) for place in both[pair].tolist()]
        except OSError as error:
            unread.add(pair)  # looked at again at the next start: the reason may have gone
            rows[pair]['reason'] = _cut(f'{error.strerror or error}')
            found[pair] = _NONE
            return
        found[pair] = _look(*encoded, rows[pair])

    progress = Counting(f'looking at the masks of {readable(folder.root)}', len(new))
    executor = ThreadPoolExecutor(os.cpu_count())
    try:
        for number, _ in enumerate(executor.map(look, new), 1):
            progress.update(number)
            if number % _SAVE_EVERY == 0:
                _remember(file, rows, found, unread)
    finally:  # Ctrl-C, or a folder that has gone
        executor.shutdown(cancel_futures=True)
        progress.finish()
        if new:
            _remember(file, rows, found, unread)
    return _scan(rows, found, range(len(rows)))


_NONE = np.zeros(0, np.int32), np.zeros(0, np.int64)


def _look(encoded: bytes, encoded_mask: bytes, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Writes down what a pair is; returns the values of its mask and how often each occurs."""
    row['digest'] = hashlib.blake2b(encoded).hexdigest()[:16]
    checked = pictures.check(encoded)
    if checked.kind == pictures.BAD:
        row['reason'] = _cut(checked.reason)
        return _NONE
    row['height'], row['width'], row['peak'] = checked.height, checked.width, checked.peak
    try:
        mask = mask_decode.values(encoded_mask)
    except OSError as error:
        row['reason'] = _cut(f'its mask: {error}')
        return _NONE
    if mask.shape != (checked.height, checked.width):
        row['reason'] = _cut(_other_size(checked, mask.shape))
        return _NONE
    values, counts = _count(mask)
    row['values'] = len(values)
    return values, counts


def _other_size(checked: pictures.Checked, mask: tuple[int, int]) -> str:
    picture = f'{checked.width} x {checked.height} pixels'
    text = f'has {picture}, its mask {mask[1]} x {mask[0]}'
    if checked.orientation >= 5 and mask == (checked.width, checked.height):
        return (
            f'{text}: EXIF turns the picture ({checked.orientation}), but not the mask; save the '
            'picture as it is stored, without EXIF'
        )
    return text


def _count(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if mask.min() >= 0 and mask.max() < 2**16:  # much quicker than to sort
        counts = np.bincount(mask.ravel())
        values = np.flatnonzero(counts)
        return values.astype(np.int32), counts[values]
    values, counts = np.unique(mask, return_counts=True)
    return values, counts.astype(np.int64)


def _cut(reason: str) -> bytes:
    return reason.encode()[: _ROW['reason'].itemsize].decode('utf-8', 'ignore').encode()


def _recall(file: pathlib.Path, rows: np.ndarray, found: list) -> None:
    try:
        known = unpack(file.read_bytes())
    except (OSError, ValueError):
        return
    ends = np.cumsum(known.rows['values'])
    places = {key.tobytes(): i for i, key in enumerate(known.rows['key'])}
    for i, key in enumerate(rows['key']):
        if (place := places.get(key.tobytes())) is not None:
            rows[i] = known.rows[place]
            mine = slice(ends[place] - known.rows['values'][place], ends[place])
            found[i] = known.values[mine], known.counts[mine]


def _remember(file: pathlib.Path, rows: np.ndarray, found: list, unread: set[int]) -> None:
    done = [i for i, values in enumerate(found) if values is not None and i not in unread]
    temporary = file.with_name(f'{file.name}.{os.getpid()}.tmp')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_scan(rows, found, done).pack())
        temporary.replace(file)
    except OSError:  # no room, or no permission: all are looked at again at the next start
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _scan(rows: np.ndarray, found: list, chosen) -> Scan:
    chosen = list(chosen)
    parts = [found[i] for i in chosen]
    return Scan(
        rows[chosen],
        np.concatenate([_NONE[0], *(values for values, _ in parts)]),
        np.concatenate([_NONE[1], *(counts for _, counts in parts)]),
    )
