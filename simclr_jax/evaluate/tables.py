"""Vectors as a file that other programs read: .parquet, .npz or .csv, written piece by piece.

All three hold the same columns: `file`, then `split` and `label` where there are any, then the
vector. Memory holds one piece at a time, however many rows there are.
"""

import json
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from simclr_jax import files

SUFFIXES = ('.parquet', '.npz', '.csv')
KEY = 'simclr_jax'  # of what a file says about itself
_GROUP = 2**24  # values of a row group: 64 MiB


class Block(NamedTuple):
    """Some rows.

    Attributes:
      file: names, as text.
      split: of each; None where there are no splits.
      label: of each, None for one that has none; None where there are no labels.
      vectors: `[n, dim]` float32.
    """

    file: list[str]
    split: list[str] | None
    label: list[str | None] | None
    vectors: np.ndarray


class Shape(NamedTuple):
    """What is to be written, known beforehand.

    Attributes:
      rows: how many.
      dim: values of a vector.
      split: whether there are splits.
      label: whether there are labels.
    """

    rows: int
    dim: int
    split: bool
    label: bool


def write(
    path: pathlib.Path,
    suffix: str,
    shape: Shape,
    blocks: Callable[[], Iterable[Block]],
    about: Mapping[str, Any],
) -> None:
    """Writes a table.

    Args:
      path: the file; it is there in part while this goes on.
      suffix: one of `SUFFIXES`.
      shape: of the table.
      blocks: returns the rows from the first to the last, every time that it is called.
      about: what the file says about itself, as JSON; a .csv has no place for it.

    Raises:
      OSError: the disk is full, or failed.
    """
    writer = {'.parquet': _parquet, '.npz': _npz, '.csv': _csv}[suffix]
    with path.open('wb') as file:
        writer(file, shape, blocks, about)
        files.flush_to_disk(file)


def _schema(shape: Shape, about: Mapping[str, Any]) -> pa.Schema:
    fields = [pa.field('file', pa.string(), nullable=False)]
    if shape.split:
        fields.append(pa.field('split', pa.string(), nullable=False))
    if shape.label:
        fields.append(pa.field('label', pa.string()))
    value = pa.field('element', pa.float32(), nullable=False)
    fields.append(pa.field('embedding', pa.list_(value, shape.dim), nullable=False))
    return pa.schema(fields, {KEY: json.dumps(about)})


def _parquet(file: IO[bytes], shape: Shape, blocks, about) -> None:
    schema = _schema(shape, about)
    texts = [field.name for field in schema if field.name != 'embedding']
    # Floats of a vector repeat nothing: a dictionary of them, or packing, only takes time.
    how = {'use_dictionary': texts[1:] or False, 'write_statistics': texts}
    with pq.ParquetWriter(file, schema, compression='snappy', **how) as writer:
        rows = max(1, _GROUP // max(1, shape.dim))
        for table in _gathered((_table(block, schema) for block in blocks()), rows):
            writer.write_table(table, row_group_size=rows)


def _table(block: Block, schema: pa.Schema) -> pa.Table:
    vectors = pa.array(np.ascontiguousarray(block.vectors).reshape(-1), pa.float32())
    columns = [column for column in (block.file, block.split, block.label) if column is not None]
    embedding = pa.FixedSizeListArray.from_arrays(vectors, type=schema.field('embedding').type)
    return pa.Table.from_arrays([*map(_texts, columns), embedding], schema=schema)


def _texts(column: list[str | None]) -> pa.Array:
    return pa.array(column, pa.string())


def _gathered(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Joins tables to as many rows as a row group has, or a few more."""
    waiting, count = [], 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        if count >= rows:
            yield pa.concat_tables(waiting)
            waiting, count = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def _npz(file: IO[bytes], shape: Shape, blocks, about) -> None:
    """Members in the order of the columns; `blocks` is gone through once for each."""
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED, allowZip64=True) as archive:
        names = ['file', *(['split'] if shape.split else []), *(['label'] if shape.label else [])]
        for name in names:
            texts = lambda name=name: (getattr(block, name) for block in blocks())  # noqa: E731
            longest = max((len(text or '') for some in texts() for text in some), default=1)
            kind = np.dtype(f'<U{max(1, longest)}')
            arrays = (np.array([text or '' for text in some], kind) for some in texts())
            # Names of one length each are mostly zeros.
            _member(archive, name, kind, (shape.rows,), arrays, zipfile.ZIP_DEFLATED)
        vectors = (block.vectors for block in blocks())
        _member(archive, 'embedding', np.dtype('<f4'), (shape.rows, shape.dim), vectors)
        text = np.array(json.dumps(about))
        _member(archive, KEY, text.dtype, (), [text])


def _member(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype,
    shape: tuple[int, ...],
    arrays: Iterable[np.ndarray],
    compression: int = zipfile.ZIP_STORED,
) -> None:
    info = zipfile.ZipInfo(f'{name}.npy')  # of 1980: equal content, equal file
    info.compress_type = compression
    with archive.open(info, 'w', force_zip64=True) as member:
        header = {'descr': dtype.str, 'fortran_order': False, 'shape': shape}
        np.lib.format.write_array_header_2_0(member, header)
        for array in arrays:
            member.write(np.ascontiguousarray(array, dtype).tobytes())


def _csv(file: IO[bytes], shape: Shape, blocks, about) -> None:
    del about
    names = ['file', *(['split'] if shape.split else []), *(['label'] if shape.label else [])]
    names += [f'e{i}' for i in range(shape.dim)]
    file.write((','.join(names) + '\n').encode())
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style='needed')
    for block in blocks():
        if not len(block.file):
            continue
        columns = [_texts(c) for c in (block.file, block.split, block.label) if c is not None]
        columns += [pa.array(column) for column in np.ascontiguousarray(block.vectors.T)]
        pyarrow.csv.write_csv(pa.Table.from_arrays(columns, names), file, options)
