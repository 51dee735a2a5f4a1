"""Pictures with masks, which say of each pixel what it is: opened, checked and read.

No TensorFlow here, but for a data set of TFDS. `mask_batches.py` makes batches of them.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from simclr_jax import parallel
from simclr_jax.config import ConfigError, RunError
from simclr_jax.data import (
    deep,
    label_table,
    mask_classes,
    mask_decode,
    mask_folder,
    mask_found,
    mask_tfds,
    pictures,
    prepared,
)
from simclr_jax.data.folder_files import open_folder, readable
from simclr_jax.data.mask_classes import Classes
from simclr_jax.data.mask_found import Found, listed
from simclr_jax.data.sources import FOLDER
from simclr_jax.workdir.claim import Held

_LISTED = 100  # bad pictures in a list


@dataclasses.dataclass(frozen=True, eq=False)
class MaskSource:
    """A split of pictures with masks.

    Attributes:
      num_examples: how many pictures with masks there are.
      names: of the classes, in the order of the labels.
      read: returns the picture of an index, uint8 `[height, width, channel]`, and the label of each
        of its pixels, int32 `[height, width]`, -1 where it is ignored; upright; safe to call from
        several threads. Raises RunError where a file is no longer what it was.
      name: returns the name of a picture below the folder, by its index.
      classes: the values of the masks that are the labels, and those that are ignored.
      channels: of the pictures, 1 or 3.
      largest: height and width that no picture exceeds, in pixels.
      bad: the pictures that were left out, to the reason: those of all splits.
      num_files: how many pictures with masks there are, the bad ones and the other splits' too.
      intensity: the values that become black and white in pictures of more than 8 bits.
      description: what was found, in a line, and what else to say, a line each.
      empty: indices of the pictures all of whose pixels are ignored.
      pixels: how many are of each class and, at the end, ignored, `[class + 1]` int64.
      held: returns what the data hold, which is part of a run.
    """

    num_examples: int
    names: tuple[str, ...]
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]
    name: Callable[[int], str]
    classes: Classes
    channels: int
    largest: tuple[int, int]
    bad: dict[str, str]
    num_files: int
    intensity: deep.Range
    description: str
    empty: tuple[int, ...]
    pixels: np.ndarray
    held: Callable[[], Held]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.names)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes, as other sources call them."""
        return self.names

    @property
    def image_shape(self) -> tuple[None, None, int]:
        """`(height, width, channel)`: pictures may differ in size."""
        return None, None, self.channels

    @property
    def canvas_side(self) -> int:
        """0: no canvas is used."""
        return 0


def check(path: str, *, table: str = '', dataset: str = FOLDER, data_dir: str = '') -> None:
    """Checks that the folder and its table, or the data set, are there, without looking into them.

    The arguments are those of `open_masks`.

    Raises:
      ConfigError: they are not, or the data set has no masks.
    """
    if dataset == FOLDER:
        open_folder(path)
        if table:
            label_table.find(table, path)
    else:
        mask_tfds.check(dataset, data_dir)


