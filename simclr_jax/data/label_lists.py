"""Several labels a picture, as TFDS keeps those of PASCAL VOC: a list of classes in each record."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from simclr_jax.data import example

_CHUNK = 256  # records read at once


class LabelLists(NamedTuple):
    """The labels of some records.

    Attributes:
      targets: `[record, class]` of 0 and 1: whether the picture has an object of the class that is
        not marked difficult.
      counted: `[record, class]` bool: whether that can be said; not where all its objects of the
        class are marked difficult, as the development kit has it (`gt` is 0 there).
    """

    targets: np.ndarray
    counted: np.ndarray


def read_label_lists(
    read: Callable[[Sequence[int]], list[bytes]], count: int, classes: int
) -> LabelLists:
    """Reads the labels of `count` records of TFDS's `voc`.

    Args:
      read: as `Source.read`.
      count: how many records there are.
      classes: how many there are.
    """
    targets = np.zeros((count, classes), np.int8)
    any_object = np.zeros((count, classes), bool)
    for start in range(0, count, _CHUNK):
        numbers = range(start, min(start + _CHUNK, count))
        for number, record in zip(numbers, read(numbers), strict=True):
            targets[number, example.integers(record, 'labels_no_difficult')] = 1
            any_object[number, example.integers(record, 'labels')] = True
    return LabelLists(targets, ~any_object | (targets > 0))
