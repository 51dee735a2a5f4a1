"""What is done of a long embedding, on the disk: parts that are whole or absent.

`OUTPUT.parts/` holds a file for every `ROWS` pictures, and `about.json`, which says of what. Parts
do not depend on who made them: a run of two processes goes on as one, and the other way round.
"""

import io
import json
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import files
from simclr_jax.config import ConfigError, RunError

ROWS = 1024  # pictures of a part: what is lost at most when a process dies
FORMAT = 1  # of the parts
_ABOUT = 'about.json'
_SAYS = {  # a field of about.json to what it means that it differs
    'what': 'it was of another mode',
    'encoder': 'it was of another encoder',
    'data': 'the pictures have changed since: their names, sizes or times',
    'pictures': 'there were {} pictures then',
    'dim': 'its vectors had {} values',
    'version': 'it was made by version {} of simclr_jax',
    'format': 'it was made by another version of simclr_jax',
    'rows': 'it was made by another version of simclr_jax',
}


class Part(NamedTuple):
    """Some pictures, in their order.

    Attributes:
      rows: number of each good one, `[n]` int64.
      labels: number of its class, -1 for none, `[n]` int32.
      vectors: `[n, dim]` float32.
      bad: number of each other one, to the reason.
    """

    rows: np.ndarray
    labels: np.ndarray
    vectors: np.ndarray
    bad: dict[int, str]


class Parts:
    """The parts of one output.

    Attributes:
      folder: where they are.
      pictures: how many there are in all of them.
    """

    def __init__(self, folder: pathlib.Path, pictures: int):
        self.folder, self.pictures = folder, pictures

    def __len__(self) -> int:
        return -(-self.pictures // ROWS)

    def numbers(self, part: int) -> range:
        """Returns the numbers of the pictures of a part."""
        return range(part * ROWS, min((part + 1) * ROWS, self.pictures))

    def claim(self, about: Mapping[str, Any], start_over: bool) -> None:
        """Makes the parts those of this run.

        Args:
          about: what they depend on, as JSON: see `_SAYS`.
          start_over: whether to remove those of another run.

        Raises:
          ConfigError: they are of another run, and are not to be removed; it says what differs.
        """
        about = dict(about) | {'format': FORMAT, 'rows': ROWS, 'pictures': self.pictures}
        path = self.folder / _ABOUT
        if path.exists():
            try:
                then = dict(json.loads(path.read_text()))
            except (ValueError, TypeError):
                then = {}
            why = [
                text.format(then.get(name, 'other'))
                for name, text in _SAYS.items()
                if then.get(name) != about.get(name)
            ]
            if why and not start_over:
                raise ConfigError(
                    f'{self.folder}: holds what is done of a run that cannot go on: {why[0]}. '
                    'Start over with --overwrite, which removes it, or name another --output'
                )
            if not why:
                return
        for old in self.folder.glob('*.npz'):
            old.unlink()
        files.write_text(path, json.dumps(about))

    def missing(self) -> list[int]:
        """Returns the numbers of those that are not there yet, rising."""
        done = {path.name for path in self.folder.glob('*.npz')}
        return [number for number in range(len(self)) if self._path(number).name not in done]

    def count(self, parts: Iterable[int]) -> int:
        """Returns how many pictures some parts have."""
        return sum(len(self.numbers(part)) for part in parts)

    def save(self, number: int, part: Part) -> None:
        """Writes a part.

        Raises:
          OSError: the disk is full, or failed; there is no such part then.
        """
        stream = io.BytesIO()
        np.savez(
            stream,
            rows=part.rows,
            labels=part.labels,
            vectors=part.vectors,
            bad=np.array(list(part.bad), np.int64),
            why=np.array(list(part.bad.values()), np.str_),
        )
        files.write_bytes(self._path(number), stream.getvalue())

    def load(self, number: int, vectors: bool = True) -> Part:
        """Reads a part; without its vectors where they are not asked for.

        Raises:
          RunError: it is damaged, or gone.
        """
        path = self._path(number)
        try:
            with path.open('rb') as file, np.load(file, allow_pickle=False) as found:
                bad = dict(zip(found['bad'].tolist(), found['why'].tolist(), strict=True))
                values = found['vectors'] if vectors else np.zeros((0, 0), np.float32)
                return Part(found['rows'], found['labels'], values, bad)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, FileNotFoundError) as error:
            path.unlink(missing_ok=True)
            raise RunError(
                f'{path}: was damaged ({error}) and is removed; give the same command again, '
                'which makes it anew'
            ) from error

    def all(self, vectors: bool = True) -> Iterator[Part]:
        """Yields every part in order, one at a time in memory."""
        for number in range(len(self)):
            yield self.load(number, vectors)

    def _path(self, number: int) -> pathlib.Path:
        return self.folder / f'{number:08d}.npz'
