"""The classes of masks: which values they have, what they are called, how much there is of each."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from simclr_jax.config import ConfigError

_MOST = 1024  # classes: more than that are no classes
_NAMED = 5  # files or values named in a line
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
    values: np.ndarray, *, ignore: Sequence[int], names: Sequence[str], lines: Sequence[str] | None
) -> Classes:
    """Returns the classes of the training masks.

    Args:
      values: all that these masks hold, `[m]`.
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
            f'segment.ignore={tuple(ignore)}: the training masks hold {what} beside the ignored '
            'ones, and there is nothing to tell apart with fewer than two classes; is this the '
            'folder of masks, and is a class ignored?'
        )
    if len(classes) > _MOST:
        raise ConfigError(
            f'the training masks hold {len(classes):,} different values, from {classes[0]} to '
            f'{classes[-1]}, where each should be a class. Do they number objects, or measure '
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


def unknown(classes: Classes, values: np.ndarray) -> np.ndarray:
    """Returns whether each of `values` `[m]` is neither a class nor ignored, `[m]` bool."""
    return ~np.isin(values, (*classes.values, *classes.ignored))


def refuse_unknown(
    split: str, classes: Classes, values: Sequence[int], files: Sequence[str]
) -> None:
    """Raises ConfigError: masks of a split have values that no training mask has.

    Args:
      split: its name.
      classes: of the training masks.
      values: those that are unknown, one or more.
      files: a mask that each of them is in.
    """
    shown = [f'{v} (in {f})' for v, f in zip(values[:_NAMED], files, strict=False)]
    more = ', ...' if len(values) > _NAMED else ''
    ignore = (*classes.ignored, *values)
    raise ConfigError(
        f'the masks of the split {split!r} have {len(values):,} '
        f'value{"s" * (len(values) != 1)} that no training mask has: {", ".join(shown)}{more}. '
        'Nothing can learn what they are: correct the masks, or leave their pixels out with '
        f'--config.segment.ignore={str(ignore).replace(" ", "")}'
    )


def describe(classes: Classes, values: np.ndarray, counts: np.ndarray) -> str:
    """Says in a line how many pixels each class has.

    Args:
      classes: of the masks.
      values: of the masks of a split, `[m]`, each as often as there are masks with it.
      counts: how many pixels of a mask each is, `[m]`.
    """
    ignored = np.isin(values, classes.ignored)
    pixels = np.array([counts[values == value].sum() for value in classes.values], np.int64)
    total, left = max(int(counts.sum()), 1), max(int(pixels.sum()), 1)
    order = np.argsort(-pixels, kind='stable')
    shown = [f'{classes.names[i]} {pixels[i] / left:.1%}' for i in order[:_SHOWN]]
    if len(order) > _SHOWN:
        rest = pixels[order[_SHOWN:]]
        shown.append(f'{len(rest)} more with {rest.sum() / left:.1%} together')
    which = f' (value {_shown(np.unique(values[ignored]).tolist())})' if ignored.any() else ''
    return (
        f'{counts[ignored].sum() / total:.1%} of the pixels are ignored{which}; of the others: '
        + ', '.join(shown)
    )
