"""From the rows of a table of labels to the pictures of a folder, and what is wrong with them.

All of it is done with names alone: before a picture is looked at.
"""

import os
import pathlib
import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simclr_jax.config import ConfigError
from simclr_jax.data import pictures
from simclr_jax.data.folder_files import Names
from simclr_jax.data.folder_layout import ALL, split_name
from simclr_jax.data.label_table import Rows
from simclr_jax.data.picture_labels import PictureLabels, listed

# What data.labels may do where a picture has several; the probes may not.
OR_SEVERAL = ', or set data.several_labels=True if a picture may have several'
_SEVERAL = '[;|]'  # between the labels of one cell
_UNSURE = ('na', 'n/a', 'nan', 'none', 'null', 'unknown', '?')  # perhaps no classes
_MOST_SPLITS = 100
_SUFFIX = f'(?i)({"|".join(re.escape(suffix) for suffix in pictures.SUFFIXES)})$'


class Matched(NamedTuple):
    """What a table says of the pictures, and what a user should know about it, a line each."""

    labels: PictureLabels
    notes: tuple[str, ...]


def match(
    rows: Rows,
    names: Names,
    root: bytes,
    table: pathlib.Path,
    *,
    several: bool | None,
    left_out: Mapping[str, str],
) -> Matched:
    """Finds the picture of each row.

    A row names a file below the folder, from the folder, from where the table is, or from the root
    of the disk, with `/` or `\\`, and with its suffix unless no other picture has that name.

    Args:
      rows: of the table.
      names: of the pictures below the folder.
      root: the folder.
      table: the file of the table.
      several: whether a picture may have several labels, in rows of their own or in one cell with
        `;` or `|` between them; None: if there are such pictures.
      left_out: files below the folder that cannot be read, and why.

    Raises:
      ConfigError: no row names a picture; a row may mean two; a picture has two labels but not
        `several`, or two splits.
    """
    notes = list(rows.notes)
    place = places(rows, names, root, table)
    missing = np.flatnonzero(place < 0)
    if missing.size == len(place):
        raise ConfigError(_none_there(rows, names, root))
    if missing.size:
        files = pc.unique(rows.file.take(pa.array(missing))).to_pylist()
        first = [
            f'{file} ({rows.where(pc.index(rows.file, file).as_py())}'
            f'{"; " + left_out[file] if file in left_out else ""})'
            for file in files[:5]
        ]
        notes.append(
            f'{len(files):,} file{"s" * (len(files) != 1)} of the table '
            f'{"is" if len(files) == 1 else "are"} not there: {", ".join(first)}'
            f'{", ..." if len(files) > 5 else ""}'
        )
    splits, split = _splits(rows, place, names, notes)
    row, text = _labels(rows, several)
    there = place[row] >= 0
    picture, text = place[row[there]], text.filter(pa.array(there))
    label_names, label = _number(text)
    pairs, first = np.unique(picture * np.int64(len(label_names) + 1) + label, return_index=True)
    if len(pairs) < len(picture):
        again = len(picture) - len(pairs)
        notes.append(
            f'{again:,} row{"s repeat" if again > 1 else " repeats"} what another one says'
        )
    picture, label = picture[first].astype(np.int32), label[first].astype(np.int32)
    twice = np.unique(picture[1:][picture[1:] == picture[:-1]])
    several = bool(twice.size) if several is None else several
    labels = PictureLabels(rows.name, label_names, picture, label, several, splits, split)
    if twice.size and not several:
        shown = [f'{names[i]} ({_each_label(rows, place, i)})' for i in twice[:5]]
        raise ConfigError(
            f'{rows.name}: {twice.size:,} picture{"s have" if twice.size > 1 else " has"} two or '
            f'more labels: {", ".join(shown)}{", ..." if twice.size > 5 else ""}. Keep one of '
            f'them{OR_SEVERAL}'
        )
    if not len(picture):
        raise ConfigError(f'{rows.name}: its column of labels is empty; fill it')
    notes += _about_labels(rows, place, names, labels)
    return Matched(labels, tuple(notes))


def _each_label(rows: Rows, place: np.ndarray, picture: int) -> str:
    """Returns the labels of one picture, with where they are, the first few."""
    lines = np.flatnonzero(place == picture)
    said = {rows.label[int(row)].as_py(): rows.where(int(row)) for row in lines[::-1]}
    shown = [f'{label} in {where}' for label, where in [*said.items()][::-1] if label]
    return ', '.join(shown[:3]) + ', ...' * (len(shown) > 3)


