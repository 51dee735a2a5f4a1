"""What evaluation sees of a picture, against torchvision's Resize and CenterCrop."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from simclr_jax.data import device, example, pictures, pipeline, sources

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens' / 'torchvision_views.npz'


@pytest.fixture(scope='module')
def goldens():
    with np.load(GOLDENS) as values:
        return dict(values)


@pytest.fixture(scope='module')
def source(goldens):
    encoded = io.BytesIO()
    Image.fromarray(goldens['picture'][:160]).save(encoded, 'PNG')
    record = example.serialize(encoded.getvalue())
    return sources.Source(
        lambda indices: [record] * len(indices), 1, (None, None, 3), None, canvas=256
    )


@pytest.mark.parametrize('reader', [pipeline, device])
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_a_central_view_is_torchvisions(goldens, source, reader, interpolation, monkeypatch):
    # There the whole picture is resized, to a height of 64, and then the middle 56 are cut out.
    how = {'image_size': 56, 'crop': 56 / 64, 'interpolation': interpolation}
    expected = goldens[f'evaluation_{interpolation}'].astype(int)

    def error(antialias):
        (found,) = reader.read_images(source, np.array([0]), antialias=antialias, **how)
        return np.abs(found - expected).mean()

    # In levels of 255; at the edges the original sees pixels beyond the crop.
    assert error(True) < 0.3
    assert error(False) < 0.3  # averaged all the same, as each side becomes less than a half
    monkeypatch.setattr(pictures, 'MAX_ALIASED_RATIO', 4)
    device._central_views.clear_cache()
    assert error(False) > 4
    batch = next(reader.eval_batches(source, batch_size=1, antialias=True, **how))
    (alone,) = reader.read_images(source, np.array([0]), antialias=True, **how)
    np.testing.assert_array_equal(batch['image'][0, 0], alone)
