"""Pictures of more than 8 bits, written by TensorFlow, Pillow and by hand: values and refusals."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from simclr_jax.data import deep, folder_index, pictures, sources

TWELVE = np.random.default_rng(0).integers(0, 4096, (12, 17, 3)).astype(np.uint16)
TWELVE[0, 0] = 4095
WHITE = np.round(TWELVE / 4095 * 255).astype(np.uint8)


def tiff(values, *, photometric, order='<', bits=16, extra=(), planes=1, sample_format=1, after=0):
    """A TIFF of one strip, as its specification (Adobe, 1992) has it.

    `values` is `[height, width, channel]`; `after` is where the next page would be.
    """
    height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder(order))
    if planes == 2:
        data = data.transpose(2, 0, 1)
    short, long = 3, 4
    tags = [
        (256, long, (width,)),
        (257, long, (height,)),
        (258, short, (bits,) * channels),
        (259, short, (1,)),
        (262, short, (photometric,)),
        (273, long, (8,)),
        (277, short, (channels,)),
        (278, long, (height,)),
        (279, long, (data.nbytes,)),
        (284, short, (planes,)),
        (339, short, (sample_format,) * channels),
    ]
    if planes == 2:
        part = data.nbytes // channels
        tags[5] = (273, long, tuple(8 + part * i for i in range(channels)))
        tags[8] = (279, long, (part,) * channels)
    if extra:
        tags.insert(10, (338, short, extra))
    directory = 8 + data.nbytes
    spill = directory + 2 + 12 * len(tags) + 4
    entries, spilt = b'', b''
    for number, kind, found in tags:
        packed = struct.pack(f'{order}{len(found)}{"H" if kind == short else "I"}', *found)
        if len(packed) > 4:
            place = struct.pack(f'{order}I', spill + len(spilt))
            spilt += packed
        else:
            place = packed.ljust(4, b'\0')
        entries += struct.pack(f'{order}HHI', number, kind, len(found)) + place
    head = (b'II' if order == '<' else b'MM') + struct.pack(f'{order}HI', 42, directory)
    count, end = struct.pack(f'{order}H', len(tags)), struct.pack(f'{order}I', after)
    return head + data.tobytes() + count + entries + end + spilt


def saved(values, **options):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, 'TIFF', **options)
    return stream.getvalue()


FILES = {  # file to the values that are in it
    'grey PNG': (tf.io.encode_png(TWELVE[..., :1]).numpy(), TWELVE[..., 0]),
    'colour PNG': (tf.io.encode_png(TWELVE).numpy(), TWELVE),
    'grey TIFF': (saved(TWELVE[..., 0]), TWELVE[..., 0]),
    'packed TIFF': (saved(TWELVE[..., 0], compression='tiff_lzw'), TWELVE[..., 0]),
    'grey, big end first': (tiff(TWELVE[..., :1], photometric=1, order='>'), TWELVE[..., 0]),
    'colour TIFF': (tiff(TWELVE, photometric=2), TWELVE),
    'colour, big end first': (tiff(TWELVE, photometric=2, order='>'), TWELVE),
    'fractions': (saved((TWELVE[..., 0] / 4095).astype(np.float32)), TWELVE[..., 0] / 4095),
}


@pytest.mark.parametrize('name', FILES)
def test_values_of_more_than_8_bits_are_read_whole_and_scaled_by_their_range(name):
    file, values = FILES[name]
    checked = pictures.check(file)
    assert checked[:4] == (pictures.OTHER, 12, 17, 1)
    assert checked.peak == pytest.approx(values.max())
    with Image.open(io.BytesIO(file)) as image:
        np.testing.assert_allclose(deep.values(file, image), values, rtol=1e-6)
    shown = pictures.decode(file, intensity=deep.range_of([checked.peak]))
    want = WHITE if values.ndim == 3 else np.repeat(WHITE[..., :1], 3, axis=2)
    np.testing.assert_array_equal(shown, want)


def test_a_colour_picture_of_16_bits_and_transparency_shows_white():
    alpha = np.full((12, 17, 1), 65535, np.uint16)
    alpha[:3] = 0
    file = tf.io.encode_png(np.dstack([TWELVE, alpha])).numpy()
    shown = pictures.decode(file, intensity=(0, 4095))
    assert (shown[:3] == 255).all()
    np.testing.assert_array_equal(shown[3:], WHITE[3:])


def test_a_tiff_where_0_is_white():
    file = tiff(65535 - TWELVE[..., :1], photometric=0)
    assert pictures.check(file).peak == 4095
    np.testing.assert_array_equal(pictures.decode(file, 1, intensity=(0, 4095)), WHITE[..., :1])


def test_the_range_is_that_of_the_fewest_bits_that_hold_every_value():
    assert deep.range_of([0, 0]) == deep.WHOLE  # nothing has more than 8 bits
    assert deep.range_of([0, 4095, 3000]) == deep.range_of([2048]) == (0, 4095)
    assert deep.range_of([4096]) == (0, 8191) and deep.range_of([65535]) == (0, 65535)
    assert deep.range_of([3]) == (0, 255)
    assert deep.range_of([0.7]) == deep.range_of([1]) == (0, 1)


def test_what_is_beyond_the_range_is_black_or_white():
    values = np.array([[-5.0, 100.0, 300.0, 500.0, np.inf, np.nan]], np.float32)
    np.testing.assert_array_equal(deep.to_uint8(values, (100.0, 500.0)), [[0, 0, 128, 255, 255, 0]])


@pytest.mark.parametrize('orientation', [3, 6])
def test_a_tiff_is_turned_once(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    stored = np.rot90(TWELVE[..., 0], {3: 2, 6: 1}[orientation])
    file = saved(np.ascontiguousarray(stored), exif=tags)
    assert pictures.check(file)[:4] == (pictures.OTHER, 12, 17, 1)
    np.testing.assert_array_equal(
        pictures.decode(file, 1, intensity=(0, 4095))[..., 0], WHITE[..., 0]
    )


EIGHT = WHITE[..., [0, 1, 2, 0, 1]]


@pytest.mark.parametrize(
    ('values', 'options', 'why'),
    [
        (EIGHT, {'photometric': 1, 'bits': 8, 'extra': (0, 0, 0, 0)}, '5 channels; '),
        (EIGHT, {'photometric': 2, 'bits': 8, 'extra': (0, 0)}, '5 channels; '),
        (EIGHT[..., :4], {'photometric': 2, 'bits': 8, 'extra': (0,)}, '4 channels; '),
        (EIGHT[..., :4], {'photometric': 1, 'bits': 8, 'extra': (0, 0, 0)}, '4 channels; '),
        (EIGHT[..., :2], {'photometric': 1, 'bits': 8, 'extra': (0,)}, '2 channels; '),
        (EIGHT[..., :3], {'photometric': 1, 'bits': 8, 'extra': (0, 0)}, 'does not call red'),
        (TWELVE, {'photometric': 2, 'planes': 2}, 'plane of its own'),
    ],
)
def test_other_channels_than_grey_and_colours_are_refused_by_name(values, options, why):
    checked = pictures.check(tiff(values, **options))
    assert checked.kind == pictures.BAD and why in checked.reason


def test_transparency_is_no_channel():
    alpha = np.full((12, 17, 1), 255, np.uint8)
    file = tiff(np.dstack([WHITE, alpha]), photometric=2, bits=8, extra=(2,))
    assert pictures.check(file).kind == pictures.OTHER
    np.testing.assert_array_equal(pictures.decode(file), WHITE)


def test_the_first_of_several_pages_is_read_and_they_are_noticed():
    pages = [Image.fromarray(TWELVE[..., i]) for i in range(3)]
    stream = io.BytesIO()
    pages[0].save(stream, 'TIFF', save_all=True, append_images=pages[1:])
    assert pictures.check(stream.getvalue())[-2:] == (4095, 2)
    shown = pictures.decode(stream.getvalue(), 1, intensity=(0, 4095))
    np.testing.assert_array_equal(shown, WHITE[..., :1])
    assert pictures.check(saved(TWELVE[..., 0])).pages == 1


def test_a_damaged_tiff_is_bad():
    file = tiff(TWELVE, photometric=2)
    for cut in (4, 100, len(file) - 40):
        assert pictures.check(file[:cut]).kind == pictures.BAD


def test_a_folder_says_its_scale_and_names_what_it_refuses_in_a_line(tmp_path):
    root = tmp_path / 'microscope'
    root.mkdir()
    pages = [Image.fromarray(TWELVE[..., i]) for i in range(3)]
    pages[0].save(root / 'cells.tif', save_all=True, append_images=pages[1:])
    pages[1].save(root / 'cells.png')
    Image.fromarray(WHITE).save(root / 'photo.jpg')
    (root / 'spectrum.tif').write_bytes(tiff(EIGHT, photometric=1, bits=8, extra=(0,) * 4))
    source = sources.open_source(
        'folder', str(tmp_path), 'all', path=str(root), max_bad_fraction=0.5
    )
    assert source.intensity == (0, 4095)
    assert source.description.splitlines()[1:] == [
        '2 pictures of more than 8 bits: values from 0 to 4,095 become black to white',
        '1 TIFF of several pages: the first one is read',
    ]
    assert 'spectrum.tif (5 channels; grey or red, ' in folder_index.describe_bad(source.bad)
