"""Values of masks as their files have them, and what is no mask."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from simclr_jax.data import mask_decode

VALUES = np.arange(24).reshape(4, 6)


def encoded(image, format_='PNG', **options):
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def palette(values):
    image = Image.fromarray(values.astype(np.uint8), 'P')
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    return image


@pytest.mark.parametrize(
    ('image', 'options', 'want'),
    [
        (Image.fromarray(VALUES.astype(np.uint8) + 200), {}, VALUES + 200),
        (palette(VALUES), {}, VALUES),
        (palette(VALUES), {'transparency': 3}, VALUES),
        (palette(VALUES % 4), {'bits': 2}, VALUES % 4),
        (palette(VALUES % 16), {'bits': 4}, VALUES % 16),
        (palette(VALUES), {'format_': 'GIF'}, VALUES),
        (palette(VALUES), {'format_': 'BMP'}, VALUES),
        (Image.fromarray(VALUES > 11), {}, VALUES > 11),
        (Image.fromarray((VALUES * 2700).astype(np.uint16)), {}, VALUES * 2700),
        (Image.fromarray((VALUES * 2700).astype(np.uint16)), {'format_': 'TIFF'}, VALUES * 2700),
        (Image.fromarray(VALUES.astype(np.int32) * 10**6), {'format_': 'TIFF'}, VALUES * 10**6),
        (Image.fromarray(VALUES.astype(np.uint8)), {'format_': 'TIFF'}, VALUES),
    ],
)
def test_values_are_those_of_the_file(image, options, want):
    found = mask_decode.values(encoded(image, **options))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize('bits', [2, 4])
def test_grey_values_of_few_bits_are_not_spread(bits):
    """Pillow shows 15 of 4 bits as 255, which is ignored by default."""
    values = VALUES % 2**bits
    text = encoded(palette(values), bits=bits)
    # Colour type 3, of a palette, becomes 0, grey; the palette itself goes.
    header = text.index(b'IHDR') + 4
    start = text.index(b'PLTE') - 4
    end = text.index(b'IDAT') - 4
    grey = bytearray(text[:start] + text[end:])
    grey[header + 9] = 0
    crc = zlib.crc32(bytes(grey[header - 4 : header + 13])).to_bytes(4, 'big')
    grey[header + 13 : header + 17] = crc
    assert np.asarray(Image.open(io.BytesIO(bytes(grey)))).max() == 255
    np.testing.assert_array_equal(mask_decode.values(bytes(grey)), values)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'empty'),
        (b'nonsense', 'not a picture'),
        (encoded(Image.fromarray(VALUES.astype(np.uint8)))[:60], ''),
        (encoded(Image.new('L', (6, 4)), 'JPEG'), 'a mask in JPEG, which mixes'),
        (encoded(Image.new('RGB', (6, 4), (1, 2, 3)), 'WEBP'), 'a mask in lossy WebP'),
        (encoded(Image.new('L', (6, 4)), 'TIFF', compression='jpeg'), 'a mask in JPEG'),
        (encoded(Image.new('RGB', (6, 4), (1, 2, 3))), r'of colours \(RGB\), .*save the number of'),
        (encoded(Image.new('RGBA', (6, 4), (1, 2, 3, 4))), r'of colours \(RGBA\)'),
        (encoded(Image.new('RGB', (6, 4), (7, 7, 7))), 'grey mask that is saved as RGB; save its'),
        (encoded(Image.new('LA', (6, 4), (7, 9))), 'grey mask that is saved as LA'),
        (encoded(Image.new('F', (6, 4)), 'TIFF'), 'a mask of fractions'),
        (encoded(Image.new('L', (6, 4)), 'TIFF', tiffinfo={262: 0}), 'white is 0'),
    ],
)
def test_what_is_no_mask_says_why(content, reason):
    with pytest.raises(OSError, match=reason or '.'):
        mask_decode.values(content)


def test_red_may_be_the_class():
    values = np.stack([VALUES, VALUES % 5, 0 * VALUES], axis=-1).astype(np.uint8)
    found = mask_decode.values(encoded(Image.fromarray(values)), first_channel=True)
    np.testing.assert_array_equal(found, VALUES)
