"""Folders of pictures with masks: what is found, what is read, and what is refused."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from simclr_jax.config import ConfigError, RunError
from simclr_jax.data import mask_decode
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
    """Writes a folder of splits, with `counts` pictures each, no two alike."""
    counts = counts or {'train': 3, 'val': 2, 'test': 2}
    for number, (split, count) in enumerate(counts.items()):
        for i in range(count):
            picture(root / split / 'images' / f'{i}.jpg', value=60 * number + 9 * i)
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
    assert (
        '4.2% of the pixels are ignored; of the others: 0 91.3%, 1 4.3%, 2 4.3%'
        in train.description
    )
    assert open_(tmp_path / 'a', channels=1)['train'].read(0)[0].shape == (4, 6, 1)


def test_a_folder_above_splits_and_nested_names(tmp_path, open_):
    for split in ('training', 'validation', 'test'):
        picture(tmp_path / 'a/Images' / split / 'day/1.png', value=len(split))
        picture(tmp_path / 'a/Images' / split / 'night/1.png', value=99 + len(split))
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


def test_names_of_classes(tmp_path, open_):
    root = make(tmp_path / 'a', values=(0, 1, 4, 255))
    assert open_(root, names=('sky', 'road', 'car'))['test'].names == ('sky', 'road', 'car')
    with pytest.raises(ConfigError, match=r'segment.names: has 2 names, .* 3 classes, .* 0, 1, 4'):
        open_(root, names=('sky', 'road'))
    (root / 'classes.txt').write_text('sky\nroad\nhouse\ntree\ncar\n\n')
    found = open_(root)['train']
    assert found.names == found.label_names == ('sky', 'road', 'car')
    (root / 'classes.txt').write_text('sky\nroad\n')
    with pytest.raises(ConfigError, match=r'classes.txt: has 2 lines, .* have the value 4'):
        open_(root)
    assert open_(root, ignore=(4, 255))['train'].names == ('sky', 'road')
    (root / 'classes.txt').write_bytes(b'\xff\xfe\xfa')
    with pytest.raises(ConfigError, match=r'classes.txt: cannot be read'):
        open_(root)


def test_too_few_classes_and_too_many(tmp_path, open_):
    with pytest.raises(ConfigError, match=r'segment.ignore=\(1, 2, 255\): .* only the value 0'):
        open_(make(tmp_path / 'a'), ignore=(1, 2, 255))
    for i in range(50):
        picture(tmp_path / 'b/train/images' / f'{i}.png', value=i)
        mask(tmp_path / 'b/train/masks' / f'{i}.png', range(24 * i, 24 * i + 24), np.uint16)
    with pytest.raises(ConfigError, match=r'1,199 different values, from 0 to 1199'):
        open_(tmp_path / 'b', splits=('train',))


def test_masks_without_a_class_are_counted(tmp_path, open_):
    root = make(tmp_path / 'a')
    mask(root / 'train/masks/1.png', [255] * 24)
    mask(root / 'val/masks/0.png', [0, 0, 2])
    mask(root / 'val/masks/1.png', [0])
    found = open_(root)
    assert found['train'].num_examples == 3 and found['train'].empty == (1,)
    assert (found['train'].read(1)[1] == -1).all()
    assert 'train: 1 of them have no pixel of a class (train/images/1.jpg)' in (
        found['train'].description
    )
    assert found['val'].empty == () and 'no pixel is of 1' in found['val'].description
    assert found['val'].pixels.tolist() == [47, 0, 1, 0]


def test_pictures_and_masks_that_cannot_be_used(tmp_path, open_):
    root = make(tmp_path / 'a', {'train': 6, 'val': 2, 'test': 2})
    (root / 'train/images/0.jpg').write_bytes(b'nonsense')
    (root / 'train/masks/1.png').write_bytes(b'')
    Image.new('L', (3, 4)).save(root / 'train/masks/2.png')
    Image.new('L', (6, 4)).save(root / 'train/masks/3.jpg')
    (root / 'train/masks/3.png').unlink()
    with pytest.raises(ConfigError) as error:
        open_(root, max_bad_fraction=0.3)
    reasons = {
        'train/images/0.jpg': 'not a picture',
        'train/images/1.jpg': 'its mask: empty',
        'train/images/2.jpg': 'has 6 x 4 pixels, its mask 3 x 4',
        'train/images/3.jpg': 'its mask: a mask in JPEG, which mixes the values of neighbouring '
        'pixels; make the masks again, as PNG',
    }
    assert '4 of 10 pictures, or their masks, cannot be used' in str(error.value)
    assert 'data.max_bad_fraction=0.3' in str(error.value)
    for name, reason in reasons.items():
        assert f'{name}: {reason}' in str(error.value)
    for _ in range(2):  # the second time from what was kept
        found = open_(root, max_bad_fraction=0.4)
        assert found['train'].bad == found['test'].bad == reasons
        assert found['train'].num_examples == 2 and found['train'].num_files == 10
    with pytest.raises(ConfigError, match=r"no picture of the split 'train' is left: train/imag"):
        for i in (4, 5):
            (root / f'train/masks/{i}.png').write_bytes(b'')
        open_(root, max_bad_fraction=1.0)


def test_a_picture_is_upright_and_so_is_its_mask(tmp_path, open_):
    root = tmp_path / 'a'
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / 'train/images/0.jpg', (4, 6), exif=exif)  # shown as 6 x 4
    picture(root / 'train/images/1.jpg', (6, 4), exif=exif)
    mask(root / 'train/masks/0.png', [1, 2])
    mask(root / 'train/masks/1.png', [1, 2])
    with pytest.raises(ConfigError, match=r'1.jpg: has 4 x 6 .* 6 x 4: EXIF turns the picture'):
        open_(root, splits=('train',))
    found = open_(root, splits=('train',), max_bad_fraction=0.5)['train']
    pixels, labels = found.read(0)
    assert pixels.shape == (4, 6, 3) and labels.shape == (4, 6)
    # A mask with EXIF of its own is turned as a picture is.
    stored = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    stored.save(root / 'train/masks/1.png', exif=exif)
    found = open_(root, splits=('train',))['train']
    with Image.open(root / 'train/masks/1.png') as image:
        want = np.asarray(ImageOps.exif_transpose(image))
    assert found.num_examples == 2 and want[0, 3] == 0
    np.testing.assert_array_equal(found.read(1)[1], want)


def test_pictures_of_16_bits(tmp_path, open_):
    root = make(tmp_path / 'a')
    deep = np.full((4, 6), 1000, np.uint16)
    deep[0, 0] = 4095
    for name in ('0', '1', '2'):
        (root / f'train/images/{name}.jpg').unlink()
        Image.fromarray(deep + int(name) * 0).save(root / f'train/images/{name}.png')
        deep[1, int(name)] += 1
    found = open_(root, channels=1)['train']
    assert found.intensity == (0.0, 4095.0)
    assert found.read(0)[0][0, 0, 0] == 255 and found.read(0)[0][3, 3, 0] == 62
    assert open_(root, channels=1, intensity=(0.0, 65535.0))['train'].read(0)[0].max() == 16


def test_the_same_file_is_not_in_two_splits(tmp_path, open_):
    root = make(tmp_path / 'a')
    for copy in ('train/images/again.jpg', 'val/images/2.jpg'):
        (root / copy).write_bytes((root / 'test/images/1.jpg').read_bytes())
        mask(root / copy.replace('images', 'masks').replace('.jpg', '.png'), [1])
    found = open_(root)
    assert {name: source.num_examples for name, source in found.items()} == {
        'train': 3,
        'val': 2,
        'test': 2,
    }
    said = found['train'].description
    assert "1 picture of the split 'train' is in 'val', too, as the same file: left out" in said
    assert "left out of 'val' (val/images/2.jpg)" in said


def test_what_was_found_is_kept(tmp_path, open_, monkeypatch):
    root = make(tmp_path / 'a')
    before = open_(root)['train'].description
    looked = []
    values = mask_decode.values
    monkeypatch.setattr(mask_decode, 'values', lambda *a: looked.append(1) or values(*a))
    assert open_(root)['train'].description == before and not looked
    mask(root / 'train/masks/2.png', [0, 1, 2, 255, 255])
    assert '5.6% of the pixels are ignored' in open_(root)['train'].description
    assert len(looked) == 1
    (kept,) = (tmp_path / 'kept/mask_index').iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert open_(root)['train'].num_examples == 3 and len(looked) == 8


def test_a_run_goes_on_with_what_it_began_with(tmp_path, open_):
    root = make(tmp_path / 'a', {'train': 8})
    begun = open_(root, splits=('train', 'val'))
    held = begun['train'].held()
    names = {split: [s.name(i) for i in range(s.num_examples)] for split, s in begun.items()}
    assert len(names['train']) == 7 and 'there is no validation split' in begun['train'].description
    for i in range(8, 30):  # a tenth of which would be for validation
        picture(root / 'train/images' / f'{i}.jpg', value=9 * i)
        mask(root / 'train/masks' / f'{i}.png', [0, 1, 2])
    again = open_(root, splits=('train', 'val'), held=held)
    assert names == {
        split: [s.name(i) for i in range(s.num_examples)] for split, s in again.items()
    }
    assert '22 pictures with masks that the run did not begin with' in again['train'].description
    assert again['train'].held().pictures() == held.pictures()
    with pytest.raises(ConfigError, match=r'with new classes|without the classes'):
        open_(root, splits=('train', 'val'), held=held, names=('a', 'b', 'c'))
    mask(root / 'train/masks/3.png', [0, 2, 1, 255])  # as many bytes, perhaps, but others
    (root / 'train/images/4.jpg').unlink()
    with pytest.raises(
        ConfigError, match=r'2 of the 8 .*4.jpg \(it or its mask is gone\)'
    ) as error:
        open_(root, splits=('train', 'val'), held=held)
    assert 'train/images/3.jpg (it or its mask has changed)' in str(error.value)
    damaged = dataclasses.replace(held, pictures=lambda: b'[1')
    with pytest.raises(ConfigError, match=r'restore data.pictures'):
        open_(root, splits=('train', 'val'), held=damaged)


def test_names_that_are_not_utf8_and_links_to_nothing(tmp_path, open_):
    root = make(tmp_path / 'a')
    for kind, suffix in (('images', 'jpg'), ('masks', 'png')):
        place = root / 'train' / kind
        os.rename(place / f'0.{suffix}', os.fsencode(place) + b'/\xff.' + suffix.encode())
    (root / 'test/images/9.jpg').symlink_to(root / 'nowhere')
    with pytest.raises(
        ConfigError, match=r'1 of 8 pictures.*\n  test/images/9.jpg: a link to noth'
    ):
        open_(root)
    found = open_(root, max_bad_fraction=0.2)['train']
    assert found.name(2) == 'train/images/\\xff.jpg' and found.bad.keys() == {'test/images/9.jpg'}
    held = found.held()
    again = open_(root, max_bad_fraction=0.2, held=held)['train']
    np.testing.assert_array_equal(found.read(2)[0], again.read(2)[0])
    (root / 'train/masks' / os.fsdecode(b'\xff.png')).unlink()
    with pytest.raises(ConfigError, match=r'train/images/\\xff.jpg \(it or its mask is gone\)'):
        open_(root, max_bad_fraction=0.2, held=held)


def test_a_file_that_changes_after_it_was_looked_at(tmp_path, open_):
    source = open_(make(tmp_path / 'a'))['train']
    mask(tmp_path / 'a/train/masks/0.png', [0, 5])
    with pytest.raises(RunError, match=r'train/masks/0.png is no longer .*the value 5'):
        source.read(0)
    (tmp_path / 'a/train/images/1.jpg').unlink()
    with pytest.raises(RunError, match=r'a/train/images/1.jpg is no longer .*No such file'):
        source.read(1)