def _texts(names: Names) -> pa.Array:
    """The names as they are read in a table; those that are UTF-8 without a copy of each."""
    joined = bytes(names.joined())
    try:
        joined.decode('utf-8')
    except UnicodeDecodeError:
        return pa.array(list(names), pa.large_string())
    ends = np.zeros(len(names) + 1, np.int64)
    np.cumsum(names.lengths(), dtype=np.int64, out=ends[1:])
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(joined)]
    return pa.Array.from_buffers(pa.large_string(), len(names), buffers)


def places(rows: Rows, names: Names, root: bytes, table: pathlib.Path) -> np.ndarray:
    """Returns the place of each row's picture, -1 where there is none, `[row]` int64.

    The arguments are those of `match`; raises ConfigError where a row may mean two.
    """
    known = _texts(names)
    place = np.full(len(rows.file), -1, np.int64)

    def look(files: pa.Array, among: pa.Array) -> None:
        """`files` are those of the rows that are not found yet."""
        found = pc.fill_null(pc.index_in(files, value_set=among), -1).to_numpy(False)
        place[place < 0] = found

    def rest(files: pa.Array) -> pa.Array:
        return files.filter(pa.array(place < 0))

    look(rows.file, known)
    if (place >= 0).all():
        return place
    files = pc.replace_substring(rows.file, '\\', '/')
    files = pc.replace_substring_regex(files, r'^(\./)+', '')
    look(rest(files), known)
    for prefix in _prefixes(root, table):
        files = pc.if_else(
            pc.starts_with(files, prefix),
            pc.utf8_slice_codeunits(files, len(prefix)),
            files,
        )
        look(rest(files), known)
    if (place >= 0).all():
        return place
    files = pc.utf8_normalize(files, 'NFC')  # a Mac's disk takes letters and accents apart
    known = pc.utf8_normalize(known, 'NFC')
    look(rest(files), known)
    stems = pc.replace_substring_regex(known, _SUFFIX, '')
    counts = pc.value_counts(stems)
    several = counts.field('values').filter(pc.greater(counts.field('counts'), 1))
    unsure = np.flatnonzero((place < 0) & pc.is_in(files, value_set=several).to_numpy(False))
    if unsure.size:
        first = files[int(unsure[0])]
        which = known.filter(pc.equal(stems, first)).to_pylist()
        raise ConfigError(
            f'{rows.name}: {unsure.size:,} row{"s" * (unsure.size != 1)} may mean several '
            f'pictures, as {rows.file[int(unsure[0])].as_py()!r}, which is {" or ".join(which)}; '
            'write names with their suffix'
        )
    look(rest(files), stems)
    return place


def _prefixes(root: bytes, table: pathlib.Path) -> list[str]:
    """What the names in a table may begin with to say where the folder is."""
    found = [os.fsdecode(root), os.path.realpath(os.fsdecode(root))]
    for one in dict.fromkeys(found):
        inside = os.path.relpath(one, os.path.realpath(table.parent))
        if not inside.startswith('.'):
            found.append(inside)
    return [f'{prefix.rstrip("/")}/' for prefix in dict.fromkeys(found)]


def _none_there(rows: Rows, names: Names, root: bytes) -> str:
    def base(file: str) -> str:
        return re.sub(_SUFFIX, '', re.split(r'[/\\]', file)[-1]).casefold()

    wanted = {base(file): file for file in rows.file[:1000].to_pylist()}
    like = next((name for name in names if base(name) in wanted), None)
    hint = f': {wanted[base(like)]!r} of the table is perhaps {like!r} there' if like else ''
    return (
        f'{rows.name}: none of the files in its column of files is below {os.fsdecode(root)} (the '
        f'first is {rows.file[0].as_py()!r}, and the first picture there is {names[0]!r}). Name '
        f'files from that folder on{hint}'
    )


