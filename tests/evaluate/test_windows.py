"""Pictures cut into windows that overlap, and put together again."""

import numpy as np
import pytest
from PIL import Image

from simclr_jax.evaluate.windows import Windows

RANDOM = np.random.default_rng(0)
FILL = (9, 8, 7)


def corners_of_mmseg(height, width, side, step):
    """What `slide_inference` of mmseg/models/segmentors/encoder_decoder.py visits."""
    rows = max(height - side + step - 1, 0) // step + 1
    columns = max(width - side + step - 1, 0) // step + 1
    found = []
    for row in range(rows):
        for column in range(columns):
            bottom = min(row * step + side, height)
            right = min(column * step + side, width)
            found.append((max(bottom - side, 0), max(right - side, 0)))
    return found


@pytest.mark.parametrize('size', [(8, 8), (9, 23), (5, 30), (3, 4), (17, 16)])
@pytest.mark.parametrize('step', [1, 5, 8])
def test_corners_are_mmsegmentations(size, step):
    windows = Windows(8, step, 0, FILL)
    assert windows.corners(size) == corners_of_mmseg(*size, 8, step)


@pytest.mark.parametrize('size', [(8, 8), (9, 23), (5, 30), (3, 4)])
def test_what_is_cut_and_joined_is_the_picture(size):
    windows = Windows(8, 5, 0, FILL)
    picture = RANDOM.integers(0, 256, (*size, 3), np.uint8)
    cut = windows.cut(picture)
    assert cut.shape[1:] == (8, 8, 3) and cut.dtype == np.uint8
    np.testing.assert_allclose(windows.join(cut.astype(np.float32), size), picture, atol=1e-4)


def test_what_is_outside_of_a_small_picture_is_filled():
    (cut,) = Windows(8, 5, 0, FILL).cut(np.zeros((3, 4, 3), np.uint8))
    assert (cut[:3, :4] == 0).all() and (cut[3:] == FILL).all() and (cut[:, 4:] == FILL).all()


def test_windows_that_overlap_are_averaged():
    windows = Windows(4, 2, 0, (0,))
    values = np.array([1.0, 4.0])[:, None, None, None] * np.ones((2, 4, 4, 1))
    joined = windows.join(values, (4, 6))[..., 0]
    np.testing.assert_array_equal(joined, np.tile([1, 1, 2.5, 2.5, 4, 4], (4, 1)))


@pytest.mark.parametrize('channels', [1, 3])
def test_a_picture_is_resized_by_its_shorter_side_and_what_is_said_of_it_back(channels):
    windows = Windows(8, 8, 8, FILL[:channels])
    picture = RANDOM.integers(0, 256, (16, 32, channels), np.uint8)
    cut = windows.cut(picture)
    assert cut.shape == (2, 8, 8, channels)
    image = Image.fromarray(picture[..., 0] if channels == 1 else picture)
    small = np.asarray(image.resize((16, 8), Image.Resampling.BILINEAR)).reshape(8, 16, channels)
    np.testing.assert_array_equal(np.concatenate([*cut], axis=1), small)
    joined = windows.join(np.ones((2, 8, 8, 5), np.float32), (16, 32))
    assert joined.shape == (16, 32, 5)
    np.testing.assert_allclose(joined, 1, atol=1e-6)
