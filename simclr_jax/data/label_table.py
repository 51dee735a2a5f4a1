"""A table of labels: a CSV, TSV or Parquet file with a row for each label of a picture.

Or a row for each picture and a column for each class, which `label_columns.py` reads. What is read
here are the rows, as text; `label_matching.py` finds the pictures that they are for.
"""

import csv
import functools
import io
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from simclr_jax.config import ConfigError, did_you_mean
from simclr_jax.data import label_columns, pictures

SUFFIXES = ('.csv', '.tsv', '.txt', '.parquet', '.pq')
# What a column may be called, in any case; the first that is there is taken.
FILE = ('file', 'filename', 'file_name', 'filepath', 'file_path', 'path', 'image', 'image_path')
FILE += ('image_name', 'image_file', 'image_id', 'img', 'picture', 'id')
LABEL = ('label', 'labels', 'class', 'classes', 'class_name', 'category', 'categories', 'target')
SPLIT = ('split', 'set', 'subset', 'partition', 'fold')
_DELIMITERS = (',', ';', '\t', '|')
_SHOWN = 30  # columns listed
_SEPARATOR = re.compile(rb'sep=([,;|\t])\n+', re.IGNORECASE)
_UTF16 = (b'\xff\xfe', b'\xfe\xff')


class Rows(NamedTuple):
    """The rows of a table.

    Attributes:
      name: the field and the file, for people.
      file: what each row says of the picture, `[row]` string, none of them null.
      label: of the label, '' where there is none, spaces around it removed.
      split: of the split; None where there is no such column.
      where: returns how to find a row, as 'line 7'.
      notes: what to say about the columns, a line each.
    """

    name: str
    file: pa.Array
    label: pa.Array
    split: pa.Array | None
    where: Callable[[int], str]
    notes: tuple[str, ...] = ()


def find(labels: str, folder: str, field: str = 'data.labels') -> pathlib.Path:
    """Returns the file that a field names: as it is given, or else below the folder of pictures.

    Raises:
      ConfigError: there is none, or its name ends in none of `SUFFIXES`.
    """
    if '://' in labels:
        raise ConfigError(f'{field}={labels!r}: a table in a bucket is not read; copy it to a disk')
    given = pathlib.Path(labels).expanduser()
    below = pathlib.Path(folder).expanduser() / given
    path = next((place for place in (given, below) if place.is_file()), None)
    if path is None:
        if given.is_dir():
            raise ConfigError(f'{field}={labels!r}: is a folder; name the table in it')
        near = [str(place) for place in sorted(below.parent.glob('*')) if _is_table(place)]
        also = f', nor {str(below)!r}' if below != given else ''
        raise ConfigError(
            f'{field}={labels!r}: there is no such file{also}{did_you_mean(str(below), near)}'
        )
    if not _is_table(path):
        raise ConfigError(
            f'{field}={labels!r}: must end in {", ".join(SUFFIXES[:-1])} or {SUFFIXES[-1]}; save '
            'it as CSV'
        )
    return path


