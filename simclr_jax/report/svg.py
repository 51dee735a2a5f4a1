"""What the pictures of the pages are made of: SVG for lines and words, PNG inside it for pixels.

The SVG is written by hand. A plot needs little code, takes milliseconds where importing matplotlib
alone takes a second, keeps its words selectable, and follows the page's light or dark colours
through `currentColor`.
"""

import base64
import html
import io
import math

import numpy as np
from PIL import Image

# Petroff, "Accessible Color Sequences for Data Visualization" (2021), table of 10 colours: distinct
# under the three kinds of colour blindness.
PALETTE = (
    '#3f90da', '#ffa90e', '#bd1f01', '#94a4a2', '#832db6',
    '#a96b59', '#e76300', '#b9ac70', '#717581', '#92dadd',
)  # fmt: skip
# Okabe and Ito's bluish green and vermilion: a green and a red that stay apart without red vision.
RIGHT, WRONG = '#009e73', '#d55e00'
TILE = 96  # pixels: the side of a small image after enlarging, and the least of a shrunken one


def range_of(values: np.ndarray) -> tuple[float, float]:
    """The least and the largest of `values`, moved apart where they are equal."""
    low, high = float(values.min()), float(values.max())
    pad = 0 if high > low else abs(low) / 2 or 0.5
    return low - pad, high + pad


def ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers (1, 2 or 5 times a power of ten) within [low, high]."""
    step = 10 ** math.floor(math.log10(high - low))
    step *= next(f for f in (2, 1, 0.5, 0.2) if (high - low) / (f * step) >= 3)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 15) for i in range(first, last + 1)]


def tiles(images: np.ndarray) -> np.ndarray:
    """Images [n, h, w, c] `uint8`, 1, 3 or 4 channels, as RGBA tiles about 96 pixels wide."""
    if images.dtype != np.uint8:
        raise ValueError(f'images have dtype {images.dtype}: pass uint8 in [0, 255]')
    n, height, width, channels = images.shape
    if channels == 1:
        images = np.repeat(images, 3, axis=3)
    if channels < 4:
        images = np.concatenate([images, np.full((n, height, width, 1), 255, np.uint8)], axis=3)
    side = max(height, width)
    if side < TILE:
        factor = -(-TILE // side)
        return images.repeat(factor, axis=1).repeat(factor, axis=2)
    f = side // TILE
    images = images[:, : height // f * f, : width // f * f]
    blocks = images.reshape(n, height // f, f, width // f, f, 4)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """The PNG file of `pixels` [height, width, 4] `uint8`, RGBA, or [height, width, 3], RGB."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'PNG')
    return stream.getvalue()


def data_url(content: bytes) -> str:
    """The PNG as an address that holds it."""
    return 'data:image/png;base64,' + base64.b64encode(content).decode()


def drawing(width: float, height: float, label: str, content: str) -> str:
    """An SVG of this size in pixels; `label` says what it shows to those who do not see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" aria-label="{html.escape(label)}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">{content}</svg>'
    )


def text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = 'start',
    weight: str = 'normal',
    halo: bool = False,
) -> str:
    """Words at a point: its baseline's start, 'middle' or 'end'."""
    # The halo takes the page's background, so that a name is readable over dots of any colour.
    style = 'font-size:15px;paint-order:stroke;stroke:var(--page,#fff);stroke-width:4px'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
        + (f' style="{style}"' if halo else '')
        + f'>{html.escape(words)}</text>'
    )
