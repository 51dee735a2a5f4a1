"""What is in pictures and their masks: each looked at once, and remembered."""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from simclr_jax.data import mask_decode, pictures
from simclr_jax.data.folder_index import Counting

_VERSION = 1  # of what is said of a pair; a new one has every file looked at again
ROW = np.dtype(
    [
        ('key', 'S32'),  # what stands for the pair as it was when it was looked at
        ('height', '<u2'),  # pixels, of the upright picture
        ('width', '<u2'),
        ('peak', '<f4'),  # the picture's largest value of more than 8 bits, else 0
        ('picture', 'S16'),  # digest of its file
        ('mask', 'S16'),  # likewise
        ('reason', 'S200'),  # why the pair is bad, else b''
        ('values', '<i4'),  # how many different ones there are in the mask
    ]
)
_SAVE_EVERY = 5000  # pairs
_NONE = np.zeros(0, np.int32), np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """What was found in `n` pairs.

    Attributes:
      rows: `[n]` of `ROW`.
      values: those that each mask has, rising, one mask after the other, `[m]` int32.
      counts: pixels of each, `[m]` int64.
    """

    rows: np.ndarray
    values: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def reasons(self) -> dict[int, str]:
        """Returns why pairs are bad, by their place."""
        bad = np.flatnonzero(self.rows['reason'])
        return {int(i): self.rows['reason'][i].decode() for i in bad}

    def of(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the values of some masks, the pixels of each, and the pair it is of, `[m]`."""
        owners = np.repeat(np.arange(len(self)), self.rows['values'])
        mine = np.isin(owners, pairs)
        return self.values[mine], self.counts[mine], owners[mine]

    def pack(self) -> bytes:
        """Returns it as bytes."""
        stream = io.BytesIO()
        np.savez(stream, version=_VERSION, rows=self.rows, values=self.values, counts=self.counts)
        return stream.getvalue()


def unpack(packed: bytes) -> Scan:
    """Reads what `Scan.pack` made; raises ValueError where it is damaged or of another version."""
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as saved:
            if int(saved['version']) != _VERSION or saved['rows'].dtype != ROW:
                raise ValueError('is of another version')
            return Scan(saved['rows'], saved['values'], saved['counts'])
    except (KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError('is damaged') from error


def key(*parts: bytes | int) -> bytes:
    """Returns what stands for a pair: the same for the same parts."""
    text = b'\0'.join(part if isinstance(part, bytes) else b'%d' % part for part in parts)
    return hashlib.blake2b(text, digest_size=16).hexdigest().encode()


def scan(
    keys: Sequence[bytes],
    read: Callable[[int], tuple[bytes, bytes]],
    file: pathlib.Path,
    title: str,
    first_channel: bool = False,
) -> Scan:
    """Looks at each pair; one whose key was looked at before is not looked at again.

    Args:
      keys: from `key`, of each pair.
      read: returns the files of a pair, picture and mask; several threads call it.
      file: where what was found is kept.
      title: of what is looked at, for people.
      first_channel: as in `mask_decode.values`.

    Raises:
      RunError: `read` raises it, as the folder has gone.
    """
    rows = np.zeros(len(keys), ROW)
    rows['key'] = keys
    found: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(rows)
    _recall(file, rows, found)
    new = [i for i, values in enumerate(found) if values is None]
    unread: set[int] = set()

    def look(pair: int) -> None:
        try:
            encoded = read(pair)
        except OSError as error:
            unread.add(pair)  # looked at again at the next start: the reason may have gone
            rows[pair]['reason'] = _cut(f'{error.strerror or error}')
            found[pair] = _NONE
            return
        found[pair] = _look(*encoded, rows[pair], first_channel)

    progress = Counting(f'looking at the masks of {title}', len(new))
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


def _look(
    encoded: bytes, encoded_mask: bytes, row: np.void, first_channel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Writes down what a pair is; returns the values of its mask and how often each occurs."""
    for column, content in (('picture', encoded), ('mask', encoded_mask)):
        row[column] = hashlib.blake2b(content, digest_size=8).hexdigest().encode()
    checked = pictures.check(encoded)
    if checked.kind == pictures.BAD:
        row['reason'] = _cut(checked.reason)
        return _NONE
    row['height'], row['width'], row['peak'] = checked.height, checked.width, checked.peak
    try:
        mask = mask_decode.values(encoded_mask, first_channel)
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
    text = f'has {checked.width} x {checked.height} pixels, its mask {mask[1]} x {mask[0]}'
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
    return reason.encode()[: ROW['reason'].itemsize].decode('utf-8', 'ignore').encode()


def _recall(file: pathlib.Path, rows: np.ndarray, found: list) -> None:
    try:
        known = unpack(file.read_bytes())
    except (OSError, ValueError):
        return
    ends = np.cumsum(known.rows['values'])
    places = {one: i for i, one in enumerate(known.rows['key'].tolist())}
    for i, one in enumerate(rows['key'].tolist()):
        if (place := places.get(one)) is not None:
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


def _scan(rows: np.ndarray, found: list, chosen: Sequence[int]) -> Scan:
    parts = [found[i] for i in chosen]
    return Scan(
        rows[list(chosen)],
        np.concatenate([_NONE[0], *(values for values, _ in parts)]),
        np.concatenate([_NONE[1], *(counts for _, counts in parts)]),
    )