def _is_table(path: pathlib.Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def read(path: pathlib.Path, field: str = 'data.labels') -> Rows:
    """Reads a table whole; 100,000 rows take a tenth of a second.

    Args:
      path: a file of one of `SUFFIXES`.
      field: what names it.

    Raises:
      ConfigError: it cannot be read, or lacks a column.
    """
    name = f'{field}={str(path)!r}'
    table, where = open_table(path, name)
    notes: list[str] = []
    file = column(table, FILE, name, notes)
    label = column(table, LABEL, name, notes)
    if file is not None and label is None:
        others = [one for one in table.column_names if _plain(one) in (*FILE, *SPLIT)]
        label = label_columns.joined(table, others, file, name, where, notes)
    if file is None or label is None:
        raise ConfigError(_lacks(table, file is None, label is None, name))
    split = column(table, SPLIT, name, notes)
    broken = pc.index(pc.match_substring(label, '\n'), True).as_py()
    if broken >= 0:
        raise ConfigError(
            f'{name}: the label in {where(broken)} ({file[broken].as_py()}) has a line end, '
            f'{label[broken].as_py()[:80]!r}; does a quote (") open there that nothing closes?'
        )
    empty = pc.equal(file, '')
    if count := pc.sum(empty).as_py() or 0:
        notes.append(f'{count:,} row{"s name" if count > 1 else " names"} no file: left out')
        keep = pc.invert(empty)
        kept = np.flatnonzero(keep.to_numpy(False))
        where = _of_kept(where, kept)
        file, label = file.filter(keep), label.filter(keep)
        split = None if split is None else split.filter(keep)
    if not len(file):
        raise ConfigError(f'{name}: has no rows; add one for each picture that has a label')
    return Rows(name, file, label, split, where, tuple(notes))


def open_table(
    path: pathlib.Path, name: str, words: Sequence[str] | None = None
) -> tuple[pa.Table, Callable[[int], str]]:
    """Opens a table: its columns, as they are, and what says where a row is, as 'line 7'.

    Args:
      path: a file of one of `SUFFIXES`.
      name: the field that names it, and its value.
      words: what the columns may be called that are wanted of a Parquet file; None for those of
        labels.

    Raises:
      ConfigError: it cannot be read.
    """
    parquet = path.suffix.lower() in ('.parquet', '.pq')
    try:
        return _read_parquet(path, words) if parquet else _read_text(path, name)
    except OSError as error:
        raise ConfigError(f'{name}: cannot be read ({error.strerror or error})') from error
    except (pa.ArrowException, csv.Error) as error:
        what = 'Parquet file' if parquet else 'table'
        why = ' '.join(str(error).split())[:300]
        raise ConfigError(f'{name}: is damaged, or no {what} ({why})') from error


def _of_kept(where: Callable[[int], str], kept: np.ndarray) -> Callable[[int], str]:
    return lambda row: where(int(kept[row]))


def _lacks(table: pa.Table, file: bool, label: bool, name: str) -> str:
    """Says that there is no column of files, or none of labels, and what to do."""
    names = table.column_names
    header = next((one for one in names if one.strip().lower().endswith(pictures.SUFFIXES)), None)
    if file and header:
        return (
            f'{name}: its first line should name the columns, and is a picture already '
            f'({header!r}). Put a line before it, such as file,label'
        )
    missing = ' and '.join(
        f'a column of {what} ({", ".join(words[:4])} ...)'
        for lacks, what, words in ((file, 'files', FILE), (label, 'labels', LABEL))
        if lacks
    )
    shown = ', '.join(map(repr, names[:_SHOWN])) + (', ...' if len(names) > _SHOWN else '')
    return (
        f'{name}: lacks {missing}; its columns are {shown}. Rename those that are meant'
        + ', or give each class a column of 0 and 1' * (label and not file)
        + ', or give the file a first line with names' * file
    )


def _read_parquet(
    path: pathlib.Path, words: Sequence[str] | None
) -> tuple[pa.Table, Callable[[int], str]]:
    with pq.ParquetFile(path) as file:
        schema, wanted = file.schema_arrow, set(words or (*FILE, *LABEL, *SPLIT))
        names = [name for name in schema.names if _plain(name) in wanted]
        if not words and not any(
            _plain(name) in LABEL for name in names
        ):  # there may be one for each class
            names += [
                field.name
                for field in schema
                if field.name not in names and label_columns.has_texts(field.type)
            ]
        table = file.read(columns=names)
        for name in schema.names:  # the error lists them all
            if name not in names:
                table = table.append_column(name, pa.nulls(len(table)))
        return table, lambda row: f'row {row + 1:,}'


def _read_text(path: pathlib.Path, name: str) -> tuple[pa.Table, Callable[[int], str]]:
    content = path.read_bytes()
    if content.startswith(_UTF16):
        raise ConfigError(f'{name}: is UTF-16; save it as UTF-8 (in Excel "CSV UTF-8")')
    content = content.removeprefix(b'\xef\xbb\xbf')
    try:
        content.decode('utf-8')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise ConfigError(
            f'{name}: line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); save it as '
            'UTF-8 (in Excel "CSV UTF-8")'
        ) from error
    if b'\0' in content:
        raise ConfigError(f'{name}: holds zero bytes, as no text does; save it as CSV')
    if not content.strip():
        raise ConfigError(f'{name}: is empty')
    content = content.replace(b'\r\n', b'\n')
    if content.count(b'\r') and b'\n' not in content.strip(
        b'\n'
    ):  # as old Macs, and Excel for them
        content = content.replace(b'\r', b'\n')
    blank = len(content) - len(content.lstrip(b'\n'))  # lines before the first
    content = content.strip(b'\n')
    said = _SEPARATOR.match(content)  # as Excel is told
    if said:
        blank, content = blank + 1, content[said.end() :]
    delimiter = said[1].decode() if said else _delimiter(content)
    first = content.partition(b'\n')[0].decode().replace('\r', ' ')
    header = next(csv.reader([first], delimiter=delimiter))
    repeated = {one for one in header if one.strip() and header.count(one) > 1}
    if meant := sorted(one for one in repeated if _plain(one) in {*FILE, *LABEL, *SPLIT}):
        raise ConfigError(f'{name}: has two columns called {meant[0]!r}; rename the other one')
    starts = functools.cache(lambda: _starts(content))

    def where(row: int) -> str:
        return f'line {blank + starts()[row + 1]:,}'

    return _parse(content, delimiter, header, name, where), where


def _parse(
    content: bytes, delimiter: str, header: list[str], name: str, where: Callable[[int], str]
) -> pa.Table:
    wrong: list[pa.csv.InvalidRow] = []

    def keep_it(row: pa.csv.InvalidRow) -> str:
        wrong.append(row)
        return 'error'

    block = max(2**20, min(len(content) + 1, 2**30))
    try:
        return pa.csv.read_csv(
            io.BytesIO(content + b'\n'),
            pa.csv.ReadOptions(block_size=block, use_threads=False),  # threads do not count rows
            pa.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep_it
            ),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if not wrong:
            raise
        row = wrong[0]
        found, wanted = row.actual_columns, row.expected_columns
        fix = f'put quotes (") around a value that holds {delimiter!r}'
        raise ConfigError(
            f'{name}: {where(row.number - 2)} has {found} value{"s" * (found > 1)}, '
            f'{" ".join(row.text.split())[:80]!r}, and the first line names {wanted} columns; '
            f'{"fill it up" if found < wanted else fix}'
        ) from error


def _starts(content: bytes) -> list[int]:
    """Returns the line that each record starts on, from 1; a value in quotes may fill several."""
    starts, inside = [], False
    for number, line in enumerate(content.split(b'\n'), 1):
        if line and not inside:
            starts.append(number)
        inside ^= line.count(b'"') % 2 == 1
    return starts


def _delimiter(content: bytes) -> str:
    """Returns what separates the names of the columns in the first line."""
    first = re.sub(r'"[^"]*"', '', content.partition(b'\n')[0].decode())
    return max(_DELIMITERS, key=first.count)


def _plain(name: str) -> str:
    return re.sub(r'[\s-]+', '_', name.strip().lower())


def column(table: pa.Table, words: Sequence[str], name: str, notes: list[str]) -> pa.Array | None:
    """Returns the column that has the first of `words` for its name, as text; None for none.

    Args:
      table: from `open_table`.
      words: what it may be called.
      name: of the table, for people.
      notes: gets a line where several columns may be meant.

    Raises:
      ConfigError: it holds no texts or whole numbers.
    """
    found = [
        place
        for word in words
        for place, title in enumerate(table.column_names)
        if _plain(title) == word
    ]
    if not found:
        return None
    names = [table.column_names[place] for place in found]
    if len(names) > 1:
        unused = ', '.join(map(repr, names[1:]))
        notes.append(f'the column {names[0]!r} is read, {unused} not')
    return _texts(table.column(found[0]), f'{name}: column {names[0]!r}')


def _texts(column: pa.ChunkedArray, name: str) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        column = pc.binary_join(column.cast(pa.list_(pa.string())), ';')
        kind = pa.string()
    if pa.types.is_floating(kind):  # what pandas makes of whole numbers that may be missing
        whole = pc.all(pc.equal(pc.floor(column), column)).as_py()
        if whole is False:
            raise ConfigError(f'{name}: holds numbers with fractions, where names are expected')
        column = column.cast(pa.int64())
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_nested(kind):
        raise ConfigError(f'{name}: holds {kind}, where texts or whole numbers are expected')
    texts = column.cast(pa.large_string()).combine_chunks()
    if isinstance(texts, pa.ChunkedArray):  # older versions of pyarrow, where there is no chunk
        texts = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], texts.type)
    return pc.utf8_trim_whitespace(pc.fill_null(texts, ''))
