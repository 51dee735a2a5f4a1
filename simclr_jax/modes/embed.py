"""--mode=embed: a table with a vector for each picture, and a page to look at."""

import functools
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import simclr_jax
from simclr_jax import files, interruption, parallel
from simclr_jax.command import command
from simclr_jax.config import ConfigError
from simclr_jax.data import copies, listing
from simclr_jax.data.folder_index import describe_bad
from simclr_jax.data.listing import Listing
from simclr_jax.evaluate import embedding, neighbours, tables
from simclr_jax.evaluate.parts import Parts
from simclr_jax.modes import picture_parts
from simclr_jax.modes.picture_parts import Output, made_by_first
from simclr_jax.progress import format_duration
from simclr_jax.report import neighbours as page
from simclr_jax.weights import description, native
from simclr_jax.weights.encoder import Encoder
from simclr_jax.weights.views import view_of
from simclr_jax.workdir import agreement, lock

_SAMPLE = 100  # pictures of which copies are made


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
    interruption.install(picture_parts.GOES_ON)
    target = picture_parts.target_of(
        output, tables.SUFFIXES, 'embeddings.parquet', page=neighbours, overwrite=overwrite
    )
    listing.check(data, labels=labels)
    loaded = picture_parts.load(encoder)
    found = listing.open_listing(data, labels=labels)
    picture_parts.check_colours(found, loaded, encoder)
    parts = Parts(target.parts, len(found))
    about = {
        'encoder': native.checksum(loaded.weights),
        'data': found.digest,
        'dim': loaded.dim,
        'version': simclr_jax.__version__,
    }
    digits = 11 if target.path.suffix == '.csv' else 4
    left = parts.count(parts.missing())
    need = loaded.dim * (4 * left + (digits + 4 * neighbours) * len(found))
    picture_parts.check_room(target, need)
    with lock.hold(str(target.parts), '--output'):
        agreement.check_shared(str(target.parts), '--output')
        missing = made_by_first(lambda: picture_parts.begin(parts, about, overwrite))
        picture_parts.embed_missing(found, loaded, parts, missing)
        parallel.wait_for_all()
        made_by_first(lambda: _finish(target, found, loaded, parts, about, neighbours))


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
    labels = bool(found.label_names or found.several)
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
    if found.several:
        return [found.several.words(row) for row in rows]
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
        pixels=lambda row: picture_parts.pixels_of(found, encoder, int(rows[row]), fit=2 * 96),
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
        pixels = picture_parts.pixels_of(found, encoder, int(rows[place]))
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
