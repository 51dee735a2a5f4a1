"""Pictures with masks that were found and looked at, in splits: what all processes then know."""

import dataclasses
import json
import os
from collections.abc import Sequence

import numpy as np

from simclr_jax.config import ConfigError
from simclr_jax.data import mask_scan
from simclr_jax.data.folder_files import readable
from simclr_jax.data.mask_scan import Scan

_NAMED = 5  # files named in a line


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """`n` pairs of a picture and its mask.

    Attributes:
      pictures: name of each picture below the folder, as it is on the disk.
      masks: of each mask, likewise.
      scan: what is in them.
      splits: the pairs of each split that was asked for, rising, `[m]` int64.
      odd: entry of the folder that cannot be read, to the reason.
      notes: what else to say, a line each.
      lines: of `classes.txt`, the names of the values 0, 1, ...; None where there is none.
    """

    pictures: Sequence[bytes]
    masks: Sequence[bytes]
    scan: Scan
    splits: dict[str, np.ndarray]
    odd: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lines: tuple[str, ...] | None = None

    def pack(self) -> bytes:
        """Returns it as bytes, for the other processes."""
        head = json.dumps(
            {
                'names': [list(map(os.fsdecode, names)) for names in (self.pictures, self.masks)],
                'splits': {split: places.tolist() for split, places in self.splits.items()},
                'odd': self.odd,
                'notes': self.notes,
                'lines': self.lines,
            }
        )
        return b''.join((head.encode(), b'\n', self.scan.pack()))

    def held(self) -> bytes:
        """Returns which pairs are in which split, as a run remembers them."""
        splits = {
            split: [
                [
                    os.fsdecode(self.pictures[i]),
                    os.fsdecode(self.masks[i]),
                    self.scan.rows['picture'][i].decode(),
                    self.scan.rows['mask'][i].decode(),
                ]
                for i in places.tolist()
            ]
            for split, places in self.splits.items()
        }
        return json.dumps(splits).encode()


def unpack(packed: bytes) -> Found:
    """Reads what `Found.pack` made."""
    head, _, scan = packed.partition(b'\n')
    said = json.loads(head)
    pictures, masks = ([os.fsencode(name) for name in names] for names in said['names'])
    return Found(
        pictures,
        masks,
        mask_scan.unpack(scan),
        {split: np.array(places, np.int64) for split, places in said['splits'].items()},
        said['odd'],
        tuple(said['notes']),
        None if said['lines'] is None else tuple(said['lines']),
    )


def as_begun(found: Found, held: bytes, path: str) -> Found:
    """Returns the pairs that a run began with, in the splits that they were in then.

    Args:
      found: what there is now.
      held: from `Found.held`, when the run began.
      path: the folder, for people.

    Raises:
      ConfigError: some are gone, or have changed; or `held` is damaged.
    """
    try:
        then = json.loads(held)
        rows = [tuple(row) for split in then.values() for row in split]
        if any(len(row) != 4 for row in rows):
            raise ValueError('has a row of another length')
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f'data.path={path!r}: the list of the pictures and masks that this run began with is '
            f'damaged ({error}); restore data.pictures in its workdir from a copy, or give another '
            '--workdir'
        ) from error
    digests = found.scan.rows[['picture', 'mask']].tolist()
    names = zip(map(os.fsdecode, found.pictures), map(os.fsdecode, found.masks), strict=True)
    now = {name: i for i, name in enumerate(names)}
    lacking = []
    for *name, picture, mask in rows:
        place = now.get(tuple(name))
        if place is None:
            lacking.append(f'{readable(os.fsencode(name[0]))} (it or its mask is gone)')
        elif digests[place] != (picture.encode(), mask.encode()):
            lacking.append(f'{readable(os.fsencode(name[0]))} (it or its mask has changed)')
    if lacking:
        raise ConfigError(
            f'data.path={path!r}: {len(lacking):,} of the {len(rows):,} pictures with masks that '
            f'this run began with are not as they were: {listed(lacking)}. Bring them back, or '
            'begin a new run with another --workdir'
        )
    splits = {
        split: np.array([now[row[0], row[1]] for row in of], np.int64) for split, of in then.items()
    }
    mine = np.concatenate([*splits.values()])
    before = np.isin(np.arange(len(found.pictures)), mine)
    notes = found.notes
    if added := len(np.flatnonzero(~before & (found.scan.rows['reason'] == b''))):
        notes += (
            f'{added:,} picture{"s" * (added != 1)} with masks that the run did not begin with: '
            'left out; another --workdir begins one with all of them',
        )
    return dataclasses.replace(found, splits=splits, notes=notes)


def without_copies(found: Found) -> Found:
    """Returns `found`, where no picture is in a split if a later split has the same file.

    So a training picture that is a test picture, too, under whatever name, is left out. The splits
    come in the order of training, validation and test.
    """
    splits, notes = dict(found.splits), found.notes
    names = list(splits)
    for place, split in enumerate(names):
        digests = found.scan.rows['picture'][splits[split]]
        for later in names[place + 1 :]:
            there = found.scan.rows['picture'][found.splits[later]]
            copies = np.isin(digests, there[there != b''])
            if count := int(copies.sum()):
                first = [readable(found.pictures[i]) for i in splits[split][copies][:6]]
                notes += (
                    f'{count:,} picture{"s" * (count != 1)} of the split {split!r} '
                    f'{"are" if count != 1 else "is"} in {later!r}, too, as the same file: '
                    f'left out of {split!r} ({listed(first)})',
                )
                splits[split], digests = splits[split][~copies], digests[~copies]
    return dataclasses.replace(found, splits=splits, notes=notes)


def listed(texts: Sequence[str]) -> str:
    """Returns the first few texts, and that there are more."""
    return ', '.join(texts[:_NAMED]) + (', ...' if len(texts) > _NAMED else '')
