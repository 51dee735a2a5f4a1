"""A flat folder with a table of labels: what it gives to the pictures, and every mistake in it."""

import hashlib
import io
import json
import os
import pathlib
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simclr_jax.config import ConfigError, default
from simclr_jax.data import (
    example,
    folder_index,
    label_matching,
    label_table,
    picture_labels,
    pictures,
    sources,
)
from simclr_jax.data.folder_files import Names
from simclr_jax.workdir import claim


def png(number: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, 'PNG')
    return stream.getvalue()


FILES = [f'{i:02}.png' for i in range(40)]
LABELS = [('cat', 'dog', 'owl')[i % 3] for i in range(30)]  # of the first thirty


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for i, name in enumerate(FILES):
        (folder / name).write_bytes(png(i))
    return folder


@pytest.fixture
def open_(root, monkeypatch):
    """Returns a function that writes a table and opens a split."""

    def write_and_open(rows, split='train', header='file,label', **options):
        table = root.parent / 'labels.csv'
        if rows is not None:
            lines = (','.join(row) if isinstance(row, tuple) else row for row in rows)
            table.write_text('\n'.join([header, *lines]), encoding='utf-8')
        return sources.open_source(
            'folder',
            str(root.parent),
            split,
            path=str(root),
            labels=str(table),
            max_bad_fraction=0.5,
            **options,
        )

    return write_and_open


ROWS = list(zip(FILES, LABELS, strict=False))


def names_of(source) -> dict[str, str | None]:
    """The label of every picture, read from its record."""
    found = {}
    for number, record in enumerate(source.read(range(source.num_examples))):
        label = example.parse(record).label
        assert label == source.labels[number]
        found[source.name(number)] = source.label_names[label] if label >= 0 else None
    return found


# ---- What a table gives


def test_pictures_with_a_row_have_its_label_and_the_others_none(open_, capsys):
    source = open_(ROWS, 'all')
    assert names_of(source) == dict.fromkeys(FILES) | dict(ROWS)
    assert source.label_names == ('cat', 'dog', 'owl') and source.several is None
    assert source.num_classes == 3 and source.num_examples == 40
    assert '10 of 40 pictures have no label: 30.png, 31.png' in capsys.readouterr().out
    assert source.description.startswith('40 pictures: ')
    assert source.description.endswith('; 30 with labels of 3 classes')


def test_without_a_column_of_splits_a_tenth_by_name_is_test_as_of_any_folder(open_, root):
    split = {name: open_(ROWS, name) for name in ('train', 'test')}
    plain = sources.open_source('folder', str(root.parent), 'test', path=str(root))
    tested = [split['test'].name(i) for i in range(split['test'].num_examples)]
    assert tested == [plain.name(i) for i in range(plain.num_examples)]
    share = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'big') for name in FILES]
    assert tested == [n for n, s in zip(FILES, share, strict=True) if s / 2**64 < 0.1]
    assert split['train'].num_examples == 40 - len(tested)


