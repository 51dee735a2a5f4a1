"""A folder of pictures with masks: found, put together, looked at and read."""

import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from simclr_jax.config import ConfigError
from simclr_jax.data import folder_files, mask_found, mask_pairs, mask_scan, mask_table, pictures
from simclr_jax.data.folder_files import Files, Folder
from simclr_jax.data.mask_found import Found

CLASSES = 'classes.txt'  # names the values of the masks


def find(
    folder: Folder,
    path: str,
    *,
    splits: Sequence[str],
    table: str,
    cache: pathlib.Path,
    held: bytes | None,
) -> Found:
    """Finds the pictures and masks below a folder, and looks at each.

    Args:
      folder: it.
      path: its name, for people.
      splits: those that are wanted.
      table: names pictures and their masks, or splits; '' where there is none.
      cache: the folder where what was found is kept, a file for each folder of pictures.
      held: what a run that goes on began with; None for one that begins.

    Raises:
      ConfigError: there are none, they are not those of the run, or a split is not there.
      RunError: the folder has gone.
    """
    lines = _lines(folder)
    files = folder_files.walk(folder, pictures.SUFFIXES)
    if table:
        pairs = mask_table.pairs(files.names, folder, path, table)
    else:
        pairs = mask_pairs.by_name(files.names, path)
    names = files.names
    found_pictures = [names.raw(place) for place in pairs.picture.tolist()]
    chosen, notes = {}, tuple(f'{name} is left out: {why}' for name, why in files.again.items())
    if held is None:
        below = [mask_pairs.below(name) for name in found_pictures]
        chosen, said = mask_pairs.choose(pairs.split, splits, below, path)
        notes += said
    scan = mask_scan.scan(
        _keys(files, pairs),
        lambda pair: (
            folder.read(found_pictures[pair]),
            folder.read(names.raw(int(pairs.mask[pair]))),
        ),
        cache / f'{hashlib.sha256(folder.root).hexdigest()[:16]}.npz',
        folder_files.readable(folder.root),
    )
    found = Found(
        pictures=found_pictures,
        masks=[names.raw(place) for place in pairs.mask.tolist()],
        scan=scan,
        splits=chosen,
        odd=files.odd,
        notes=(*pairs.notes, *notes),
        lines=lines,
    )
    if held is not None:
        return mask_found.as_begun(found, held, path)
    return mask_found.without_copies(found)


def reader(folder: Folder, found: Found) -> Callable[[int], tuple[bytes, bytes]]:
    """Returns what reads the files of a pair; safe to call from several threads."""
    return lambda pair: (folder.read(found.pictures[pair]), folder.read(found.masks[pair]))


def _keys(files: Files, pairs: mask_pairs.Pairs) -> list[bytes]:
    """What stands for each pair: the names, sizes and times of its files."""

    def parts(place: int) -> tuple[bytes, int, int]:
        return files.names.raw(place), int(files.sizes[place]), int(files.times[place])

    both = np.stack([pairs.picture, pairs.mask], axis=1).tolist()
    return [mask_scan.key(*parts(picture), *parts(mask)) for picture, mask in both]


def _lines(folder: Folder) -> tuple[str, ...] | None:
    """Returns the lines of `classes.txt`, without the empty ones at its end."""
    place = pathlib.Path(os.fsdecode(folder.root)) / CLASSES
    if not place.is_file():
        return None
    try:
        lines = place.read_text('utf-8-sig').rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'{place}: cannot be read ({error}); save it as UTF-8') from error
    return tuple(line.strip() for line in lines)
