"""What the sub-folders of a folder of pictures mean: splits, or classes, or nothing."""

import dataclasses

import numpy as np

from simclr_jax.data.folder_files import Names, readable

TRAIN, VALIDATION, TEST, ALL = 'train', 'validation', 'test', 'all'
# Names of sub-folders, in lower case, to the split that each is.
_SPLITS = {b'train': TRAIN, b'training': TRAIN}
_SPLITS |= {b'val': VALIDATION, b'valid': VALIDATION, b'validation': VALIDATION}
_SPLITS |= {b'test': TEST, b'testing': TEST}
_NAMED = 3  # stray pictures named


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Splits and labels of `n` pictures.

    Attributes:
      splits: those that are sub-folders; () where a tenth, by name, is 'test'.
      split: number of the split that each picture is in, -1 for none, `[n]` int8.
      label: number of its class, -1 for none, `[n]` int32.
      label_names: the classes.
      unlabelled: split to the reason why it has no labels; `ALL` for all of them together.
    """

    splits: tuple[str, ...]
    split: np.ndarray
    label: np.ndarray
    label_names: tuple[str, ...] | None
    unlabelled: dict[str, str]

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
        name = _SPLITS.get(split.encode(), split)
        return VALIDATION if name == TEST and TEST not in self.splits else name

    def labels_of(self, split: str) -> tuple[str, ...] | None:
        """Returns the classes where each picture of a split has one, else None."""
        places = self.places(split)
        return self.label_names if len(places) and (self.label[places] >= 0).all() else None


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
