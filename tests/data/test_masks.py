"""Folders of pictures with masks: what is found, what is read, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from simclr_jax.config import ConfigError, RunError
from simclr_jax.data.masks import open_masks


def picture(path, size=(6, 4), value=100, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (value, value // 2, 7)).save(path, **options)


def mask(path, values, dtype=np.uint8):
    """Writes a mask of 6 x 4 pixels that holds `values`, from its upper left on."""
    pixels = np.zeros(24, dtype)
    pixels[: len(values)] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.reshape(4, 6)).save(path)


def make(root, counts=None, values=(0, 1, 2, 255)):
    """Writes a folder of splits, with `counts` pictures each."""
    for split, count in (counts or {'train': 3, 'val': 2, 'test': 2}).items():
        for i in range(count):
            picture(root / split / 'images' / f'{i}.jpg', value=20 * i)
            mask(root / split / 'masks' / f'{i}.png', values)
    return root


@pytest.fixture
def open_(tmp_path):
    def call(root, **options):
        return open_masks(str(root), data_dir=str(tmp_path / 'kept'), **options)

    return call


def test_splits_of_a_folder(tmp_path, open_):
    found = open_(make(tmp_path / 'a'))
    assert {name: source.num_examples for name, source in found.items()} == {
        'train': 3,
        'val': 2,
        'test': 2,
    }
    train = found['train']
    assert train.names == ('0', '1', '2') and train.num_classes == 3
    assert train.image_shape == (None, None, 3) and train.largest == (4, 6)
    assert [train.name(i) for i in range(3)] == [f'train/images/{i}.jpg' for i in range(3)]
    pixels, labels = train.read(1)
    assert pixels.shape == (4, 6, 3) and pixels.dtype == np.uint8
    assert labels.dtype == np.int32
    want = np.zeros((4, 6), np.int32)
    want[0, :4] = 0, 1, 2, -1
    np.testing.assert_array_equal(labels, want)
    assert train.pixels.tolist() == [63, 3, 3, 3]
    assert '3 pictures with masks of 6 x 4 pixels, 3 classes' in train.description
    assert '4.2% of the pixels are ignored (value 255)' in train.description
    assert open_(tmp_path / 'a', channels=1)['train'].read(0)[0].shape == (4, 6, 1)


def test_a_folder_above_splits_and_nested_names(tmp_path, open_):
    for split in ('training', 'validation', 'test'):
        picture(tmp_path / 'a/Images' / split / 'day/1.png')
        picture(tmp_path / 'a/Images' / split / 'night/1.png')
        mask(tmp_path / 'a/annotations' / split / 'day/1.png', [3])
        mask(tmp_path / 'a/annotations' / split / 'night/1.tif', [9])
    found = open_(tmp_path / 'a')
    assert found['val'].num_examples == 2
    assert found['train'].name(1) == 'Images/training/night/1.png'
    assert found['train'].classes.values == (0, 3, 9)
    assert (found['train'].read(1)[1] == 2).sum() == 1


def test_values_that_are_no_label_are_named(tmp_path, open_):
    make(tmp_path / 'a')
    mask(tmp_path / 'a/test/masks/1.png', [0, 7, 9])
    with pytest.raises(ConfigError, match=r"'test' have 2 values .*: 7 \(in test/masks/1.png\), 9"):
        open_(tmp_path / 'a')
    found = open_(tmp_path / 'a', ignore=(255, 7, 9))
    assert (found['test'].read(1)[1][0, :3] == (0, -1, -1)).all()


def test_a_file_that_changes_after_it_was_looked_at(tmp_path, open_):
    source = open_(make(tmp_path / 'a'))['train']
    mask(tmp_path / 'a/train/masks/0.png', [0, 5])
    with pytest.raises(RunError, match=r'train/masks/0.png is no longer .*the value 5'):
        source.read(0)
    (tmp_path / 'a/train/images/1.jpg').unlink()
    with pytest.raises(RunError, match=r'train/images/1.jpg is no longer .*No such file'):
        source.read(1)
