"""The labels and splits that a table gives to the pictures of a folder."""

import dataclasses
import io
import json
from collections.abc import Callable, Sequence

import numpy as np

from simclr_jax.config import ConfigError
from simclr_jax.data.folder_files import Names

_NAMED = 5


@dataclasses.dataclass(frozen=True, eq=False)
class PictureLabels:
    """Labels and splits of `n` pictures, which are known by their places.

    Attributes:
      name: the field and the table, for people.
      label_names: the classes; every one has a picture.
      picture: a picture for each label that is given, rising, `[label]` int32.
      label: number of the class that it is given, `[label]` int32.
      several: whether a picture may have several.
      splits: the table's own; () where it has none.
      split: number of each picture's split, -1 where the table says none, `[n]` int8.
    """

    name: str
    label_names: tuple[str, ...]
    picture: np.ndarray
    label: np.ndarray
    several: bool
    splits: tuple[str, ...]
    split: np.ndarray

    def __len__(self) -> int:
        return len(self.split)

    def each(self) -> np.ndarray:
        """Returns the class of each picture, `[n]` int32; -1 for none, or where several may be."""
        label = np.full(len(self), -1, np.int32)
        if not self.several:
            label[self.picture] = self.label
        return label

    def has_label(self) -> np.ndarray:
        """Returns whether each picture has a label, `[n]` bool."""
        has = np.zeros(len(self), bool)
        has[self.picture] = True
        return has

    def matrix(self, places: np.ndarray) -> np.ndarray:
        """Returns a row of 0 and 1 for each of some pictures, `[m, class]` int8.

        A picture without labels has a row of -1: nobody has said what is on it.

        Args:
          places: of the pictures, rising, `[m]`.
        """
        rows = np.full(len(self), -1, np.int64)
        rows[places] = np.arange(len(places))
        row, label = rows[self.picture], self.label
        row, label = row[row >= 0], label[row >= 0]
        matrix = np.full((len(places), len(self.label_names)), -1, np.int8)
        matrix[row] = 0
        matrix[row, label] = 1
        return matrix

    def words(self, place: int) -> str | None:
        """Returns the labels of a picture as one text, None where it has none."""
        start, stop = np.searchsorted(self.picture, (place, place + 1))
        return ';'.join(self.label_names[i] for i in self.label[start:stop]) or None

    def chosen(self, places: np.ndarray) -> 'PictureLabels':
        """Returns those of some pictures, in rising order of their places `[m]`.

        Classes and splits that are left without a picture are gone.
        """
        new = np.full(len(self), -1, np.int32)
        new[places] = np.arange(len(places), dtype=np.int32)
        kept = new[self.picture] >= 0
        classes, label = np.unique(self.label[kept], return_inverse=True)
        split = self.split[places]
        used = np.unique(split[split >= 0])
        numbers = np.full(len(self.splits) + 1, -1, np.int8)  # the last one stands for -1
        numbers[used] = np.arange(len(used))
        return dataclasses.replace(
            self,
            label_names=tuple(self.label_names[i] for i in classes),
            picture=new[self.picture[kept]],
            label=label.astype(np.int32).reshape(-1),
            splits=tuple(self.splits[i] for i in used),
            split=numbers[split],
        )

    def pack(self) -> bytes:
        """Returns it as bytes: one for each picture, and eight for each label."""
        about = [self.name, self.label_names, self.several, self.splits]
        stream = io.BytesIO()
        np.savez(
            stream,
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
            picture=self.picture,
            label=self.label,
            split=self.split,
        )
        return stream.getvalue()

    def check_as_begun(self, packed: bytes | None, names: Names) -> None:
        """Checks that a table says of a run's pictures what it said when the run began.

        Args:
          packed: what `pack` returned then; None where there was no table.
          names: of the pictures.

        Raises:
          ConfigError: naming the pictures of which it says something else.
        """
        fix = (
            'Bring the old table back, or begin a new run with another --workdir; to evaluate this '
            'one with other labels, name their table as --config.eval.labels'
        )
        if packed is None:
            raise ConfigError(
                f'{self.name}: this run began without a table of labels. Leave it out, or begin a '
                'new run with another --workdir; to evaluate this one with these labels, name the '
                'table as --config.eval.labels'
            )
        try:
            then = unpack(packed)
        except ValueError as error:
            raise ConfigError(
                f'{self.name}: the labels that this run began with {error}; restore data.labels in '
                'its workdir from a copy, or give another --workdir'
            ) from error
        if then.several != self.several:
            raise ConfigError(
                f'data.several_labels={self.several}: was {then.several} when this run began. {fix}'
            )
        changed = self._changed(then)
        if changed.size:
            listed = [
                f'{names[i]} ({then._said(i)} then, {self._said(i)} now)' for i in changed[:3]
            ]
            more = ', ...' if changed.size > 3 else ''
            raise ConfigError(
                f'{self.name}: says something else of {changed.size:,} of the {len(self):,} '
                f'pictures than when this run began: {", ".join(listed)}{more}. {fix}'
            )

    def _changed(self, then: 'PictureLabels') -> np.ndarray:
        classes = _numbers(*then.label_names, *self.label_names)
        splits = _numbers(*then.splits, *self.splits)
        pairs = []
        for one in (then, self):
            number = np.array([classes[name] for name in one.label_names], np.int64)
            pairs.append(one.picture * np.int64(len(classes)) + number[one.label])
        other = np.setxor1d(*pairs) // max(len(classes), 1)
        number = [
            np.array([*(splits[name] for name in one.splits), -1], np.int64)[one.split]
            for one in (then, self)
        ]
        return np.union1d(other, np.flatnonzero(number[0] != number[1]))

    def _said(self, place: int) -> str:
        words = self.words(place) or 'no label'
        split = self.split[place]
        return words if split < 0 else f'{words} in {self.splits[split]}'


