"""Files of every kind and orientation: pixels in both backends, in evaluation and in Pillow."""

import dataclasses
import functools
import io
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from simclr_jax.augment.recipe import ViewRecipe
from simclr_jax.data import decode, deep, device, example, iterate, pipeline, sources

PHOTO = Image.fromarray(load_sample_image('flower.jpg')[60:380, 100:500])  # 320 x 400
IDENTITY = ViewRecipe(
    crop_area=(1.0, 1.0),
    crop_aspect=(1.0, 1.0),
    crop_sampler='torchvision',
    flip_probability=0.0,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
)
FORMATS = {
    'jpg': {'quality': 95},
    'grey.jpg': {'quality': 95},
    'png': {},
    'tif': {},
    'webp': {'lossless': True},
}


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def stored_as(image, orientation):
    """What a camera stores so that EXIF's number shows `image`; by Pillow's own inverse."""
    inverse = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    image = image.copy()
    image.getexif()[0x0112] = inverse
    return ImageOps.exif_transpose(image)


@pytest.fixture(scope='module')
def turned(tmp_path_factory):
    """A folder of the photograph in every format and orientation; square crops, so that nothing
    is cut away."""
    root = tmp_path_factory.mktemp('turned')
    for name, options in FORMATS.items():
        for orientation in range(1, 9):
            image = stored_as(PHOTO.crop((0, 0, 300, 300)), orientation)
            if name.startswith('grey'):
                image = image.convert('L')
            image.save(root / f'{orientation}.{name}', exif=exif(orientation), **options)
    return root


def open_folder(root, tmp_path, **options):
    return sources.open_source('folder', str(tmp_path), 'all', path=str(root), **options)


def by_pillow(root, fit=None):
    """Each file as Pillow opens, turns and shrinks it, in the order of their names."""
    for path in sorted(root.iterdir()):
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image).convert('RGB')
        yield np.asarray(image.resize((fit, fit), Image.Resampling.BOX) if fit else image, int)


def test_the_record_of_a_rotated_file_is_no_larger_than_the_file(turned, tmp_path):
    source = open_folder(turned, tmp_path)
    for i, record in enumerate(source.read(range(source.num_examples))):
        assert len(record) < (turned / source.name(i)).stat().st_size + 100


@pytest.mark.parametrize('most', [1, 4])
def test_batches_made_ahead_are_bounded_by_their_bytes(most, monkeypatch):
    stream, read = io.BytesIO(), []
    PHOTO.resize((16, 16)).save(stream, 'PNG')
    record = example.serialize(stream.getvalue())

    def reading(indices):
        read.extend(indices)
        return [record] * len(indices)

    source = sources.Source(reading, 4, (None, None, 3), None, canvas=16)
    monkeypatch.setattr(iterate, '_BYTES_AHEAD', most * 4 * (16 * 16 * 3 + 12))
    options = {'seed': 0, 'batch_size': 4, 'start_step': 0, 'total_steps': 1000, 'workers': 1}
    batches = pipeline.canvas_batches(source, **options)
    next(batches)
    before = -1
    while before < len(read):  # until nothing more is read
        before = len(read)
        time.sleep(0.5)
    # One was taken, one is read, one decoded, two are read at the same time; the rest waits.
    assert len(read) // 4 <= most + 6


@pytest.mark.slow
def test_rotated_files_train_as_pillow_shows_them_in_the_tf_backend(turned, tmp_path):
    source = open_folder(turned, tmp_path)
    options = {'seed': 0, 'batch_size': 40, 'start_step': 0, 'total_steps': 1}
    want = list(by_pillow(turned))
    (batch,) = pipeline.train_batches(source, (IDENTITY,) * 2, image_size=300, **options)
    (windows,) = pipeline.train_batches(source, (IDENTITY,), image_size=300, **options)
    assert sorted(batch['index']) == list(range(40))
    for name in ('index', 'image'):
        made = batch['image'][:, :1] if name == 'image' else batch['index']
        np.testing.assert_array_equal(windows[name], made)
    for index, views in zip(batch['index'], batch['image'], strict=True):
        np.testing.assert_array_equal(views, [want[index]] * 2)


