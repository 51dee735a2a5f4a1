"""A mask: a picture whose values are the classes of its pixels, read as they are in the file."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from simclr_jax.data import pictures

_LOSSY = 'mixes the values of neighbouring pixels; make the masks again, as PNG'
_NUMBERS = "save the number of each pixel's class instead, as a grey or palette PNG"
# Pillow spreads grey values of 2 and 4 bits over 0 to 255.
_SPREAD = {'L;2': 85, 'L;4': 17}
# Tags of TIFF: what 0 is, and how it is compressed.
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_LOSSY_TIFF = ('jpeg', 'tiff_jpeg', 'webp')


def values(encoded: bytes, first_channel: bool = False) -> np.ndarray:
    """Returns the values of a mask, `[height, width]` int32, turned as its EXIF says.

    They are those of the file: the indices of a palette, grey values of 1 to 16 bits as they are.

    Args:
      encoded: the file.
      first_channel: whether the red of a mask of colours is its class; such a mask is refused else.

    Raises:
      OSError: it is damaged, no picture, or one that cannot hold classes: its message says what to
        do.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if refused := _refused(encoded, image, first_channel):
                raise OSError(refused)
            spread = _SPREAD.get(_raw_mode(image), 1)
            image.load()
            turned = pictures.upright(image)
            found = np.asarray(turned).astype(np.int32) // spread
            return found if found.ndim == 2 else found[..., 0]
    except UnidentifiedImageError:
        raise OSError('empty' if not encoded else 'not a picture') from None
    except OSError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damage
        raise OSError(str(error).splitlines()[0] if str(error) else 'damaged') from error


def _refused(encoded: bytes, image: Image.Image, first_channel: bool) -> str:
    """Says why an opened picture is no mask, '' for most."""
    width, height = image.size
    if max(image.size) > pictures.MAX_SIDE:
        return f'{width} x {height} pixels'
    if image.format in ('JPEG', 'MPO') or image.info.get('compression') in _LOSSY_TIFF:
        return f'a mask in JPEG, which {_LOSSY}'
    if image.format == 'WEBP' and b'VP8L' not in encoded[:64]:
        return f'a mask in lossy WebP, which {_LOSSY}'
    if image.format == 'TIFF' and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return 'a TIFF in which white is 0; save it as PNG'
    if image.mode in ('1', 'L', 'P') or image.mode.startswith('I'):
        return ''
    if image.mode == 'F':
        return f'a mask of fractions; {_NUMBERS}'
    return '' if first_channel and image.mode == 'RGB' else _about_colours(image)


def _about_colours(image: Image.Image) -> str:
    bands = [np.asarray(band) for band in image.split()]
    colours = bands[: 1 if image.mode in ('LA', 'La', 'PA') else 3]
    if all(np.array_equal(colours[0], band) for band in colours[1:]):
        return f'a grey mask that is saved as {image.mode}; save its first channel alone, as PNG'
    return f'a mask of colours ({image.mode}), not of classes; {_NUMBERS}'


def _raw_mode(image: Image.Image) -> str:
    arguments = image.tile[0][3] if image.tile else ''
    first = arguments if isinstance(arguments, str) else arguments[0] if arguments else ''
    return first if isinstance(first, str) else ''