def _numbers(*names: str) -> dict[str, int]:
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def unpack(packed: bytes) -> PictureLabels:
    """Reads what `PictureLabels.pack` made.

    Raises:
      ValueError: it is damaged.
    """
    try:
        with np.load(io.BytesIO(packed)) as found:
            name, label_names, several, splits = json.loads(found['about'].tobytes())
            arrays = {part: found[part] for part in ('picture', 'label', 'split')}
    except Exception as error:  # zipfile and NumPy raise anything on damage
        raise ValueError('are damaged') from error
    return PictureLabels(name, tuple(label_names), several=several, splits=tuple(splits), **arrays)


def class_notes(
    label_names: Sequence[str],
    label: np.ndarray,
    splits: Sequence[str],
    split: np.ndarray,
    is_test: Callable[[int], bool],
) -> list[str]:
    """Says which classes have one example, and which of them the training part lacks.

    Args:
      label_names: the classes.
      label: number of the class, `[label]`, one for each label that is given; none is -1.
      splits: the splits that are given; () where they are drawn.
      split: number of the split of the picture of each label, `[label]`; not looked at where they
        are drawn.
      is_test: whether the picture of a label, by its place in `label`, is drawn for 'test'.
    """
    count = np.bincount(label, minlength=len(label_names))
    notes = []
    if (single := np.flatnonzero(count == 1)).size:
        notes.append(
            f'{single.size:,} of {len(label_names):,} classes '
            f'{"has" if single.size == 1 else "have"} one example: {listed(label_names, single)}'
        )
    for name, lacking, known in _lacking(label, splits, split, is_test, len(label_names)):
        notes.append(
            f'{lacking.size:,} class{"es" * (lacking.size != 1)} of {name} '
            f'{"is" if lacking.size == 1 else "are"} not in {known}, so that nothing can learn '
            f'{"it" if lacking.size == 1 else "them"}: {listed(label_names, lacking)}'
        )
    return notes


def _lacking(label, splits, split, is_test, classes):
    if not splits:
        order = np.argsort(label, kind='stable')
        found = np.split(order, np.cumsum(np.bincount(label, minlength=classes))[:-1])
        lacking = [i for i, of in enumerate(found) if len(of) and all(map(is_test, of.tolist()))]
        if lacking:
            yield 'test', np.array(lacking), 'train'
    elif 'train' in splits:
        of = {name: np.unique(label[split == i]) for i, name in enumerate(splits)}
        for name in ('validation', 'test'):
            lacking = np.setdiff1d(of.get(name, np.zeros(0, np.int32)), of['train'])
            # A test part without labels, or a training part, has nothing to compare.
            if lacking.size and of['train'].size:
                yield name, lacking, 'train'


def listed(names: Sequence[str], places: Sequence[int], most: int = _NAMED) -> str:
    """Returns the first few of some names."""
    return ', '.join(names[int(i)] for i in places[:most]) + (', ...' if len(places) > most else '')