def test_a_table_has_splits_and_what_it_does_not_name_is_trained_on(open_, capsys):
    rows = [(f, c, ('Train', 'val', 'TEST')[i // 10]) for i, (f, c) in enumerate(ROWS)]
    rows.append((FILES[30], 'cat', ''))  # a label without a split
    rows.append((FILES[31], '', 'test'))  # a split without a label
    header = 'file,label,split'
    train = open_(rows, header=header)
    assert train.data.splits == ('train', 'validation', 'test', 'all')
    found = names_of(train)
    assert list(found) == [*FILES[:10], FILES[30], *FILES[32:]]
    assert found[FILES[30]] == 'cat' and found[FILES[39]] is None
    assert list(names_of(train.data.open('validation'))) == FILES[10:20]
    assert names_of(train.data.open('test')) == dict(ROWS[20:]) | {FILES[31]: None}
    text = capsys.readouterr().out
    assert '1 picture has a row but no split: 30.png' in text
    assert '1 row without a label: 31.png' in text


def test_folds_are_splits_of_their_own_names(open_):
    source = open_([(f, c, str(i % 5)) for i, (f, c) in enumerate(ROWS)], '3', 'file,label,fold')
    assert source.data.splits == ('0', '1', '2', '3', '4', 'all')
    assert list(names_of(source)) == FILES[3:30:5]
    with pytest.raises(ConfigError, match=r"data\.train_split='train': .*must be one of 0, 1, 2"):
        open_(None)


def test_a_table_takes_the_place_of_folders_of_classes_but_their_splits_stay(open_, root):
    for place in ('train/a', 'train/b', 'test/a', 'test/b'):
        (root / place).mkdir(parents=True)
    for i, name in enumerate(FILES):
        (root / name).rename(root / ('train/a', 'train/b', 'test/a', 'test/b')[i % 4] / name)
    source = open_([(f'train/a/{FILES[0]}', 'x'), (f'test/b/{FILES[3]}', 'y')])
    assert source.data.splits == ('train', 'test', 'all') and source.num_examples == 20
    assert source.label_names == ('x', 'y') and (source.labels >= 0).sum() == 1
    assert (source.data.open('test').labels == 1).sum() == 1


@pytest.mark.parametrize('way', ['rows', ';', '|', ' | ', 'columns'])
def test_several_labels_a_picture_are_a_matrix(open_, way):
    wanted = {FILES[0]: {'cat', 'dog'}, FILES[1]: {'owl'}, FILES[2]: {'cat', 'dog', 'owl'}}
    rows = [(file, label) for file, labels in wanted.items() for label in sorted(labels)]
    header = 'file,label'
    if way == 'columns':
        header = 'file,cat,dog,owl'
        classes = header.split(',')[1:]
        rows = [(f, *(str(int(c in labels)) for c in classes)) for f, labels in wanted.items()]
    elif way != 'rows':
        rows = [(file, way.join(sorted(labels))) for file, labels in wanted.items()]
    source = open_(rows, 'all', header, several_labels=True)
    assert source.several.shape == (40, 3) and source.several.dtype == np.int8
    for number in range(40):
        row = source.several[number]
        if labels := wanted.get(source.name(number)):
            assert set(row.tolist()) <= {0, 1}
            assert {source.label_names[i] for i in np.flatnonzero(row)} == labels
        else:
            assert (row == -1).all()
    assert (source.labels == -1).all() and source.num_classes == 0
    assert set(names_of(source).values()) == {None}
    assert 'of 3 classes, several a picture' in source.description


def test_numbers_are_in_the_order_of_their_values(open_):
    rows = [(file, label) for file, label in zip(FILES, ('10', '2', '1', 'b', '11'), strict=False)]
    assert open_(rows, 'all').label_names == ('1', '2', '10', '11', 'b')


# ---- How files are named


@pytest.mark.parametrize(
    'form',
    ['{}', './{}', '{root}/{}', 'pictures/{}', '{stem}', '{root}/{stem}', ' {} '],
)
def test_files_are_named_from_the_folder_the_table_or_the_root(open_, root, form):
    rows = [(form.format(f, stem=f[:-4], root=root), c) for f, c in ROWS]
    assert names_of(open_(rows, 'all')) == dict.fromkeys(FILES) | dict(ROWS)


def test_backslashes_links_and_accents_of_two_kinds_name_files(open_, root, tmp_path):
    decomposed = unicodedata.normalize('NFD', 'é')
    (root / 'a b').mkdir()
    (root / 'a b' / f'{decomposed}.png').write_bytes(png(100))
    (root / 'a b/c.d.png').write_bytes(png(101))
    link = tmp_path / 'link'
    link.symlink_to(root)
    rows = ['a b\\é.png,x', '.\\a b\\c.d,y', f'{link.resolve()}/00.png,x', '01,y']
    found = names_of(open_(rows, 'all'))
    assert {name: label for name, label in found.items() if label} == {
        f'a b/{decomposed}.png': 'x',
        'a b/c.d.png': 'y',
        '00.png': 'x',
        '01.png': 'y',
    }


def test_names_that_are_not_utf8_are_those_that_are_shown(open_, root):
    raw = os.path.join(os.fsencode(root), b'caf\xe9.png')
    try:
        pathlib.Path(os.fsdecode(raw)).write_bytes(png(100))
    except OSError:
        pytest.skip('this disk takes UTF-8 only')
    assert names_of(open_([r'caf\xe9.png,x', '00.png,y'], 'all'))[r'caf\xe9.png'] == 'x'


def test_a_name_without_suffix_that_may_be_two_pictures_is_refused(open_, root):
    (root / '00.jpg').write_bytes(png(200))
    with pytest.raises(
        ConfigError, match=r"1 row may mean several pictures, as '00', which is 00\.jpg or 00\.png"
    ):
        open_(['00,cat', '01,dog'])
    assert names_of(open_(['00.png,cat', '01,dog'], 'all'))['00.jpg'] is None


# ---- Mistakes, before a picture is looked at


@pytest.fixture
def unlooked(monkeypatch):
    """No picture may be looked at."""

    def check(encoded):
        raise AssertionError('a picture was looked at')

    monkeypatch.setattr(pictures, 'check', check)


@pytest.mark.parametrize(
    ('rows', 'header', 'words'),
    [
        (
            [('x/00.png', 'cat')],
            'file,label',
            "none of the files .*'x/00.png' .* is perhaps '00.png' there",
        ),
        ([*ROWS, ('03.png', 'dog')], 'file,label', r'1 picture has two or more labels: 03\.png'),
        (
            [*ROWS, ('03', 'dog')],
            'file,label',
            r'\(cat in line 5, dog in line 32\)\. Keep .*several_labels',
        ),
        (
            [('01.png', 'cat'), ('00.png', 'cat;dog')],
            'file,label',
            r"1 row has several labels, as 'cat;dog' of 00\.png in line 3\. .*several_labels=True",
        ),
        ([('A/00.JPG', 'cat')], 'file,label', "'A/00.JPG' of the table is perhaps '00.png' there"),
        ([('00.png', '')], 'file,label', 'its column of labels is empty'),
        (
            ['00.png,cat,train', '00.png,cat,test'],
            'file,label,split',
            r'1 picture is in two splits: 00\.png \(train, test\)',
        ),
        ([('00.png', 'cat', 'all')], 'file,label,split', "has a split 'all'"),
        (
            [(f'{i:03}', 'cat', f'u{i}') for i in range(101)] + [('00.png', 'cat', 'x')],
            'file,label,set',
            'its column of splits holds 102 different texts',
        ),
        ([('00.png', 'cat')], 'name,kind', "lacks a column of files .* 'name', 'kind'"),
    ],
)
def test_what_cannot_be_meant_is_refused(open_, root, unlooked, rows, header, words):
    with pytest.raises(ConfigError, match=rf"^data\.labels='.*labels\.csv': .*{words}") as error:
        open_(rows, header=header)
    assert '\n' not in str(error.value)


def test_everything_odd_is_named_before_a_picture_is_looked_at(open_, unlooked, capsys):
    rows = [(f, c, 'train') for f, c in ROWS[:20]] + [(f, c, 'test') for f, c in ROWS[20:28]]
    rows += [('gone.png', 'cat', 'train'), ('x/y.png', 'dog', 'test')]
    rows += [rows[3], rows[4]]  # once more
    rows += [
        ('28.png', ' Cat ', 'train'),
        ('29.png', 'fox', 'test'),
        ('30.png', '  ', 'train'),
        ('31.png', 'NA', 'train'),
    ]
    with pytest.raises(AssertionError, match='a picture was looked at'):
        open_(rows, header='file,label,split')
    text = capsys.readouterr().out
    for words in (
        "taken as a class: 'NA' (1); leave the cell empty where nobody knows the label\n",
        '2 files of the table are not there: gone.png (line 30), x/y.png (line 31)\n',
        '2 rows repeat what another one says\n',
        '1 row without a label: 30.png\n',
        '9 of 40 pictures have no label: 30.png, 32.png, 33.png, 34.png, 35.png, ...\n',
        "perhaps written in several ways, and taken as different ones: 'Cat' (1) and 'cat' (10)\n",
        '3 of 6 classes have one example: Cat, NA, fox\n',
        '1 class of test is not in train, so that nothing can learn it: fox\n',
    ):
        assert words in text
    assert all(line.startswith("data.labels='") for line in text.splitlines())


def test_folders_of_classes_are_looked_at_in_the_same_way(root, unlooked, capsys):
    for place, count in (('train/a', 5), ('train/b', 4), ('train/solo', 1), ('val/a', 2)):
        (root / place).mkdir(parents=True)
        for name in FILES[:count]:
            (root / place / name).write_bytes(png(count))
    (root / 'val/new').mkdir()
    for name in FILES[:2]:
        (root / 'val/new' / name).write_bytes(png(9))
    for name in FILES:
        (root / name).unlink()
    with pytest.raises(AssertionError, match='a picture was looked at'):
        sources.open_source('folder', str(root.parent), 'train', path=str(root))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f'data.path={str(root)!r}: 1 of 4 classes has one example: solo',
        f'data.path={str(root)!r}: 1 class of validation is not in train, so that nothing can '
        'learn it: new',
    ]


def test_a_class_that_is_drawn_for_test_alone_is_named(open_, capsys):
    drawn = [
        name
        for name in FILES
        if int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'big') / 2**64 < 0.1
    ]
    rows = [(name, 'rare' if name in drawn else 'common') for name in FILES]
    open_(rows)
    text = capsys.readouterr().out
    assert '1 class of test is not in train, so that nothing can learn it: rare\n' in text


def test_a_picture_with_a_label_that_is_bad_is_named(open_, root):
    (root / '03.png').write_bytes(b'')
    (root / '04.png').write_bytes(b'not one')
    source = open_([*ROWS, ('39.png', 'fox')], 'all')
    assert '2 pictures with a label cannot be read: 03.png, 04.png' in source.description
    assert names_of(source) == {
        name: label
        for name, label in (dict.fromkeys(FILES) | dict(ROWS) | {'39.png': 'fox'}).items()
        if name not in ('03.png', '04.png')
    }


def test_a_hundred_thousand_rows(tmp_path):
    """Enough of them that a row of Python each would be felt; nothing here is timed."""
    count = 100_000
    stems = [f'{i % 100:02}/{i:06}' for i in range(count)]
    order = sorted(range(count), key=lambda i: stems[i])
    joined = [f'{stems[i]}.jpg'.encode() for i in order]
    names = Names(b''.join(joined), [len(name) for name in joined])
    path = tmp_path / 'labels.csv'
    path.write_text('image,label\n' + ''.join(f'{stems[i]},{i % 7}\n' for i in range(count)))
    rows = label_table.read(path)
    found = label_matching.match(
        rows, names, os.fsencode(tmp_path), path, several=False, left_out={}
    )
    assert found.notes == () and found.labels.label_names == tuple('0123456')
    assert np.array_equal(found.labels.each(), np.array(order) % 7)


def test_parquet_is_read_as_csv_is(open_, root):
    table = pa.table({'image': FILES[:30], 'class': LABELS, 'set': ['train'] * 20 + ['test'] * 10})
    pq.write_table(table, root.parent / 'labels.parquet')
    source = sources.open_source(
        'folder',
        str(root.parent),
        'test',
        path=str(root),
        labels=str(root.parent / 'labels.parquet'),
    )
    assert names_of(source) == dict(ROWS[20:])


# ---- Between two starts


def start(source, workdir):
    workdir.mkdir()
    claim.claim_workdir(default(), str(workdir), source.held)
    return claim.check_claim(default(), str(workdir))


def test_a_run_keeps_its_labels_and_refuses_others(open_, root, tmp_path):
    source = open_(ROWS)
    held = start(source, tmp_path / 'run')
    assert json.loads((tmp_path / 'run/data.json').read_text())['labels']
    assert names_of(open_(None, held=held)) == names_of(source)
    assert names_of(open_(reversed(ROWS), held=held)) == names_of(source)
    changed = [*ROWS[:3], ('03.png', 'dog'), ('30.png', 'owl'), *ROWS[5:]]
    with pytest.raises(ConfigError, match=r'labels\.csv.: says something else of 3 of the 40') as e:
        open_(changed, held=held)
    for words in (
        '03.png (cat then, dog now), 04.png (dog then, no label now), 30.png (no label then, owl',
        '--config.eval.labels',
        'another --workdir',
    ):
        assert words in str(e.value), str(e.value)
    with pytest.raises(ConfigError, match=r'00\.png \(cat then, cat in test now\)'):
        open_(
            [(*ROWS[0], 'test'), *((*row, '') for row in ROWS[1:])],
            header='file,label,split',
            held=held,
        )


def test_rows_for_pictures_that_came_later_change_nothing(open_, root, tmp_path):
    before = open_(ROWS)
    held = start(before, tmp_path / 'run')
    (root / '02a.png').write_bytes(png(300))
    after = open_([('02a.png', 'aardvark'), *ROWS], held=held)
    assert names_of(after) == names_of(before) and after.label_names == before.label_names
    assert '1 picture came since this run began (02a.png)' in after.description
    assert after.held().labels() == before.held().labels()


def test_a_table_is_not_taken_from_a_run_nor_given_to_one(open_, root, tmp_path):
    held = start(open_(ROWS), tmp_path / 'run')
    options = {'path': str(root), 'max_bad_fraction': 0.5}
    with pytest.raises(ConfigError, match=r"^data\.labels='': this run began with a table"):
        sources.open_source('folder', str(tmp_path), 'train', held=held, **options)
    plain = sources.open_source('folder', str(tmp_path), 'train', **options)
    held = start(plain, tmp_path / 'other')
    with pytest.raises(ConfigError, match='this run began without a table of labels'):
        open_(ROWS, held=held)


def test_damaged_labels_of_a_run_are_named(open_, root, tmp_path):
    start(open_(ROWS), tmp_path / 'run')
    kept = tmp_path / 'run/data.labels'
    content = kept.read_bytes()
    kept.write_bytes(bytes(len(content)))
    held = claim.check_claim(default(), str(tmp_path / 'run'))
    with pytest.raises(ConfigError, match='the labels that this run began with are damaged'):
        open_(None, held=held)
    kept.write_bytes(content[:-1])
    with pytest.raises(ConfigError, match=r'data\.labels.* cannot be read .data\.labels has'):
        claim.check_claim(default(), str(tmp_path / 'run'))
    claim.release_workdir(str(tmp_path / 'run'))
    assert not kept.exists()


def test_an_index_with_labels_reaches_other_processes_as_it_is(open_, root):
    source = open_([(*row, 'train') for row in ROWS], header='file,label,split')
    labels = picture_labels.unpack(source.held().labels())
    assert labels.words(0) == 'cat' and labels.words(39) is None and labels.splits == ('train',)
    index = folder_index.Index(
        folder_index.folder_cache.unpack(source.held().pictures()), {'x': 'bad'}, ('note',), labels
    )
    again = folder_index._unpack(folder_index._pack(index))
    assert again.describe() == index.describe() and again.bad == index.bad
    assert again.labels.pack() == labels.pack()
