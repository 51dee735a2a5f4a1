"""A table with a column of 0 and 1 for each class, as many satellite and medical sets have it."""

from collections.abc import Callable, Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from simclr_jax.config import ConfigError
from simclr_jax.data.picture_labels import listed

_ONE, _ZERO = ('1', '1.0', 'true', 'yes'), ('0', '0.0', 'false', 'no')
_INDEX = ('', 'index', 'unnamed: 0')  # what pandas adds


def joined(
    table: pa.Table,
    others: Sequence[str],
    file: pa.Array,
    name: str,
    where: Callable[[int], str],
    notes: list[str],
) -> pa.Array | None:
    """Returns the classes of each row, with `;` between them, '' for none.

    Args:
      table: all of it.
      others: the columns that say something else than a class.
      file: what each row is for.
      name: of the table, for people.
      where: returns how to find a row.
      notes: gets a line on what was read.

    Returns:
      None where fewer than two columns are, mostly, of 0 and 1.

    Raises:
      ConfigError: some columns are of 0 and 1, and one is not.
    """
    names = [
        column
        for column in table.column_names
        if column not in others and column.strip().lower() not in _INDEX
    ]
    if twice := [column for column in names if names.count(column) > 1]:
        raise ConfigError(f'{name}: has two columns called {twice[0]!r}; rename one of them')
    columns = {column: _texts(table.column(column)) for column in names}
    known = pa.array([*_ONE, *_ZERO])
    fits = {column: pc.is_in(texts, value_set=known) for column, texts in columns.items()}
    mostly = [column for column in fits if 2 * pc.sum(fits[column]).as_py() > len(file)]
    if not len(file) or len(mostly) < 2:
        return None
    for column, fit in fits.items():
        if (row := pc.index(fit, False).as_py()) >= 0:
            raise ConfigError(
                f'{name}: has no column of labels. {len(mostly):,} columns are of 0 and 1, as '
                f'{mostly[0]!r}; if each of them is a class, {column!r} holds '
                f'{columns[column][row].as_py()!r} in {where(row)} ({file[row].as_py()}): write 0 '
                'or 1 there, or take that column out. If one column is the label, call it label'
            )
        if any(mark in column for mark in ';|'):
            raise ConfigError(
                f'{name}: the column {column!r} is a class, with ; or | in its name, which stand '
                'between classes; rename it'
            )
    there = {column: pc.is_in(texts, value_set=pa.array(_ONE)) for column, texts in columns.items()}
    words = [pc.if_else(is_there, f'{column};', '') for column, is_there in there.items()]
    notes.append(f'{len(columns):,} columns of 0 and 1 are its classes: {_listed(columns)}')
    if unused := [column for column, is_there in there.items() if not pc.any(is_there).as_py()]:
        notes.append(f'no row has a 1 in {_listed(unused)}: left out')
    classes_of = pc.utf8_rtrim(pc.binary_join_element_wise(*words, ''), ';')
    return classes_of.cast(pa.large_string())


def _listed(columns: Collection[str]) -> str:
    names = [*columns]
    return listed(names, range(len(names)))


def _texts(column: pa.ChunkedArray) -> pa.Array:
    texts = column.cast(pa.large_string()) if has_texts(column.type) else None
    found = pa.nulls(len(column), pa.large_string()) if texts is None else _one_chunk(texts)
    return pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(found, '')))


def has_texts(kind: pa.DataType) -> bool:
    """Whether a column of that type may say 0 and 1, or be the name of a file."""
    return any(
        is_kind(kind)
        for is_kind in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_boolean,
        )
    )


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