def open_masks(
    path: str,
    *,
    splits: Sequence[str] = ('train', 'val', 'test'),
    table: str = '',
    ignore: Sequence[int] = (255,),
    names: Sequence[str] = (),
    channels: int = 3,
    intensity: deep.Range | None = None,
    max_bad_fraction: float = 0.01,
    dataset: str = FOLDER,
    data_dir: str = '',
    held: Held | None = None,
) -> dict[str, MaskSource]:
    """Opens splits of pictures with masks, all at once, so that their classes agree.

    Each mask is looked at once, and what is in it is kept in `data_dir`. The values of the training
    masks, the first split's, are the classes. Of several processes the first one looks, and the
    others get what it found.

    Args:
      path: the folder, where `dataset` is FOLDER.
      splits: the training split, validation and test, or some of them, in this order. A picture
        that is in two of them, as the same file, is left out of the first.
      table: a table of the folder's pictures with their masks, or splits, or both.
      ignore: values of masks that are no class.
      names: of the classes, in the order of their values; () takes the lines of `classes.txt` in
        the folder, of which the first names the value 0, or else the values.
      channels: of the pictures, 1 or 3.
      intensity: the values that become black and white in pictures of more than 8 bits; None for
        those that fit the pictures.
      max_bad_fraction: the largest tolerated share of pictures that, or whose masks, cannot be
        read, or whose masks have another size.
      dataset: FOLDER, or a data set of TFDS that `mask_tfds.KNOWN` has.
      data_dir: where TFDS keeps data; what was found in a folder is kept there too.
      held: what the training split held when the run began; None for a run that begins. Of a folder
        that has grown since, only what the run has is opened.

    Returns:
      Each of `splits` to its source.

    Raises:
      ConfigError: there are no such splits, something is wrong with pictures, masks or classes, or
        they are not those that the run began with.
      RunError: the folder went away.
    """
    cache = prepared.default_data_dir('' if '://' in data_dir else data_dir) / 'mask_index'
    begun = held.pictures() if held and held.pictures else None
    if dataset == FOLDER:
        data, first_channel = f'data.path={path!r}', False
        folder = open_folder(path)
        find = functools.partial(
            mask_folder.find, folder, path, splits=splits, table=table, cache=cache, held=begun
        )
        found = parallel.made_by_main_process(find, Found.pack, mask_found.unpack)
        read = mask_folder.reader(folder, found)
    else:
        data, known = f'data.dataset={dataset!r}', mask_tfds.known(dataset)
        there = mask_tfds.open_splits(dataset, data_dir, splits)
        find = functools.partial(mask_tfds.find, dataset, data_dir, there, cache)
        found = parallel.made_by_main_process(find, Found.pack, mask_found.unpack)
        found, read = mask_tfds.in_splits(found, splits), mask_tfds.reader(dataset, there)
        names, ignore = names or known.names, (*ignore, *known.ignore)
        first_channel = known.first_channel
    opened = _usable(found, data, max_bad_fraction, read, first_channel)
    made = opened.sources(
        ignore=ignore,
        names=names,
        channels=channels,
        intensity=intensity,
        pictures_held=dataset == FOLDER,
    )
    if held:
        held.check(made[splits[0]].held(), data)
    return made


