"""What sub-folders mean: splits, classes or neither; and what the first line says about it."""

import io

import numpy as np
import pytest
from PIL import Image

from simclr_jax.config import ConfigError
from simclr_jax.data import example, folder_files, folder_layout, sources

CLASSES = ('cat', 'dog', 'owl')


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(stream, 'PNG')
    return stream.getvalue()


@pytest.fixture
def make(tmp_path):
    """Returns a function that writes pictures of these names and opens a split of the folder."""
    written = iter(range(250))

    def write(*names):
        for name in names:
            path = tmp_path / 'pictures' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(next(written)))

    def open_(split):
        return sources.open_source(
            'folder', str(tmp_path), split, path=str(tmp_path / 'pictures'), max_bad_fraction=0.5
        )

    return write, open_


def labels(source):
    return [example.parse(record)[1] for record in source.read(range(source.num_examples))]


@pytest.mark.parametrize(
    ('train', 'test'), [('train', 'val'), ('Training', 'valid'), ('train', 'testing')]
)
def test_train_and_test_folders_of_classes_are_splits(make, train, test):
    write, open_ = make
    write(*(f'{train}/{name}/{i}.png' for name in CLASSES for i in range(4)))
    write(*(f'{test}/{name}/{i}.png' for name in CLASSES for i in range(2)))
    source = open_('train')
    assert source.num_examples == 12 and source.label_names == CLASSES
    assert labels(source) == [0] * 4 + [1] * 4 + [2] * 4
    tested = source.data.open('test')  # the default of data.test_split finds what there is
    assert tested.num_examples == 6 and labels(tested) == [0, 0, 1, 1, 2, 2]
    assert source.data.open('all').num_examples == 18
    records = [{example.parse(r)[0] for r in s.read(range(6))} for s in (source, tested)]
    assert not records[0] & records[1]
    name = 'test' if test == 'testing' else 'validation'
    assert source.description == (f'18 pictures: 12 train in 3 classes, 6 {name} in 3 classes')


def test_validation_and_test_are_both_there_by_name(make):
    write, open_ = make
    for split, count in (('train', 5), ('val', 2), ('test', 3)):
        write(*(f'{split}/{name}/{i}.png' for name in CLASSES for i in range(count)))
    source = open_('train')
    assert source.data.splits == ('train', 'validation', 'test', 'all')
    for name, count in (('validation', 6), ('val', 6), ('test', 9), ('train', 15), ('all', 30)):
        assert source.data.open(name).num_examples == count
    with pytest.raises(ConfigError, match=r"'tset' .* one of train, validation, test, all"):
        source.data.open('tset')


def test_splits_number_their_classes_alike_and_may_lack_labels(make):
    write, open_ = make
    write('train/b/1.png', 'train/c/2.png', 'val/a/3.png', 'val/c/4.png', 'test/5.png')
    write('unlabelled/6.png', 'loose.png')
    source = open_('train')
    assert source.label_names == ('a', 'b', 'c')
    assert labels(source) == [1, 2] and labels(source.data.open('val')) == [0, 2]
    for split, count in (('test', 1), ('unlabelled', 1), ('all', 7)):
        other = source.data.open(split)
        assert (other.num_examples, other.label_names) == (count, None)
        assert set(labels(other)) == {-1}
    assert 'no labels in test: there are no sub-folders' in source.description


def test_a_folder_without_splits_is_divided_by_name(make):
    write, open_ = make
    write(*(f'{name}/{i}.png' for name in CLASSES for i in range(30)))
    source = open_('train')
    test = source.data.open('test')
    assert source.num_examples + test.num_examples == 90 and 2 < test.num_examples < 20
    assert source.data.splits == ('train', 'test', 'all') and source.label_names == CLASSES
    assert source.description == (
        f'90 pictures: {source.num_examples} train, {test.num_examples} test; '
        '3 classes, by sub-folder'
    )
    with pytest.raises(ConfigError, match=r"'validation' .* must be one of train, test, all"):
        source.data.open('validation')


@pytest.mark.parametrize(
    ('names', 'reason'),
    [
        (['1.png', '2.png'], 'no labels: there are no sub-folders'),
        (['cat/1.png', 'cat/2.png'], 'no labels: all pictures are in one sub-folder, cat/'),
        (
            ['data/cat/1.png', 'data/dog/2.png'],
            'one sub-folder, data/; if the folders in it are the classes, end data.path in data',
        ),
        (
            ['cat/1.png', 'dog/2.png', 'owl/3.png', 'stray.png'],
            'no labels: 1 picture lies beside the 3 sub-folders: stray.png',
        ),
        (
            ['cat/1.png', *(f'{i}.png' for i in range(5))],
            'no labels: 5 pictures lie beside the sub-folder: 0.png, 1.png, 2.png, ...',
        ),
        (['train/cat/1.png', 'val/cat/2.png'], 'no labels: there is only one class'),
        (['train/1.png', 'test/2.png'], 'no labels: there are no sub-folders'),
    ],
)
def test_the_first_line_says_why_there_are_no_labels(make, names, reason):
    write, open_ = make
    write(*names)
    source = open_('all')
    assert source.label_names is None
    assert source.description.startswith(f'{len(names)} pictures: ')
    assert reason in source.description


def test_a_folder_of_bad_files_is_no_class(make, tmp_path):
    write, open_ = make
    write('cat/1.png', 'dog/2.png')
    (tmp_path / 'pictures/empty').mkdir()
    (tmp_path / 'pictures/empty/3.png').write_bytes(b'')
    assert open_('all').label_names == ('cat', 'dog')


def test_an_empty_split_names_the_field_and_what_to_do(make):
    write, open_ = make
    write('1.png', '2.png', '3.png')
    with pytest.raises(ConfigError) as error:
        open_('all').data.open('test')
    assert "split 'test'" in str(error.value) and 'none of the 3 pictures' in str(error.value)
    assert '(train, test, all)' in str(error.value)
    for split, words in (('test', 'none of the 3 pictures'), ('tset', 'must be one of train')):
        with pytest.raises(ConfigError, match=f"data.train_split='{split}': .*{words}"):
            open_(split)


def test_runs_of_folders_equal_those_of_a_plain_loop():
    random = np.random.default_rng(0)
    parts = [b'a', b'a-b', b'a0', b'b', b'\xff', b'Z']
    names = sorted(
        {
            b'/'.join(random.choice(parts, random.integers(1, 4))) + b'/' + bytes([48 + i % 10])
            if random.random() < 0.8
            else b'x%d' % random.integers(99)
            for i in range(400)
        }
    )
    compact = folder_files.Names(b''.join(names), [len(name) for name in names])
    assert [compact.raw(i) for i in range(len(names))] == names
    found = [
        piece
        for piece, start, stop in compact.folders(0, len(names), 0)
        for _ in range(start, stop)
    ]
    assert found == [name.partition(b'/')[0] if b'/' in name else b'' for name in names]
    layout = folder_layout.lay_out(compact, np.zeros(len(names), bool))
    assert layout.label_names is None and 'lie beside' in layout.unlabelled['all']
