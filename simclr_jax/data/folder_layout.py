"""What the sub-folders of a folder of pictures mean: splits, or classes, or nothing."""

import dataclasses
import hashlib

import numpy as np

from simclr_jax.data.folder_files import Names, readable
from simclr_jax.data.picture_labels import PictureLabels, class_notes

TRAIN, VALIDATION, TEST, ALL = 'train', 'validation', 'test', 'all'
# Names of sub-folders, in lower case, to the split that each is.
_SPLITS = {b'train': TRAIN, b'training': TRAIN}
_SPLITS |= {b'val': VALIDATION, b'valid': VALIDATION, b'validation': VALIDATION}
_SPLITS |= {b'test': TEST, b'testing': TEST}
_NAMED = 3  # stray pictures named
_TEST_SHARE = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Splits and labels of `n` pictures.

    Attributes:
      splits: those that are sub-folders; () where a tenth, by name, is 'test'.
      split: number of the split that each picture is in, -1 for none, `[n]` int8.
      label: number of its class, -1 for none, `[n]` int32.
      label_names: the classes.
      unlabelled: split to the reason why it has no labels; `ALL` for all of them together.
      table: the labels of a table, where there is one. Then some pictures may have none, and others
        several, which `label` does not say.
    """

    splits: tuple[str, ...]
    split: np.ndarray
    label: np.ndarray
    label_names: tuple[str, ...] | None
    unlabelled: dict[str, str]
    table: PictureLabels | None = None

    def names(self) -> tuple[str, ...]:
        """Returns the splits that can be asked for."""
        return (*(self.splits or (TRAIN, TEST)), ALL)

    def has(self, split: str) -> bool:
        """Whether there is such a split, perhaps under another name."""
        return self._name(split) in self.names()

    def places(self, split: str) -> np.ndarray:
        """Returns the places of a split's pictures, rising, `[m]` int64.

        Where sub-folders are splits and none of them is `test`, that name is the validation's.
        """
        if split == ALL:
            return np.arange(len(self.split))
        return np.flatnonzero(self.split == self.names().index(self._name(split)))

    def _name(self, split: str) -> str:
        if not self.splits:
            return split
        name = split_name(split)
        return VALIDATION if name == TEST and TEST not in self.splits else name

    def labels_of(self, split: str) -> tuple[str, ...] | None:
        """Returns the classes where each picture of a split has one, else None.

        With a table, one picture that has one is enough.
        """
        places = self.places(split)
        if self.table:
            return self.label_names if self.table.has_label()[places].any() else None
        return self.label_names if len(places) and (self.label[places] >= 0).all() else None

    def class_notes(self, names: Names | None) -> list[str]:
        """Says which classes have one example, and which of them no training picture has.

        Args:
          names: of the pictures; None where 'test' is not drawn by them.
        """
        if not self.label_names:
            return []
        picture = self.table.picture if self.table else np.flatnonzero(self.label >= 0)
        label = self.table.label if self.table else self.label[picture]
        return class_notes(
            self.label_names,
            label,
            self.splits,
            self.split[picture],
            lambda place: names is not None and is_test(names.raw(int(picture[place]))),
        )


def is_test(name: bytes) -> bool:
    """Whether a picture is in the tenth, by its name, that is 'test' where splits are drawn."""
    return int.from_bytes(hashlib.sha256(name).digest()[:8], 'big') / 2**64 < _TEST_SHARE


def split_name(name: str) -> str:
    """Returns what a split is called here: 'validation' for 'val', for example."""
    return _SPLITS.get(name.lower().encode(), name)


def with_labels(layout: Layout, table: PictureLabels) -> Layout:
    """Returns a layout with a table's labels, and its splits where it has any.

    A picture of which the table says no split stays in that of its sub-folder; without one it is
    'train', unless the splits have names of their own, as the folds of a cross-validation.
    """
    splits, split = layout.splits, layout.split
    if table.splits:
        known = {TRAIN, VALIDATION, TEST}
        found = {*splits, *table.splits}
        rest = not splits and bool(known & found) and bool((table.split < 0).any())
        found |= {TRAIN} if rest else set()
        splits = tuple(name for name in (TRAIN, VALIDATION, TEST) if name in found)
        splits += tuple(name for name in layout.splits if name not in known)
        splits += tuple(name for name in table.splits if name not in splits)
        number = np.array([*(splits.index(name) for name in table.splits), -1], np.int8)
        old = np.full(len(split), splits.index(TRAIN) if rest else -1, np.int8)
        if layout.splits:
            old = np.array([*(splits.index(name) for name in layout.splits), -1], np.int8)[split]
        split = np.where(table.split < 0, old, number[table.split])
    return Layout(splits, split, table.each(), table.label_names, {}, table)


def lay_out(names: Names, is_test: np.ndarray) -> Layout:
    """Reads splits and classes from the names of files.

    `train/` beside `val/` or `test/` makes every sub-folder a split, with the classes one level
    below. Otherwise sub-folders are classes, and splits are drawn by name.

    Args:
      names: of the pictures, sorted.
      is_test: which of them are in the tenth that is 'test', `[n]` bool.
    """
    pieces = list(names.folders(0, len(names), 0))
    roles = {_SPLITS.get(name.lower()) for name, _, _ in pieces}
    if TRAIN in roles and roles & {VALIDATION, TEST}:
        return _by_folder(names, pieces)
    label = np.full(len(names), -1, np.int32)
    label_names, why = None, _why_no_classes(names, pieces)
    if not why:
        label_names = _number(pieces, label)
        why = '' if label_names else _why_one(names, *pieces[0])
    split = is_test.astype(np.int8)  # 'train' is 0
    return Layout((), split, label, label_names, {ALL: why} if why else {})


def _by_folder(names: Names, pieces: list[tuple[bytes, int, int]]) -> Layout:
    found = {_SPLITS.get(name.lower(), readable(name)) for name, _, _ in pieces if name}
    splits = [name for name in (TRAIN, VALIDATION, TEST) if name in found]
    splits += sorted(found - set(splits))
    split = np.full(len(names), -1, np.int8)
    below: dict[str, list[tuple[bytes, int, int]]] = {name: [] for name in splits}
    for name, start, stop in pieces:
        if name:
            role = _SPLITS.get(name.lower(), readable(name))
            split[start:stop] = splits.index(role)
            below[role] += names.folders(start, stop, len(name) + 1)
    unlabelled = {role: why for role in splits if (why := _why_no_classes(names, below[role]))}
    label = np.full(len(names), -1, np.int32)
    labelled = [piece for role in splits if role not in unlabelled for piece in below[role]]
    label_names = _number(labelled, label)
    if not label_names:
        unlabelled = {ALL: unlabelled.get(TRAIN, 'there is only one class')}
    return Layout(tuple(splits), split, label, label_names, unlabelled)


def _number(pieces: list[tuple[bytes, int, int]], label: np.ndarray) -> tuple[str, ...] | None:
    """Writes the number of each class into `label`; returns the classes, None for fewer than 2."""
    classes = sorted({name for name, _, _ in pieces})
    if len(classes) < 2:
        return None
    numbers = {name: i for i, name in enumerate(classes)}
    for name, start, stop in pieces:
        label[start:stop] = numbers[name]
    return tuple(map(readable, classes))


def _why_no_classes(names: Names, pieces: list[tuple[bytes, int, int]]) -> str:
    """Returns why sub-folders are no classes; '' where they are."""
    classes = [name for name, _, _ in pieces if name]
    loose = [piece for piece in pieces if not piece[0]]
    if not classes:
        return 'there are no sub-folders'
    if loose:
        number = sum(stop - start for _, start, stop in loose)
        first = [names[i] for _, start, stop in loose for i in range(start, stop)[:_NAMED]][:_NAMED]
        more = ', ...' if number > len(first) else ''
        verb = 'picture lies' if number == 1 else 'pictures lie'
        folders = 'sub-folder' if len(classes) == 1 else f'{len(classes)} sub-folders'
        return f'{number} {verb} beside the {folders}: {", ".join(first)}{more}'
    return ''


def _why_one(names: Names, name: bytes, start: int, stop: int) -> str:
    """Returns what to say where all pictures are in one sub-folder."""
    below = [below for below, _, _ in names.folders(start, stop, len(name) + 1)]
    hint = ''
    if len(below) > 1 and b'' not in below:
        hint = f'; if the folders in it are the classes, end data.path in {readable(name)}'
    return f'all pictures are in one sub-folder, {readable(name)}/{hint}'
