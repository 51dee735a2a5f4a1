"""Makes `mmseg_crops.npz`: what mmsegmentation does to a training picture, with given draws.

    python tests/goldens/mmseg_crops.py     # needs mmsegmentation, mmcv-lite, OpenCV, scikit-learn

Made with mmsegmentation 1.2.2, mmcv-lite 2.1.0 and OpenCV 4.11.0. Pictures are scikit-learn's two
photographs, made small, and one of random colours; uint8 `[height, width, 3]`, red first. What
mmsegmentation draws comes from a list here: numbers in [0, 1).
"""

import pathlib
import sys
from unittest import mock

import cv2
import numpy as np
import sklearn.datasets

sys.modules['mmcv.ops'] = mock.MagicMock()  # compiled for detectors; not needed here
from mmseg.datasets.transforms import PhotoMetricDistortion, RandomCrop, transforms  # noqa: E402

OPERATIONS = ('brightness', 'contrast', 'saturation', 'hue')
CASES = 32
SIZE, LABELS, IGNORED = 16, (40, 50), 255


def pictures() -> np.ndarray:
    """Pictures `[3, 24, 32, 3]`: OpenCV rounds what is left of a row after 32 pixels otherwise."""
    whole = [sklearn.datasets.load_sample_image(f'{name}.jpg') for name in ('china', 'flower')]
    small = [cv2.resize(picture, (32, 24), interpolation=cv2.INTER_AREA) for picture in whole]
    colours = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    return np.stack([*small, colours])


class Given:
    """In place of NumPy's `random` in mmsegmentation: numbers by the operation that draws them."""

    def __init__(self, chance: np.ndarray, amount: np.ndarray):
        self.chance, self.amount, self.operation = chance, amount, None

    def randint(self, low: int, high: int | None = None) -> int:
        if high is None:  # whether the operation is applied, or whether contrast comes first
            place = OPERATIONS.index(self.operation) if self.operation else len(OPERATIONS)
            return int(self.chance[place] < 0.5)
        return low + int(self.amount[OPERATIONS.index(self.operation)] * (high - low))

    def uniform(self, low: float, high: float) -> float:
        return low + self.amount[OPERATIONS.index(self.operation)] * (high - low)


def distorted(picture: np.ndarray, chance: np.ndarray, amount: np.ndarray) -> np.ndarray:
    given = transforms.random = Given(chance, amount)
    transform = PhotoMetricDistortion()
    for operation in OPERATIONS:
        original = getattr(transform, operation)

        def named(image, operation=operation, original=original):
            given.operation = operation
            result = original(image)
            given.operation = None
            return result

        setattr(transform, operation, named)
    made = transform.transform({'img': np.ascontiguousarray(picture[..., ::-1])})
    return made['img'][..., ::-1]


def place(labels: np.ndarray, numbers: np.ndarray) -> tuple[int, int]:
    """Top and left of the crop that mmsegmentation takes."""
    rest = list(numbers)
    transforms.np.random.randint = lambda low, high: low + int(rest.pop(0) * (high - low))
    crop = RandomCrop((SIZE, SIZE), cat_max_ratio=0.75, ignore_index=IGNORED)
    top, _, left, _ = crop.crop_bbox({'img': labels, 'gt_seg_map': labels})
    return top, left


def main() -> None:
    generator = np.random.default_rng(1)
    values = {'pictures': pictures()}
    chance = values['chance'] = generator.random((CASES, 5))
    amount = values['amount'] = generator.random((CASES, 4))
    values['distorted'] = np.stack(
        [
            distorted(values['pictures'][i % 3], *draws)
            for i, draws in enumerate(zip(chance, amount, strict=True))
        ]
    )
    maps, numbers, places = [], generator.random((CASES, 22)), []
    for i in range(CASES):
        labels = np.zeros(LABELS, np.uint8)
        for value in (1, 2, IGNORED):
            y, x, height, width = generator.integers(0, (40, 50, 4 + i, 4 + i))
            labels[y : y + height, x : x + width] = value
        maps.append(labels)
        places.append(place(labels, numbers[i]))
    values |= {'labels': np.stack(maps), 'numbers': numbers, 'places': np.array(places)}
    colours = generator.integers(0, 256, (64, 64, 3), np.uint8)
    colours[:4] = np.arange(256).reshape(4, 64, 1)  # grey
    values['colours'] = colours
    values['hsv'] = cv2.cvtColor(colours, cv2.COLOR_RGB2HSV)
    turned = values['hsv'].copy()
    turned[..., 0], turned[..., 1] = (turned[..., 0].astype(int) + 77) % 180, turned[..., 1] // 2
    values['turned'], values['back'] = turned, cv2.cvtColor(turned, cv2.COLOR_HSV2RGB)
    np.savez_compressed(pathlib.Path(__file__).with_suffix('.npz'), **values)


if __name__ == '__main__':
    main()
