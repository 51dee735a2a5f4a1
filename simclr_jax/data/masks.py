"""Pictures with masks, which say of each pixel what it is: opened, checked and read.

No TensorFlow here, but for a data set of TFDS.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from simclr_jax import parallel
from simclr_jax.config import ConfigError, RunError
from simclr_jax.data import (
    deep,
    folder_files,
    mask_classes,
    mask_decode,
    mask_pairs,
    mask_scan,
    pictures,
    prepared,
)
from simclr_jax.data.folder_files import Files, Folder, open_folder
from simclr_jax.data.mask_classes import Classes
from simclr_jax.data.mask_pairs import Pairs
from simclr_jax.data.mask_scan import Scan

FOLDER = 'folder'  # as in sources.py
_NAMED = 5  # files named in a line
_LISTED = 100  # bad pairs in a list


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
      pixels: of each class, `[class]` int64, and ignored ones last.
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

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes, as other sources call them."""
        return self.names

    @property
    def image_shape(self) -> tuple[None, None, int]:
        """`(height, width, channel)`: pictures may differ in size."""
        return None, None, self.channels


def open_masks(
    path: str,
    *,
    splits: Sequence[str] = ('train', 'val', 'test'),
    ignore: Sequence[int] = (255,),
    names: Sequence[str] = (),
    channels: int = 3,
    intensity: deep.Range | None = None,
    max_bad_fraction: float = 0.01,
    data_dir: str = '',
) -> dict[str, MaskSource]:
    """Opens splits of a folder of pictures with masks, all at once, so that their classes agree.

    Each mask is looked at once, and what is in it is kept in `data_dir`. The values of the training
    masks, the first split's, are the classes.

    Args:
      path: the folder.
      splits: the training split, and others.
      ignore: values of masks that are no class.
      names: of the classes, in the order of their values; () takes the lines of `classes.txt` in
        the folder, of which the first names the value 0, or else the values.
      channels: of the pictures, 1 or 3.
      intensity: the values that become black and white in pictures of more than 8 bits; None for
        those that fit the pictures.
      max_bad_fraction: the largest tolerated share of pictures that, or whose masks, cannot be
        read, or whose masks have another size.
      data_dir: where what was found is kept: as TFDS keeps data.

    Raises:
      ConfigError: there are no such splits, or something is wrong with pictures, masks or classes.
      RunError: the folder went away.
    """
    folder = open_folder(path)
    cache = prepared.default_data_dir('' if '://' in data_dir else data_dir) / 'mask_index'
    files = folder_files.walk(folder, pictures.SUFFIXES)
    pairs = mask_pairs.by_name(files.names, path)

    def name_of(pair: int) -> bytes:
        name = files.names.raw(int(pairs.picture[pair]))
        return mask_pairs.below(name)

    chosen, notes = mask_pairs.choose(pairs, splits, name_of, path)
    scan = parallel.made_by_main_process(
        lambda: mask_scan.scan(folder, files, pairs, cache), Scan.pack, mask_scan.unpack
    )
    opened = _Opened(folder, path, files, pairs, scan, channels)
    return opened.sources(
        chosen,
        ignore=ignore,
        names=names,
        lines=_lines(folder),
        intensity=intensity,
        max_bad_fraction=max_bad_fraction,
        notes=(*pairs.notes, *notes),
    )


def _lines(folder: Folder) -> list[str] | None:
    """Returns the lines of `classes.txt`, without the empty ones at its end."""
    place = pathlib.Path(os.fsdecode(folder.root)) / 'classes.txt'
    if not place.is_file():
        return None
    try:
        lines = place.read_text('utf-8-sig').rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'{place}: cannot be read ({error}); save it as UTF-8') from error
    return [line.strip() for line in lines]