def test_rotated_files_train_as_pillow_shows_them_in_the_jax_backend(turned, tmp_path):
    source = open_folder(turned, tmp_path, canvas=320)
    options = {'seed': 0, 'batch_size': 40, 'start_step': 0, 'total_steps': 1}
    want = list(by_pillow(turned))
    (batch,) = pipeline.canvas_batches(source, **options)
    for index, image, size in zip(batch['index'], batch['image'], batch['size'], strict=True):
        assert tuple(size) == (300, 300)
        np.testing.assert_array_equal(image[:300, :300], want[index])
        assert not image[300:].any() and not image[:, 300:].any()
    for image, shown in zip(device.load(source).images, by_pillow(turned), strict=True):
        np.testing.assert_array_equal(image[:300, :300], shown)


def test_rotated_files_are_shrunk_into_a_canvas_as_pillow_shows_them(turned, tmp_path):
    source = open_folder(turned, tmp_path, canvas=100)
    options = {'seed': 0, 'batch_size': 40, 'start_step': 0, 'total_steps': 1}
    want = list(by_pillow(turned, 100))
    (batch,) = pipeline.canvas_batches(source, **options)
    held = device.load(source).images
    for index, image in zip(batch['index'], batch['image'], strict=True):
        for ours in (image, held[index]):
            # A JPEG is made smaller in two steps, the first while it is decoded.
            limit = 5 if source.read([index])[0].find(b'JFIF') > 0 else 0.5
            assert np.abs(ours - want[index]).mean() < limit


def test_rotated_files_are_evaluated_as_pillow_shows_them(turned, tmp_path):
    source, want = open_folder(turned, tmp_path), list(by_pillow(turned))
    (batch,) = pipeline.eval_batches(source, batch_size=40, image_size=300)
    for index, image in zip(batch['index'], batch['image'], strict=True):
        np.testing.assert_array_equal(image[0], want[index])
    some = np.array([0, 7, 12, 23, 31])
    shown = pipeline.read_images(source, some, image_size=300)
    np.testing.assert_array_equal(shown, pipeline.read_whole_images(source, some))
    np.testing.assert_array_equal(shown, [want[index] for index in some])


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_box_of_a_rotated_picture_is_the_box_of_the_upright_one(orientation):
    upright = np.asarray(PHOTO)
    pixels = np.asarray(stored_as(PHOTO, orientation))
    number = tf.constant(orientation, tf.int64)
    np.testing.assert_array_equal(decode.turn(tf.constant(pixels), number), upright)
    picture = decode.Decoded(tf.constant(pixels), number)
    assert tuple(int(side) for side in picture.size()) == upright.shape[:2]
    random = np.random.default_rng(orientation)
    for _ in range(5):
        y, x = random.integers(0, 200, 2)
        height, width = random.integers(1, upright.shape[0] - 200, 2)
        box = tf.constant([y, x, height, width], tf.int32)
        want = decode.Decoded(tf.constant(upright), None).view(box, 32, 'bicubic')
        got = picture.view(box, 32, 'bicubic')
        np.testing.assert_allclose(got, want, atol=1e-3)  # TensorFlow rounds places to 1/1024


@pytest.mark.slow
def test_an_upright_jpeg_has_the_bytes_of_one_that_is_no_file(tmp_path):
    """A record of a file says how it is stored, but nothing of an upright JPEG changes for it."""
    root = tmp_path / 'pictures'
    root.mkdir()
    for i in range(4):
        PHOTO.crop((0, 0, 120 + 20 * i, 130)).save(root / f'{i}.jpg', quality=90)
    files = open_folder(root, tmp_path)
    records = files.read(range(4))
    assert all(b'orientation' not in record for record in records)
    stored = sources.Source(lambda chosen: [records[i] for i in chosen], 4, (None, None, 3), None)
    options = {'seed': 3, 'batch_size': 4, 'start_step': 0, 'total_steps': 3}
    cropped = dataclasses.replace(IDENTITY, crop_area=(0.2, 1.0), flip_probability=0.5)
    for views in ((cropped, cropped), (cropped,)):
        streams = (
            pipeline.train_batches(source, views, image_size=32, **options)
            for source in (files, stored)
        )
        for ours, theirs in zip(*streams, strict=True):
            np.testing.assert_array_equal(ours['image'], theirs['image'])


