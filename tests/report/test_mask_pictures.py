"""Masks and attention as pictures."""

import numpy as np
import pytest
from PIL import Image

from simclr_jax.report.mask_pictures import class_colours, fit, heat, paint

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def distances(colours):
    lab = Image.fromarray(colours[None]).convert('RGB')
    from PIL import ImageCms

    transform = ImageCms.buildTransform(
        ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB'), 'RGB', 'LAB'
    )
    pixels = np.asarray(ImageCms.applyTransform(lab, transform)).astype(int)[0]
    pixels[:, 1:] = (pixels[:, 1:] + 128) % 256  # a and b are signed bytes
    pixels = pixels * (100 / 255, 1, 1)
    apart = np.linalg.norm(pixels[:, None] - pixels[None], axis=-1)
    return apart[~np.eye(len(colours), dtype=bool)], np.hypot(*(pixels[:, 1:] - 128).T)


@pytest.mark.parametrize('classes', [1, 7, 11, 21])
def test_colours_of_classes_stay_apart_and_are_not_gray(classes):
    colours = class_colours(classes)
    assert colours.shape == (classes, 3)
    assert colours.dtype == np.uint8
    apart, chroma = distances(colours)
    # In CIELAB, where 2.3 is just seen.
    assert (apart > 15).all()
    assert (chroma > 10).all()
    np.testing.assert_array_equal(colours, class_colours(30)[:classes])


def test_many_classes_have_a_colour_each():
    assert len(np.unique(class_colours(150), axis=0)) == 150


def test_a_mask_has_the_colours_of_its_classes_and_stripes_where_it_is_ignored():
    mask = np.full((20, 30), -1)
    mask[:, :10], mask[:, 10:15] = 0, 2
    painted = paint(mask, 3)
    assert painted.shape == (20, 30, 3)
    assert (painted[:, :10] == class_colours(3)[0]).all()
    assert (painted[:, 10:15] == class_colours(3)[2]).all()
    ignored = painted[:, 15:].reshape(-1, 3)
    assert (ignored[:, :1] == ignored).all()
    assert len(np.unique(ignored)) == 2


def test_a_large_mask_is_made_smaller_without_new_colours():
    mask = np.random.default_rng(0).integers(0, 5, (1000, 640))
    painted = paint(mask, 5)
    assert painted.shape == (320, 205, 3) == (*fit(mask.shape), 3)
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) == 5


def test_heat_is_light_where_the_attention_is():
    attention = np.zeros((3, 4))
    attention[2, 3] = 0.9
    shown = heat(np.full((30, 40, 1), 100, np.uint8), attention)
    assert shown.shape == (30, 40, 3)
    light = shown.astype(int).sum(axis=-1)
    assert light[29, 39] == light.max() > 2 * light[0, 0]
    even = heat(PICTURE, np.ones((3, 4)))
    np.testing.assert_array_equal(even, heat(PICTURE, np.zeros((3, 4))))
