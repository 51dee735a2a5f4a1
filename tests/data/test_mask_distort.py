"""Colours and crops as mmsegmentation changes them, with its draws."""

import pathlib

import numpy as np
import pytest

from simclr_jax.data import mask_batches, mask_distort

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens' / 'mmseg_crops.npz'


@pytest.fixture(scope='module')
def goldens():
    with np.load(GOLDENS) as values:
        return dict(values)


class Given:
    """In place of a generator: hands out given numbers in [0, 1), whole arrays or one by one."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self, count):
        numbers = self.numbers.pop(0)
        assert len(numbers) == count
        return numbers

    def integers(self, low, high):
        return low + int(self.numbers.pop(0) * (high - low))


def test_hue_saturation_and_value_are_opencvs(goldens):
    found = np.stack(mask_distort.to_hsv(goldens['colours']), axis=-1)
    np.testing.assert_array_equal(found, goldens['hsv'])
    hue, saturation, value = (goldens['turned'][..., i] for i in range(3))
    back = mask_distort.from_hsv(hue.astype(np.int32), saturation, value).astype(int)
    apart = np.abs(back - goldens['back'])
    assert apart.max() <= 1 and apart.mean() < 0.001  # it rounds down, where sums decide


def test_a_picture_is_distorted_as_mmsegmentation_does(goldens):
    changed = []
    cases = zip(goldens['chance'], goldens['amount'], goldens['distorted'], strict=True)
    for number, (chance, amount, want) in enumerate(cases):
        picture = goldens['pictures'][number % 3]
        found = mask_distort.distort(picture, Given(chance, amount))
        assert found.dtype == np.uint8
        apart = np.abs(found.astype(int) - want)
        assert apart.max() <= 1 and apart.mean() < 0.005
        changed.append((want != picture).any())
    assert 0 < sum(changed) < len(changed)


def test_a_grey_picture_keeps_to_brightness_and_contrast(goldens):
    picture = goldens['pictures'][0][..., :1]
    everything = np.array([0.1, 0.1, 0.1, 0.1, 0.9]), np.array([0.9, 0.8, 0.5, 0.5])
    found = mask_distort.distort(picture, Given(*everything))
    bright = (picture.astype(np.float32) + 25.6).clip(0, 255).astype(np.uint8)
    want = (bright.astype(np.float32) * 1.3).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(found, want)
    nothing = mask_distort.distort(picture, Given(np.full(5, 0.7), np.zeros(4)))
    np.testing.assert_array_equal(nothing, picture)


def test_crops_are_where_mmsegmentation_takes_them(goldens):
    places = []
    for labels, numbers in zip(goldens['labels'], goldens['numbers'], strict=True):
        labels = np.where(labels == 255, -1, labels.astype(np.int32))
        y, x, small = mask_batches.choose(labels, labels.shape, (16, 16), Given(*numbers), 0.75)
        places.append((y, x))
        np.testing.assert_array_equal(small, labels[y : y + 16, x : x + 16])
    np.testing.assert_array_equal(places, goldens['places'])
    firsts = (goldens['numbers'][:, :2] * (25, 35)).astype(int)
    again = (firsts != goldens['places']).any(axis=1)
    assert 0 < again.sum() < len(again)  # some were drawn again
