"""--mode=embed: a table with a vector for each picture, and a page to look at."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

import simclr_jax
from simclr_jax import files, interruption, parallel
from simclr_jax.command import command
from simclr_jax.config import ConfigError
from simclr_jax.data import copies, listing, pictures
from simclr_jax.data.folder_index import describe_bad
from simclr_jax.data.listing import Listing
from simclr_jax.evaluate import embedding, neighbours, tables
from simclr_jax.evaluate.parts import Parts
from simclr_jax.progress import Progress, format_duration
from simclr_jax.report import neighbours as page
from simclr_jax.weights import description, native
from simclr_jax.weights.encoder import Encoder
from simclr_jax.weights.views import view_of
from simclr_jax.workdir import agreement, lock

_GOES_ON = 'nothing is lost; the same command goes on where it was'
_SECONDS = 30.0  # between two lines of progress where there is no terminal
_LOOKED = 20  # pictures whose colours are looked at
_SAMPLE = 100  # pictures of which copies are made
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


def main(
    *,
    encoder: str,
    data: str,
    output: str,
    labels: str | None = None,
    neighbours: bool = False,
    overwrite: bool = False,
) -> None:
    """Embeds all pictures of a folder or data set.

    What is done is kept in `OUTPUT.parts/`: an interrupted run goes on where it was.

    Args:
      encoder: a workdir, an encoder file, or another library's weights.
      data: a folder, or a data set such as `cifar10` or, for one of its splits, `cifar10:test`.
      output: the table, which ends in .parquet, .npz or .csv.
      labels: a table of the labels of a folder's pictures: .csv, .tsv or .parquet.
      neighbours: whether to write a page of near-duplicates, clusters and odd ones out.
      overwrite: whether to replace an output that is there, or what is done of another run.

    Raises:
      ConfigError: one of these is wrong; nothing was written.
      RunError: the folder has gone, or the encoder makes no finite vectors.
      OSError: the disk is full, or failed; what is done is kept.
    """
    interruption.install(_GOES_ON)
    target = _target(output, neighbours, overwrite)
    listing.check(data, labels=labels)
    loaded = load_encoder(encoder)
    found = listing.open_listing(data, labels=labels)
    check_colours(found, loaded, encoder)
    parts = Parts(target.parts, len(found))
    about = {
        'encoder': native.checksum(loaded.weights),
        'data': found.digest,
        'dim': loaded.dim,
        'version': simclr_jax.__version__,
    }
    _check_room(target, parts, loaded.dim, neighbours)
    with lock.hold(str(target.parts), '--output'):
        agreement.check_shared(str(target.parts), '--output')
        missing = made_by_first(lambda: _begin(parts, about, overwrite))
        embed_missing(found, loaded, parts, missing)
        parallel.wait_for_all()
        made_by_first(lambda: _finish(target, found, loaded, parts, about, neighbours))


def load_encoder(path: str) -> Encoder:
    """Loads what --encoder names; raises ConfigError that says so."""
    try:
        return simclr_jax.load(path)
    except ConfigError as error:
        raise ConfigError(f'--encoder={error}') from error  # it begins with the path


def made_by_first(work: Callable[[], T]) -> T:
    """Has the first process work while the others wait; what it finds, or raises, is theirs too."""
    return parallel.made_by_main_process(
        work, lambda found: json.dumps(found).encode(), lambda packed: json.loads(packed)
    )


def _begin(parts: Parts, about: dict[str, Any], overwrite: bool) -> list[int]:
    parts.claim(about, overwrite)
    return parts.missing()


def _target(output: str, neighbours: bool, overwrite: bool) -> Output:
    if '://' in output:
        raise ConfigError(
            f'--output={output}: a table is not written into a bucket; name a file on a disk, and '
            'copy it when it is done'
        )
    path = pathlib.Path(output).expanduser()
    name = f'--output={output}'
    if not path.suffix and not path.is_dir() and path.name:
        path = path.with_name(f'{path.name}.parquet')
    if path.suffix not in tables.SUFFIXES or path.is_dir():
        raise ConfigError(
            f'{name}: must end in {", ".join(tables.SUFFIXES[:-1])} or {tables.SUFFIXES[-1]}, as '
            '--output=embeddings.parquet'
        )
    target = Output(path.absolute())
    if not target.path.parent.is_dir():
        raise ConfigError(f'{name}: there is no folder {path.parent}; make it first')
    if not os.access(target.path.parent, os.W_OK):
        raise ConfigError(f'{name}: the folder {path.parent} cannot be written')
    begun = target.parts.exists()
    there = [target.path] if target.path.exists() else []
    if neighbours and target.page.exists() and not begun:
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
        pixels = _pixels(found, encoder, number, channels=3)
        if pixels is not None and (pixels != pixels[..., :1]).any():
            raise ConfigError(
                f'--encoder={path}: takes grey pictures, of 1 channel, and {found.file(number)} of '
                f'--data={found.name} is in colour; name an encoder of colours, or make the '
                'pictures grey if that is meant'
            )


def _check_room(target: Output, parts: Parts, dim: int, neighbours: bool) -> None:
    """Compares what will be written, or a little less, with what is free."""
    digits = 11 if target.path.suffix == '.csv' else 4
    missing = parts.count(parts.missing())
    need = dim * (4 * missing + (digits + 4 * neighbours) * parts.pictures)
    free = shutil.disk_usage(target.path.parent).free
    if need > free:
        raise ConfigError(
            f'--output={target.path}: takes {need / 2**30:.1f} GiB while it is written, and '
            f'{free / 2**30:.1f} GiB are free there; make room, or name another disk'
        )


def embed_missing(found: Listing, encoder: Encoder, parts: Parts, missing: list[int]) -> None:
    """Makes the missing parts; of several processes, each makes as many of them."""
    processes, first = jax.process_count(), parallel.is_main_process()
    mine = missing[jax.process_index() :: processes]
    count = parts.count(mine)
    done = len(found) - parts.count(missing)
    if first:
        print(f'{found.name}: {len(found):,} pictures; {encoder!r}', flush=True)
        print(*found.notes, sep='\n', end='\n' if found.notes else '', flush=True)
        if done:
            print(f'going on: {done:,} pictures are done', flush=True)
        if processes > 1:
            print(f'{count:,} pictures are for this process, of {processes}', flush=True)
    before = done if processes == 1 else 0
    progress = Progress(before + count, seconds=_SECONDS) if first else None
    start = time.monotonic()
    try:
        embedding.embed(found, encoder, parts, mine, progress=progress, before=before)
    finally:
        if progress:
            progress.finish()
    if first and count:
        seconds = time.monotonic() - start
        rate = f'{count / seconds:,.0f} pictures/s'
        print(f'{count:,} pictures in {format_duration(seconds)}, {rate}', flush=True)


def _finish(
    target: Output,
    found: Listing,
    encoder: Encoder,
    parts: Parts,
    about: dict[str, Any],
    neighbours: bool,
) -> None:
    """Joins the parts to the table, writes what is beside it, and removes the parts."""
    bad, count = dict(found.odd), 0
    for part in parts.all(vectors=False):
        count += len(part.rows)
        bad |= {found.file(number): why for number, why in part.bad.items()}
    if not count:
        shutil.rmtree(target.parts)
        raise ConfigError(
            f'--data={found.name}: none of its pictures can be read; {describe_bad(bad)}'
        )
    labels = bool(found.label_names or found.words)
    shape = tables.Shape(count, about['dim'], found.split is not None, labels)
    merged = target.parts / f'merged{target.path.suffix}'
    said = _said(found, encoder, about, count, len(bad))
    blocks = functools.partial(_blocks, found, parts, shape)
    tables.write(merged, target.path.suffix, shape, blocks, said)
    if neighbours:
        _write_page(target, found, encoder, parts, shape, len(bad))
    if bad:
        lines = ''.join(f'{name}\t{why}\n' for name, why in bad.items())
        files.write_text(target.bad, lines)
    else:
        target.bad.unlink(missing_ok=True)
    os.replace(merged, target.path)
    shutil.rmtree(target.parts)
    print(f'{target.path}: {count:,} vectors of {shape.dim:,} values', flush=True)
    if bad:
        print(f'{describe_bad(bad)}; all of them: {target.bad}', file=sys.stderr, flush=True)


def _said(
    found: Listing, encoder: Encoder, about: dict[str, Any], count: int, bad: int
) -> dict[str, Any]:
    """Returns what the table says about itself; the same for a run that was interrupted."""
    return {
        'encoder': {
            'checksum': about['encoder'],
            'architecture': description.to_json(encoder.architecture),
            'preprocess': description.to_json(encoder.preprocess),
            'origin': dict(encoder.origin),
        },
        'data': found.name,
        'pictures': count,
        'bad_pictures': bad,
        'version': about['version'],
    }


def _blocks(found: Listing, parts: Parts, shape: tables.Shape) -> Iterator[tables.Block]:
    for part in parts.all():
        rows = part.rows.tolist()
        yield tables.Block(
            [found.file(row) for row in rows],
            [found.split(row) for row in rows] if shape.split else None,
            _words(found, rows, part.labels) if shape.label else None,
            part.vectors,
        )


def _words(found: Listing, rows: list[int], labels: np.ndarray) -> list[str | None]:
    if found.words:
        return [found.words(row) for row in rows]
    return [found.label_names[i] if i >= 0 else None for i in labels]


def _write_page(
    target: Output,
    found: Listing,
    encoder: Encoder,
    parts: Parts,
    shape: tables.Shape,
    bad: int,
) -> None:
    start = time.monotonic()
    print(f'comparing {shape.rows:,} pictures with each other', flush=True)
    vectors = np.lib.format.open_memmap(
        target.parts / 'vectors.npy', 'w+', np.float32, (shape.rows, shape.dim)
    )
    rows, labels, first = np.empty(shape.rows, np.int64), np.empty(shape.rows, np.int32), 0
    for part in parts.all():
        place = slice(first, first + len(part.rows))
        norms = np.linalg.norm(part.vectors, axis=1, keepdims=True)
        vectors[place] = part.vectors / np.maximum(norms, 1e-12)
        rows[place], labels[place], first = part.rows, part.labels, place.stop
    near = neighbours.find_neighbours(vectors)
    threshold, how = _threshold(found, encoder, rows, vectors)
    groups = neighbours.near_duplicates(vectors, near, threshold)
    names = found.label_names
    clusters = neighbours.find_clusters(vectors, labels if names else None, central=page.CENTRAL)
    origin = encoder.origin
    page.write_neighbours(
        target.page,
        title=f'Neighbours in {pathlib.Path(found.name).name or found.name}',
        summary={
            'pictures': shape.rows,
            'bad pictures': bad or None,
            'data': found.name,
            'encoder': repr(encoder).strip('<>').removeprefix('Encoder '),
            'trained on': origin.get('data'),
            'values': shape.dim,
            'table': target.path.name,
            'command': command(),
        },
        pixels=lambda row: _pixels(found, encoder, int(rows[row]), fit=2 * 96),
        name=lambda row: found.file(int(rows[row])),
        label=(lambda row: names[labels[row]] if labels[row] >= 0 else None) if names else None,
        groups=groups,
        threshold=threshold,
        how=how,
        clusters=clusters,
        label_names=names,
        odd=neighbours.odd_ones_out(near, page.ODD),
        count=shape.rows,
    )
    print(
        f'{target.page}: {len(groups):,} groups of near-duplicates, {len(clusters)} clusters, '
        f'in {format_duration(time.monotonic() - start)}',
        flush=True,
    )


def _threshold(
    found: Listing, encoder: Encoder, rows: np.ndarray, vectors: np.ndarray
) -> tuple[float, str]:
    """Returns the cosine from which pictures are near-duplicates, and how it was chosen."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, _SAMPLE).round().astype(int))
    places, views = [], []
    for place in chosen:
        pixels = _pixels(found, encoder, int(rows[place]))
        if pixels is not None:
            made = [view_of(copy, encoder.preprocess) for copy in copies.copies_of(pixels)]
            places += [place] * len(made)
            views += made
    if not views:
        return 1.0, 'No copies could be made to compare with.'
    made = embedding.features_of(encoder, views)
    made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)
    similarities = (made * vectors[places]).sum(axis=1)
    how = (
        f'That is what nine of ten copies reach: {len(views)} were made, of {len(set(places))} of '
        f'these pictures, by {copies.WORDS}.'
    )
    return neighbours.threshold_of(similarities), how


def _pixels(
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
