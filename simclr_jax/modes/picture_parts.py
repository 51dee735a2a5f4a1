"""What modes share that look at every picture once: their output, its parts, and going on."""

import dataclasses
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

import simclr_jax
from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.data import pictures
from simclr_jax.data.listing import Listing
from simclr_jax.evaluate import embedding
from simclr_jax.evaluate.parts import Parts
from simclr_jax.progress import Progress, format_duration
from simclr_jax.weights.encoder import Encoder

GOES_ON = 'nothing is lost; the same command goes on where it was'
_SECONDS = 30.0  # between two lines of progress where there is no terminal
_LOOKED = 20  # pictures whose colours are looked at
T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Output:
    """What a run writes.

    Attributes:
      path: the table.
    """

    path: pathlib.Path

    @property
    def parts(self) -> pathlib.Path:
        """The folder of what is done so far."""
        return self._beside('.parts')

    @property
    def page(self) -> pathlib.Path:
        """The page of neighbours."""
        return self._beside('.html')

    @property
    def bad(self) -> pathlib.Path:
        """The list of bad pictures."""
        return self._beside('.bad.txt')

    def _beside(self, suffix: str) -> pathlib.Path:
        return self.path.with_name(self.path.name + suffix)


def load(path: str, **how: Any) -> Encoder:
    """Returns what `--encoder` names, as `simclr_jax.load` does.

    Raises:
      ConfigError: as there; it says that the flag is wrong.
    """
    try:
        return simclr_jax.load(path, **how)
    except ConfigError as error:
        raise ConfigError(f'--encoder={error}') from error  # it begins with the path


def made_by_first(work: Callable[[], T]) -> T:
    """Has the first process work while the others wait; what it finds, or raises, is theirs too."""
    return parallel.made_by_main_process(
        work, lambda found: json.dumps(found).encode(), lambda packed: json.loads(packed)
    )


def begin(parts: Parts, about: dict[str, Any], overwrite: bool) -> list[int]:
    parts.claim(about, overwrite)
    return parts.missing()


def target_of(
    output: str, suffixes: Sequence[str], example: str, *, page: bool, overwrite: bool
) -> Output:
    """Returns what `--output` names.

    Args:
      output: the file; without a suffix it is a .parquet.
      suffixes: that it may have.
      example: a name of one, for errors.
      page: whether a page is written beside it.
      overwrite: whether what is there is replaced.

    Raises:
      ConfigError: it cannot be written, or is there already.
    """
    if '://' in output:
        raise ConfigError(
            f'--output={output}: a table is not written into a bucket; name a file on a disk, and '
            'copy it when it is done'
        )
    path = pathlib.Path(output).expanduser()
    name = f'--output={output}'
    if not path.suffix and not path.is_dir() and path.name:
        path = path.with_name(f'{path.name}.parquet')
    if path.suffix not in suffixes or path.is_dir():
        raise ConfigError(
            f'{name}: must end in {", ".join(suffixes[:-1])} or {suffixes[-1]}, as '
            f'--output={example}'
        )
    target = Output(path.absolute())
    if not target.path.parent.is_dir():
        raise ConfigError(f'{name}: there is no folder {path.parent}; make it first')
    if not os.access(target.path.parent, os.W_OK):
        raise ConfigError(f'{name}: the folder {path.parent} cannot be written')
    begun = target.parts.exists()
    there = [target.path] if target.path.exists() else []
    if page and target.page.exists() and not begun:
        there.append(target.page)  # written just before the table: with parts, it is this run's
    if there and not overwrite:
        more = f'; {target.parts.name} is of a run that has not finished' if begun else ''
        raise ConfigError(
            f'{name}: {there[0]} is there already{more}. Replace it with --overwrite, or name '
            'another file'
        )
    return target


def check_colours(found: Listing, encoder: Encoder, path: str) -> None:
    """Refuses pictures in colour for an encoder that was trained on grey ones."""
    if encoder.preprocess.channels != 1:
        return
    for number in range(min(_LOOKED, len(found))):
        pixels = pixels_of(found, encoder, number, channels=3)
        if pixels is not None and (pixels != pixels[..., :1]).any():
            raise ConfigError(
                f'--encoder={path}: takes grey pictures, of 1 channel, and {found.file(number)} of '
                f'--data={found.name} is in colour; name an encoder of colours, or make the '
                'pictures grey if that is meant'
            )


def check_room(target: Output, need: int) -> None:
    """Checks that `need` bytes, or a little more, are free where the output goes.

    Raises:
      ConfigError: they are not.
    """
    free = shutil.disk_usage(target.path.parent).free
    if need > free:
        raise ConfigError(
            f'--output={target.path}: takes {need / 2**30:.1f} GiB while it is written, and '
            f'{free / 2**30:.1f} GiB are free there; make room, or name another disk'
        )


def embed_missing(
    found: Listing,
    encoder: Encoder,
    parts: Parts,
    missing: list[int],
    forward: Callable[[np.ndarray], jax.Array] | None = None,
) -> None:
    """Makes the missing parts; of several processes, each makes as many of them.

    The arguments are those of `embedding.embed`.
    """
    processes, first = jax.process_count(), parallel.is_main_process()
    mine = missing[jax.process_index() :: processes]
    count = parts.count(mine)
    done = len(found) - parts.count(missing)
    if first:
        print(f'{found.name}: {len(found):,} pictures; {encoder!r}', flush=True)
        for note in (*found.notes, *found.unlabelled):
            print(note, flush=True)
        if done:
            print(f'going on: {done:,} pictures are done', flush=True)
        if processes > 1:
            print(f'{count:,} pictures are for this process, of {processes}', flush=True)
    before = done if processes == 1 else 0
    progress = Progress(before + count, seconds=_SECONDS) if first else None
    start = time.monotonic()
    try:
        embedding.embed(
            found, encoder, parts, mine, forward=forward, progress=progress, before=before
        )
    finally:
        if progress:
            progress.finish()
    if first and count:
        seconds = time.monotonic() - start
        rate = f'{count / seconds:,.0f} pictures/s'
        print(f'{count:,} pictures in {format_duration(seconds)}, {rate}', flush=True)


def pixels_of(
    found: Listing,
    encoder: Encoder,
    number: int,
    channels: int | None = None,
    fit: int | None = None,
) -> np.ndarray | None:
    """Reads one picture; None where it cannot be read, or not any more."""
    (picture,) = found.read([number])
    preprocess = encoder.preprocess
    channels = channels or preprocess.channels
    try:
        return pictures.decode(picture.encoded, channels, fit, intensity=preprocess.intensity)
    except Exception:  # decoders raise anything on damage
        return None
