"""What a folder of pictures holds: each file looked at once, remembered, in splits and classes."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.data import (
    deep,
    folder_cache,
    folder_files,
    folder_labels,
    picture_labels,
    pictures,
)
from simclr_jax.data.folder_cache import TABLE, Known
from simclr_jax.data.folder_files import Files, Folder, Names, open_folder, readable
from simclr_jax.data.folder_labels import FindLabels
from simclr_jax.data.folder_layout import ALL, Layout, is_test, lay_out, with_labels
from simclr_jax.data.picture_labels import PictureLabels
from simclr_jax.data.pictures import Checked

_NAMED = 5  # files named in a line
_LISTED = 100  # bad files in a list
_BATCH = 64  # files, at most, that a thread looks at between two updates of the progress
_SAVE_SECONDS = 20.0  # between two times that a growing index is saved
_SAY_SECONDS = 60.0  # between two lines of progress where there is no terminal
_BAD = pictures.KINDS.index(pictures.BAD)


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """The pictures below a folder, by name, and what is left out.

    Attributes:
      known: the good pictures of the run.
      bad: name to the reason why a file, or all below a folder, is left out.
      notes: what else to say about the folder, a line each.
      labels: of a table; None where the names of the sub-folders are the labels.
    """

    known: Known
    bad: dict[str, str]
    notes: tuple[str, ...] = ()
    labels: PictureLabels | None = None

    @property
    def names(self) -> Names:
        """Paths below the folder, sorted by their bytes."""
        return self.known.names

    @property
    def kinds(self) -> np.ndarray:
        """Place in `pictures.KINDS` of each picture, `[n]` uint8."""
        return self.known.table['kind']

    @property
    def orientations(self) -> np.ndarray:
        """EXIF's number of each, 1 to 8, `[n]` uint8."""
        return self.known.table['orientation']

    @property
    def peaks(self) -> np.ndarray:
        """The largest value of each that has more than 8 bits, 0 for the others, `[n]` float32."""
        return self.known.table['peak']

    @property
    def intensity(self) -> deep.Range:
        """The values that become black and white where a picture has more than 8 bits."""
        return deep.range_of([float(self.peaks.max(initial=0))])

    @property
    def pages(self) -> np.ndarray:
        """2 for each TIFF of several pages, 1 for the others, `[n]` uint8."""
        return self.known.table['pages']

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """Height and width of each, upright, in pixels, `[n, 2]` int32."""
        table = self.known.table
        return np.stack([table['height'], table['width']], axis=1).astype(np.int32)

    @functools.cached_property
    def layout(self) -> Layout:
        """Its splits and classes."""
        layout = lay_out(self.names, self.known.table['test'])
        return with_labels(layout, self.labels) if self.labels else layout

    def pack(self) -> bytes:
        """Which pictures these are, for `read_index` at the next start of the run."""
        return folder_cache.pack(self.known)

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width that no picture exceeds."""
        table = self.known.table
        return int(table['height'].max()), int(table['width'].max())

    def describe(self) -> str:
        """Returns what was found, in one line: pictures, splits, classes or why there are none."""
        layout, count = self.layout, len(self.names)
        text = f'{count:,} picture{"s" * (count != 1)}'
        for i, split in enumerate(layout.names()[:-1]):
            places = layout.places(split)
            kinds = self._kinds(split)
            text += f'{", " if i else ": "}{len(places):,} {split}{kinds}'
        if self.labels:
            have = np.count_nonzero(self.labels.has_label())
            several = ', several a picture' if self.labels.several else ''
            text += f'; {have:,} with labels of {len(layout.label_names):,} classes{several}'
        elif layout.label_names and not layout.splits:
            text += f'; {len(layout.label_names):,} classes, by sub-folder'
        for split, why in layout.unlabelled.items():
            text += f'; no labels{"" if split == ALL else f" in {split}"}: {why}'
        return '\n'.join((text, *self._about_values(), *self.notes))

    def _kinds(self, split: str) -> str:
        layout = self.layout
        if self.labels:
            places = layout.places(split)
            have = np.count_nonzero(self.labels.has_label()[places])
            some = have < len(places) and len(layout.names()) > 2
            return f' ({have:,} with labels)' if some else ''
        if not layout.splits or not layout.labels_of(split):
            return ''
        return f' in {np.unique(layout.label[layout.places(split)]).size:,} classes'

    def _about_values(self) -> Iterator[str]:
        if many := int(np.count_nonzero(self.peaks)):
            low, high = self.intensity
            yield (
                f'{many:,} picture{"s" * (many != 1)} of more than 8 bits: values from '
                f'{low:,.0f} to {high:,.0f} become black to white'
            )
        if many := int(np.count_nonzero(self.pages > 1)):
            yield f'{many:,} TIFF{"s" * (many != 1)} of several pages: the first one is read'


def read_index(
    path: str,
    cache: pathlib.Path,
    held: Callable[[], bytes] | None = None,
    find_labels: FindLabels | None = None,
) -> Index:
    """Indexes a folder; files that are as they were at the last time are not looked at again.

    Of several processes the first one does it, and the others get what it found. What is to be said
    of labels and classes is printed before a file is looked at.

    Args:
      path: the folder.
      cache: where the index is kept, a file for each folder.
      held: returns the pictures that the run has, from `Index.pack`; None for a run that begins,
        which has all of them.
      find_labels: from `folder_labels.finder`; None where there is no table.

    Raises:
      ConfigError: the folder is not there, holds no picture, or lacks some that the run has; or
        what `find_labels` raises.
      RunError: the folder went away.
    """
    return parallel.made_by_main_process(
        lambda: _index(path, cache, held, find_labels), _pack, _unpack
    )


def cache_file(folder: Folder, cache: pathlib.Path) -> pathlib.Path:
    """Returns where the index of a folder is kept."""
    return cache / f'{hashlib.sha256(folder.root).hexdigest()[:16]}.index'


def _index(
    path: str,
    cache: pathlib.Path,
    held: Callable[[], bytes] | None,
    find_labels: FindLabels | None,
) -> Index:
    folder = open_folder(path)
    file = cache_file(folder, cache)
    files = folder_files.walk(folder, pictures.SUFFIXES)
    labels = folder_labels.look(folder, files, find_labels) if len(files.names) else None
    known = folder_cache.load(file)
    if held and not len(known.names):
        with contextlib.suppress(ValueError):  # another version's
            known = folder_cache.unpack(held())  # the folder has moved; its files are as they were
    places = folder_cache.match(known, files.names, files.sizes, files.times)
    if (places < 0).any() or len(known.names) != len(places):
        known = _look(folder, file, files, known, places)
    bad = files.odd | {known.names[i]: reason for i, reason in known.reasons.items()}
    notes = tuple(f'{name} is left out: {why}' for name, why in list(files.again.items())[:_NAMED])
    del files, places
    good = known.table['kind'] != _BAD
    if not good.any():
        raise ConfigError(f'data.path={path!r}: holds no picture{_why_none(bad)}')
    if not good.all():
        notes += folder_labels.about_bad(known.names, good, labels)
        known, labels = _chosen(known, labels, np.flatnonzero(good))
    if held:
        places, added = _only(known, bad, held(), path)
        notes += added
        if len(places) != len(known.names):
            known, labels = _chosen(known, labels, places)
    return Index(known, bad, notes, labels)


def _chosen(
    known: Known, labels: PictureLabels | None, places: np.ndarray
) -> tuple[Known, PictureLabels | None]:
    return known.chosen(places), labels and labels.chosen(places)


def _why_none(bad: dict[str, str]) -> str:
    if not bad:
        suffixes = ', '.join(pictures.SUFFIXES)
        return f', as no file below it ends in {suffixes}. Is the disk that it is on mounted?'
    return f' that can be read among {len(bad):,}: {_first(bad)}'


def _only(
    known: Known, bad: dict[str, str], held: bytes, path: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the places of the pictures that the run has, and what to say about the others."""
    try:
        mine = folder_cache.unpack(held, names_only=True)
    except ValueError as error:
        raise ConfigError(
            f'data.path={path!r}: the list of the pictures that this run began with {error}; '
            'restore data.pictures in its workdir from a copy, or give another --workdir'
        ) from error
    places = folder_cache.match(known, mine.names, mine.table['size'])
    if (lacking := np.flatnonzero(places < 0)).size:
        names = set(known.names) if lacking.size < len(places) else set()
        listed = [
            f'{name} ({"changed" if name in names else bad.get(name, "gone")})'
            for name in map(mine.names.__getitem__, lacking[:_NAMED])
        ]
        more = ', ...' if lacking.size > _NAMED else ''
        raise ConfigError(
            f'data.path={path!r}: {lacking.size:,} of the {len(places):,} pictures that this run '
            f'began with are not there as they were: {", ".join(listed)}{more}. Bring them back, '
            'or begin a new run with another --workdir'
        )
    if len(places) == len(known.names):
        return places, ()
    added = np.setdiff1d(np.arange(len(known.names)), places)
    listed = ', '.join(known.names[i] for i in added[:_NAMED])
    note = (
        f'{added.size:,} picture{"s" * (added.size != 1)} came since this run began ({listed}'
        f'{", ..." if added.size > _NAMED else ""}): left out, as a run goes on with what it began '
        'with; another --workdir begins one with all of them'
    )
    return places, (note,)


