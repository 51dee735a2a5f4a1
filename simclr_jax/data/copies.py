"""Copies of a picture that people would call the same: what near-duplicates are measured by."""

import io

import numpy as np
from PIL import Image

WORDS = 'making them a quarter smaller, saving them as a JPEG of quality 50, or mirroring them'


def copies_of(pixels: np.ndarray) -> list[np.ndarray]:
    """Returns the copies that `WORDS` names, uint8 like `pixels` `[height, width, channel]`."""
    height, width, channels = pixels.shape
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    smaller = image.resize((max(2, width * 3 // 4), max(2, height * 3 // 4)), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, 'JPEG', quality=50)
    with Image.open(stream) as again:
        again.load()
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return [
        np.asarray(copy).reshape(copy.height, copy.width, channels)
        for copy in (smaller, again, mirrored)
    ]
