"""A folder of pictures as records with random access, like any other source."""

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from simclr_jax.config import ConfigError, RunError
from simclr_jax.data import example, pictures
from simclr_jax.data.folder_files import open_folder
from simclr_jax.data.folder_index import Index, check_bad

_NAMED = 5  # pictures named that vanish during a run


class Reader:
    """Reads the records of some pictures of an index; a picture that is gone is left out.

    A file that can no longer be read as it was indexed gives its place to the next one, so that a
    batch stays full; it is named in `bad`. Too many of them, or a folder that has gone, end it.

    Attributes:
      num_files: how many the folder holds, the bad ones and the other splits' too.
      bad: name to reason, of all that was left out so far.
      labels: class of each picture, -1 where it has none, `[n]` int32.
      failure: what ended the reading, if anything has.
    """

    def __init__(self, path: str, index: Index, split: str, max_bad_fraction: float):
        self.num_files = len(index.names) + len(index.bad)
        self.bad = dict(index.bad)
        self.failure: ConfigError | RunError | None = None
        self._folder, self._path, self._max_bad = open_folder(path), path, max_bad_fraction
        check_bad(self.bad, self.num_files, self._path, max_bad_fraction)
        self._index, self._places = index, index.layout.places(split).astype(np.int32)
        self.labels = np.full(len(self._places), -1, np.int32)
        self._labelled = bool(index.layout.labels_of(split))
        if self._labelled:
            self.labels[:] = index.layout.label[self._places]
        self._undecoded: set[int] = set()
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        return len(self._places)

    def several(self) -> np.ndarray | None:
        """Returns `[n, class]` int8 where a picture may have several labels, as `Source` has it."""
        table = self._index.layout.table
        return table.matrix(self._places) if table and table.several else None

    def names(self) -> Iterator[bytes]:
        """Yields the path of each picture."""
        root = os.path.realpath(self._folder.root)
        for place in self._places:
            yield os.path.join(root, self._index.names.raw(place))

    def name(self, index: int) -> str:
        """Returns the name of a picture below the folder, with `/` between its parts."""
        return self._index.names[int(self._places[index])]

    def __call__(self, indices: Iterable[int]) -> list[bytes]:
        """Returns the records of `indices`.

        Raises:
          ConfigError: more pictures are bad by now than may be.
          RunError: the folder has gone.
        """
        return list(self._executor.map(self._read, map(int, indices)))

    def leave_out(self, index: int, reason: str) -> None:
        """Leaves out the picture that is read for `index`, since it does not decode.

        Raises:
          ConfigError: more pictures are bad by now than may be.
        """
        number, _ = self._find(index)
        self._undecoded.add(number)
        name = self._index.names[int(self._places[number])]
        self._leave_out(name, f'can no longer be decoded: {reason}')

    def _read(self, index: int) -> bytes:
        return self._find(index)[1]

    def _find(self, index: int) -> tuple[int, bytes]:
        """Returns the record for `index`, and the place among `labels` that it is from."""
        for number in range(index, index + len(self)):
            if self.failure:  # the other threads need not find it themselves
                raise self.failure
            number %= len(self)
            if number in self._undecoded:
                continue
            place = int(self._places[number])
            name = self._index.names.raw(place)
            try:
                encoded, orientation = self._folder.read(name), example.PILLOW
                if pictures.KINDS[self._index.kinds[place]] == pictures.PLAIN:
                    if not encoded.startswith(pictures.PLAIN_STARTS) or len(encoded) < 4:
                        raise OSError('no longer a JPEG or PNG')
                    orientation = int(self._index.orientations[place])
                label = int(self.labels[number])
                record = example.serialize(encoded, label if self._labelled else None, orientation)
                return number, record
            except RunError as error:
                self.failure = self.failure or error
                raise self.failure from None
            except OSError as error:
                why = f'can no longer be read: {error.strerror or error}'
                self._leave_out(self._index.names[place], why, error)
        raise OSError(f'none of the pictures in {self._path} can be read any more')

    def _leave_out(self, name: str, reason: str, error: OSError | None = None) -> None:
        with self._lock:
            if self.failure:
                raise self.failure
            if name in self.bad:
                return
            self.bad[name] = reason
            vanished = sum(reason.startswith('can no') for reason in self.bad.values())
            if vanished <= _NAMED:
                print(f'{name}: {self.bad[name]}; left out', flush=True)
            if vanished == _NAMED:
                print('more of them are counted, as bad_pictures in metrics.jsonl', flush=True)
            try:
                check_bad(self.bad, self.num_files, self._path, self._max_bad)
            except ConfigError as failure:
                self.failure = failure
                if error and self._folder.failed >= _NAMED:
                    self.failure = self._folder.gone(error)
                raise self.failure from None
