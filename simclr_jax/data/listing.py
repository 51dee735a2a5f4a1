"""The pictures to embed, of a folder or a data set: listed at once, read when their turn comes.

Training indexes a folder by decoding every picture beforehand. Here a picture is seen only once, so
a bad one is found when it is read.
"""

import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.data import (
    example,
    folder_files,
    folder_labels,
    label_table,
    picture_labels,
    pictures,
    prepared,
    sources,
)
from simclr_jax.data.folder_files import Files, Names, open_folder
from simclr_jax.data.folder_layout import ALL, lay_out, with_labels
from simclr_jax.data.picture_labels import PictureLabels

# NAME[/VARIANT][:VERSION][:SPLIT], as TFDS writes the first three.
_DATASET = re.compile(r'([A-Za-z]\w*(?:/[\w.+-]+)?(?::[\d*]+(?:\.[\d*]+)*)?)(?::(.+))?')
_NAMED = 5  # folders named that are left out


class Picture(NamedTuple):
    """What was read of one picture.

    Attributes:
      encoded: the file.
      label: number of its class, -1 for none.
      why: why it cannot be read, '' where it was.
    """

    encoded: bytes
    label: int = -1
    why: str = ''


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """The pictures, by number from 0 to `len - 1`.

    Attributes:
      name: of the data, for people.
      count: how many there are.
      file: returns the name of one: its path below the folder, or its split and number.
      split: returns the split of one; None where there are no splits.
      label_names: the classes; None where there are no labels.
      read: returns some of them, in their order; safe to call from several threads. Raises RunError
        where the folder has gone.
      digest: stands for all of it: names, sizes and times of files, or the records of a data set.
      odd: entry of the folder that cannot be read, to the reason.
      notes: what else to say, a line each.
      unlabelled: why there are no labels, or not in some splits, a line each.
      class_notes: what is odd about the classes, a line each.
      several: the labels, where a picture may have several; `label_names` is None then.
    """

    name: str
    count: int
    file: Callable[[int], str]
    split: Callable[[int], str] | None
    label_names: tuple[str, ...] | None
    read: Callable[[Sequence[int]], list[Picture]]
    digest: str
    odd: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    class_notes: tuple[str, ...] = ()
    several: PictureLabels | None = None

    def __len__(self) -> int:
        return self.count


def check(data: str, flag: str = '--data', labels: str | None = None) -> None:
    """Checks that the data are there, without listing them and without TensorFlow.

    Args:
      data: a folder, or a data set such as `cifar10`, `cifar10:test` or `cifar10:3.0.2:test`.
      flag: what names the data.
      labels: a table of the labels of a folder's pictures.

    Raises:
      ConfigError: there is no such folder, nor a prepared data set of that name, nor such a table.
    """
    if os.path.isfile(os.path.expanduser(data)):
        raise ConfigError(f'{flag}={data!r}: is a file; name the folder that it is in')
    if _is_folder(data):
        open_folder(data, flag)
        if labels:
            label_table.find(labels, data, '--labels')
        return
    if labels:
        raise ConfigError(
            f'--labels={labels!r}: is for a folder of pictures, and {flag}={data!r} is a data set, '
            'which has its own; leave it out'
        )
    dataset, _ = _parse(data, flag)
    try:
        sources.check_prepared(dataset, '')
    except ConfigError as error:
        name = re.split('[/:]', dataset)[0]
        place = prepared.default_data_dir('')
        if (place / name).exists():
            raise ConfigError(_in_words(str(error), data, dataset, flag)) from error
        raise ConfigError(
            f'{flag}={data!r}: there is no such folder, and no data set of that name is prepared '
            f'under {place}. Name a folder of pictures, or prepare the data set with '
            f'`python -m simclr_jax.data.prepare {dataset.partition(":")[0]}`, or name its place '
            'in the environment variable TFDS_DATA_DIR'
        ) from error


def open_listing(data: str, flag: str = '--data', labels: str | None = None) -> Listing:
    """Lists a folder or opens a data set; the arguments are those of `check`.

    Of several processes, the first one lists the folder for all.

    Raises:
      ConfigError: it is not there, or holds no picture, or there is no such split.
      RunError: the folder has gone.
    """
    if _is_folder(data):
        return _of_folder(data, flag, labels)
    dataset, split = _parse(data, flag)
    return _of_dataset(data, dataset, split, flag)


def _is_folder(data: str) -> bool:
    return (
        os.path.isdir(os.path.expanduser(data)) or data[:1] in ('.', '/', '~', '') or '://' in data
    )


def _parse(data: str, flag: str) -> tuple[str, str]:
    """Returns the data set, as TFDS names it, and the split, '' for all of them."""
    match = _DATASET.fullmatch(data)
    if not match:
        raise ConfigError(
            f'{flag}={data!r}: there is no such folder, and a data set is named as cifar10, or '
            'cifar10:test for one of its splits'
        )
    return match[1], match[2] or ''


