import os

import numpy as np
import pytest
from PIL import Image

from simclr_jax.config import ConfigError
from simclr_jax.data import listing


def save(path, value=0):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path, 'PNG')


def test_a_folder_is_listed_by_name_with_its_classes(tmp_path):
    for i, name in enumerate(('cat/b.png', 'cat/a.png', 'dog/deep/er/c.png', 'dog/d.PNG')):
        save(str(tmp_path / name), i)
    (tmp_path / 'dog' / 'notes.txt').write_text('no picture')
    found = listing.open_listing(str(tmp_path))
    assert [found.file(i) for i in range(len(found))] == [
        'cat/a.png',
        'cat/b.png',
        'dog/d.PNG',
        'dog/deep/er/c.png',
    ]
    assert found.label_names == ('cat', 'dog') and found.split is None
    pictures = found.read([3, 0])
    assert [picture.label for picture in pictures] == [1, 0]
    assert pictures[1].encoded == (tmp_path / 'cat' / 'a.png').read_bytes()


def test_sub_folders_may_be_splits(tmp_path):
    for name in ('train/a/1.png', 'train/b/2.png', 'test/a/3.png', 'test/b/4.png'):
        save(str(tmp_path / name))
    found = listing.open_listing(str(tmp_path))
    assert [found.split(i) for i in range(4)] == ['test', 'test', 'train', 'train']
    assert [found.read([i])[0].label for i in range(4)] == [0, 1, 0, 1]


def test_pictures_beside_the_classes_have_it_said_why_there_are_no_labels(tmp_path):
    for name in ('a/1.png', 'b/2.png', 'loose.png'):
        save(str(tmp_path / name))
    found = listing.open_listing(str(tmp_path))
    assert found.label_names is None
    assert any('no labels' in note and 'loose.png' in note for note in found.unlabelled)


def test_names_that_are_not_utf_8_can_be_printed_and_read(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b'caf\xe9')
    save(os.path.join(folder, b'\xff.png'))
    found = listing.open_listing(str(tmp_path))
    assert found.file(0).encode() == rb'caf\xe9/\xff.png'
    assert found.read([0])[0].encoded.startswith(b'\x89PNG')


def test_a_file_that_is_gone_is_bad(tmp_path):
    for name in ('a.png', 'b.png'):
        save(str(tmp_path / name))
    found = listing.open_listing(str(tmp_path))
    (tmp_path / 'a.png').unlink()
    gone, there = found.read([0, 1])
    assert gone.why == 'No such file or directory' and not there.why


@pytest.mark.parametrize('change', ['add', 'remove', 'rename', 'touch', 'grow'])
def test_whatever_changes_in_the_folder_changes_the_digest(tmp_path, change):
    for name in ('a.png', 'b.png'):
        save(str(tmp_path / name))
    before = listing.open_listing(str(tmp_path)).digest
    assert listing.open_listing(str(tmp_path)).digest == before
    path = tmp_path / 'a.png'
    if change == 'add':
        save(str(tmp_path / 'c.png'))
    elif change == 'remove':
        path.unlink()
    elif change == 'rename':
        path.rename(tmp_path / 'aa.png')
    elif change == 'touch':
        os.utime(path, ns=(1, 1))
    else:
        status = path.stat()
        path.write_bytes(path.read_bytes() + b'\0')
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert listing.open_listing(str(tmp_path)).digest != before


def test_a_data_set_has_all_its_splits_or_the_one_that_is_named():
    everything, test = listing.open_listing('digits'), listing.open_listing('digits:test')
    assert len(everything) == 1797 and len(test) == 500
    assert test.file(3) == 'test/3' and {test.split(i) for i in range(500)} == {'test'}
    first = next(i for i in range(1797) if everything.split(i) == 'test')
    assert everything.read([first + 3, 0])[0] == test.read([3])[0]
    assert test.label_names == tuple('0123456789')
    labels = [picture.label for picture in test.read(range(500))]
    assert np.bincount(labels).tolist() == [50] * 10
    assert listing.open_listing('digits:test[:10]').count == 10
    assert listing.open_listing('digits:1.0.0:test').count == 500


@pytest.mark.parametrize(
    'data, words',
    [
        ('/nowhere/pictures', 'is not there; name the one that holds the pictures'),
        ('picturs', 'no such folder, and no data set of that name is prepared'),
        ('pictures of mine', 'there is no such folder, and a data set is named as cifar10'),
        ('gs://bucket/pictures', 'pictures in a bucket are not read'),
        ('{}/a.png', 'is a file; name the folder that it is in'),
        ('setup.cfg:test', 'there is no such folder'),
    ],
)
def test_what_is_not_there_is_told_before_anything_else(data, words, tmp_path):
    save(str(tmp_path / 'a.png'))
    data = data.format(tmp_path)
    with pytest.raises(ConfigError, match=f'--data={data!r}: ') as error:
        listing.check(data)
    assert words in str(error.value)


def test_a_folder_without_pictures_says_what_pictures_are(tmp_path):
    (tmp_path / 'notes.txt').write_text('no picture')
    listing.check(str(tmp_path))
    with pytest.raises(ConfigError, match=r'--data=.*holds no picture, .*\.jpg, .*\.tiff'):
        listing.open_listing(str(tmp_path))


def test_a_split_that_is_not_there_names_those_that_are():
    with pytest.raises(ConfigError, match=r'--data=.digits:val.*train.*test'):
        listing.open_listing('digits:val')
