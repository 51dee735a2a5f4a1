"""A table of pictures and their masks, or of their splits: a CSV, TSV or Parquet file.

    file,mask,split
    day/0001.jpg,labels/0001_L.png,train

Without a column of masks, pictures and masks are put together by their names (`mask_pairs.py`), and
the table says the splits. Without one of splits, the folders that the pictures are in say them.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simclr_jax.config import ConfigError
from simclr_jax.data import label_matching, label_table, mask_pairs
from simclr_jax.data.folder_files import Folder, Names
from simclr_jax.data.label_table import FILE, SPLIT, Rows
from simclr_jax.data.mask_found import listed
from simclr_jax.data.mask_pairs import Pairs

# What a column of masks may be called, in any case; the first that is there is taken.
MASK = ('mask', 'masks', 'mask_file', 'mask_path', 'mask_name', 'annotation', 'annotation_path')
MASK += ('segmentation', 'label_file', 'label_path', 'label')


def pairs(names: Names, folder: Folder, path: str, table: str) -> Pairs:
    """Puts pictures and masks together as a table says.

    Args:
      names: of the files below the folder.
      folder: it.
      path: its name, for people.
      table: the file, as it is given or else below the folder.

    Raises:
      ConfigError: there is no such file, it lacks a column, none of its files is there, or a
        picture has two masks or splits.
    """
    place = label_table.find(table, path)
    name, notes = f'data.labels={str(place)!r}', []
    opened, where = label_table.open_table(place, name, (*FILE, *MASK, *SPLIT))
    columns = [label_table.column(opened, words, name, notes) for words in (FILE, MASK, SPLIT)]
    file, mask, split = columns
    if file is None or (mask is None and split is None):
        lacks = 'files (file, image ...)' if file is None else 'masks (mask ...) or splits (split)'
        shown = ', '.join(map(repr, opened.column_names[:30]))
        raise ConfigError(
            f'{name}: lacks a column of {lacks}; its columns are {shown}. Rename those that are '
            'meant'
        )
    if not len(file):
        raise ConfigError(f'{name}: has no rows; add one for each picture that has a mask')
    found = mask_pairs.sort_files(names)
    picture = _places(Rows(name, file, file, None, where), names, found.images, folder, place)
    _say_missing(file, picture, where, 'picture', notes)
    if (picture < 0).all():
        raise ConfigError(_none_there(name, file, names, 'pictures', folder))
    splits = _splits(name, split, picture, names, where)
    if mask is None:
        paired = mask_pairs.by_name(names, path)
        of = [splits.get(int(i), '') for i in paired.picture]
        return Pairs(paired.picture, paired.mask, tuple(of), (*notes, *paired.notes))
    given = pc.not_equal(mask, '').to_numpy(False)
    masks = np.full(len(file), -1, np.int64)
    rows = Rows(name, mask.filter(pa.array(given)), mask, None, where)
    masks[given] = _places(rows, names, found.masks, folder, place)
    _say_missing(mask, np.where(given, masks, 0), where, 'mask', notes)
    if bare := np.flatnonzero(~given).tolist():
        notes.append(
            f'{len(bare):,} row{"s name" if len(bare) != 1 else " names"} no mask: '
            f'{listed([file[i].as_py() for i in bare[:6]])}; left out'
        )
    if (masks < 0).all():
        raise ConfigError(_none_there(name, rows.file, names, 'masks', folder))
    mask_of = _one_each(name, picture, masks, names, where)
    folders = {i: key for key, i in found.images.items()}
    chosen = sorted(mask_of)
    return Pairs(
        np.array(chosen, np.int64),
        np.array([mask_of[i] for i in chosen], np.int64),
        tuple(splits[i] if i in splits else folders.get(i, ('',))[0] for i in chosen),
        tuple(notes),
    )


def _places(
    rows: Rows,
    names: Names,
    below: dict[tuple[str, bytes], int],
    folder: Folder,
    table: pathlib.Path,
) -> np.ndarray:
    """The place of each row's file; it may also be named from its folder of pictures or masks on.

    Args:
      rows: of the table.
      names: of the files below the folder.
      below: those of the folder of pictures, or of masks: from `mask_pairs.sort_files`.
      folder: it.
      table: the file of the table.
    """
    found = label_matching.places(rows, names, folder.root, table)
    missing = np.flatnonzero(found < 0)
    short = sorted((name, place) for (_, name), place in below.items())
    unique = len({name for name, _ in short}) == len(short)
    if missing.size and short and unique:
        rest = rows._replace(file=rows.file.take(pa.array(missing)))
        own = Names(b''.join(name for name, _ in short), [len(name) for name, _ in short])
        again = label_matching.places(rest, own, folder.root, table)
        places = np.array([place for _, place in short])
        found[missing] = np.where(again >= 0, places[again], -1)
    return found


def _say_missing(files: pa.Array, place: np.ndarray, where, what: str, notes: list[str]) -> None:
    if missing := np.flatnonzero(place < 0).tolist():
        shown = listed([f'{files[i].as_py()} ({where(i)})' for i in missing[:6]])
        notes.append(
            f'{len(missing):,} {what}{"s" * (len(missing) != 1)} of the table '
            f'{"are" if len(missing) != 1 else "is"} not there: {shown}; left out'
        )


def _none_there(name: str, files: pa.Array, names: Names, what: str, folder: Folder) -> str:
    there = f'the first file there is {names[0]!r}' if len(names) else 'there is no picture below'
    first = f'the first is {files[0].as_py()!r}' if len(files) else 'the column is empty'
    return (
        f'{name}: none of the {what} that it names is below {folder.name} ({first}; {there}). Name '
        'files from that folder on'
    )


def _splits(
    name: str, split: pa.Array | None, picture: np.ndarray, names: Names, where
) -> dict[int, str]:
    """The split of each picture that a row gives one."""
    said: dict[int, tuple[str, int]] = {}
    for row, (place, one) in enumerate(zip(picture.tolist(), (split or []), strict=False)):
        one = one.as_py()
        if place < 0 or not one:
            continue
        if said.setdefault(place, (one, row))[0] != one:
            before, first = said[place]
            raise ConfigError(
                f'{name}: {names[place]} is in two splits, {before!r} in {where(first)} and '
                f'{one!r} in {where(row)}; keep one of them'
            )
    return {place: one for place, (one, _) in said.items()}


def _one_each(
    name: str, picture: Sequence[int], mask: Sequence[int], names: Names, where
) -> dict[int, int]:
    """The mask of each picture that has one."""
    said: dict[int, tuple[int, int]] = {}
    for row, (place, one) in enumerate(zip(picture.tolist(), mask.tolist(), strict=True)):
        if place < 0 or one < 0:
            continue
        if said.setdefault(place, (one, row))[0] != one:
            before, first = said[place]
            raise ConfigError(
                f'{name}: {names[place]} has two masks, {names[before]} in {where(first)} and '
                f'{names[one]} in {where(row)}; keep one of them'
            )
    return {place: one for place, (one, _) in said.items()}
