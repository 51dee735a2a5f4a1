"""Tables of labels as people write them: columns, encodings, delimiters, and what is refused."""

import csv
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simclr_jax.config import ConfigError
from simclr_jax.data import label_table

ROWS = [('a.jpg', 'cat', 'train'), ('b/c.jpg', 'dog', 'test'), ('é.jpg', 'cat', '')]


def read(path):
    rows = label_table.read(path)
    split = rows.split if rows.split is None else rows.split.to_pylist()
    return rows.file.to_pylist(), rows.label.to_pylist(), split


def as_csv(header, rows=ROWS, **how) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, **how).writerows([header, *(row[: len(header)] for row in rows)])
    return stream.getvalue().encode()


@pytest.mark.parametrize(
    'header',
    [
        ('file', 'label', 'split'),
        ('Filename', 'Class', 'Set'),
        ('PATH', 'category', 'fold'),
        (' image ', '"Label"', 'Split'),
        ('File Name', 'class-name', 'partition'),
    ],
)
def test_columns_have_the_names_that_people_give_them(tmp_path, header):
    path = tmp_path / 'labels.csv'
    path.write_bytes(as_csv([name.strip('"') for name in header]))
    assert read(path) == tuple(map(list, zip(*ROWS, strict=True)))


def test_columns_may_stand_in_any_order_beside_others(tmp_path):
    path = tmp_path / 'labels.csv'
    path.write_text('id,label,size,image\n7,cat,1.5,a.jpg\n8,"dog, small",,b.jpg\n')
    assert read(path) == (['a.jpg', 'b.jpg'], ['cat', 'dog, small'], None)


@pytest.mark.parametrize('before', [b'', b'\xef\xbb\xbf', b'\n\n'])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize(('suffix', 'delimiter'), [('csv', ','), ('csv', ';'), ('tsv', '\t')])
def test_delimiters_line_ends_and_byte_order_marks(tmp_path, before, end, suffix, delimiter):
    content = as_csv(('file', 'label', 'split'), delimiter=delimiter, lineterminator=end)
    path = tmp_path / f'labels.{suffix}'
    path.write_bytes(before + content)
    assert read(path) == tuple(map(list, zip(*ROWS, strict=True)))


@pytest.mark.parametrize('kind', ['text', 'whole', 'float', 'category', 'list'])
def test_parquet_as_pandas_and_others_write_it(tmp_path, kind):
    label = {
        'text': pa.array(['1', None, '10']),
        'whole': pa.array([1, None, 10]),
        'float': pa.array([1.0, None, 10.0]),
        'category': pa.array(['1', None, '10']).dictionary_encode(),
        'list': pa.array([['1'], None, ['10']]),
    }[kind]
    path = tmp_path / 'labels.parquet'
    pq.write_table(pa.table({'file': ['a', 'b', 'c'], 'label': label}), path)
    assert read(path) == (['a', 'b', 'c'], ['1', '', '10'], None)


@pytest.mark.parametrize(
    ('one', 'zero'),
    [('1', '0'), ('1.0', '0.0'), ('True', 'False'), (1, 0), (1.0, 0.0), (True, False)],
)
def test_a_column_of_0_and_1_for_each_class(tmp_path, one, zero):
    """As satellite and medical sets have it; the first column is that which pandas adds."""
    columns = {
        '': pa.array([0, 1, 2, 3]),
        'file': pa.array(['a', 'b', 'c', 'd']),
        'cat': pa.array([one, zero, one, zero]),
        'dog': pa.array([zero, one, one, zero]),
        'owl': pa.array([zero] * 4),
        'split': pa.array(['train', 'test', 'test', 'train']),
    }
    path = tmp_path / ('labels.csv' if isinstance(one, str) else 'labels.parquet')
    table = pa.table(columns)
    if isinstance(one, str):
        lines = [
            ','.join(columns),
            *(','.join(map(str, row.values())) for row in table.to_pylist()),
        ]
        path.write_text('\n'.join(lines))
    else:
        pq.write_table(table, path)
    assert read(path) == (
        ['a', 'b', 'c', 'd'],
        ['cat', 'dog', 'cat;dog', ''],
        ['train', 'test', 'test', 'train'],
    )
    assert label_table.read(path).notes == (
        '3 columns of 0 and 1 are its classes: cat, dog, owl',
        'no row has a 1 in owl: left out',
    )


def test_names_and_labels_that_are_numbers_stay_as_they_are_written(tmp_path):
    path = tmp_path / 'labels.csv'
    path.write_text('sep=;\r\nid;label\r\n007;007\r\n8;1.0\r\n1e3;7\r\n')
    assert read(path) == (['007', '8', '1e3'], ['007', '1.0', '7'], None)


