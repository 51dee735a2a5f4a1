"""What an evaluation asks of its splits: their labels, and that no record is in two of them."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from simclr_jax.data import example
from simclr_jax.data.sources import Source

_BYTES = 2**27  # of records that are read for their labels
_LEAST = 1000  # records, however large they are
_CHUNK = 256  # records read at once


class Labels(NamedTuple):
    """Labels of some records of a split, spread over it, or of all.

    Attributes:
      values: `[record]`, -1 where there is none.
      exact: whether these are all records of the split.
    """

    values: np.ndarray
    exact: bool

    def counts(self) -> dict[int, int]:
        """How many records each class has; the classes that have none are left out."""
        classes, counts = np.unique(self.values[self.values >= 0], return_counts=True)
        return dict(zip(classes.tolist(), counts.tolist(), strict=True))


def read_labels(source: Source) -> Labels:
    """Returns the labels of a split; of a large one those of records of 128 MiB in all."""
    count = source.num_examples
    if source.label_names is None or not count:
        return Labels(np.full(count, -1), True)
    if source.labels is not None:
        return Labels(source.labels, True)
    size = len(source.read([0])[0])
    looked_at = min(count, max(_LEAST, _BYTES // max(size, 1)))
    places = np.linspace(0, count - 1, looked_at).astype(np.int64)
    values = [
        example.parse(record)[1]
        for start in range(0, looked_at, _CHUNK)
        for record in source.read(places[start : start + _CHUNK])
    ]
    return Labels(np.array(values), looked_at == count)


def all_labels(source: Source) -> np.ndarray:
    """Returns the label of every record of a split, `[num_examples]`, -1 where there is none.

    Where the source does not know them, it reads all records, but decodes no picture.
    """
    if source.label_names is None:
        return np.full(source.num_examples, -1)
    if source.labels is not None:
        return np.asarray(source.labels)
    values = [
        example.parse(record)[1]
        for start in range(0, source.num_examples, _CHUNK)
        for record in source.read(range(start, min(start + _CHUNK, source.num_examples)))
    ]
    return np.array(values, np.int64)


def shared(source: Source, other: Source) -> np.ndarray:
    """Whether each record of `source` is a record of `other` too, `[num_examples]` bool.

    Raises:
      ValueError: one of them was not opened by `open_source`, and does not know its records.
    """
    if source.identify is None or other.identify is None:
        raise ValueError('a source without `identify`: its records cannot be told apart.')
    return np.isin(source.identify(), other.identify())


def subset(source: Source, indices: Sequence[int]) -> Source:
    """Returns the source of those records alone, in the order of `indices` `[n]`."""
    indices = np.asarray(indices, np.int64)
    identify, leave_out = source.identify, source.leave_out
    return dataclasses.replace(
        source,
        read=lambda chosen: source.read(indices[np.asarray(chosen, np.int64)]),
        num_examples=len(indices),
        labels=None if source.labels is None else source.labels[indices],
        several=None if source.several is None else source.several[indices],
        identify=identify and (lambda: identify()[indices]),
        leave_out=leave_out and (lambda index, reason: leave_out(int(indices[index]), reason)),
        refused=set(),
    )


def with_labels(source: Source) -> Source:
    """Returns the records that have a label, where a table says that others have none."""
    if source.labels is None or source.label_names is None or (source.labels >= 0).all():
        return source
    return subset(source, np.flatnonzero(source.labels >= 0))


def hide_labels(source: Source, hidden: np.ndarray) -> Source:
    """Returns the same records, of which those that are `hidden` `[num_examples]` have no label."""
    if not hidden.any():
        return source

    def read(chosen: Sequence[int]) -> list[bytes]:
        return [
            example.without_label(record) if hidden[index] else record
            for index, record in zip(chosen, source.read(chosen), strict=True)
        ]

    labels = source.labels
    if labels is not None:
        labels = np.where(hidden, -1, labels)
    return dataclasses.replace(source, read=read, labels=labels)


def hold_out(source: Source, share: float) -> tuple[Source, Source]:
    """Divides a source at random, always alike: the rest, and about `share` of it, one or more."""
    bits = np.random.Philox(0).random_raw(source.num_examples)
    order = np.argsort(bits, kind='stable')
    count = max(1, round(share * source.num_examples))
    return subset(source, np.sort(order[count:])), subset(source, np.sort(order[:count]))


def at_least(source: Source, count: int) -> Source:
    """Returns a source of `count` records or more: each one as often as it takes."""
    if source.num_examples >= count:
        return source
    copies = -(-count // source.num_examples)
    return subset(source, np.tile(np.arange(source.num_examples), copies))


def spread(source: Source, most: int) -> Source:
    """Returns at most `most` records, spread over the source."""
    if source.num_examples <= most:
        return source
    return subset(source, np.linspace(0, source.num_examples - 1, most).astype(np.int64))
