"""Every kind of picture, made by Pillow, TensorFlow or by hand, and what becomes of it."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from simclr_jax.data import pictures

PIXELS = load_sample_image('flower.jpg')[100:164, 200:280]  # 64 x 80


def encoded(image, kind, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def bad(reason):
    return pictures.Checked(pictures.BAD, reason=reason)


RGB = Image.fromarray(PIXELS)
TURNED = {  # EXIF's number to how PIXELS are stored
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.swapaxes(0, 1),
    6: np.rot90(PIXELS, 1),
    7: PIXELS[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(PIXELS, -1),
}


@pytest.mark.parametrize('kind', ['PNG', 'BMP'])
def test_lossless_formats(kind):
    np.testing.assert_array_equal(pictures.decode(encoded(RGB, kind)), PIXELS)


def test_webp_without_loss():
    np.testing.assert_array_equal(pictures.decode(encoded(RGB, 'WEBP', lossless=True)), PIXELS)


def test_jpeg_equals_tensorflows_decoder():
    file = encoded(RGB, 'JPEG', quality=90)
    want = tf.io.decode_jpeg(file, 3, dct_method='INTEGER_ACCURATE', fancy_upscaling=True)
    np.testing.assert_array_equal(pictures.decode(file), want)


@pytest.mark.parametrize('orientation', TURNED)
def test_exif_turns_pictures_upright(orientation):
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation]))
    file = encoded(stored, 'JPEG', quality=100, subsampling=0, exif=exif(orientation))
    difference = np.abs(pictures.decode(file).astype(int) - PIXELS)
    assert difference.mean() < 1
    assert pictures.check(file) == pictures.Checked(pictures.PLAIN, 64, 80, orientation)


def test_an_orientation_that_is_no_number_of_exif_means_upright():
    file = encoded(RGB, 'JPEG', exif=exif(9))
    assert pictures.check(file) == pictures.Checked(pictures.PLAIN, 64, 80, 1)


def test_gray_palette_and_the_first_frame():
    gray = RGB.convert('L')
    want = np.repeat(np.asarray(gray)[..., None], 3, axis=2)
    np.testing.assert_array_equal(pictures.decode(encoded(gray, 'PNG')), want)
    np.testing.assert_array_equal(pictures.decode(encoded(gray, 'PNG'), 1), want[..., :1])
    palette = RGB.quantize(16)
    want = np.asarray(palette.convert('RGB'))
    np.testing.assert_array_equal(pictures.decode(encoded(palette, 'PNG')), want)
    frames = [palette, Image.new('P', palette.size)]
    animated = encoded(frames[0], 'GIF', save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(pictures.decode(animated), want)


def test_transparency_shows_white():
    pixels = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])
    pixels[:10, :, 3], pixels[10:20, :, 3] = 0, 128
    decoded = pictures.decode(encoded(Image.fromarray(pixels), 'PNG')).astype(int)
    assert (decoded[:10] == 255).all()
    np.testing.assert_array_equal(decoded[20:], PIXELS[20:])
    half = PIXELS[10:20].astype(int) * 128 / 255 + 127
    assert np.abs(decoded[10:20] - half).max() <= 1
    keyed = encoded(RGB.quantize(16), 'PNG', transparency=3)
    assert (pictures.decode(keyed)[np.asarray(RGB.quantize(16)) == 3] == 255).all()


@pytest.mark.parametrize('channels', [1, 3])
def test_sixteen_bits_are_shifted(channels):
    wide = PIXELS[..., :channels].astype(np.uint16) * 257
    file = tf.io.encode_png(wide).numpy()
    np.testing.assert_array_equal(pictures.decode(file, channels), PIXELS[..., :channels])


def test_cmyk():
    decoded = pictures.decode(encoded(RGB.convert('CMYK'), 'JPEG', quality=95))
    assert np.abs(decoded.astype(int) - PIXELS).mean() < 6  # JPEG's own loss


def test_a_large_jpeg_is_reduced_while_it_is_decoded():
    large = RGB.resize((800, 640), Image.Resampling.BICUBIC)
    decoded = pictures.decode(encoded(large, 'JPEG', quality=95), fit=90)
    assert decoded.shape == (72, 90, 3)
    want = np.asarray(large.resize((90, 72), Image.Resampling.BOX), int)
    assert np.abs(decoded - want).mean() < 3


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'BMP', 'GIF', 'WEBP'])
def test_what_is_no_picture_is_found(kind):
    file = encoded(RGB, kind)
    want = pictures.PLAIN if kind in ('JPEG', 'PNG') else pictures.OTHER
    assert pictures.check(file) == pictures.Checked(want, 64, 80)
    assert pictures.check(file[: len(file) // 2]).kind == pictures.BAD
    assert pictures.check(encoded(Image.new('RGB', (1, 1)), kind)) == bad('1 x 1 pixels')


def test_bad_files_have_a_reason():
    assert pictures.check(b'') == bad('empty')
    assert pictures.check(b'GIF89a').kind == pictures.BAD
    assert pictures.check(b'hello') == bad('not a picture')
    wide = encoded(Image.new('RGB', (30_000, 2)), 'PNG')
    assert pictures.check(wide) == bad('30000 x 2 pixels')


def test_a_jpeg_with_more_behind_it_is_one_of_the_plain():
    # As telephones write them (Multi-Picture Format); without that it would not be cut in windows.
    file = encoded(RGB, 'MPO', save_all=True, append_images=[Image.new('RGB', RGB.size)])
    assert pictures.check(file) == pictures.Checked(pictures.PLAIN, 64, 80)
    got = pictures.decode(file)
    want = tf.io.decode_jpeg(file, 3, dct_method='INTEGER_ACCURATE', fancy_upscaling=True)
    np.testing.assert_array_equal(got, want)