def check_bad(bad: dict[str, str], total: int, path: str, max_fraction: float) -> None:
    """Raises ConfigError, with a list, where more than `max_fraction` of `total` files are bad."""
    if len(bad) > max_fraction * total:
        listed = [f'  {name}: {reason}' for name, reason in itertools.islice(bad.items(), _LISTED)]
        if len(bad) > _LISTED:
            listed.append(f'  and {len(bad) - _LISTED:,} more')
        raise ConfigError(
            f'data.path={path!r}: {len(bad)} of {total} files could not be read as pictures, '
            f'more than data.max_bad_fraction={max_fraction}; remove them, or allow more:\n'
            + '\n'.join(listed)
        )


def describe_bad(bad: dict[str, str]) -> str:
    """'3 bad pictures are left out: a.jpg (empty), ...', the first few named."""
    return f'{len(bad)} bad picture{"s are" if len(bad) != 1 else " is"} left out: {_first(bad)}'


def _first(bad: dict[str, str]) -> str:
    listed = [f'{name} ({reason})' for name, reason in itertools.islice(bad.items(), _NAMED)]
    return ', '.join(listed) + (', ...' if len(bad) > _NAMED else '')


def _look(folder: Folder, file: pathlib.Path, files: Files, known: Known, places) -> Known:
    """Looks at the files whose place in `known` is -1; returns what is known of all of them.

    What was found is saved while it grows. A file that could not be read is looked at again at the
    next start: the reason may have gone.
    """
    table = np.zeros(len(places), TABLE)
    old = np.flatnonzero(places >= 0)
    table[old] = known.table[places[old]]
    reasons = {i: known.reasons[j] for i, j in enumerate(places) if j in known.reasons}
    table['size'], table['time'], table['length'] = files.sizes, files.times, files.names.lengths()
    looked = places >= 0
    unread = np.zeros(len(places), bool)
    new = np.flatnonzero(~looked)
    batch = min(_BATCH, len(new) // (4 * (os.cpu_count() or 1)) + 1)  # work for every thread

    def look(start: int) -> None:
        for i in map(int, new[start : start + batch]):
            name = files.names.raw(i)
            try:
                found = pictures.check(folder.read(name))
            except OSError as error:
                unread[i], found = True, Checked(pictures.BAD, reason=str(error.strerror or error))
            row = table[i]
            for column in ('height', 'width', 'orientation', 'peak', 'pages'):
                row[column] = getattr(found, column)
            row['kind'], row['test'] = pictures.KINDS.index(found.kind), is_test(name)
            if found.reason:
                reasons[i] = found.reason
            looked[i] = True

    def save() -> None:
        kept = looked & ~unread
        everything = Known(files.names, table, dict(reasons))
        everything = everything if kept.all() else everything.chosen(np.flatnonzero(kept))
        try:
            folder_cache.save(file, everything)
        except OSError as error:
            print(
                f'the index of {readable(folder.root)} cannot be kept in {file.parent} '
                f'({error.strerror}): every picture is looked at again at the next start',
                file=sys.stderr,
                flush=True,
            )

    progress = Counting(f'indexing {readable(folder.root)}', len(new))
    executor = ThreadPoolExecutor(os.cpu_count())
    due = time.monotonic() + _SAVE_SECONDS
    try:
        for number, _ in enumerate(executor.map(look, range(0, len(new), batch)), 1):
            progress.update(min(number * batch, len(new)))
            if time.monotonic() > due:
                began = time.monotonic()
                save()
                due = time.monotonic() + max(_SAVE_SECONDS, 20 * (time.monotonic() - began))
    finally:  # Ctrl-C, or a folder that has gone
        executor.shutdown(cancel_futures=True)
        progress.finish()
        save()
    return Known(files.names, table, reasons)


class Counting:
    """A line on the terminal that changes; elsewhere one now and then."""

    def __init__(self, text: str, total: int):
        self._text, self._total, self._start = text, total, time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._said = self._start

    def update(self, done: int) -> None:
        now = time.monotonic()
        rate = done / max(now - self._start, 1e-9)
        text = f'{self._text}: {done:,} of {self._total:,} files, {rate:,.0f}/s'
        if self._terminal:
            print(f'\r{text}\x1b[K', end='', file=sys.stderr, flush=True)
        elif now - self._said > _SAY_SECONDS:
            self._said = now
            print(text, file=sys.stderr, flush=True)

    def finish(self) -> None:
        if self._terminal:
            print(file=sys.stderr)


def _pack(index: Index) -> bytes:
    labels = index.labels.pack() if index.labels else b''
    head = json.dumps([index.bad, index.notes, len(labels)]).encode()
    return b''.join((head, b'\n', labels, folder_cache.pack(index.known)))


def _unpack(packed: bytes) -> Index:
    head, _, known = packed.partition(b'\n')
    bad, notes, size = json.loads(head)
    labels = picture_labels.unpack(known[:size]) if size else None
    return Index(folder_cache.unpack(known[size:]), bad, tuple(notes), labels)
