import csv
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simclr_jax.evaluate import tables

VECTORS = np.random.default_rng(0).normal(size=(2500, 7)).astype(np.float32)
FILES = [f'a, "b"\n/{i}é.jpg' for i in range(2500)]
LABELS = [None if i % 3 else f'c,{i % 5}' for i in range(2500)]


def blocks():
    for i in range(0, 2500, 1000):
        rows = slice(i, i + 1000)
        yield tables.Block(FILES[rows], None, LABELS[rows], VECTORS[rows])


@pytest.fixture
def write(tmp_path):
    def write(suffix, shape=None, blocks=blocks):
        path = tmp_path / f'table{suffix}'
        shape = shape or tables.Shape(2500, 7, split=False, label=True)
        tables.write(path, suffix, shape, blocks, {'encoder': {'checksum': 'abc'}})
        return path

    return write


def test_parquet_holds_the_rows_and_says_what_they_are(write):
    table = pq.read_table(write('.parquet'))
    assert table.column_names == ['file', 'label', 'embedding']
    assert table['file'].to_pylist() == FILES
    assert table['label'].to_pylist() == LABELS
    assert str(table.schema.field('embedding').type) == (
        'fixed_size_list<element: float not null>[7]'
    )
    np.testing.assert_array_equal(np.stack(table['embedding'].to_numpy()), VECTORS)
    assert json.loads(table.schema.metadata[b'simclr_jax']) == {'encoder': {'checksum': 'abc'}}


def test_npz_holds_the_rows_and_nothing_that_is_executed(write):
    with np.load(write('.npz'), allow_pickle=False) as found:
        assert sorted(found) == ['embedding', 'file', 'label', 'simclr_jax']
        assert found['file'].tolist() == FILES
        assert found['label'].tolist() == [label or '' for label in LABELS]
        np.testing.assert_array_equal(found['embedding'], VECTORS)
        assert json.loads(str(found['simclr_jax'])) == {'encoder': {'checksum': 'abc'}}


def test_csv_holds_the_rows_to_the_last_bit(write):
    with write('.csv').open(newline='', encoding='utf-8') as file:
        header, *rows = csv.reader(file)
    assert header == ['file', 'label', *(f'e{i}' for i in range(7))]
    assert [row[0] for row in rows] == FILES
    assert [row[1] for row in rows] == [label or '' for label in LABELS]
    np.testing.assert_array_equal(np.array([row[2:] for row in rows], np.float32), VECTORS)


@pytest.mark.parametrize('suffix', tables.SUFFIXES)
def test_splits_have_a_column_and_missing_labels_have_none(write, suffix):
    vectors = np.eye(3, dtype=np.float32)
    made = [tables.Block(['a', 'b', 'c'], ['train', 'train', 'test'], None, vectors)]
    path = write(suffix, tables.Shape(3, 3, split=True, label=False), lambda: made)
    if suffix == '.parquet':
        names, split = pq.read_schema(path).names, pq.read_table(path)['split'].to_pylist()
    elif suffix == '.npz':
        with np.load(path) as found:
            names, split = list(found)[:-1], found['split'].tolist()
    else:
        names, *rows = csv.reader(path.read_text().splitlines())
        split = [row[1] for row in rows]
    assert names[:2] == ['file', 'split'] and 'label' not in names
    assert split == ['train', 'train', 'test']


@pytest.mark.parametrize('suffix', tables.SUFFIXES)
def test_the_same_rows_make_the_same_file(write, suffix):
    assert write(suffix).read_bytes() == write(suffix).read_bytes()


@pytest.mark.parametrize('suffix', tables.SUFFIXES)
def test_memory_does_not_grow_with_the_rows(write, suffix, monkeypatch):
    monkeypatch.setattr(tables, '_GROUP', 2**14)

    def peak(count):
        def blocks():
            for i in range(count):
                yield tables.Block(
                    [f'{i}/{j}.jpg' for j in range(256)], None, None, np.ones((256, 64), np.float32)
                )

        tracemalloc.start()
        before = pa.total_allocated_bytes()
        write(suffix, tables.Shape(256 * count, 64, split=False, label=False), blocks)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert pa.total_allocated_bytes() - before < 2**20
        return most

    few, many = peak(20), peak(200)  # 1.3 and 13 MB of vectors
    assert many < few + 2**20
