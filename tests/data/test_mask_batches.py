"""Crops of pictures with masks: the same whatever the threads, rows and start; like Pillow's."""

import itertools

import numpy as np
import pytest
from PIL import Image

from simclr_jax.config import RunError
from simclr_jax.data import mask_batches, masks
from simclr_jax.data.mask_batches import crop, train_batches, whole

SIZES = [(40, 30), (31, 47), (24, 24), (60, 20), (9, 12)]
PLAIN = {'flip': False, 'distort': False, 'most': 1.0, 'resize': 0, 'fill': np.uint8([9, 8, 7])}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp('masks')
    rng = np.random.default_rng(0)
    for kind in ('images', 'masks'):
        (root / 'train' / kind).mkdir(parents=True)
    for i, (width, height) in enumerate(SIZES):
        noise = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
        noise.resize((width, height)).save(root / f'train/images/{i}.png')
        labels = Image.fromarray(rng.integers(0, 4, (4, 4)).astype(np.uint8))
        labels.resize((width, height), Image.Resampling.NEAREST).save(root / f'train/masks/{i}.png')
    opened = masks.open_masks(
        str(root), splits=('train',), ignore=(3,), data_dir=str(root / 'kept')
    )
    return opened['train']


def batches(source, **options):
    how = {'seed': 3, 'batch_size': 4, 'start_step': 0, 'total_steps': 6, 'size': 16} | options
    return list(train_batches(source, **how))


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_batch_depends_on_the_seed_and_the_step_alone(source):
    all_ = batches(source, workers=1)
    first = all_[0]
    assert first['image'].shape == (4, 1, 16, 16, 3) and first['image'].dtype == np.uint8
    assert first['label'].shape == (4, 16, 16) and first['label'].dtype == np.int32
    assert set(np.unique(first['label'])) <= {-1, 0, 1, 2}
    for one, other in zip(all_[2:], batches(source, start_step=2, workers=5), strict=True):
        same(one, other)
    halves = [batches(source, rows=rows) for rows in (slice(0, 2), np.array([2, 3]))]
    for whole_, *parts in zip(all_, *halves, strict=True):
        same(whole_, {k: np.concatenate([part[k] for part in parts]) for k in whole_})
    assert (batches(source, seed=4)[0]['image'] != first['image']).any()
    # The same picture in two epochs, and twice in a batch, is not the same crop.
    large = batches(source, batch_size=10, total_steps=1)[0]
    assert sorted(large['index']) == sorted([*range(5)] * 2)
    twins = [np.flatnonzero(large['index'] == i) for i in range(5)]
    assert any((large['image'][a] != large['image'][b]).any() for a, b in twins)


def test_an_epoch_has_every_picture_once(source):
    made = batches(source, batch_size=1, total_steps=10)
    order = [int(batch['index'][0]) for batch in made]
    assert sorted(order[:5]) == sorted(order[5:]) == [*range(5)] and order[:5] != order[5:]


@pytest.mark.parametrize('ratio', [0.5, 1.0, 1.7])
def test_a_crop_is_part_of_the_whole_resized(source, ratio):
    """Only the part that is shown is resized; it is as if all were, by Pillow."""
    for index in range(source.num_examples):
        picture, labels = source.read(index)
        height, width = labels.shape
        tall, wide = round(height * ratio), round(width * ratio)
        image = np.asarray(Image.fromarray(picture).resize((wide, tall), Image.Resampling.BILINEAR))
        small = Image.fromarray(labels + 1).resize((wide, tall), Image.Resampling.NEAREST)
        small = np.asarray(small) - 1
        made, made_labels = crop(
            picture, labels, np.random.default_rng(1), size=16, scale=(ratio, ratio), **PLAIN
        )
        rows, columns = min(16, tall), min(16, wide)
        assert (made[rows:] == (9, 8, 7)).all() and (made[:, columns:] == (9, 8, 7)).all()
        assert (made_labels[rows:] == -1).all() and (made_labels[:, columns:] == -1).all()
        # A pixel's centre may lie on the border of two, where sums that are rounded decide.
        fits = [
            (y, x)
            for y, x in itertools.product(range(tall - rows + 1), range(wide - columns + 1))
            if (small[y : y + rows, x : x + columns] == made_labels[:rows, :columns]).mean() > 0.9
        ]
        apart = [
            np.abs(image[y : y + rows, x : x + columns].astype(int) - made[:rows, :columns]).max()
            for y, x in fits
        ]
        assert fits and min(apart) <= 2  # rounded in each direction


def test_a_flip_mirrors_the_picture_and_its_labels(source):
    picture, labels = source.read(2)  # as large as the crop: nothing else is drawn that matters
    seen = set()
    for seed in range(20):
        how = PLAIN | {'flip': True}
        rng = np.random.default_rng(seed)
        made, made_labels = crop(picture, labels, rng, size=24, scale=(1.0, 1.0), **how)
        mirrored = (made != picture).any()
        want = (picture[:, ::-1], labels[:, ::-1]) if mirrored else (picture, labels)
        np.testing.assert_array_equal(made, want[0])
        np.testing.assert_array_equal(made_labels, want[1])
        seen.add(bool(mirrored))
    assert seen == {True, False}


def test_a_crop_is_seldom_of_one_class():
    labels = np.zeros((64, 64), np.int32)
    labels[:, 56:] = 1
    labels[:, :4] = -1
    picture = np.zeros((64, 64, 3), np.uint8)

    def share(most):
        how = PLAIN | {'most': most}
        made = [
            crop(picture, labels, np.random.default_rng(i), size=16, scale=(1.0, 1.0), **how)[1]
            for i in range(200)
        ]
        return np.mean([len(np.unique(one[one >= 0])) > 1 for one in made])

    drawn = share(1.0)
    assert 0.1 < drawn < 0.25  # 8 of 49 places
    # Those with too little of the second class are drawn again, too: 1 - (1 - 4 / 49)^10.
    assert share(0.75) > 0.55


def test_a_share_of_the_resize_is_the_shorter_side(source):
    picture, labels = source.read(3)  # 60 x 20
    how = PLAIN | {'resize': 10}
    made, _ = crop(picture, labels, np.random.default_rng(0), size=64, scale=(1.0, 1.0), **how)
    assert (made[10:] == (9, 8, 7)).all() and (made[:, 30:] == (9, 8, 7)).all()
    assert not (made[9, :30] == (9, 8, 7)).all() and not (made[:10, 29] == (9, 8, 7)).all()


def test_whole_pictures_come_in_order(source):
    found = list(whole(source))
    assert [index for index, _, _ in found] == [*range(5)]
    for index, picture, labels in found:
        same(dict(enumerate(source.read(index))), dict(enumerate((picture, labels))))
    assert [index for index, _, _ in whole(source, [4, 1], workers=1)] == [4, 1]


def test_an_error_reaches_the_reader(source):
    def read(index):
        if index == 2:
            raise RunError('gone')
        return source.read(index)

    class Broken:
        num_examples, channels, largest = 5, 3, (10, 10)

    Broken.read = staticmethod(read)
    with pytest.raises(RunError, match='gone'):
        batches(Broken)
    stream = whole(Broken)
    assert next(stream)[0] == 0 and next(stream)[0] == 1
    with pytest.raises(RunError, match='gone'):
        next(stream)
    stream = mask_batches.whole(source)
    next(stream)
    stream.close()  # ends the threads
