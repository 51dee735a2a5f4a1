"""Which mask belongs to which picture, by their names alone, and which split each pair is in.

Folders of pictures and of masks lie in those of the splits, or the other way round:

    train/images/a.jpg  train/masks/a.png      images/train/a.jpg  masks/train/a.png

or there are no splits. Below them a picture and its mask have the same name but for the suffix.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from simclr_jax.config import ConfigError
from simclr_jax.data import pictures
from simclr_jax.data.folder_files import Names, readable
from simclr_jax.data.folder_layout import TEST, TRAIN, VALIDATION, is_test, split_name
from simclr_jax.data.mask_found import listed

# Names of folders, in lower case.
IMAGES = (b'images', b'image', b'imgs', b'img', b'pictures', b'jpegimages')
MASKS = (b'masks', b'mask', b'annotations', b'labels', b'segmentationclass')
EXPECTED = (
    'Expected are {train,val,test}/images/ and {train,val,test}/masks/, or images/ and masks/, in '
    'which a picture and its mask have the same name but for the suffix (a.jpg and a.png); or name '
    'a table with the columns file and mask in data.labels'
)
_SPLIT_FOLDERS = (TRAIN, VALIDATION, TEST)
_NAMED = 5  # files named in a line
_DRAWN = 0.1  # share of the training pictures that are taken for validation where there are none


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures with their masks, `n` pairs.

    Attributes:
      picture: place of each picture among the names of the folder's files, `[n]` int64.
      mask: of each mask, likewise.
      split: of each pair, '' where neither folders nor a table say it.
      notes: what else to say, a line each.
    """

    picture: np.ndarray
    mask: np.ndarray
    split: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Sorted:
    """The files of a folder by what the folders that they are in say.

    Attributes:
      images: `(split, name below the folder of pictures, with its suffix)` to the file's place.
      masks: likewise.
      others: places of the files that are in neither.
    """

    images: dict[tuple[str, bytes], int]
    masks: dict[tuple[str, bytes], int]
    others: list[int]


def sort_files(names: Names) -> Sorted:
    """Finds out which files are pictures and which are masks, by the folders they are in."""
    sorted_ = Sorted({}, {}, [])
    for place in range(len(names)):
        *folders, file = names.raw(place).split(b'/')
        kinds = [_kind(folder) for folder in folders[:2]]
        if not any(kinds):
            sorted_.others.append(place)
            continue
        at = 0 if kinds[0] else 1
        split, rest = split_name(readable(folders[0])) if at else '', folders[at + 1 :]
        if not at and rest and split_name(readable(rest[0])) in _SPLIT_FOLDERS:
            split, rest = split_name(readable(rest[0])), rest[1:]
        found = sorted_.images if kinds[at] == 'images' else sorted_.masks
        key = split, b'/'.join((*rest, file))
        if key in found:
            raise ConfigError(
                f'data.path: {names[found[key]]} and {names[place]} have the same place among the '
                f'{kinds[at]}; keep one of the two folders'
            )
        found[key] = place
    return sorted_


def below(name: bytes) -> bytes:
    """Returns a picture's name below its folder of pictures, whatever the split."""
    *folders, file = name.split(b'/')
    at = next((i for i, folder in enumerate(folders[:2]) if _kind(folder)), -1)
    rest = folders[at + 1 :]
    if not at and rest and split_name(readable(rest[0])) in _SPLIT_FOLDERS:
        rest = rest[1:]
    return b'/'.join((*rest, file))


def _kind(folder: bytes) -> str:
    folder = folder.lower()
    return 'images' if folder in IMAGES else 'masks' if folder in MASKS else ''


def by_name(names: Names, path: str) -> Pairs:
    """Pairs the pictures and masks of a folder by their names.

    Args:
      names: of the files below the folder.
      path: the folder, for people.

    Raises:
      ConfigError: there are no such pairs, or a picture may have two masks.
    """
    found = sort_files(names)
    if not found.images or not found.masks:
        raise ConfigError(f'data.path={path!r}: {_what_is_there(names, found)}. {EXPECTED}')
    images, masks = (
        _by_stem(of, names, what, path)
        for of, what in ((found.images, 'pictures'), (found.masks, 'masks'))
    )
    both = sorted(images.keys() & masks.keys())
    bare, alone = sorted(images.keys() - masks.keys()), sorted(masks.keys() - images.keys())
    if not both:
        raise ConfigError(
            f'data.path={path!r}: none of the {len(images):,} pictures has a mask: the first '
            f'picture is {names[images[bare[0]]]}, the first of the {len(masks):,} masks '
            f'{names[masks[alone[0]]]}. {EXPECTED}'
        )
    notes = [
        f'{len(keys):,} {what}: {listed([names[of[key]] for key in keys])}; left out'
        for keys, of, what in (
            (bare, images, f'picture{"s" * (len(bare) != 1)} without a mask'),
            (alone, masks, f'mask{"s" * (len(alone) != 1)} without a picture'),
        )
        if keys
    ]
    if found.others:
        notes.append(
            f'{len(found.others):,} file{"s" * (len(found.others) != 1)} in folders of neither '
            f'pictures nor masks: {listed([names[i] for i in found.others[: _NAMED + 1]])}; left '
            'out'
        )
    return Pairs(
        np.array([images[key] for key in both], np.int64),
        np.array([masks[key] for key in both], np.int64),
        tuple(split for split, _ in both),
        tuple(notes),
    )


