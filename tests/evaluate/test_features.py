"""Features: evaluation mode, every example once, the same on any number of devices."""

import jax
import numpy as np
import pytest

from simclr_jax import parallel
from simclr_jax.evaluate.features import extract_features, make_extraction
from simclr_jax.models.factory import create_encoder

ENCODER = create_encoder('resnet_tiny', image_size=8, widths=(4, 8, 8))


@pytest.fixture(scope='module')
def variables():
    key = jax.random.key(0, impl='rbg')  # threefry takes seconds to compile
    return jax.jit(lambda: ENCODER.init(key, np.zeros((1, 8, 8, 1), np.float32), train=False))()


def batches(images, batch_size):
    """As the pipeline makes them: the last one filled up and masked."""
    for start in range(0, len(images), batch_size):
        index = np.arange(start, start + batch_size)
        mask = (index < len(images)).astype(np.float32)
        index = np.minimum(index, len(images) - 1)
        label = (index % 3).astype(np.int32)
        yield {'image': images[index][:, None], 'index': index, 'mask': mask, 'label': label}


@pytest.mark.parametrize(('devices', 'batch_size'), [(1, 7), (8, 16)])
def test_features_are_the_encoders_for_every_example_once(variables, devices, batch_size):
    images = np.random.default_rng(0).integers(0, 256, (19, 8, 8, 1)).astype(np.uint8)
    found = extract_features(
        {'encoder': ENCODER, 'untrained': ENCODER},
        {'encoder': variables, 'untrained': variables},
        batches(images, batch_size),
        parallel.make_mesh(jax.devices()[:devices]),
        num_examples=19,
        mean=(0.5,),
        std=(0.25,),
        raw_pixels=True,
    )
    normalized = (images / np.float32(255) - 0.5) / 0.25
    want = jax.jit(lambda x: ENCODER.apply(variables, x, train=False))(normalized)
    assert list(found.values) == ['encoder', 'untrained', 'raw_pixels']
    np.testing.assert_allclose(found.values['encoder'], want, atol=1e-5)
    np.testing.assert_allclose(found.values['untrained'], want, atol=1e-5)
    np.testing.assert_allclose(found.values['raw_pixels'], normalized.reshape(19, 64), atol=1e-5)
    np.testing.assert_array_equal(found.index, np.arange(19))
    np.testing.assert_array_equal(found.labels, np.arange(19) % 3)


def test_raw_pixels_of_large_images_are_shrunk():
    from simclr_jax.evaluate.features import _shrink

    image = np.linspace(0, 1, 64, dtype=np.float32)[None, :, None, None]
    image = np.broadcast_to(image, (2, 64, 64, 3))
    small = _shrink(image)
    assert small.shape == (2, 32, 32, 3)
    np.testing.assert_allclose(small[0, 4, 4], image[0, 8:10, 0].mean(0), atol=1e-3)


def test_the_same_encoder_is_compiled_once_for_several_sets_of_variables():
    mesh = parallel.make_mesh(jax.devices()[:1])
    options = {'mean': (0.5,), 'std': (0.25,), 'raw_pixels': False}
    first, again = (make_extraction({'encoder': ENCODER}, mesh, **options) for _ in range(2))
    assert first is again
    other = create_encoder('resnet_tiny', image_size=8, widths=(4, 8, 16))
    assert make_extraction({'encoder': other}, mesh, **options) is not first
    assert make_extraction({'encoder': ENCODER}, mesh, **options | {'std': (1.0,)}) is not first
