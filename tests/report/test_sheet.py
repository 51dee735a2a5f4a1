"""The sheet of the preview, whatever the sizes of images and views."""

import numpy as np
import pytest

from simclr_jax.report.sheet import draw_sheet


@pytest.mark.parametrize('size', [32, 65, 128, 223])
def test_an_original_is_whole_where_views_are_smaller_than_it(size):
    # Each original has one colour of its own, so that its pixels can be counted.
    originals = [np.full((400, 300, 3), (250, 10 * row, 0), np.uint8) for row in range(3)]
    views = np.zeros((3, 2, size, size, 3), np.uint8)
    boxes = np.full((3, 2, 4), 50.0)
    sheet = np.asarray(draw_sheet('title', originals, boxes, views, [[['one line']] * 2] * 3))
    for row in range(3):
        count = (sheet == (250, 10 * row, 0)).all(axis=-1).sum()
        assert abs(count - 224 * 168) <= 4 * 28 * 2  # the crop's outline


def test_three_views_and_names_that_are_too_long_for_a_tile():
    originals = [np.full((8, 8, 1), 200, np.uint8)] * 2
    views = np.zeros((2, 3, 4, 4, 1), np.uint8)
    texts = [[['a line']] * 3] * 2
    plain = draw_sheet('title', originals, np.ones((2, 3, 4)), views, texts)
    named = draw_sheet('title', originals, np.ones((2, 3, 4)), views, texts, ['a' * 90, 'b'])
    assert named.width == plain.width == 248 + 3 * (224 + 150 + 24)
    assert named.height == plain.height + 2 * 16
    # Nothing of a long name reaches into the first view.
    assert (np.asarray(named)[:, 236:248] == 255).all()
