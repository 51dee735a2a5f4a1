"""RandAugment as timm defines it (`timm/data/auto_augment.py`): its words and its numbers, as data.

RandAugment (arXiv:1909.13719) applies a few operations of a list to a picture, all of about one
strength. `jax_rand_augment.py` and `tf_rand_augment.py` are the operations.
"""

import dataclasses
import functools
import math
import re

LEVELS = 10.0  # a magnitude of so much is the strongest, except with 'mmax'

# What an operation needs of a picture. 'table': where each level of a colour goes; 'blend': another
# version, to mix with; 'place': where each pixel comes from.
KINDS = {
    'auto_contrast': 'table',
    'equalize': 'table',
    'invert': 'table',
    'rotate': 'place',
    'posterize': 'table',
    'solarize': 'table',
    'solarize_add': 'table',
    'color': 'blend',
    'contrast': 'table',
    'brightness': 'table',
    'sharpness': 'blend',
    'shear_x': 'place',
    'shear_y': 'place',
    'translate_x': 'place',
    'translate_y': 'place',
}
OPERATIONS = tuple(KINDS)  # in timm's order; what is drawn is a place in it
NONE = -1  # in an operation's place: none
OVER = 1 + 1e-6  # times what is cut off to a whole number, for float32's sake: 99 stays 99


@dataclasses.dataclass(frozen=True)
class Argument:
    """From a level in [0, 1] (above with 'mmax') and a sign to the argument of an operation.

    It is `base + slope * level * sign`, within `limits`; with `whole` the second term is cut off to
    a whole number.
    """

    base: float = 0.0
    slope: float = 0.0
    signed: bool = False
    whole: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)


_ENHANCE = Argument(0.1, 1.8)
_BOTH = {
    'auto_contrast': Argument(),
    'equalize': Argument(),
    'invert': Argument(),
    'rotate': Argument(slope=30.0, signed=True),  # degrees
    'solarize_add': Argument(slope=110.0, whole=True, limits=(0, 128)),  # levels of 255
    'shear_x': Argument(slope=0.3, signed=True),
    'shear_y': Argument(slope=0.3, signed=True),
    'translate_x': Argument(slope=0.45, signed=True),  # share of the width
    'translate_y': Argument(slope=0.45, signed=True),  # share of the height
}
# Strength rises with the magnitude ('inc1'): what nearly all recipes of today have.
_INCREASING = _BOTH | {
    'posterize': Argument(4.0, -4.0, whole=True, limits=(0, 8)),  # bits to keep
    'solarize': Argument(256.0, -256.0, whole=True, limits=(0, 256)),  # invert from this level on
    **dict.fromkeys(
        ('color', 'contrast', 'brightness', 'sharpness'),
        Argument(1.0, 0.9, signed=True, limits=(0.1, math.inf)),
    ),
}
_ORIGINAL = _BOTH | {
    'posterize': Argument(slope=4.0, whole=True, limits=(0, 8)),
    'solarize': Argument(slope=256.0, whole=True, limits=(0, 256)),
    **dict.fromkeys(('color', 'contrast', 'brightness', 'sharpness'), _ENHANCE),
}


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """What timm's string says."""

    magnitude: float = LEVELS  # m
    layers: int = 2  # n: operations a picture, each drawn from all of them
    probability: float = 0.5  # p: that an operation is applied
    std: float = 0.0  # mstd: of the magnitude, normal; infinite: uniform from 0 to `magnitude`
    largest: float = LEVELS  # mmax: of the magnitude drawn
    increasing: bool = False  # inc

    @property
    def arguments(self) -> dict[str, Argument]:
        """Of every operation, in the order of `OPERATIONS`."""
        chosen = _INCREASING if self.increasing else _ORIGINAL
        return {name: chosen[name] for name in OPERATIONS}

    @property
    def columns(self) -> list[list[float]]:
        """`arguments` as columns: base, slope, signed, whole, lower and upper limit."""
        rows = [
            (a.base, a.slope, float(a.signed), float(a.whole), *a.limits)
            for a in self.arguments.values()
        ]
        return [list(column) for column in zip(*rows, strict=True)]


@functools.cache
def parse(text: str) -> RandAugment:
    """Returns what a string such as 'rand-m9-mstd0.5-inc1' says, as timm reads it.

    Raises:
      ValueError: it is no such string, or holds what is not built here.
    """
    head, *parts = text.split('-')
    if head != 'rand':
        raise ValueError("give '', or timm's words for RandAugment, as 'rand-m9-mstd0.5-inc1'.")
    found = {}
    for part in parts:
        match = re.fullmatch(r'(m|n|p|mstd|mmax|inc)(\d+(?:\.\d+)?)', part)
        if not match or match[1] in found:
            raise ValueError(
                f'{part!r} is none of m (magnitude), n (operations), p (probability), mstd, mmax '
                "and inc with a number, each once, as 'rand-m9-mstd0.5-inc1'."
            )
        found[match[1]] = match[2]
    for name in ('m', 'n', 'mmax', 'inc'):
        if not found.get(name, '0').isdecimal():
            raise ValueError(f"'{name}{found[name]}': give a whole number.")
    std = float(found.get('mstd', 0))
    largest = float(found.get('mmax', 0)) or LEVELS
    made = RandAugment(
        magnitude=float(found.get('m', LEVELS)),
        layers=int(found.get('n', 2)),
        probability=float(found.get('p', 0.5)),
        std=math.inf if std > 100 else std,
        largest=largest,
        increasing=bool(int(found.get('inc', 0))),
    )
    if not 1 <= made.layers <= 8:
        raise ValueError(f"'n{made.layers}': give 1 to 8 operations.")
    if made.probability > 1:
        raise ValueError(f"'p{found['p']}': give a probability in [0, 1].")
    return made


def fill_of(fill: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Returns the levels that lie beyond a picture's edges; one for gray pictures."""
    if channels == len(fill):
        return fill
    if channels == 1:
        return (round(sum(w * f for w, f in zip((0.299, 0.587, 0.114), fill, strict=True))),)
    return fill * channels