@dataclasses.dataclass(frozen=True, eq=False)
class _Opened:
    """What was found, without what cannot be used.

    Attributes:
      found: it.
      data: the field that names the data, and its value.
      bad: what was left out, to the reason.
      total: how many pairs there are, with those left out.
      read: returns the files of a pair.
      first_channel: as in `mask_decode.values`.
    """

    found: Found
    data: str
    bad: dict[str, str]
    total: int
    read: Callable[[int], tuple[bytes, bytes]]
    first_channel: bool

    def sources(
        self,
        *,
        ignore: Sequence[int],
        names: Sequence[str],
        channels: int,
        intensity: deep.Range | None,
        pictures_held: bool,
    ) -> dict[str, MaskSource]:
        """Returns the source of each split; the arguments are those of `open_masks`."""
        found, scan = self.found, self.found.scan
        train = next(iter(found.splits))
        values = scan.of(found.splits[train])[0]
        classes = mask_classes.find(
            values, self.data, ignore=ignore, names=names, lines=found.lines
        )
        intensity = intensity or deep.range_of([float(scan.rows['peak'].max(initial=0))])

        def source(split: str, places: np.ndarray) -> MaskSource:
            mask_classes.check(split, self.data, classes, scan, places, found.masks)
            pixels, empty = mask_classes.count(classes, scan, places)
            rows = scan.rows[places]
            return MaskSource(
                num_examples=len(places),
                names=classes.names,
                read=lambda index: self.decode(int(places[index]), classes, channels, intensity),
                name=lambda index: self.name(int(places[index])),
                classes=classes,
                channels=channels,
                largest=(int(rows['height'].max()), int(rows['width'].max())),
                bad=self.bad,
                num_files=self.total,
                intensity=intensity,
                description='\n'.join(
                    (
                        *self.describe(split, places, classes, pixels, empty),
                        *(found.notes if split == train else ()),
                    )
                ),
                empty=tuple(empty.tolist()),
                pixels=pixels,
                held=lambda: Held(
                    len(places), classes.names, found.held if pictures_held else None
                ),
            )

        return {split: source(split, places) for split, places in found.splits.items()}

    def name(self, pair: int) -> str:
        return readable(self.found.pictures[pair])

    def describe(
        self,
        split: str,
        places: np.ndarray,
        classes: Classes,
        pixels: np.ndarray,
        empty: np.ndarray,
    ) -> Iterator[str]:
        yield (
            f'{split}: {len(places):,} picture{"s" * (len(places) != 1)} with masks'
            f'{_sizes(self.found.scan.rows[places])}, {len(classes.names)} classes'
        )
        yield f'{split}: {mask_classes.describe(classes, pixels)}'
        if len(empty):
            which = listed([self.name(int(places[i])) for i in empty[:6]])
            yield f'{split}: {len(empty):,} of them have no pixel of a class ({which})'

    def decode(
        self, pair: int, classes: Classes, channels: int, intensity: deep.Range
    ) -> tuple[np.ndarray, np.ndarray]:
        name = self.found.pictures[pair]
        try:
            encoded, encoded_mask = self.read(pair)
            picture = pictures.decode(encoded, channels, intensity=intensity)
            name = self.found.masks[pair]
            labels = classes.labels(mask_decode.values(encoded_mask, self.first_channel))
            if labels.shape != picture.shape[:2]:
                raise ValueError(f'{labels.shape[1]} x {labels.shape[0]} pixels')
        except (OSError, ValueError) as error:
            which = os.fsencode(getattr(error, 'filename', None) or name)
            raise RunError(
                f'{self.data}: {readable(which)} is no longer what it was when the masks were '
                f'looked at ({getattr(error, "strerror", None) or error}); bring it back, and '
                'start the same command again'
            ) from error
        return picture, labels


def _usable(
    found: Found,
    data: str,
    max_fraction: float,
    read: Callable[[int], tuple[bytes, bytes]],
    first_channel: bool,
) -> _Opened:
    """Leaves out the pairs that cannot be used.

    Raises:
      ConfigError: there are too many, or there is nothing else in a split.
    """
    reasons = found.scan.reasons()
    bad = found.odd | {readable(found.pictures[i]): why for i, why in reasons.items()}
    total = len(found.scan) + len(found.odd)
    if len(bad) > max_fraction * total:
        lines = [f'  {name}: {reason}' for name, reason in list(bad.items())[:_LISTED]]
        if len(bad) > _LISTED:
            lines.append(f'  and {len(bad) - _LISTED:,} more')
        raise ConfigError(
            f'{data}: {len(bad):,} of {total:,} pictures, or their masks, cannot be used, more '
            f'than data.max_bad_fraction={max_fraction}; correct or remove them, or allow more:\n'
            + '\n'.join(lines)
        )
    splits = {
        split: places[~np.isin(places, list(reasons))] for split, places in found.splits.items()
    }
    for split, places in splits.items():
        if not len(places):
            why = [f'{name} ({reason})' for name, reason in bad.items()]
            raise ConfigError(
                f'{data}: no picture of the split {split!r} is left'
                f'{f": {listed(why)}" if why else ""}. {" ".join(found.notes)}'
            )
    found = dataclasses.replace(found, splits=splits)
    return _Opened(found, data, bad, total, read, first_channel)


def _sizes(rows: np.ndarray) -> str:
    """' of 480 x 360 pixels', or from which to which."""
    area = rows['width'].astype(np.int64) * rows['height']
    low, high = (rows[i] for i in (int(area.argmin()), int(area.argmax())))
    text = f' of {low["width"]} x {low["height"]}'
    if len(np.unique(rows[['width', 'height']])) > 1:
        text += f' to {high["width"]} x {high["height"]}'
    return f'{text} pixels'
