"""Pillow: what any picture becomes, and whether it is one at all.

A picture is uint8 `[height, width, channel]`, upright (EXIF), its first frame, 16 bits shifted to
8, colours as RGB (palette, CMYK), with white where it is transparent.
"""

import io
import warnings

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


def check(encoded: bytes) -> str:
    """Returns PLAIN, OTHER or `BAD: why`; decodes the whole, JPEG at an eighth of its size."""
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            if min(image.size) < MIN_SIDE or max(image.size) > MAX_SIDE:
                return f'{BAD}: {image.width} x {image.height} pixels'
            jpeg = image.format == 'JPEG'
            plain = jpeg and image.mode in ('RGB', 'L') and _orientation(image) == 1
            if jpeg:
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
            return PLAIN if plain else OTHER
    except Exception as error:  # Pillow's decoders raise anything on damage
        text = 'empty' if not encoded else str(error).splitlines()[0] if str(error) else 'damaged'
        return f'{BAD}: {"not a picture" if "cannot identify" in text else text}'


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
    return image.getexif().get(0x0112, 1)


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
