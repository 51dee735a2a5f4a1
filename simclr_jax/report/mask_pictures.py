"""What the page of a segmentation run is made of: masks and attention as pictures."""

import functools

import numpy as np
from PIL import Image

IGNORED = -1  # the label of a pixel that is not counted
SIDE = 320  # pixels that the longer side of a picture has on the page, at most
# Okabe and Ito's colours but for black: they stay apart with any colour vision.
_FIRST = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0),
    (240, 228, 66),
)  # fmt: skip
# How a colour looks, in linear RGB, without the cones of long and of middle waves: Machado,
# Oliveira and Fernandes (2009), severity 1.
_PROTANOPIA = (
    (0.152286, 1.052583, -0.204868),
    (0.114503, 0.786281, 0.099216),
    (-0.003882, -0.048116, 1.051998),
)
_DEUTERANOPIA = (
    (0.367322, 0.860646, -0.227968),
    (0.280085, 0.672501, 0.047413),
    (-0.011820, 0.042940, 0.968881),
)
# From linear RGB to the cones, and from their cube roots to OKLab (Ottosson 2020): distances there
# are about those that are seen.
_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
_GRAY = 0.06  # chroma up to which a colour could be taken for the gray of ignored pixels
_LIGHT, _DARK = 190, 120  # of the stripes of ignored pixels
_STRIPE = 4  # pixels
# Five of matplotlib's colour map inferno, from dark to light: lightness alone tells them apart.
_HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


@functools.lru_cache(maxsize=8)
def class_colours(classes: int) -> np.ndarray:
    """Returns a colour for each class, `[class, 3]` uint8, always the same.

    The first seven are Okabe and Ito's. Each further one is, of 1,728, the one that is farthest
    from all before it, to an eye without defect and to the two commonest kinds of colour blindness.
    None is gray. Up to about 20 can be told apart; of more the nearest ones hardly can.
    """
    levels = np.linspace(0, 255, 12).round()
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing='ij'), -1).reshape(-1, 3)
    candidates = np.concatenate([np.array(_FIRST, np.float64), candidates])
    seen = _as_seen(candidates)
    # Not gray, as ignored pixels, nor near black or white, as the page.
    lightness, chroma = seen[0, :, 0], np.linalg.norm(seen[0, :, 1:], axis=1)
    usable = (lightness > 0.3) & (lightness < 0.95) & (chroma > _GRAY)
    chosen = list(range(min(classes, len(_FIRST))))
    distance = np.full(len(candidates), np.inf)
    for i in range(classes):
        if i >= len(chosen):
            chosen.append(int(np.argmax(np.where(usable, distance, -1))))
        apart = np.linalg.norm(seen - seen[:, chosen[i], None], axis=2).min(axis=0)
        distance = np.minimum(distance, apart)
    colours = candidates[chosen].astype(np.uint8)
    colours.setflags(write=False)
    return colours


def _as_seen(colours: np.ndarray) -> np.ndarray:
    """Colours `[n, 3]` of 0 to 255 as three eyes see them, in OKLab, `[eye, n, 3]`."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    eyes = np.stack([np.eye(3), _PROTANOPIA, _DEUTERANOPIA])
    seen = np.clip(linear @ eyes.transpose(0, 2, 1), 0, 1)
    return np.cbrt(seen @ np.transpose(_CONES)) @ np.transpose(_OKLAB)


def fit(shape: tuple[int, int]) -> tuple[int, int]:
    """Returns the height and width that a picture of this shape has on the page."""
    scale = min(1.0, SIDE / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def shrink_picture(picture: np.ndarray) -> np.ndarray:
    """Returns a picture `[height, width, channel]` uint8, 1 or 3 channels, as `[h, w, 3]` uint8."""
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    height, width = fit(picture.shape[:2])
    return np.asarray(image.convert('RGB').resize((width, height), Image.Resampling.BOX))


def paint(mask: np.ndarray, classes: int) -> np.ndarray:
    """Returns a mask `[height, width]` in the colours of its classes, `[h, w, 3]` uint8.

    Pixels that are ignored have stripes of two grays. It is made smaller by its nearest
    pixels: no class appears that is not there.
    """
    height, width = fit(mask.shape)
    rows, columns = (
        ((np.arange(to) + 0.5) * from_ / to).astype(int)
        for to, from_ in zip((height, width), mask.shape, strict=True)
    )
    small = np.asarray(mask)[np.ix_(rows, columns)]
    stripes = (np.arange(height)[:, None] + np.arange(width)[None]) // _STRIPE % 2
    gray = np.where(stripes, _LIGHT, _DARK).astype(np.uint8)[..., None]
    return np.where(small[..., None] == IGNORED, gray, class_colours(classes)[np.maximum(small, 0)])


def heat(picture: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Returns attention as heat over a gray picture, `[h, w, 3]` uint8.

    The least attention is dark, the most is light; one that is even everywhere is dark.

    Args:
      picture: `[height, width, channel]` uint8.
      attention: `[gh, gw]`, of patches that divide the picture evenly.
    """
    small = shrink_picture(picture)
    gray = np.asarray(Image.fromarray(small).convert('L'), np.float32)[..., None]
    image = Image.fromarray(np.asarray(attention, np.float32))
    size = small.shape[1], small.shape[0]
    values = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    values = np.nan_to_num(values - np.nanmin(values))
    share = values / max(float(values.max()), 1e-12)
    at = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(share, at, channel) for channel in np.transpose(_HEAT)], -1)
    return np.clip(0.4 * gray + 0.6 * colours, 0, 255).round().astype(np.uint8)