def texture(height, width):
    """Noise whose single pixels differ by far more than areas of them."""
    noise = np.random.default_rng(0).normal(128, 50, (height, width, 3))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize('kind', ['jpg', 'png'])
@pytest.mark.parametrize('through_canvas', [False, True])
def test_evaluation_sees_a_large_picture_as_smooth_as_training_does(kind, through_canvas, tmp_path):
    root = tmp_path / 'pictures'
    root.mkdir()
    texture(900, 1200).save(root / f'0.{kind}', quality=95)
    texture(900, 1200).save(root / f'1.{kind}', quality=95)
    source = open_folder(root, tmp_path, canvas=128)
    source = dataclasses.replace(source, through_canvas=through_canvas)
    options = {'seed': 0, 'batch_size': 2, 'start_step': 0, 'total_steps': 1}
    (trained,) = pipeline.canvas_batches(source, **options)
    (seen,) = pipeline.eval_batches(source, batch_size=2, image_size=64)
    assert trained['image'][0, :96].std() < 8 and seen['image'].std() < 8  # of 48, stored


@pytest.mark.parametrize('side', [500, 448])
def test_the_papers_evaluation_of_pictures_of_500_pixels_does_not_average(side, tmp_path):
    root = tmp_path / 'pictures'
    root.mkdir()
    texture(side, side + 100).save(root / '0.jpg', quality=95)
    source = open_folder(root, tmp_path)
    crop = 0.875 if side == 500 else 1.0
    (seen,) = pipeline.read_images(source, np.array([0]), image_size=224, crop=crop)
    pixels = tf.io.decode_jpeg((root / '0.jpg').read_bytes(), 3, dct_method='INTEGER_ACCURATE')
    cut = round(side * crop)
    top, left = (side - cut) // 2, (side + 100 - cut) // 2
    window = pixels[top : top + cut, left : left + cut]
    difference = [
        np.abs(seen - tf.clip_by_value(resized, 0, 255).numpy()).mean()
        for resized in (
            tf.image.resize(window, [224, 224], 'bicubic'),
            tf.image.resize(window, [224, 224], 'bicubic', antialias=True),
        )
    ]
    assert difference[0] < 0.5 and difference[1] > 5


def test_twelve_bits_in_sixteen_are_not_black(tmp_path):
    root = tmp_path / 'pictures'
    root.mkdir()
    values = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(values).save(root / '0.tif')
    Image.fromarray(values // 2).save(root / '1.png')
    source = open_folder(root, tmp_path, canvas=64)
    assert source.intensity == (0, 4095)
    want = deep.to_uint8(values, (0, 4095))[..., None]
    shown = pipeline.read_whole_images(source, np.array([0, 1]))
    np.testing.assert_array_equal(shown[0], np.repeat(want, 3, axis=2))
    assert abs(shown[1].mean() - want.mean() / 2) < 1  # one scale for all pictures
    options = {'seed': 0, 'batch_size': 2, 'start_step': 0, 'total_steps': 1}
    (batch,) = pipeline.canvas_batches(source, **options)
    arrays = device.load(source)
    for index, image in zip(batch['index'], batch['image'], strict=True):
        np.testing.assert_array_equal(image, shown[index])
        np.testing.assert_array_equal(arrays.images[index], shown[index])


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_a_window_is_the_one_of_the_picture_decoded_whole(channels, kind):
    stream = io.BytesIO()
    # Without chroma subsampling the edge of a window does not depend on its neighbours.
    PHOTO.save(stream, kind, subsampling=0)
    box = tf.constant([19, 46, 33, 37])

    @functools.partial(tf.function, autograph=False)
    def window(encoded):
        stored = decode.Stored(encoded, None)
        return decode.window(stored, lambda height, width: box, channels, deep.WHOLE).pixels

    stored = decode.Stored(tf.constant(stream.getvalue()), None)
    whole = decode.whole(stored, channels, deep.WHOLE).pixels
    np.testing.assert_array_equal(window(stream.getvalue()), whole[19:52, 46:83])