def _by_stem(
    found: dict[tuple[str, bytes], int], names: Names, what: str, path: str
) -> dict[tuple[str, bytes], int]:
    stems: dict[tuple[str, bytes], int] = {}
    for (split, name), place in found.items():
        key = split, os.path.splitext(name)[0]
        if key in stems:
            raise ConfigError(
                f'data.path={path!r}: the {what} {names[stems[key]]} and {names[place]} have the '
                'same name but for the suffix, so a name does not say which one is meant; remove '
                'or rename one of them'
            )
        stems[key] = place
    return stems


def _what_is_there(names: Names, found: Sorted) -> str:
    """Says what there is where there are no pictures, or no masks."""
    if not len(names):
        return f'holds no picture, as no file below it ends in {", ".join(pictures.SUFFIXES)}'
    if found.images or found.masks:
        has, lacks = ('picture', 'masks') if found.images else ('mask', 'pictures')
        count = len(found.images or found.masks)
        text = f'holds {count:,} {has}{"s" * (count != 1)} but no folder of {lacks}'
    else:
        text = f'holds {len(names):,} pictures, but no folders of pictures and masks'
    deeper = {
        b'/'.join(
            folders[: at - 1]
            if split_name(readable(folders[at - 1])) in _SPLIT_FOLDERS
            else folders[:at]
        )
        for *folders, _ in (names.raw(i).split(b'/') for i in found.others)
        for at, folder in enumerate(folders)
        if at and _kind(folder)
    } - {b''}
    if len(deeper) == 1:
        return f'{text}; they are in {readable(deeper.pop())}/: end data.path in that'
    shown = sorted({name.rpartition(b'/')[0] for name in map(names.raw, range(len(names)))})
    shown = [f'{readable(one)}/' if one else './' for one in shown]
    return f'{text}; the folders in it are {listed(shown)}'


def choose(
    split_of: Sequence[str], splits: Sequence[str], names: Sequence[bytes], path: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns which pairs are in each of `splits`, rising, `[m]` int64, and what to say about it.

    Where nothing says which pictures are the test's, they are the validation's; and where there are
    no splits at all, the tenth that pretraining leaves out, too. Where nothing says which are the
    validation's, or they are the test's, a tenth of the training pictures, by name, is.

    Args:
      split_of: that of each pair, '' where nothing says it.
      splits: those that are wanted; 'val' and 'valid' are 'validation', too.
      names: of each pair's picture, from `below`.
      path: the folder, for people.

    Raises:
      ConfigError: there is no such split.
    """
    split = np.array([split_name(one) for one in split_of], object)
    there = sorted(set(split.tolist()) - {''})
    asked = {name: split_name(name) for name in splits}
    notes = []
    if not there:
        test = np.array([is_test(name) for name in names], bool)
        split = np.where(test, TEST, TRAIN).astype(object)
        notes.append(
            f'no splits are given: {test.sum():,} of the {len(split):,} pictures, by name, are the '
            'test, as in pretraining'
        )
    elif TEST not in there and VALIDATION in there and TEST in asked.values():
        split[split == VALIDATION] = TEST
        notes.append('there is no test split: the validation pictures are the test')
    if VALIDATION in asked.values() and not (split == VALIDATION).any():
        chosen, said = draw_validation(names, np.flatnonzero(split == TRAIN))
        split[chosen] = VALIDATION
        notes.append(said)
    found = {name: np.flatnonzero(split == role) for name, role in asked.items()}
    for name, places in found.items():
        if not len(places):
            have = ', '.join(there) if there else 'none, as no folder or table names any'
            raise ConfigError(
                f'data.path={path!r}: there are no pictures with masks in the split {name!r}; '
                f'the splits there are {have}. Add pictures to it, or name another split'
            )
    unused = sorted(set(there) - set(asked.values()) - ({VALIDATION} if notes else set()))
    if unused:
        notes.append(f'not used: the split{"s" * (len(unused) != 1)} {", ".join(unused)}')
    if (count := int((split == '').sum())) and there:
        many = 'picture with a mask is' if count == 1 else 'pictures with masks are'
        notes.append(f'{count:,} {many} in no split: left out')
    return found, tuple(notes)


def draw_validation(names: Sequence[bytes], train: np.ndarray) -> tuple[np.ndarray, str]:
    """Takes a tenth of the training pictures, by their names, for validation.

    Args:
      names: of all pictures.
      train: places of the training pictures, `[n]`.

    Returns:
      The places of those that are taken, `[m]`, one at least unless there is only one, and what to
      say about it.
    """
    count = min(max(1, round(_DRAWN * len(train))), max(0, len(train) - 1))
    rank = [hashlib.sha256(b'validation/' + names[i]).digest() for i in train]
    chosen = train[np.argsort(np.array(rank, 'S32'), kind='stable')[:count]]
    return chosen, (
        f'there is no validation split: {count:,} of the {len(train):,} training pictures, by '
        'name, are taken for it'
    )
