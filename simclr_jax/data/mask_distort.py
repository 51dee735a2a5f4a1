"""The colours of a training picture changed at random, as mmsegmentation does it.

Its PhotoMetricDistortion (mmseg/datasets/transforms/transforms.py) calls OpenCV, whose hue, in 8
bits, has 180 steps of 2 degrees. Here are the same numbers without OpenCV.
"""

import numpy as np

BRIGHTNESS = 32.0  # added, at most, of 255
CONTRAST = SATURATION = (0.5, 1.5)  # factors
HUE = 18  # steps of 2 degrees: -18 to 17 of them, as in mmsegmentation
_STEPS = 180
# OpenCV divides by what a table of numbers of 12 bits says (modules/imgproc/src/color_hsv).
_SHIFT, _HALF = 12, 1 << 11
_BY_VALUE = np.round((255 << _SHIFT) / np.maximum(np.arange(256), 1)).astype(np.int32)
_BY_RANGE = np.round((_STEPS << _SHIFT) / (6 * np.maximum(np.arange(256), 1))).astype(np.int32)
_BY_VALUE[0] = _BY_RANGE[0] = 0
# Of red, green and blue: the share of the saturation that a hue takes away from it, in float32.
_SECTOR = np.arange(_STEPS, dtype=np.float32) * np.float32(6 / _STEPS)
_FRACTION = _SECTOR - np.floor(_SECTOR)
_AWAY = (np.array([[5], [3], [1]]) + np.floor(_SECTOR)) % 6
_TAKEN = np.select(
    [_AWAY == 0, _AWAY < 3, _AWAY == 3], [_FRACTION, np.ones_like(_FRACTION), 1 - _FRACTION]
).astype(np.float32)


def distort(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue, each with a probability of 1/2.

    Contrast comes second or last. A grey picture has no saturation and no hue.

    Args:
      picture: uint8 `[height, width, channel]`.
      rng: what is drawn from; as many numbers whatever the picture.
    """
    chance = rng.random(5) < 0.5
    amount = rng.random(4)
    contrast = _between(CONTRAST, amount[1])
    if chance[0]:
        picture = scale(picture, 1.0, (2 * amount[0] - 1) * BRIGHTNESS)
    if chance[1] and chance[4]:
        picture = scale(picture, contrast)
    if picture.shape[-1] == 3:
        if chance[2]:
            picture = saturate(picture, _between(SATURATION, amount[2]))
        if chance[3]:
            picture = turn_hue(picture, int(np.floor(amount[3] * 2 * HUE)) - HUE)
    if chance[1] and not chance[4]:
        picture = scale(picture, contrast)
    return picture


def _between(range_: tuple[float, float], share: float) -> float:
    return range_[0] + share * (range_[1] - range_[0])


def scale(values: np.ndarray, factor: float, offset: float = 0.0) -> np.ndarray:
    """Returns `factor * values + offset`, cut to 0 to 255 and rounded down, uint8 like `values`."""
    table = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return table.clip(0, 255).astype(np.uint8)[values]


def saturate(picture: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the saturation of a picture uint8 `[height, width, 3]`."""
    hue, saturation, value = to_hsv(picture)
    return from_hsv(hue, scale(saturation, factor), value)


def turn_hue(picture: np.ndarray, steps: int) -> np.ndarray:
    """Turns the hue of a picture uint8 `[height, width, 3]` by `steps` of 2 degrees."""
    hue, saturation, value = to_hsv(picture)
    return from_hsv((hue + steps) % _STEPS, saturation, value)


def to_hsv(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns OpenCV's hue in [0, 180), int32, and saturation and value in 0 to 255, uint8."""
    red, green, blue = (picture[..., i].astype(np.int32) for i in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    range_ = value - np.minimum(np.minimum(red, green), blue)
    saturation = (range_ * _BY_VALUE[value] + _HALF) >> _SHIFT
    hue = np.where(
        red == value,
        green - blue,
        np.where(green == value, blue - red + 2 * range_, red - green + 4 * range_),
    )
    hue = (hue * _BY_RANGE[range_] + _HALF) >> _SHIFT
    return np.where(hue < 0, hue + _STEPS, hue), saturation.astype(np.uint8), value.astype(np.uint8)


def from_hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Returns the picture, uint8 `[height, width, 3]`, of what `to_hsv` returns."""
    light, strength = (part * np.float32(1 / 255) for part in (value, saturation))
    channels = [light * (1 - strength * share[hue]) * 255 for share in _TAKEN]
    return np.stack(channels, axis=-1).astype(np.uint8)  # rounded down, as OpenCV does
