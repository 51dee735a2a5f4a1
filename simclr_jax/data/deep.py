"""Pictures of more than 8 bits, and TIFF, as microscopes, scanners and satellites write them.

Such values mean something on a scale of their own: 12 bits of a camera in a file of 16 would be
nearly black. One range for a whole data set makes them 8 bits; by default it ends at the largest
value of the fewest bits that hold every value that was found, so it is that of the camera.
"""

import io
import sys
from collections.abc import Iterable

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

Range = tuple[float, float]  # the values that become black and white
WHOLE: Range = (0.0, 65535.0)
AUTOMATIC: Range = (0.0, 0.0)

_READ = 'grey or red, green and blue are read'
# Pillow keeps the upper eight bits of each colour. The lower ones are what it keeps where it takes
# the bytes to be the other way round.
_SWAPPED = {'B': 'L', 'L': 'B', 'N': 'B' if sys.byteorder == 'little' else 'L'}
_BITS, _SAMPLES, _PHOTOMETRIC, _PLANES, _EXTRA = 258, 277, 262, 284, 338  # tags of TIFF
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')


def range_of(peaks: Iterable[float]) -> Range:
    """Returns black and white for pictures with these largest values, 0 for those of 8 bits.

    White is `2**bits - 1` for the fewest bits, 8 or more, that hold all of them; 1 where they are
    fractions.
    """
    peak = max(peaks, default=0.0)
    if not peak:
        return WHOLE
    return (0.0, 1.0 if peak <= 1 else float(2 ** max(8, int(np.ceil(np.log2(peak + 1)))) - 1))


def refused(image: Image.Image) -> str:
    """Says why a picture that Pillow would open is none for us, '' for most."""
    if image.format != 'TIFF':
        return ''
    samples, photometric = image.tag_v2.get(_SAMPLES, 1), image.tag_v2.get(_PHOTOMETRIC)
    # A fourth sample is transparency where the file says so, and else a channel of its own.
    transparency = samples in (2, 4) and image.tag_v2.get(_EXTRA) in ((1,), (2,))
    colours = samples - transparency
    if colours not in (1, 3) and photometric != 5:  # CMYK
        return f'{colours} channels; {_READ}'
    apart = samples > 1 and image.tag_v2.get(_PLANES) == 2
    if apart and max(image.tag_v2.get(_BITS, (1,))) > 8:
        return 'more than 8 bits with each channel in a plane of its own; save them pixel by pixel'
    return ''


def why_no_tiff(encoded: bytes) -> str:
    """Says why Pillow did not open a TIFF; '' where it is none."""
    if not encoded.startswith(_TIFF):
        return ''
    try:
        stream = io.BytesIO(encoded)
        tags = ImageFileDirectory_v2(stream.read(16 if encoded[2] == 43 else 8))
        stream.seek(tags.next)
        tags.load(stream)
        samples = tags.get(_SAMPLES, 1)
        if samples not in (1, 3):
            return f'{samples} channels; {_READ}'
        if samples == 3 and tags.get(_PHOTOMETRIC) != 2:
            return '3 channels that the file does not call red, green and blue'
    except Exception:  # damaged
        return 'not a picture'
    return 'a TIFF of a kind that Pillow does not read'


def count_pages(image: Image.Image) -> int:
    """Returns 2 where a TIFF has a second page, else 1; the image is of no use afterwards."""
    if image.format != 'TIFF':
        return 1
    try:
        image.seek(1)
    except EOFError:
        return 1
    except Exception:
        return 2  # there, but not one that can be read
    return 2


def peak(encoded: bytes, image: Image.Image) -> float:
    """Loads an opened picture; returns its largest value, 0 where it has no more than 8 bits."""
    found = values(encoded, image)
    return 0.0 if found is None else float(np.nanmax(found, initial=0))


def values(encoded: bytes, image: Image.Image) -> np.ndarray | None:
    """Loads an opened picture and returns its values where they have more than 8 bits.

    Returns:
      `[height, width]` or `[height, width, 3]`; None for 8 bits.
    """
    grey = image.mode.startswith('I') or image.mode == 'F'
    colour = _colour_16(image)
    inverted = image.format == 'TIFF' and image.tag_v2.get(_PHOTOMETRIC) == 0
    image.load()
    if grey:
        found = np.asarray(image)
        return _negative(found) if inverted else found
    if not colour:
        return None
    with Image.open(io.BytesIO(encoded), formats=(image.format,)) as low:
        low.tile = [_of_the_other_byte(tile) for tile in low.tile]
        low.load()
        found = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
    return found[..., :3]


def to_uint8(values: np.ndarray, intensity: Range) -> np.ndarray:
    """Scales values so that the range becomes 0 to 255; what is beyond it is black or white."""
    low, high = intensity
    scaled = (values.astype(np.float32) - low) * (255 / (high - low))
    return np.nan_to_num(scaled).round().clip(0, 255).astype(np.uint8)


def _colour_16(image: Image.Image) -> bool:
    """Whether an opened picture has 16 bits for each colour, which Pillow would make 8."""
    modes = [_raw_mode(tile) for tile in image.tile]
    return image.mode in ('RGB', 'RGBA') and any(
        mode.startswith('RGB') and ';16' in mode for mode in modes
    )


def _raw_mode(tile) -> str:
    mode = tile.args if isinstance(tile.args, str) else tile.args[0] if tile.args else ''
    return mode if isinstance(mode, str) else ''


def _of_the_other_byte(tile):
    mode = _raw_mode(tile)
    mode = mode[:-1] + _SWAPPED[mode[-1]]
    return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))


def _negative(values: np.ndarray) -> np.ndarray:
    """White is 0 in such a file; 16 bits are the only ones that are written so."""
    return 65535 - values.astype(np.int64)