def _splits(
    rows: Rows, place: np.ndarray, names: Names, notes: list[str]
) -> tuple[tuple[str, ...], np.ndarray]:
    split = np.full(len(names), -1, np.int8)
    if rows.split is None:
        return (), split
    encoded = rows.split.dictionary_encode()
    if len(encoded.dictionary) > _MOST_SPLITS:
        raise ConfigError(
            f'{rows.name}: its column of splits holds {len(encoded.dictionary):,} different '
            f'texts, as {encoded.dictionary[0].as_py()!r}; rename it if it says something else'
        )
    texts = [split_name(text) if text else '' for text in encoded.dictionary.to_pylist()]
    if ALL in texts:
        raise ConfigError(
            f'{rows.name}: has a split {ALL!r}, which is what all pictures are called; rename it'
        )
    order = {name: i for i, name in enumerate(('train', 'validation', 'test'))}
    there = place >= 0
    number = encoded.indices.to_numpy(False)[there]
    used = {texts[i] for i in np.unique(number)} - {''}
    splits = tuple(sorted(used, key=lambda name: (order.get(name, 3), _in_order(name))))
    number = np.array([splits.index(t) if t in splits else -1 for t in texts], np.int64)[number]
    places = place[there]
    given = number >= 0
    pairs = np.unique(places[given] * (_MOST_SPLITS + 1) + number[given])
    places, number = pairs // (_MOST_SPLITS + 1), pairs % (_MOST_SPLITS + 1)
    if (twice := np.unique(places[1:][places[1:] == places[:-1]])).size:
        shown = [
            f'{names[i]} ({", ".join(splits[j] for j in number[places == i])})' for i in twice[:5]
        ]
        raise ConfigError(
            f'{rows.name}: {twice.size:,} picture{"s are" if twice.size > 1 else " is"} in two '
            f'splits: {", ".join(shown)}{", ..." if twice.size > 5 else ""}; keep one of them'
        )
    split[places] = number
    lacking = np.unique(place[there][split[place[there]] < 0])
    if splits and lacking.size:
        notes.append(
            f'{lacking.size:,} picture{"s have" if lacking.size > 1 else " has"} a row but no '
            f'split: {listed(names, lacking)}'
        )
    return splits, split


def _labels(rows: Rows, several: bool | None) -> tuple[np.ndarray, pa.Array]:
    """The row of each label that is given, rising, and its text."""
    many = pc.match_substring_regex(rows.label, _SEVERAL)
    if several is False:
        if count := pc.sum(many).as_py():
            first = pc.index(many, True).as_py()
            raise ConfigError(
                f'{rows.name}: {count:,} row{"s have" if count > 1 else " has"} several labels, as '
                f'{rows.label[first].as_py()!r} of {rows.file[first].as_py()} in '
                f'{rows.where(first)}. Keep one label for each picture, without ; and |{OR_SEVERAL}'
            )
        row, text = np.arange(len(rows.label)), rows.label
    else:
        lists = pc.split_pattern_regex(rows.label, _SEVERAL)
        row = pc.list_parent_indices(lists).to_numpy(False)
        text = pc.utf8_trim_whitespace(pc.list_flatten(lists))
    given = pc.not_equal(text, '')
    return row[given.to_numpy(False)].astype(np.int64), text.filter(given)


def _number(text: pa.Array) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes, in order, and the number of each text's, `[label]` int64."""
    encoded = text.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=lambda i: _in_order(names[i]))
    number = np.empty(len(names), np.int64)
    number[order] = np.arange(len(names))
    label = number[encoded.indices.to_numpy(False)] if names else np.zeros(0, np.int64)
    return tuple(names[i] for i in order), label


def _in_order(name: str) -> tuple[bool, int, str]:
    """Numbers by their value, before texts."""
    whole = name.isascii() and name.isdecimal()
    return not whole, int(name) if whole else 0, name


def _about_labels(rows: Rows, place: np.ndarray, names: Names, labels: PictureLabels) -> list[str]:
    notes = []
    empty = np.flatnonzero(pc.equal(rows.label, '').to_numpy(False) & (place >= 0))
    if empty.size:
        files = listed(names, place[empty])
        notes.append(f'{empty.size:,} row{"s" * (empty.size != 1)} without a label: {files}')
    without = np.flatnonzero(~labels.has_label())
    if without.size:
        notes.append(
            f'{without.size:,} of {len(names):,} pictures have no label: {listed(names, without)}'
        )
    alike: dict[str, list[int]] = {}
    for number, name in enumerate(labels.label_names):
        key = re.sub(r'[\s_-]+', ' ', unicodedata.normalize('NFKC', name)).casefold()
        alike.setdefault(key, []).append(number)
    count = np.bincount(labels.label, minlength=len(labels.label_names))
    same = [numbers for numbers in alike.values() if len(numbers) > 1]
    if same:
        shown = [
            ' and '.join(f'{labels.label_names[i]!r} ({count[i]:,})' for i in numbers)
            for numbers in same[:5]
        ]
        notes.append(
            f'{len(same):,} class{"es are" if len(same) > 1 else " is"} perhaps written in several '
            f'ways, and taken as different ones: {"; ".join(shown)}{"; ..." if same[5:] else ""}'
        )
    unsure = [i for i, name in enumerate(labels.label_names) if name.casefold() in _UNSURE]
    if unsure:
        shown = ', '.join(f'{labels.label_names[i]!r} ({count[i]:,})' for i in unsure)
        notes.append(
            f'taken as a class: {shown}; leave the cell empty where nobody knows the label'
        )
    if len(labels.label_names) == 1:
        notes.append(f'there is only one class, {labels.label_names[0]!r}')
    return notes