@dataclasses.dataclass(frozen=True, eq=False)
class _Opened:
    """A folder whose pairs were looked at."""

    folder: Folder
    path: str
    files: Files
    pairs: Pairs
    scan: Scan
    channels: int

    def sources(
        self,
        chosen: dict[str, np.ndarray],
        *,
        ignore: Sequence[int],
        names: Sequence[str],
        lines: Sequence[str] | None,
        intensity: deep.Range | None,
        max_bad_fraction: float,
        notes: tuple[str, ...],
    ) -> dict[str, MaskSource]:
        reasons = {int(i): self.scan.reason(i) for i in np.flatnonzero(self.scan.rows['reason'])}
        bad = {self._picture(i): reason for i, reason in reasons.items()}
        _check_bad(bad, len(self.scan), self.path, max_bad_fraction)
        good = {split: places[~np.isin(places, list(reasons))] for split, places in chosen.items()}
        for split, places in good.items():
            if not len(places):
                raise ConfigError(
                    f'data.path={self.path!r}: none of the pictures in the split {split!r} can be '
                    f'used: {_first(bad)}'
                )
        train = next(iter(chosen))
        classes = mask_classes.find(
            self._values(good[train])[0], ignore=ignore, names=names, lines=lines
        )
        for split, places in good.items():
            self._refuse_unknown(split, places, classes)
        intensity = intensity or deep.range_of([float(self.scan.rows['peak'].max(initial=0))])
        return {
            split: self._source(split, places, classes, bad, intensity, notes * (split == train))
            for split, places in good.items()
        }

    def _picture(self, pair: int) -> str:
        return self.files.names[int(self.pairs.picture[pair])]

    def _mask(self, pair: int) -> str:
        return self.files.names[int(self.pairs.mask[pair])]

    def _values(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The values of some masks, their pixels, and the pair that each is of, all `[m]`."""
        owners = self.scan.owners()
        mine = np.isin(owners, places)
        return self.scan.values[mine], self.scan.counts[mine], owners[mine]

    def _refuse_unknown(self, split: str, places: np.ndarray, classes: Classes) -> None:
        values, _, owners = self._values(places)
        wrong = mask_classes.unknown(classes, values)
        if wrong.any():
            found, first = np.unique(values[wrong], return_index=True)
            files = [self._mask(int(pair)) for pair in owners[wrong][first]]
            mask_classes.refuse_unknown(split, classes, found.tolist(), files)

    def _source(
        self,
        split: str,
        places: np.ndarray,
        classes: Classes,
        bad: dict[str, str],
        intensity: deep.Range,
        notes: tuple[str, ...],
    ) -> MaskSource:
        values, counts, owners = self._values(places)
        seen = np.unique(owners[~np.isin(values, classes.ignored)])
        empty = np.flatnonzero(~np.isin(places, seen))
        pixels = [counts[values == value].sum() for value in classes.values]
        pixels.append(counts[np.isin(values, classes.ignored)].sum())
        rows = self.scan.rows[places]
        lines = [
            f'{split}: {len(places):,} picture{"s" * (len(places) != 1)} with masks'
            f'{_sizes(rows)}, {len(classes.names)} classes',
            f'{split}: {mask_classes.describe(classes, values, counts)}',
        ]
        if len(empty):
            listed = ', '.join(self._picture(int(places[i])) for i in empty[:_NAMED])
            lines.append(
                f'{split}: {len(empty):,} of them have no pixel of a class ({listed}'
                f'{", ..." if len(empty) > _NAMED else ""})'
            )
        absent = [name for name, count in zip(classes.names, pixels, strict=False) if not count]
        if absent:
            lines.append(f'{split}: no pixel is of {", ".join(absent)}')

        def read(index: int) -> tuple[np.ndarray, np.ndarray]:
            return self._read(int(places[index]), classes, intensity)

        return MaskSource(
            num_examples=len(places),
            names=classes.names,
            read=read,
            name=lambda index: self._picture(int(places[index])),
            classes=classes,
            channels=self.channels,
            largest=(int(rows['height'].max()), int(rows['width'].max())),
            bad=bad,
            num_files=len(self.scan),
            intensity=intensity,
            description='\n'.join((*lines, *notes)),
            empty=tuple(empty.tolist()),
            pixels=np.array(pixels, np.int64),
        )

    def _read(
        self, pair: int, classes: Classes, intensity: deep.Range
    ) -> tuple[np.ndarray, np.ndarray]:
        raw = self.files.names.raw
        name = self._picture(pair)
        try:
            encoded = self.folder.read(raw(int(self.pairs.picture[pair])))
            picture = pictures.decode(encoded, self.channels, intensity=intensity)
            name = self._mask(pair)
            mask = mask_decode.values(self.folder.read(raw(int(self.pairs.mask[pair]))))
            labels = classes.labels(mask)
            if labels.shape != picture.shape[:2]:
                raise ValueError(f'{labels.shape[1]} x {labels.shape[0]} pixels')
        except (OSError, ValueError) as error:
            if isinstance(error, RunError):
                raise
            why = getattr(error, 'strerror', None) or error
            raise RunError(
                f'data.path={self.path!r}: {name} is no longer what it was when the masks were '
                f'looked at ({why}); bring it back, and start the same command again'
            ) from error
        return picture, labels


def _sizes(rows: np.ndarray) -> str:
    """' of 480 x 360 pixels', or from which to which."""
    sizes = np.unique(rows[['width', 'height']])
    if len(sizes) == 1:
        return f' of {sizes[0][0]} x {sizes[0][1]} pixels'
    area = rows['width'].astype(np.int64) * rows['height']
    low, high = (rows[i] for i in (int(area.argmin()), int(area.argmax())))
    return f' of {low["width"]} x {low["height"]} to {high["width"]} x {high["height"]} pixels'


def _check_bad(bad: dict[str, str], total: int, path: str, max_fraction: float) -> None:
    if len(bad) > max_fraction * total:
        listed = [f'  {name}: {reason}' for name, reason in list(bad.items())[:_LISTED]]
        if len(bad) > _LISTED:
            listed.append(f'  and {len(bad) - _LISTED:,} more')
        raise ConfigError(
            f'data.path={path!r}: {len(bad):,} of {total:,} pictures, or their masks, cannot be '
            f'used, more than data.max_bad_fraction={max_fraction}; correct or remove them, or '
            'allow more:\n' + '\n'.join(listed)
        )


def _first(bad: dict[str, str]) -> str:
    listed = [f'{name} ({reason})' for name, reason in list(bad.items())[:_NAMED]]
    return ', '.join(listed) + (', ...' if len(bad) > _NAMED else '')
