"""--mode=predict: a table with a label for each picture."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

import simclr_jax
from simclr_jax import files, interruption, parallel
from simclr_jax.data import folder_files, listing, pictures
from simclr_jax.data.listing import Listing
from simclr_jax.evaluate import tables
from simclr_jax.evaluate.parts import ROWS, Part, Parts
from simclr_jax.modes import picture_parts
from simclr_jax.modes.picture_parts import Output, made_by_first
from simclr_jax.weights import native
from simclr_jax.weights.classifier import Classifier, likeliest
from simclr_jax.workdir import agreement, lock

SUFFIXES = ('.csv', '.parquet')
_PRESENT = 0.5  # probability from which a label is there, of several a picture
_OTHER = f'its name does not end in {", ".join(pictures.SUFFIXES)}'
_QUOTED = re.compile('[",\r\n]')  # what a cell of a .csv may hold between quotes only
_NAMED = 5  # files named that have no label
_WIDEST = 200  # bytes of a row, about


def main(*, encoder: str, data: str, output: str, overwrite: bool = False) -> None:
    """Labels all pictures of a folder or data set.

    What is done is kept in `OUTPUT.parts/`: an interrupted run goes on where it was.

    Args:
      encoder: a workdir of `--mode=finetune`, a classifier file, or another library's classifier.
      data: a folder, or a data set such as `cifar10` or, for one of its splits, `cifar10:test`.
      output: the table, which ends in .csv or .parquet. It has a row for every file.
      overwrite: whether to replace an output that is there, or what is done of another run.

    Raises:
      ConfigError: one of these is wrong; nothing was written.
      RunError: the folder has gone, or the classifier makes no finite numbers.
      OSError: the disk is full, or failed; what is done is kept.
    """
    interruption.install(picture_parts.GOES_ON)
    target = picture_parts.target_of(
        output, SUFFIXES, 'predictions.csv', page=False, overwrite=overwrite
    )
    listing.check(data)
    classifier = picture_parts.load(encoder, classifier=True)
    found = dataclasses.replace(listing.open_listing(data), unlabelled=())  # none are asked for
    picture_parts.check_colours(found, classifier, encoder)
    parts = Parts(target.parts, len(found))
    labels = len(classifier.names)
    about = {
        'what': 'logits',
        'encoder': native.checksum(classifier.weights),
        'data': found.digest,
        'dim': labels,
        'version': simclr_jax.__version__,
    }
    left = parts.count(parts.missing())
    picture_parts.check_room(target, 4 * labels * left + _WIDEST * len(found))
    with lock.hold(str(target.parts), '--output'):
        agreement.check_shared(str(target.parts), '--output')
        missing = made_by_first(lambda: picture_parts.begin(parts, about, overwrite))
        picture_parts.embed_missing(found, classifier, parts, missing, classifier.forward_logits)
        parallel.wait_for_all()
        made_by_first(lambda: _finish(target, found, classifier, parts, about))


def _finish(
    target: Output, found: Listing, classifier: Classifier, parts: Parts, about: dict[str, Any]
) -> None:
    """Joins the parts to the table, and removes them."""
    schema, lacking = _schema(classifier), _Lacking()
    merged = target.parts / f'merged{target.path.suffix}'
    write = _csv if target.path.suffix == '.csv' else _parquet
    said = {name: about[name] for name in ('encoder', 'version')} | {'data': found.name}
    write(merged, schema, lacking.seen(_tables(found, classifier, parts, schema)), said)
    os.replace(merged, target.path)
    shutil.rmtree(target.parts)
    print(f'{target.path}: {lacking.rows - lacking.count:,} pictures have a label', flush=True)
    if lacking.count:
        print(lacking, file=sys.stderr, flush=True)


class _Lacking:
    """Counts the rows that go by, and those without a label, of which it keeps the first few."""

    def __init__(self):
        self.rows, self.count, self.first = 0, 0, []

    def seen(self, blocks: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for block in blocks:
            self.rows += len(block)
            lacking = block.filter(pa.compute.is_valid(block['reason']))
            self.count += len(lacking)
            self.first += lacking.slice(0, _NAMED - len(self.first)).to_pylist()
            yield block

    def __str__(self) -> str:
        listed = ', '.join(f'{row["file"]} ({row["reason"]})' for row in self.first)
        files_have = 'file has' if self.count == 1 else 'files have'
        return (
            f'{self.count:,} {files_have} a reason in place of a label: {listed}'
            f'{", ..." if self.count > len(self.first) else ""}'
        )


def _schema(classifier: Classifier) -> pa.Schema:
    text, number = pa.string(), pa.float32()
    fields = [('file', text), ('label', text), ('probability', number)]
    fields += [('runner_up', text), ('runner_up_probability', number)]
    fields += [('labels', text)] * classifier.weights.classifier.several
    return pa.schema([*fields, ('reason', text)])


def _tables(
    found: Listing, classifier: Classifier, parts: Parts, schema: pa.Schema
) -> Iterator[pa.Table]:
    for number, part in enumerate(parts.all()):
        yield _labelled(found, classifier, part, parts.numbers(number), schema)
    others = sorted((_others(found.name) | found.odd).items())
    for start in range(0, len(others), ROWS):
        rows = [{'file': name, 'reason': why} for name, why in others[start : start + ROWS]]
        yield pa.Table.from_pylist(rows, schema)


def _labelled(
    found: Listing, classifier: Classifier, part: Part, numbers: range, schema: pa.Schema
) -> pa.Table:
    """Returns the rows of a part, good pictures and bad ones, in their order."""
    names, several = classifier.names, classifier.weights.classifier.several
    rows = [{'file': found.file(number), 'reason': part.bad.get(number)} for number in numbers]
    if len(part.rows):
        shares = classifier.of_logits(part.vectors)
        order, values = likeliest(shares, min(2, len(names)))
        for i, number in enumerate(part.rows.tolist()):
            row = rows[number - numbers.start]
            row |= {'label': names[order[i, 0]], 'probability': values[i, 0]}
            if len(names) > 1:
                row |= {'runner_up': names[order[i, 1]], 'runner_up_probability': values[i, 1]}
            if several:
                there = np.flatnonzero(shares[i] >= _PRESENT)
                row['labels'] = ';'.join(names[label] for label in there)
    return pa.Table.from_pylist(rows, schema)


def _others(data: str) -> dict[str, str]:
    """Returns the files of a folder that are no pictures by their names, with the reason.

    What begins with a dot is passed over, as everywhere.
    """
    if not os.path.isdir(os.path.expanduser(data)):
        return {}
    every = folder_files.walk(folder_files.open_folder(data, '--data'), ('',))
    found = dict.fromkeys(every.names, _OTHER) | every.odd
    return {name: found[name] for name in found if not name.lower().endswith(pictures.SUFFIXES)}


def _csv(path: pathlib.Path, schema: pa.Schema, blocks: Iterator[pa.Table], said: Any) -> None:
    del said  # a .csv has no place for it
    with path.open('wb') as file:
        file.write(_line(schema.names))
        for block in blocks:
            for row in block.to_pylist():
                file.write(_line([_cell(row[name]) for name in schema.names]))
        files.flush_to_disk(file)


def _line(cells: Sequence[str]) -> bytes:
    r"""Returns a line of RFC 4180; before Python 3.13 `csv` puts no quotes around a lone \r."""
    doubled = (cell.replace('"', '""') for cell in cells)
    quoted = (f'"{cell}"' if _QUOTED.search(cell) else cell for cell in doubled)
    return (','.join(quoted) + '\n').encode()


def _cell(value: str | float | None) -> str:
    if value is None:
        return ''
    return value if isinstance(value, str) else f'{value:.6f}'


def _parquet(
    path: pathlib.Path, schema: pa.Schema, blocks: Iterator[pa.Table], said: dict[str, Any]
) -> None:
    schema = schema.with_metadata({tables.KEY: json.dumps(said)})
    with path.open('wb') as file:
        with pq.ParquetWriter(file, schema, compression='snappy') as writer:
            for block in blocks:
                writer.write_table(block.replace_schema_metadata(schema.metadata))
        files.flush_to_disk(file)