def test_of_two_columns_that_may_be_meant_the_likelier_is_read_and_named(tmp_path):
    path = tmp_path / 'labels.csv'
    path.write_text('path,file,class,label\nx,a.jpg,3,cat\n')
    rows = label_table.read(path)
    assert rows.file.to_pylist() == ['a.jpg'] and rows.label.to_pylist() == ['cat']
    assert rows.notes == (
        "the column 'file' is read, 'path' not",
        "the column 'label' is read, 'class' not",
    )


def test_rows_without_a_file_are_counted(tmp_path):
    path = tmp_path / 'labels.csv'
    path.write_text('file,label\na.jpg,cat\n,dog\n  ,cat\n')
    rows = label_table.read(path)
    assert rows.file.to_pylist() == ['a.jpg'] and rows.notes == ('2 rows name no file: left out',)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'', 'is empty'),
        (b'\n \n', 'is empty'),
        (b'name,kind\na,b\n', "lacks a column of files .*its columns are 'name', 'kind'. Rename"),
        (b'file,kind\na,b\n', r"lacks a column of labels \(label, .*columns are 'file', 'kind'"),
        (b'file,label\n', 'has no rows; add one'),
        (b'file,label\na.jpg,cat\nb.jpg,caf\xe9\n', r'line 3 is not UTF-8 \(byte 0xe9\); save it'),
        ('file,label\na,b\n'.encode('utf-16'), 'is UTF-16; save it as UTF-8'),
        (
            b'\nfile,label\n\n"a\nb",x\nc, d.jpg,y\n',
            r"line 6 has 3 values, 'c, d\.jpg,y', and the first line names 2 columns; put quotes",
        ),
        (b'file,label\r\na,x\r\nb\r\n', "line 3 has 1 value, 'b', and .* 2 columns; fill it up"),
        (b'sep=;\nfile;label\na;x\nb\n', "line 4 has 1 value, 'b', and .* 2 columns; fill it up"),
        (b'a.jpg,cat\nb.jpg,dog\n', r"is a picture already \('a\.jpg'\)\. Put a line before it"),
        (
            b'file,label\na,"x\nb,y\n',
            r"label in line 2 \(a\) has a line end, 'x\\nb,y'; does a quote",
        ),
        (b'file,label,label\na,b,c\n', "has two columns called 'label'; rename the other one"),
        # A column for each class:
        (b'file,cat\na,1\n', r'lacks a column of labels .* or give each class a column of 0 and 1'),
        (
            b'file,cat,dog\na,0,1\nb,-1,0\nc,1,0\n',
            r"if each .*'cat' holds '-1' in line 3 \(b\): write 0 or 1",
        ),
        (
            b'file,cat,dog,age\na,0,1,\nb,1,0,7\n',
            r"2 columns are of 0 and 1, as 'cat'; .*'age' holds '' in line 2 \(a\): .*take that",
        ),
        (b'file,a;b,c\nx,0,1\n', "the column 'a;b' is a class, with ; or .* rename it"),
        (b'file,a,a\nx,0,1\n', "has two columns called 'a'; rename one"),
        (b'file,label\na\0,b\n', 'holds zero bytes'),
        (b'\x89PNG\r\n\x1a\n', 'is not UTF-8'),
    ],
)
def test_what_is_no_table_is_refused_with_its_name(tmp_path, content, words):
    path = tmp_path / 'labels.csv'
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"(?s)^data\.labels='{path}': .*{words}") as error:
        label_table.read(path)
    assert '\n' not in str(error.value)


def test_a_damaged_parquet_file_is_refused(tmp_path):
    path = tmp_path / 'labels.parquet'
    path.write_bytes(b'PAR1 and nothing else')
    with pytest.raises(ConfigError, match='is damaged, or no Parquet file'):
        label_table.read(path)
    pq.write_table(pa.table({'file': ['a'], 'label': [0.5]}), path)
    with pytest.raises(ConfigError, match="column 'label': holds numbers with fractions"):
        label_table.read(path)
    pq.write_table(pa.table({'photo': ['a'], 'kind': ['x']}), path)
    with pytest.raises(ConfigError, match="its columns are 'photo', 'kind'"):
        label_table.read(path)


def test_a_table_is_found_as_it_is_named_or_below_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    (folder / 'labels.csv').write_text('file,label\n')
    monkeypatch.chdir(tmp_path)
    find = lambda name: label_table.find(name, str(folder), 'data.labels')  # noqa: E731
    assert find('labels.csv') == folder / 'labels.csv'
    (tmp_path / 'labels.csv').write_text('file,label\n')
    assert find('labels.csv').resolve() == tmp_path / 'labels.csv'
    with pytest.raises(ConfigError, match=r'there is no such file, nor .*; did you mean .*labels'):
        find('label.csv')
    with pytest.raises(ConfigError, match='is a folder; name the table in it'):
        find(str(folder))
    (folder / 'labels.xlsx').write_bytes(b'')
    with pytest.raises(ConfigError, match=r'must end in \.csv, .*save it as CSV'):
        find('labels.xlsx')
    with pytest.raises(ConfigError, match='a table in a bucket is not read'):
        find('gs://bucket/labels.csv')
