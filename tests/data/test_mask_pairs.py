"""Which mask is whose, by the folders and names of the files, and in which split."""

import numpy as np
import pytest

from simclr_jax.config import ConfigError
from simclr_jax.data import mask_pairs
from simclr_jax.data.folder_files import Names
from simclr_jax.data.folder_layout import is_test


def names_of(*files):
    files = sorted(file.encode() for file in files)
    return Names(b''.join(files), [len(file) for file in files])


def paired(*files):
    names = names_of(*files)
    pairs = mask_pairs.by_name(names, 'there')
    return {
        (pairs.split[i], names[int(pairs.picture[i])]): names[int(pairs.mask[i])]
        for i in range(len(pairs.picture))
    }, pairs.notes


def test_pairs_have_the_same_name_but_for_the_suffix():
    found, notes = paired(
        'train/images/a.jpg',
        'train/images/x/a.jpg',
        'train/masks/a.png',
        'train/masks/x/a.tif',
        'valid/images/a.b.png',
        'valid/masks/a.b.png',
        'TEST/Images/1.JPG',
        'TEST/Masks/1.PNG',
    )
    assert found == {
        ('train', 'train/images/a.jpg'): 'train/masks/a.png',
        ('train', 'train/images/x/a.jpg'): 'train/masks/x/a.tif',
        ('validation', 'valid/images/a.b.png'): 'valid/masks/a.b.png',
        ('test', 'TEST/Images/1.JPG'): 'TEST/Masks/1.PNG',
    }
    assert notes == ()


def test_other_names_of_folders():
    found, _ = paired(
        'JPEGImages/a.jpg', 'SegmentationClass/a.png', 'images2/b.png', 'JPEGImages/day/a.jpg'
    )
    assert found == {('', 'JPEGImages/a.jpg'): 'SegmentationClass/a.png'}
    found, _ = paired('images/fold 1/a.jpg', 'annotations/fold 1/a.png')  # a name, not a split
    assert found == {('', 'images/fold 1/a.jpg'): 'annotations/fold 1/a.png'}
    found, _ = paired('images/val/a.jpg', 'labels/val/a.png')
    assert found == {('validation', 'images/val/a.jpg'): 'labels/val/a.png'}


def test_what_has_no_partner_is_named():
    _, notes = paired(
        'train/images/a.jpg',
        'train/masks/a.png',
        'train/masks/b.png',
        'test/masks/a.png',
        *(f'train/images/{i}.jpg' for i in range(7)),
        'preview.png',
    )
    assert notes == (
        '7 pictures without a mask: train/images/0.jpg, train/images/1.jpg, train/images/2.jpg, '
        'train/images/3.jpg, train/images/4.jpg, ...; left out',
        '2 masks without a picture: test/masks/a.png, train/masks/b.png; left out',
        '1 file in folders of neither pictures nor masks: preview.png; left out',
    )


@pytest.mark.parametrize(
    ('files', 'error'),
    [
        ([], 'holds no picture, as no file below it ends in .jpg'),
        (
            ['a.jpg', 'cats/b.jpg'],
            r'holds 2 pictures, but no folders .* the folders in it are \./, cats/',
        ),
        (['train/images/a.jpg'], 'holds 1 picture but no folder of masks'),
        (['masks/a.png', 'b.png'], 'holds 1 mask but no folder of pictures'),
        (
            ['camvid/train/images/a.jpg', 'camvid/train/masks/a.png'],
            'they are in camvid/: end data.path in that',
        ),
        (
            ['x/camvid/images/a.jpg', 'x/camvid/masks/a.png'],
            'they are in x/camvid/: end data.path in that',
        ),
        (
            ['images/a.jpg', 'masks/a_mask.png'],
            'none of the 1 pictures has a mask: the first picture is images/a.jpg, the first of '
            'the 1 masks masks/a_mask.png. Expected are .* or name a table',
        ),
        (
            ['images/a.jpg', 'images/a.png', 'masks/a.png'],
            'the pictures images/a.jpg and images/a.png have the same name but for the suffix',
        ),
        (
            ['images/a.jpg', 'masks/a.png', 'masks/a.tif'],
            'the masks masks/a.png and masks/a.tif have the same name but for the suffix',
        ),
        (
            ['images/a.jpg', 'masks/a.png', 'annotations/a.png'],
            'annotations/a.png and masks/a.png have the same place among the masks; keep one',
        ),
    ],
)
def test_what_is_wrong_is_said_before_a_file_is_read(files, error):
    with pytest.raises(ConfigError, match=f'data.path.*{error}'):
        mask_pairs.by_name(names_of(*files), 'there')


def chosen(split, splits, count=None):
    names = [f'{i}.jpg'.encode() for i in range(count or len(split))]
    split = split if count is None else [split] * count
    found, notes = mask_pairs.choose(split, splits, names, 'there')
    return {name: places.tolist() for name, places in found.items()}, notes


def test_splits_of_their_own():
    found, notes = chosen(
        ['training', 'val', 'train', 'test', ''], ('train', 'validation', 'testing')
    )
    assert found == {'train': [0, 2], 'validation': [1], 'testing': [3]}
    assert notes == ('1 picture with a mask is in no split: left out',)
    found, notes = chosen(['train', 'test', 'fold1'], ('train', 'test'))
    assert notes == ('not used: the split fold1',)
    assert chosen(['a', 'b', 'a'], ('b', 'a')) == ({'b': [1], 'a': [0, 2]}, ())


def test_validation_is_a_tenth_of_the_training_pictures_where_there_is_none():
    found, notes = chosen(['train'] * 200 + ['test'] * 2, ('train', 'val', 'test'))
    assert len(found['val']) == 20 and len(found['train']) == 180 and found['test'] == [200, 201]
    assert not set(found['val']) & set(found['train'])
    assert 'there is no validation split: 20 of the 200 training pictures' in notes[0]
    assert len(chosen(['train'] * 2, ('train', 'val'))[0]['val']) == 1
    # The validation pictures are the test's where there is no other, as in ADE20K.
    found, notes = chosen(['train'] * 30 + ['val'] * 2, ('train', 'val', 'test'))
    assert found['test'] == [30, 31] and len(found['val']) == 3 and len(found['train']) == 27
    assert notes[0] == 'there is no test split: the validation pictures are the test'
    found, notes = chosen(['train', 'val'], ('train', 'val'))
    assert found == {'train': [0], 'val': [1]} and notes == ()


def test_without_splits_the_test_is_the_tenth_that_pretraining_leaves_out():
    found, notes = chosen('', ('train', 'val', 'test'), 300)
    assert found['test'] == [i for i in range(300) if is_test(f'{i}.jpg'.encode())]
    assert sorted(np.concatenate([*found.values()]).tolist()) == [*range(300)]
    assert len(notes) == 2 and 'no splits are given: 2' in notes[0]
    for name in ('images/x/a.jpg', 'train/images/x/a.jpg', 'images/train/x/a.jpg'):
        assert mask_pairs.below(name.encode()) == b'x/a.jpg'


def test_a_split_that_is_not_there():
    with pytest.raises(ConfigError, match=r"split 'test'; the splits there are train\."):
        chosen(['train'], ('train', 'test'))
    with pytest.raises(ConfigError, match=r"split 'fold3'; the splits there are none, as no fold"):
        chosen('', ('fold3',), 5)
