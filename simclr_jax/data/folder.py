"""A folder of pictures as records with random access, like any other source."""

import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from simclr_jax.data import example, pictures
from simclr_jax.data.folder_index import Index, check_bad, in_split, label_of


class Reader:
    """Reads the records of some pictures of an index; a picture that is gone is left out.

    A file that can no longer be read as it was indexed gives its place to the next one, so that a
    batch stays full; it is named in `bad`.
    """

    def __init__(self, path: str, index: Index, split: str, max_bad_fraction: float):
        self._root = os.path.abspath(os.path.expanduser(path))
        self.num_files = len(index.names) + len(index.bad)
        self.bad = dict(index.bad)  # name to reason, of all that was left out so far
        check_bad(self.bad, self.num_files, path, max_bad_fraction)
        chosen = [i for i, name in enumerate(index.names) if in_split(name, split)]
        self.names = [index.names[i] for i in chosen]
        self._kinds = index.kinds[chosen]
        names = index.label_names()
        numbers = {name: i for i, name in enumerate(names or ())}
        labels = [numbers.get(label_of(name), -1) for name in self.names]
        self.labels = np.array(labels, np.int32)
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        return len(self.names)

    def __call__(self, indices: Iterable[int]) -> list[bytes]:
        return list(self._executor.map(self._read, map(int, indices)))

    def _read(self, index: int) -> bytes:
        for place in range(index, index + len(self)):
            i = place % len(self)
            name = self.names[i]
            try:
                with open(os.path.join(self._root, name), 'rb') as file:
                    encoded = file.read()
                if pictures.KINDS[self._kinds[i]] != pictures.PLAIN:
                    encoded = pictures.as_bmp(encoded)
                elif not encoded.startswith(b'\xff\xd8') or len(encoded) < 4:
                    raise OSError('no longer a JPEG')
                label = int(self.labels[i])
                return example.serialize(encoded, label if label >= 0 else None)
            except Exception as error:
                with self._lock:
                    if name not in self.bad:
                        self.bad[name] = f'can no longer be read: {error}'
                        print(f'{name}: {self.bad[name]}; left out', flush=True)
        raise OSError(f'none of the pictures in {self._root} can be read any more')
