"""Pillow: what any picture becomes, and whether it is one at all.

A picture is uint8 `[height, width, channel]`, upright (EXIF), its first frame or page, colours as
RGB (palette, CMYK), with white where it is transparent. Values of more than 8 bits are scaled by a
range that is the same for a whole data set (`deep.py`).
"""

import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from simclr_jax.data import deep

# On damaged metadata that we do not use; not switched off and on, which is slow and global anyway.
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')

_FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF')
# MPO: a JPEG with further ones behind it, as telephones write them; decoders read the first.
_JPEG = ('JPEG', 'MPO')
SUFFIXES = ('.jpg', '.jpeg', '.png', '.gif', '.bmp', '.webp', '.tif', '.tiff')
MIN_SIDE = 2  # pixels: a smaller picture shows nothing
_PNG_END = b'IEND\xaeB\x60\x82'
PLAIN_STARTS = (b'\xff\xd8', b'\x89PNG')  # what files of the kind PLAIN begin with
MAX_SIDE = 16_384  # pixels: a larger one takes gigabytes to decode
# Above this ratio of sides, evaluation averages over all pixels of a picture that it makes smaller.
# The papers' evaluation, which does not, has 1.5 in ImageNet's pictures of 500 pixels.
MAX_ALIASED_RATIO = 2

# What a file is to the pipeline.
PLAIN = 'plain'  # a JPEG or PNG that TensorFlow decodes as we do, up to how it is turned
OTHER = 'other'  # a picture that goes through Pillow
BAD = 'bad'
KINDS = (BAD, PLAIN, OTHER)  # the index remembers the place in here

_UPRIGHT = {  # EXIF's number to what shows a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Checked(NamedTuple):
    """What a file is.

    Attributes:
      kind: one of `KINDS`.
      height: of the upright picture, in pixels; 0 for a bad one.
      width: likewise.
      orientation: EXIF's number, 1 to 8; 1 is upright as it is stored.
      reason: why it is bad, else ''.
      peak: the largest value of a picture of more than 8 bits; 0 for any other.
      pages: 2 where a TIFF holds more pages than the first, else 1.
    """

    kind: str
    height: int = 0
    width: int = 0
    orientation: int = 1
    reason: str = ''
    peak: float = 0.0
    pages: int = 1


def check(encoded: bytes) -> Checked:
    """Says what a file is; decodes the whole, JPEG at an eighth of its size."""
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            width, height = image.size
            if refused := _refused(image):
                return Checked(BAD, reason=refused)
            jpeg = image.format in _JPEG
            if jpeg:
                image.draft(None, (max(1, width // 8), max(1, height // 8)))
            peak = deep.peak(encoded, image)  # loads it
            orientation = _orientation(image)
            if orientation >= 5:  # lies on its side
                height, width = width, height
            eight_bits = image.mode in ('RGB', 'L') and not peak
            plain = jpeg or (
                image.format == 'PNG'
                and 'transparency' not in image.info
                and _PNG_END in encoded  # without it TensorFlow refuses what Pillow reads
            )
            kind = PLAIN if plain and eight_bits else OTHER
            pages = deep.count_pages(image)
            return Checked(kind, height, width, orientation, '', peak, pages)
    except UnidentifiedImageError:
        return Checked(BAD, reason=_why_not(encoded))
    except Exception as error:  # Pillow's decoders raise anything on damage
        return Checked(BAD, reason=str(error).splitlines()[0] if str(error) else 'damaged')


def decode(
    encoded: bytes,
    channels: int = 3,
    fit: int | None = None,
    *,
    intensity: deep.Range = deep.WHOLE,
    turn: bool = True,
) -> np.ndarray:
    """Decodes to uint8 `[height, width, channels]`.

    Args:
      encoded: the file.
      channels: 1 or 3.
      fit: the longest side, in pixels, that the result may have; a larger picture is shrunk.
      intensity: the values that become 0 and 255 where they have more than 8 bits.
      turn: whether EXIF's orientation is looked at.

    Raises:
      OSError: it is damaged, or no picture, or one that `check` refuses.
    """
    with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
        if refused := _refused(image):
            raise OSError(refused)
        if fit and image.format in _JPEG:
            image.draft(
                None, (fit, fit)
            )  # the smallest scale at which both sides are still as long
        values = deep.values(encoded, image)
        orientation = _orientation(image)
        if values is not None:
            shown = Image.fromarray(deep.to_uint8(values, intensity))
            if image.mode == 'RGBA':
                shown.putalpha(image.getchannel('A'))
            image = shown
        if image.mode in ('LA', 'PA', 'RGBA', 'La', 'RGBa') or 'transparency' in image.info:
            image = image.convert('RGBA')
            white = Image.new('RGBA', image.size, 'white')
            image = Image.alpha_composite(white, image)
        mode = 'L' if channels == 1 else 'RGB'
        if image.mode != mode:  # it would be copied
            image = image.convert(mode)
        if fit and max(image.size) > fit:  # before it is turned, which takes time, too
            scale = fit / max(image.size)
            size = [max(1, round(side * scale)) for side in image.size]
            image = image.resize(size, Image.Resampling.BOX)
        if turn and orientation != 1:
            image = image.transpose(_UPRIGHT[orientation])
        pixels = np.asarray(image)
        return pixels.reshape(*pixels.shape[:2], channels)


def upright(image: Image.Image) -> Image.Image:
    """Returns a picture that was loaded, turned as its EXIF says."""
    orientation = _orientation(image)
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])


def _refused(image: Image.Image) -> str:
    """Says why an opened picture is none for us, '' for most."""
    width, height = image.size
    if min(image.size) < MIN_SIDE or max(image.size) > MAX_SIDE:
        return f'{width} x {height} pixels'
    return deep.refused(image)


def _why_not(encoded: bytes) -> str:
    if not encoded:
        return 'empty'
    return deep.why_no_tiff(encoded) or 'not a picture'


def _orientation(image: Image.Image) -> int:
    """EXIF's number of a picture that was loaded; Pillow itself turns a TIFF then."""
    value = image.getexif().get(0x0112, 1)
    return value if value in range(1, 9) else 1  # anything else means nothing
