"""Data sets of TFDS whose pictures have masks."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from simclr_jax.config import ConfigError
from simclr_jax.data import example, mask_found, mask_pairs, mask_scan, sources
from simclr_jax.data.folder_layout import VALIDATION, split_name
from simclr_jax.data.mask_found import Found
from simclr_jax.data.sources import Source


@dataclasses.dataclass(frozen=True)
class MaskSet:
    """A data set of TFDS.

    Attributes:
      feature: what TFDS calls its masks.
      ignore: values that are no class.
      names: of the classes, in the order of their values; () where there are none.
      first_channel: whether the red of a mask is its class.
    """

    feature: str
    ignore: tuple[int, ...]
    names: tuple[str, ...] = ()
    first_channel: bool = False


KNOWN = {
    # 1 is the animal, 2 what is behind it, and 3 the border between them, which is neither.
    'oxford_iiit_pet': MaskSet('segmentation_mask', (3,), ('pet', 'background')),
    # ADE20K of the Places Challenge 2017. TFDS takes the masks of its instances: red is one of 100
    # classes of objects, 0 for all else, green the instance (placeschallenge/instancesegmentation).
    'scene_parse150': MaskSet('annotation', (0,), first_channel=True),
}


def known(dataset: str) -> MaskSet:
    """Returns what is known of a data set; raises ConfigError where it has no masks."""
    name = dataset.partition(':')[0].partition('/')[0]
    if name not in KNOWN:
        raise ConfigError(
            f'data.dataset={dataset!r}: has no masks that are known here; take '
            f'{", ".join(KNOWN)}, or a folder of pictures and masks with data.dataset=folder'
        )
    return KNOWN[name]


def check(dataset: str, data_dir: str) -> None:
    """Raises ConfigError where a data set is not prepared, or has no masks."""
    known(dataset)
    sources.check_prepared(dataset, data_dir)


def find(dataset: str, data_dir: str, opened: dict[str, Source], cache: pathlib.Path) -> Found:
    """Looks at each picture and mask of some splits.

    Args:
      dataset: its name.
      data_dir: where it is.
      opened: from `open_splits`.
      cache: the folder where what was found is kept, a file for each data set.
    """
    names, splits = [], {}
    for split, source in opened.items():
        splits[split] = np.arange(len(names), len(names) + source.num_examples)
        names += [f'{split}/{i}'.encode() for i in range(source.num_examples)]
    numbers = np.concatenate([source.identify() for source in opened.values()]).tolist()
    read = reader(dataset, opened)
    scan = mask_scan.scan(
        [mask_scan.key(dataset.encode(), number) for number in numbers],
        read,
        cache / f'{mask_scan.key(dataset.encode(), data_dir.encode())[:16].decode()}.npz',
        dataset,
        known(dataset).first_channel,
    )
    return Found(names, names, scan, splits)


def open_splits(dataset: str, data_dir: str, splits: Sequence[str]) -> dict[str, Source]:
    """Opens splits, slices allowed; one that is called validation may be missing.

    Raises:
      ConfigError: the data set is not prepared, has no masks, or lacks a split.
    """
    check(dataset, data_dir)
    data, opened = sources.open_data(dataset, data_dir), {}
    for split in splits:
        try:
            opened[split] = data.open(split)
        except sources.NoSplit as error:
            if split_name(split) != VALIDATION or not opened:
                raise ConfigError(f'data.dataset={dataset!r}: {error}') from error
    return opened


def in_splits(found: Found, splits: Sequence[str]) -> Found:
    """Returns `found` with the splits that are wanted; a validation that lacks is drawn."""
    train, notes, chosen = splits[0], found.notes, dict(found.splits)
    for split in splits:
        if split not in chosen:
            drawn, said = mask_pairs.draw_validation(found.pictures, chosen[train])
            chosen[split], chosen[train] = drawn, np.setdiff1d(chosen[train], drawn)
            notes += (said,)
    chosen = {split: chosen[split] for split in splits}
    return mask_found.without_copies(dataclasses.replace(found, splits=chosen, notes=notes))


def reader(dataset: str, opened: dict[str, Source]) -> Callable[[int], tuple[bytes, bytes]]:
    """Returns what reads the picture and the mask of a pair; safe to call from several threads."""
    places = [(source, i) for source in opened.values() for i in range(source.num_examples)]
    feature = known(dataset).feature

    def read(pair: int) -> tuple[bytes, bytes]:
        source, index = places[pair]
        (record,) = source.read([index])
        return example.content(record, 'image'), example.content(record, feature)

    return read
