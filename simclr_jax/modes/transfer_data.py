"""What `--mode=transfer` is given: data sets of the papers, others, folders; opened and checked."""

import contextlib
import os
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

from simclr_jax.config import ConfigError, did_you_mean
from simclr_jax.data import listing, sources
from simclr_jax.data.listing import Listing
from simclr_jax.evaluate import transfer_sets
from simclr_jax.evaluate.transfer_sets import TransferSet

TRAIN, VALIDATION, TEST = 'train', 'validation', 'test'
_TESTS = (TEST, VALIDATION, 'val')  # the first that is there is tested


class Chosen(NamedTuple):
    """One of the things that --data names.

    Attributes:
      name: in results.
      place: a folder, or a data set as TFDS names it.
      known: which set of the papers it is; None for others.
    """

    name: str
    place: str
    known: TransferSet | None

    @property
    def is_folder(self) -> bool:
        return _is_folder(self.place)


class Pictures(NamedTuple):
    """Pictures, and what they are for.

    Attributes:
      listing: all of them.
      role: returns what one is for: TRAIN, VALIDATION, TEST, or '' for nothing.
      split: of TFDS; '' of a folder.
    """

    listing: Listing
    role: Callable[[int], str]
    split: str = ''


def choose(data: str, labels: str | None = None) -> list[Chosen]:
    """Reads --data: names of data sets and folders, with commas between them.

    `NAME=FOLDER` is a set of the papers that lies in a folder.

    Args:
      data: as above.
      labels: a table of the labels of a folder's pictures.

    Raises:
      ConfigError: one is twice there, is not prepared, or is no folder; there is no such table, or
        several folders for it.
    """
    items = [data] if os.path.isdir(os.path.expanduser(data)) else data.split(',')
    chosen = [_one(item.strip()) for item in items]
    names = [one.name for one in chosen]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f'--data={data}: {name} is named twice; name it once')
    if labels and len(chosen) > 1:
        raise ConfigError(
            f'--labels={labels}: is the table of one folder, and --data names {len(chosen)} sets; '
            'give a command for each, with the same --workdir'
        )
    for one in chosen:
        listing.check(one.place, labels=labels)
    return chosen


def open_pictures(one: Chosen, labels: str | None = None) -> list[Pictures]:
    """Opens one of them: its training pictures, those of the validation, if any, and of the test.

    Args:
      one: of `choose`.
      labels: as there.

    Raises:
      ConfigError: it has no labels, or lacks training pictures.
    """
    if one.is_folder:
        return [_open_folder(one, labels)]
    known = one.known
    splits = sources.open_data(one.place, '').splits
    roles = _roles(splits)
    if known:
        roles = {known.train: TRAIN, known.validation: VALIDATION, known.test: TEST}
        roles.pop('', None)
    missing = [split for split in roles if split not in splits]
    if missing or TRAIN not in roles.values():
        raise ConfigError(
            f'--data={one.place}: has the splits {", ".join(splits)}, and lacks '
            f'{", ".join(missing) or TRAIN}; prepare it again, or name another data set'
        )
    found = []
    for split, role in roles.items():
        opened = listing.open_listing(f'{one.place}:{split}')
        if not opened.label_names and not (known and known.several):
            raise ConfigError(
                f'--data={one.place}: its split {split!r} has no labels, of which each picture has '
                'one; name a data set that has'
            )
        found.append(Pictures(opened, lambda number, role=role: role, split))
    return found


def _one(item: str) -> Chosen:
    name, equals, folder = item.partition('=')
    if equals and not _is_folder(item):
        known = transfer_sets.find(name)
        if not known:
            raise ConfigError(
                f'--data={item}: {name!r} is no data set of the papers'
                f'{did_you_mean(name, list(transfer_sets.SETS))}; a folder of your own needs no '
                f'name: --data={folder}'
            )
        if known.several:
            raise ConfigError(
                f'--data={item}: {known.title} has several labels a picture, which folders of '
                f'classes cannot say; prepare it with `python -m simclr_jax.data.prepare '
                f'{known.dataset}`, and name it as --data={known.name}'
            )
        return Chosen(known.name, os.path.expanduser(folder), known)
    known = None if _is_folder(item) else transfer_sets.find(item)
    if not known:
        return Chosen(item, os.path.expanduser(item), None)
    if not known.dataset:
        raise ConfigError(
            f'--data={item}: TensorFlow Datasets does not have {known.title}; give {known.note}, '
            f'as --data={known.name}=FOLDER'
        )
    return Chosen(known.name, known.dataset, known)


def _is_folder(item: str) -> bool:
    return os.path.isdir(os.path.expanduser(item)) or item[:1] in ('.', '/', '~') or '://' in item


def _roles(splits: tuple[str, ...]) -> dict[str, str]:
    """Returns what each split is for: a validation split is the test where there is no other."""
    roles = {TRAIN: TRAIN} if TRAIN in splits else {}
    test = next((split for split in _TESTS if split in splits), None)
    if test:
        roles[test] = TEST
    if test == TEST:
        roles |= {split: VALIDATION for split in _TESTS[1:] if split in splits}
    return roles


def _open_folder(one: Chosen, table: str | None) -> Pictures:
    opened = listing.open_listing(one.place, labels=table)
    names = opened.several.label_names if opened.several else opened.label_names
    if not names:
        raise ConfigError(
            f'--data={one.place}: has no labels, which are sub-folders that are classes'
            f'{"".join(f"; {note}" for note in opened.unlabelled)}. Make folders CLASS/ in it, or '
            'train/CLASS/ and test/CLASS/, or name a table of labels with --labels'
        )
    if opened.split is None:
        return Pictures(opened, lambda number: TRAIN)
    splits = tuple({opened.split(number) for number in range(len(opened))})
    roles = _roles(splits)
    if TRAIN not in roles.values():
        raise ConfigError(
            f'--data={one.place}: has the splits {", ".join(splits)}, and lacks training pictures; '
            'call the sub-folder of these, or their split in the table, train'
        )
    known = one.known
    if known and len(names) != known.classes and known.name != 'caltech101':
        raise ConfigError(
            f'--data={one.name}={one.place}: has {len(names)} classes, where '
            f'{known.title} has {known.classes}; name the folder alone if it is another data set'
        )
    return Pictures(opened, lambda number: roles.get(opened.split(number), ''))


def slug(one: Chosen, part: Pictures) -> str:
    """Returns a name for files, of one of the pictures' listings."""
    text = one.name if one.known or not one.is_folder else pathlib.Path(one.place).resolve().name
    return re.sub(r'[^\w.-]+', '_', f'{text}-{part.split}' if part.split else text)


@contextlib.contextmanager
def errors_name(one: Chosen):
    """What is wrong with the features or labels of a set is said of the flag that names it."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f'--data={one.name}: {error}') from error
