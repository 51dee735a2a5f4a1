"""The classes of masks: which values they have, what they are called, how much there is of each."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from simclr_jax.config import ConfigError
from simclr_jax.data.folder_files import readable
from simclr_jax.data.mask_found import listed
from simclr_jax.data.mask_scan import Scan

_MOST = 1024  # classes: more than that are no classes
_SHOWN = 24  # classes whose shares are listed


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
      values: of the masks, rising: that of label 0, 1, ... `n - 1`.
      names: of the labels, `n`.
      ignored: values that are no class: their pixels have the label -1.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    ignored: tuple[int, ...]

    def labels(self, mask: np.ndarray) -> np.ndarray:
        """Returns the label of each pixel of a mask `[height, width]` int32, -1 for an ignored one.

        Raises:
          ValueError: there is a value that is neither a class nor ignored.
        """
        known = np.array([*self.values, *self.ignored])
        labels = np.array([*range(len(self.values)), *(-1 for _ in self.ignored)], np.int32)
        order = np.argsort(known)
        known, labels = known[order], labels[order]
        if known[0] >= 0 and known[-1] < 2**16 and mask.min() >= 0 and mask.max() <= known[-1]:
            table = np.full(known[-1] + 1, -2, np.int32)  # much quicker than to search
            table[known] = labels
            found = table[mask]
        else:
            place = np.searchsorted(known, mask).clip(0, len(known) - 1)
            found = np.where(known[place] == mask, labels[place], -2).astype(np.int32)
        if (found == -2).any():
            raise ValueError(f'the value {mask[found == -2][0]}')
        return found


def find(
    values: np.ndarray,
    data: str,
    *,
    ignore: Sequence[int],
    names: Sequence[str],
    lines: Sequence[str] | None,
) -> Classes:
    """Returns the classes of the training masks.

    Args:
      values: all that these masks hold, `[m]`.
      data: the field that names the data, and its value.
      ignore: those that are no class.
      names: of the others, in the order of their values; () for none.
      lines: of `classes.txt`: the names of the values 0, 1, ...; None where there is none.

    Raises:
      ConfigError: there are too few or too many, or as many names as there are not classes.
    """
    found = np.unique(values)
    classes = found[~np.isin(found, ignore)].tolist()
    if len(classes) < 2:
        what = f'only the value {classes[0]}' if classes else 'no value'
        raise ConfigError(
            f'segment.ignore={tuple(ignore)}: the training masks hold {what} beside those, and '
            'with fewer than two classes there is nothing to tell apart. Ignore fewer values, or '
            f'see whether {data} has the masks that are meant'
        )
    if len(classes) > _MOST:
        raise ConfigError(
            f'{data}: the training masks hold {len(classes):,} different values, from {classes[0]} '
            f'to {classes[-1]}, where each should be a class. Do they number objects, or measure '
            'something? Save masks in which a value is a class'
        )
    return Classes(tuple(classes), _names(classes, names, lines), tuple(int(v) for v in ignore))


def _names(
    classes: list[int], names: Sequence[str], lines: Sequence[str] | None
) -> tuple[str, ...]:
    if names:
        if len(names) != len(classes):
            raise ConfigError(
                f'segment.names: has {len(names)} names, but the training masks have '
                f'{len(classes)} classes, the values {_shown(classes)}; give each of these a name, '
                'in this order, or list in segment.ignore what is no class'
            )
        return tuple(map(str, names))
    if lines is None:
        return tuple(map(str, classes))
    if beyond := [value for value in classes if not 0 <= value < len(lines)]:
        raise ConfigError(
            f'classes.txt: has {len(lines)} lines, which name the values 0 to {len(lines) - 1}, '
            f'but the training masks have the value{"s" * (len(beyond) > 1)} {_shown(beyond)}; add '
            'lines, or list in segment.ignore what is no class'
        )
    return tuple(lines[value] for value in classes)


def _shown(values: Sequence[int], most: int = 20) -> str:
    return ', '.join(map(str, values[:most])) + (', ...' if len(values) > most else '')


def check(
    split: str,
    data: str,
    classes: Classes,
    scan: Scan,
    places: np.ndarray,
    masks: Sequence[bytes],
) -> None:
    """Checks that the masks of a split have no values that no training mask has.

    Args:
      split: its name.
      data: the field that names the data, and its value.
      classes: of the training masks.
      scan: what is in all masks.
      places: those of the split, `[n]`.
      masks: the names of all.

    Raises:
      ConfigError: they do.
    """
    values, _, owners = scan.of(places)
    wrong = ~np.isin(values, (*classes.values, *classes.ignored))
    if not wrong.any():
        return
    found, first = np.unique(values[wrong], return_index=True)
    shown = [
        f'{value} (in {readable(masks[owner])})'
        for value, owner in zip(found, owners[wrong][first], strict=True)
    ]
    ignore = str((*classes.ignored, *found.tolist())).replace(' ', '')
    raise ConfigError(
        f'{data}: the masks of the split {split!r} have {len(found):,} '
        f'value{"s" * (len(found) != 1)} that no training mask has: {listed(shown)}. Nothing can '
        'learn what they are: correct the masks, or leave their pixels out with '
        f"--config.segment.ignore='{ignore}'"
    )


def count(classes: Classes, scan: Scan, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts the pixels of some masks.

    Args:
      classes: of the masks.
      scan: what is in all masks.
      places: those that are counted, `[n]`.

    Returns:
      How many pixels there are of each class and, at the end, of ignored ones, `[class + 1]` int64,
      and which masks have no pixel of a class, as indices into `places`.
    """
    values, counts, owners = scan.of(places)
    ignored = np.isin(values, classes.ignored)
    labels = np.where(ignored, len(classes.values), np.searchsorted(classes.values, values))
    pixels = np.zeros(len(classes.values) + 1, np.int64)
    np.add.at(pixels, labels, counts)
    return pixels, np.flatnonzero(~np.isin(places, owners[~ignored]))


def describe(classes: Classes, pixels: np.ndarray) -> str:
    """Says in a line how much there is of each class; `pixels` is from `count`."""
    *of, ignored = pixels.tolist()
    total = max(sum(of), 1)
    order = sorted(range(len(of)), key=lambda i: -of[i])
    shown = [f'{classes.names[i]} {of[i] / total:.1%}' for i in order[:_SHOWN] if of[i]]
    if rest := [of[i] for i in order[_SHOWN:] if of[i]]:
        shown.append(f'{len(rest)} more classes {sum(rest) / total:.1%}')
    text = f'{ignored / max(total + ignored, 1):.1%} of the pixels are ignored; of the others: '
    text += ', '.join(shown) if shown else 'none'
    if absent := [name for name, count in zip(classes.names, of, strict=True) if not count]:
        text += f'; no pixel is of {listed(absent)}'
    return text
