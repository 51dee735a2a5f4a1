"""The central view without TensorFlow is the pipeline's."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from simclr_jax.data import central, example, pictures, pipeline, sources

PHOTO = Image.fromarray(load_sample_images().images[0])  # 640 x 427
SIZES = [(500, 375), (375, 500), (33, 47), (224, 300), (32, 32), (97, 449), (1201, 903)]
WAYS = [  # crop, interpolation, antialias
    (1.0, 'bicubic', False),
    (0.875, 'bicubic', False),
    (0.875, 'bilinear', True),
    (0.9, 'bilinear', False),
    (1.0, 'bicubic', True),
]


def stored(size, kind):
    stream = io.BytesIO()
    PHOTO.resize(size, Image.Resampling.LANCZOS).save(stream, kind, quality=90)
    return stream.getvalue()


@pytest.mark.parametrize('crop, interpolation, antialias', WAYS)
@pytest.mark.parametrize('image_size', [32, 75, 224])
@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_the_view_is_the_pipelines(kind, image_size, crop, interpolation, antialias):
    files = [stored(size, kind) for size in SIZES]
    records = [example.serialize(encoded) for encoded in files]
    source = sources.Source(
        lambda indices: [records[int(i)] for i in indices],
        len(files),
        (None, None, 3),
        None,
        canvas=512,
    )
    how = {'crop': crop, 'interpolation': interpolation, 'antialias': antialias}
    wanted = pipeline.read_images(source, np.arange(len(files)), image_size=image_size, **how)
    for encoded, want in zip(files, wanted.astype(int), strict=True):
        found = central.central_view(pictures.decode(encoded), image_size=image_size, **how)
        assert found.dtype == np.uint8 and found.shape == want.shape
        difference = np.abs(found - want)
        # In TensorFlow's window of a JPEG the last column knows no chroma beyond it.
        assert difference[:, : -1 if kind == 'PNG' else -8].max() <= 1
        assert difference.max() <= (1 if kind == 'PNG' else 8)
        assert np.mean(difference == 0) > 0.98


def test_a_picture_of_the_views_size_is_itself():
    pixels = np.asarray(PHOTO)[:64, 10:74]
    np.testing.assert_array_equal(central.central_view(pixels, image_size=64), pixels)
    np.testing.assert_array_equal(
        central.central_view(pixels, image_size=32, crop=0.5), pixels[16:48, 16:48]
    )


def test_grey_pictures_keep_their_channel():
    grey = np.asarray(PHOTO.convert('L'))[..., None]
    view = central.central_view(grey, image_size=96)
    assert view.shape == (96, 96, 1)
    three = central.central_view(grey.repeat(3, axis=-1), image_size=96)
    assert np.abs(three.astype(int) - view).max() <= 1
