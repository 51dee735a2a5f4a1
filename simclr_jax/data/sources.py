"""Records with random access: a TFDS builder prepared as ArrayRecord or TFRecord, or a folder.

Opening and reading import no TensorFlow, unless a data set has to be made first.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from simclr_jax.config import ConfigError, RunError
from simclr_jax.data import (
    deep,
    folder,
    folder_index,
    folder_labels,
    label_table,
    prepared,
    tfrecord,
)
from simclr_jax.data.folder_files import open_folder
from simclr_jax.workdir.claim import Held

FOLDER = 'folder'  # the name of what is no data set of TFDS, but the pictures below `data.path`


class NoSplit(ConfigError):
    """There is no such split, or nothing in it; whoever asked for it knows by which field."""


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A split: serialized `tf.train.Example`s with an encoded `image` and, maybe, a `label`.

    Attributes:
      read: records of the given indices, in their order; safe to call from several threads.
      num_examples: how many records there are.
      image_shape: `(height, width, channel)`; None for a size that differs between images.
      label_names: name of each class; None where there are no labels.
      canvas: most pixels of a side of the square that pictures of different sizes are decoded into.
      num_files: how many pictures its folder holds, the bad ones and the other splits' too.
      bad: the pictures left out so far, and why; it grows where one vanishes during the run.
      labels: class of each record `[num_examples]`, -1 where it has none; None where only the
        records themselves tell.
      several: where a record may have several labels: 1 for each of its classes, else 0,
        `[num_examples, class]` int8; a record without labels has a row of -1. None elsewhere.
        Where it is there, `labels`, and those in records, are -1.
      identify: returns a number for each record `[num_examples]` uint64, which is the same in
        every split and slice that the record is in; None where that is not known.
      data: what it is a split of.
      held: returns what the data hold, which is part of a run; None for data that are made up.
      largest: height and width that no picture of a folder exceeds, in pixels.
      description: what was found, in a line, and what else to say, a line each.
      name: returns the name of a record by its index; None where records have only numbers.
      failure: what ended the reading, where something has: too many bad files, or a lost folder.
      from_files: whether its records are files: some have an orientation, and they may be large.
      intensity: the values that become black and white where they have more than 8 bits.
      through_canvas: whether evaluation, too, sees pictures that were shrunk into the canvas.
      leave_out: leaves out the picture of an index, for a reason; None where none can be.
      refused: indices of records that TensorFlow does not decode, but Pillow does.
    """

    read: Callable[[Sequence[int]], list[bytes]]
    num_examples: int
    image_shape: tuple[int | None, int | None, int]
    label_names: tuple[str, ...] | None
    canvas: int = 512
    num_files: int = 0
    bad: dict[str, str] = dataclasses.field(default_factory=dict)
    labels: np.ndarray | None = None
    several: np.ndarray | None = None
    identify: Callable[[], np.ndarray] | None = None
    data: 'Data | None' = None
    held: Callable[[], Held] | None = None
    largest: tuple[int, int] | None = None
    description: str = ''
    name: Callable[[int], str] | None = None
    failure: Callable[[], ConfigError | RunError | None] = lambda: None
    from_files: bool = False
    intensity: deep.Range = deep.WHOLE
    through_canvas: bool = False
    leave_out: Callable[[int, str], None] | None = None
    refused: set[int] = dataclasses.field(default_factory=set)

    @property
    def canvas_shape(self) -> tuple[int, int, int]:
        """What every picture fits into: `(height, width, channel)`."""
        height, width, channels = self.image_shape
        return height or self.canvas_side, width or self.canvas_side, channels

    @property
    def canvas_side(self) -> int:
        """Height and width of the canvas of pictures that differ in size; 0 where none does."""
        if None not in self.image_shape:
            return 0
        return min(self.canvas, max(self.largest)) if self.largest else self.canvas

    @property
    def num_classes(self) -> int:
        """How many classes there are, of which a record has one; 0 where it may have several."""
        return 0 if self.several is not None else len(self.label_names or ())


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A data set or folder, looked at once.

    Attributes:
      splits: the names of its splits, without slices of them.
      open: opens one of them, or a slice; raises NoSplit where there is no such split, or no
        picture in it, ConfigError where too many are bad.
    """

    splits: tuple[str, ...]
    open: Callable[[str], Source]


def check_prepared(dataset: str, data_dir: str, path: str = '', labels: str = '') -> None:
    """Checks that a data set, or the folder `path`, can be read, without importing TensorFlow.

    Args:
      dataset: as for `open_data`.
      data_dir: likewise.
      path: likewise.
      labels: likewise.

    Raises:
      ConfigError: it is not there, or prepared in another format; it says how to prepare it. Or
        there is no such table of labels.
    """
    if dataset == FOLDER:
        open_folder(path)
        if labels:
            label_table.find(labels, path)
        return
    prepared.check(dataset, data_dir)


def open_data(
    dataset: str,
    data_dir: str,
    *,
    path: str = '',
    max_bad_fraction: float = 0.01,
    canvas: int = 512,
    through_canvas: bool = False,
    labels: str = '',
    several_labels: bool = False,
    held: Held | None = None,
) -> Data:
    """Opens a TFDS builder, or a folder; makes the data set first if it is `BUILT_HERE`.

    Args:
      dataset: its name, or FOLDER.
      data_dir: where TFDS keeps data; a folder's index is kept there too.
      path: the folder, where `dataset` is FOLDER.
      max_bad_fraction: the largest tolerated share of a folder's files that cannot be read.
      canvas: as in `Source`.
      through_canvas: likewise.
      labels: a table of the labels of the folder's pictures; '' where sub-folders are the classes.
      several_labels: whether a picture may have several labels in that table.
      held: what the run has that goes on with the folder; None takes all there is.

    Raises:
      ConfigError: the data set is not there, or the folder lacks pictures of the run; the table is
        wrong, or says something else of them than when the run began.
      RunError: the folder went away.
    """
    seen = {'canvas': canvas, 'through_canvas': through_canvas}
    if dataset == FOLDER:
        cache = prepared.default_data_dir('' if '://' in data_dir else data_dir) / 'folder_index'
        index = _index(path, cache, labels, several_labels, held)
        splits = index.layout.names()

        def open_(split: str) -> Source:
            source = _open_folder(data, path, index, split, max_bad_fraction)
            return dataclasses.replace(source, **seen)
    else:
        builder = prepared.open_builder(dataset, data_dir)
        splits = tuple(builder.info.splits) if builder else ()
        if not splits:  # check_prepared does not look into buckets
            raise ConfigError(
                f'data.dataset={dataset!r}: is not prepared under {data_dir}; prepare it on a disk '
                f'with `python -m simclr_jax.data.prepare {dataset}`, then copy it: '
                f'{prepared.copy_command(dataset, data_dir)}'
            )

        def open_(split: str) -> Source:
            source = _open_tfds(data, builder, dataset, data_dir, split)
            return dataclasses.replace(source, **seen)

    data = Data(splits, open_)
    return data


def open_source(
    dataset: str, data_dir: str, split: str, *, held: Held | None = None, **options
) -> Source:
    """Opens a split of a TFDS builder or of a folder.

    Args:
      dataset: as for `open_data`.
      data_dir: likewise.
      split: a split, slices allowed; of a folder 'train', 'test', 'all' and those that are
        sub-folders.
      held: what the split held when the run began; None for a run that begins. Of a folder that has
        grown since, only the pictures that the run has are opened.
      **options: as for `open_data`.

    Raises:
      ConfigError: the data set or the split is not there, too many pictures are bad, or the data
        are not those that the run began with.
      RunError: the folder went away.
    """
    data = open_data(dataset, data_dir, held=held, **options)
    try:
        source = data.open(split)
    except NoSplit as error:
        raise ConfigError(f'data.train_split={split!r}: {error}') from error
    if held and dataset != FOLDER:
        held.check(source.held(), f'data.dataset={dataset!r}')
    return source


def _index(
    path: str, cache: pathlib.Path, labels: str, several: bool, held: Held | None
) -> folder_index.Index:
    """Indexes a folder, with the labels of a table where one is given."""

    pictures = held.pictures if held else None
    find_labels = folder_labels.finder(labels, path, several) if labels else None
    index = folder_index.read_index(path, cache, pictures, find_labels)
    if pictures:
        then = held.labels() if held.labels else None
        if index.labels:
            index.labels.check_as_begun(then, index.names)
        elif then:
            raise ConfigError(
                "data.labels='': this run began with a table of labels; name it as "
                '--config.data.labels=FILE'
            )
    return index


def _open_tfds(data: Data, builder, dataset: str, data_dir: str, split: str) -> Source:
    try:
        parts = [
            (str(part.filename), part.skip, part.take)
            for part in builder.info.splits[split].file_instructions
        ]
        if builder.info.file_format.value == 'tfrecord':
            if '://' in data_dir:
                raise ConfigError(
                    f'data.data_dir={data_dir!r}: TFRecord has no random access in a bucket; copy '
                    f'it to a disk, or prepare {dataset} as ArrayRecord on a disk and copy that to '
                    f'the bucket: {prepared.copy_command(dataset, data_dir)}'
                )
            read, num_examples = tfrecord.open_records(
                parts, prepared.default_data_dir(data_dir) / 'tfrecord_index'
            )
        else:
            read, num_examples = prepared.array_records(builder, split)
    except (KeyError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise NoSplit(
            f'split {split!r} of {dataset}: is not one of {", ".join(builder.info.splits)} '
            'or a slice of them'
        ) from error
    features = builder.info.features
    label = features['label'] if 'label' in list(features) else None
    label_names = tuple(label.names) if label is not None else None
    return Source(
        read=read,
        num_examples=num_examples,
        image_shape=tuple(features['image'].shape),
        label_names=label_names,
        identify=lambda: _numbers(parts),
        data=data,
        held=lambda: Held(num_examples, label_names),
    )


def _numbers(parts: Sequence[tuple[str, int, int]]) -> np.ndarray:
    """A number for each record of `(file, first record, number of records)`, `[record]` uint64."""
    numbers = [
        np.uint64(_number(name)) + np.arange(first, first + count, dtype=np.uint64)
        for name, first, count in parts
    ]
    return np.concatenate([np.zeros(0, np.uint64), *numbers])


def _number(name: str | bytes) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), 'big')


def _open_folder(
    data: Data,
    path: str,
    index: folder_index.Index,
    split: str,
    max_bad_fraction: float,
) -> Source:
    names = ', '.join(data.splits)
    if not index.layout.has(split):
        raise NoSplit(f'split {split!r} of the folder {path}: must be one of {names}')
    reader = folder.Reader(path, index, split, max_bad_fraction)
    if not len(reader):
        raise NoSplit(
            f'split {split!r} of the folder {path}: none of the {len(index.names):,} pictures '
            f'falls into it; add pictures, or name another split ({names})'
        )
    label_names = index.layout.labels_of(split)
    return Source(
        read=reader,
        num_examples=len(reader),
        image_shape=(None, None, 3),
        label_names=label_names,
        num_files=reader.num_files,
        bad=reader.bad,
        labels=reader.labels,
        several=reader.several() if label_names else None,
        identify=lambda: np.fromiter(map(_number, reader.names()), np.uint64, len(reader)),
        data=data,
        held=lambda: Held(
            len(reader), label_names, index.pack, index.labels.pack if index.labels else None
        ),
        largest=index.largest,
        description=index.describe(),
        name=reader.name,
        failure=lambda: reader.failure,
        from_files=True,
        intensity=index.intensity,
        leave_out=reader.leave_out,
    )