def _in_words(error: str, data: str, dataset: str, flag: str) -> str:
    return error.replace(f'data.dataset={dataset!r}', f'{flag}={data!r}').replace(
        'data.data_dir', 'the environment variable TFDS_DATA_DIR'
    )


def _of_folder(path: str, flag: str, table: str | None) -> Listing:
    folder = open_folder(path, flag)

    def find() -> Found:
        files = folder_files.walk(folder, pictures.SUFFIXES)
        if not len(files.names):
            why = f': {next(iter(files.odd.items()))}' if files.odd else ''
            raise ConfigError(
                f'{flag}={path!r}: holds no picture, as no file below it ends in '
                f'{", ".join(pictures.SUFFIXES)}{why}. Name the folder that holds them; if it is '
                'this one, is its disk mounted?'
            )
        find_labels = folder_labels.finder(table, path, None, '--labels') if table else None
        return Found(files, *(find_labels(folder, files) if find_labels else (None, ())))

    files, given, said = parallel.made_by_main_process(find, _pack, _unpack)
    names = files.names
    layout = lay_out(names, np.zeros(len(names), bool))
    if given:
        layout = with_labels(layout, given)
    labels = layout.label
    has_labels = layout.label_names is not None and bool((labels >= 0).any())

    def read_one(number: int) -> Picture:
        try:
            return Picture(folder.read(names.raw(number)), int(labels[number]))
        except OSError as error:
            return Picture(b'', -1, str(error.strerror or error))

    digest = hashlib.sha256(names.joined())
    for part in (names.lengths(), files.sizes, files.times):
        digest.update(np.ascontiguousarray(part))
    if given:
        digest.update(dataclasses.replace(given, name='').pack())  # it may have been moved
    notes = [f'{name} is left out: {why}' for name, why in list(files.again.items())[:_NAMED]]
    unlabelled = [
        f'no labels{"" if split == ALL else f" in {split}"}: {why}'
        for split, why in layout.unlabelled.items()
    ]
    return Listing(
        name=path,
        count=len(names),
        file=names.__getitem__,
        split=(lambda number: (*layout.splits, '')[layout.split[number]])
        if layout.splits
        else None,
        label_names=layout.label_names if has_labels else None,
        read=lambda numbers: [read_one(int(number)) for number in numbers],
        digest=digest.hexdigest(),
        odd=files.odd,
        notes=(*notes, *said),
        unlabelled=tuple(unlabelled),
        class_notes=tuple(layout.class_notes(None)),
        several=given if given and given.several else None,
    )


class Found(NamedTuple):
    """The files of a folder, what a table says of them, and what to say about that."""

    files: Files
    labels: PictureLabels | None
    notes: tuple[str, ...]


def _pack(found: Found) -> bytes:
    files = found.files
    stream = io.BytesIO()
    np.savez(
        stream,
        names=np.frombuffer(files.names.joined(), np.uint8),
        lengths=files.names.lengths(),
        sizes=files.sizes,
        times=files.times,
        rest=np.frombuffer(json.dumps([files.odd, files.again, found.notes]).encode(), np.uint8),
        labels=np.frombuffer(found.labels.pack() if found.labels else b'', np.uint8),
    )
    return stream.getvalue()


def _unpack(packed: bytes) -> Found:
    with np.load(io.BytesIO(packed)) as found:
        odd, again, notes = json.loads(found['rest'].tobytes())
        labels = found['labels'].tobytes()
        labels = picture_labels.unpack(labels) if labels else None
        names = Names(found['names'].tobytes(), found['lengths'])
        files = Files(names, found['sizes'], found['times'], odd, again)
        return Found(files, labels, tuple(notes))


def _of_dataset(data: str, dataset: str, split: str, flag: str) -> Listing:
    opened = sources.open_data(dataset, '')
    names = (split,) if split else opened.splits
    try:
        parts = [opened.open(name) for name in names]
    except sources.NoSplit as error:
        raise ConfigError(
            f'{flag}={data!r}: {error}; name one as {flag}={dataset}:{opened.splits[0]}'
        ) from error
    first = np.cumsum([0, *(part.num_examples for part in parts)])

    def place(number: int) -> tuple[int, int]:
        part = int(np.searchsorted(first, number, side='right')) - 1
        return part, number - int(first[part])

    def read(numbers: Sequence[int]) -> list[Picture]:
        found: dict[tuple[int, int], Picture] = {}
        places = [place(int(number)) for number in numbers]
        for part in {part for part, _ in places}:
            indices = [index for of, index in places if of == part]
            for index, record in zip(indices, parts[part].read(indices), strict=True):
                encoded, label, _ = example.parse(record)
                found[part, index] = Picture(encoded, label)
        return [found[one] for one in places]

    digest = hashlib.sha256(json.dumps([dataset, names]).encode())
    for part in parts:
        digest.update(np.ascontiguousarray(part.identify()))
    return Listing(
        name=data,
        count=int(first[-1]),
        file=lambda number: f'{names[place(number)[0]]}/{place(number)[1]}',
        split=lambda number: names[place(number)[0]],
        label_names=parts[0].label_names,
        read=read,
        digest=digest.hexdigest(),
    )
