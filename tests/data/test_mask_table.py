"""Tables of pictures and their masks, and of their splits."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simclr_jax.config import ConfigError
from simclr_jax.data.folder_files import open_folder, walk
from simclr_jax.data.mask_table import pairs
from simclr_jax.data.masks import open_masks


@pytest.fixture
def there(tmp_path):
    """Returns what makes files below a folder, and pairs them as a table says."""
    root = tmp_path / 'there'

    def call(files, table, name='table.csv'):
        for number, file in enumerate(files):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((4, 6) if 'mask' in file or '_L' in file else (4, 6, 3), np.uint8)
            pixels[0, 0] = number % 3
            Image.fromarray(pixels).save(root / file)
        if isinstance(table, str):
            (root / name).write_text(table)
        else:
            pq.write_table(pa.table(table), root / name)
        folder = open_folder(str(root))
        names = walk(folder, ('.png',)).names
        found = pairs(names, folder, str(root), name)
        return {
            names[int(picture)]: (names[int(mask)], split)
            for picture, mask, split in zip(found.picture, found.mask, found.split, strict=True)
        }, found.notes

    call.root = root
    return call


FILES = ('day/a.png', 'day/b.png', 'labels/a_L.png', 'labels/b_L.png')
PAIRED = {'day/a.png': ('labels/a_L.png', 'train'), 'day/b.png': ('labels/b_L.png', 'val')}


def test_a_table_names_masks_and_splits(there):
    table = 'file,mask,split\nday/a.png,labels/a_L.png,train\nday/b.png,labels/b_L.png,val\n'
    assert there(FILES, table) == (PAIRED, ())
    table = 'Image;Split;Label\r\nday/a;train;labels\\a_L\r\nday/b;val;./labels/b_L.png\r\n'
    assert there(FILES, table) == (PAIRED, ())
    columns = {'split': ['train', 'val'], 'image_path': ['day/a.png', 'day/b.png']}
    columns |= {'mask_path': [f'{there.root}/labels/{name}_L.png' for name in 'ab'], 'n': [1, 2]}
    assert there(FILES, columns, 'table.parquet') == (PAIRED, ())


def test_names_from_the_folders_of_pictures_and_masks_on(there):
    files = ('images/x/a.png', 'images/b.png', 'masks/1.png', 'masks/x/a.png')
    found, notes = there(files, 'file,mask\nx/a.png,1.png\nb,x/a.png\n')
    assert found == {'images/x/a.png': ('masks/1.png', ''), 'images/b.png': ('masks/x/a.png', '')}
    assert notes == ()


def test_a_table_of_splits_alone(there):
    files = ('images/a.png', 'images/b.png', 'images/c.png', 'masks/a.png', 'masks/b.png')
    found, _ = there((*files, 'masks/c.png'), 'file,split\na.png,train\nb.png,test\n')
    assert found == {
        'images/a.png': ('masks/a.png', 'train'),
        'images/b.png': ('masks/b.png', 'test'),
        'images/c.png': ('masks/c.png', ''),
    }


def test_folders_say_the_split_where_the_table_does_not(there):
    files = ('train/images/a.png', 'test/images/b.png', 'train/masks/x.png', 'test/masks/y.png')
    found, _ = there(files, 'file,mask\ntrain/images/a.png,x.png\ntest/images/b.png,y.png\n')
    assert found == {
        'train/images/a.png': ('train/masks/x.png', 'train'),
        'test/images/b.png': ('test/masks/y.png', 'test'),
    }


def test_rows_that_name_nothing_are_counted(there):
    rows = ['day/a.png,labels/a_L.png', 'day/b.png,', 'day/c.png,labels/b_L.png', 'day/b.png,no']
    found, notes = there(FILES, 'file,mask\n' + '\n'.join(rows) + '\n')
    assert found == {'day/a.png': ('labels/a_L.png', '')}
    assert notes == (
        '1 picture of the table is not there: day/c.png (line 4); left out',
        '1 mask of the table is not there: no (line 5); left out',
        '1 row names no mask: day/b.png; left out',
    )


@pytest.mark.parametrize(
    ('table', 'error'),
    [
        ('file,split\n', 'has no rows'),
        ('file,name\nday/a.png,x\n', r"lacks a column of masks .* its columns are 'file', 'name'"),
        ('mask,split\nlabels/a_L.png,train\n', 'lacks a column of files'),
        (
            'file,mask\nx.png,y.png\n',
            r"none of the pictures .* \(the first is 'x.png'; the first file there is 'day/a.png'",
        ),
        ('file,mask\nday/a.png,y.png\n', "none of the masks that it names .*the first is 'y.png'"),
        ('file,mask\nday/a.png,\n', 'none of the masks that it names .*the column is empty'),
        (
            'file,mask\nday/a.png,labels/a_L.png\nday/a.png,labels/b_L.png\n',
            'day/a.png has two masks, labels/a_L.png in line 2 and labels/b_L.png in line 3',
        ),
        (
            'file,mask,split\nday/a.png,labels/a_L.png,train\nday/a.png,labels/a_L.png,test\n',
            "day/a.png is in two splits, 'train' in line 2 and 'test' in line 3",
        ),
    ],
)
def test_what_is_wrong_with_a_table(there, table, error):
    with pytest.raises(ConfigError, match=f'data.labels=.*{error}'):
        there(FILES, table)


def test_a_table_that_is_not_there(there):
    there(FILES, 'file,mask\nday/a.png,labels/a_L.png\n')
    with pytest.raises(ConfigError, match=r"data.labels='other.csv': there is no such file"):
        open_masks(str(there.root), table='other.csv')


def test_masks_are_opened_with_a_table(there, tmp_path):
    there(FILES, 'file,mask,split\nday/a.png,labels/a_L.png,train\nday/b.png,labels/b_L.png,val\n')
    found = open_masks(
        str(there.root), splits=('train',), table='table.csv', data_dir=str(tmp_path / 'kept')
    )
    assert found['train'].name(0) == 'day/a.png' and found['train'].classes.values == (0, 2)
    assert 'not used: the split validation' in found['train'].description
