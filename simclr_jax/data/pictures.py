"""Pillow: what any picture becomes, and whether it is one at all.

A picture is uint8 `[height, width, channel]`, upright (EXIF), its first frame, 16 bits shifted to
8, colours as RGB (palette, CMYK), with white where it is transparent.
"""

import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

# On damaged metadata that we do not use; not switched off and on, which is slow and global anyway.
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')

_FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP')
SUFFIXES = ('.jpg', '.jpeg', '.png', '.gif', '.bmp', '.webp')
MIN_SIDE = 2  # pixels: a smaller picture shows nothing
MAX_SIDE = 16_384  # pixels: a larger one takes gigabytes to decode

# What a file is to the pipeline.
PLAIN = 'plain'  # a JPEG that libjpeg alone decodes as we do, so that windows of it can be decoded
OTHER = 'other'  # a picture that goes through Pillow
BAD = 'bad'
KINDS = (BAD, PLAIN, OTHER)  # the index remembers the place in here


class Checked(NamedTuple):
    """What a file is.

    Attributes:
      kind: one of `KINDS`.
      height: of the upright picture, in pixels; 0 for a bad one.
      width: likewise.
      orientation: EXIF's number, 1 to 8; 1 is upright as it is stored.
      reason: why it is bad, else ''.
    """

    kind: str
    height: int = 0
    width: int = 0
    orientation: int = 1
    reason: str = ''


def check(encoded: bytes) -> Checked:
    """Says what a file is; decodes the whole, JPEG at an eighth of its size."""
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            width, height = image.size
            if min(image.size) < MIN_SIDE or max(image.size) > MAX_SIDE:
                return Checked(BAD, reason=f'{width} x {height} pixels')
            jpeg, orientation = image.format == 'JPEG', _orientation(image)
            plain = jpeg and image.mode in ('RGB', 'L') and orientation == 1
            if jpeg:
                image.draft(None, (max(1, width // 8), max(1, height // 8)))
            image.load()
            if orientation >= 5:  # lies on its side
                height, width = width, height
            return Checked(PLAIN if plain else OTHER, height, width, orientation)
    except Exception as error:  # Pillow's decoders raise anything on damage
        text = 'empty' if not encoded else str(error).splitlines()[0] if str(error) else 'damaged'
        return Checked(BAD, reason='not a picture' if 'cannot identify' in text else text)


def decode(encoded: bytes, channels: int = 3, fit: int | None = None) -> np.ndarray:
    """Decodes to uint8 `[height, width, channels]`, no side longer than `fit` where it is given.

    Raises:
      OSError: it is damaged, or no picture.
    """
    with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
        if fit and image.format == 'JPEG':
            image.draft(
                None, (fit, fit)
            )  # the smallest scale at which both sides are still as long
        image = _upright(image, channels)
        if fit and max(image.size) > fit:
            scale = fit / max(image.size)
            size = [max(1, round(side * scale)) for side in image.size]
            image = image.resize(size, Image.Resampling.BOX)
        pixels = np.asarray(image)
        return pixels.reshape(*pixels.shape[:2], channels)


def as_bmp(encoded: bytes) -> bytes:
    """Returns a picture as a file that TensorFlow decodes to the pixels of `decode`."""
    stream = io.BytesIO()
    Image.fromarray(decode(encoded)).save(stream, 'BMP')
    return stream.getvalue()


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(0x0112, 1)
    return value if value in range(1, 9) else 1  # anything else means nothing


def _upright(image: Image.Image, channels: int) -> Image.Image:
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if (
        image.mode.startswith('I') or image.mode == 'F'
    ):  # 16 bits of grey, which convert() would cut
        pixels = np.asarray(image).astype(np.int64)
        image = Image.fromarray((pixels >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ('LA', 'PA', 'RGBA', 'La', 'RGBa') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image)
    return image.convert('L' if channels == 1 else 'RGB')
