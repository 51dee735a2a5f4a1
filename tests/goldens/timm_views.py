"""Makes `timm_views.npz`: timm's RandAugment, random erasing and mixup, with given draws.

    python tests/goldens/timm_views.py     # needs torch, timm, Pillow, NumPy and scikit-learn

Made with timm 1.0.31 and Pillow 13.0.0. Pictures are scikit-learn's two photographs, made small,
and a dark copy; uint8 `[height, width, 3]`. What timm draws comes from a list here.
"""

import pathlib

import numpy as np
import sklearn.datasets
import torch
from PIL import Image
from timm.data import auto_augment, mixup, random_erasing

FILL = (124, 116, 104)
WORDS = {
    'auto_contrast': 'AutoContrast',
    'equalize': 'Equalize',
    'invert': 'Invert',
    'rotate': 'Rotate',
    'posterize': 'PosterizeIncreasing',
    'solarize': 'SolarizeIncreasing',
    'solarize_add': 'SolarizeAdd',
    'color': 'ColorIncreasing',
    'contrast': 'ContrastIncreasing',
    'brightness': 'BrightnessIncreasing',
    'sharpness': 'SharpnessIncreasing',
    'shear_x': 'ShearX',
    'shear_y': 'ShearY',
    'translate_x': 'TranslateXRel',
    'translate_y': 'TranslateYRel',
}
ENHANCE = (0.1, 0.19, 1.81, 1.9)
ARGUMENTS = {
    **dict.fromkeys(('auto_contrast', 'equalize', 'invert'), (0,)),
    'rotate': (-27.0, 3.1, 30.0),
    'posterize': (1, 2, 4),
    'solarize': (0, 26, 130, 256),
    'solarize_add': (0, 99, 110),
    **dict.fromkeys(('color', 'contrast', 'brightness', 'sharpness'), ENHANCE),
    'shear_x': (-0.3, 0.27),
    'shear_y': (-0.3, 0.27),
    'translate_x': (-0.405, 0.45),
    'translate_y': (-0.405, 0.45),
}
CHAINS = (
    (('rotate', 26.5), ('color', 1.83)),
    (('equalize', 0), ('shear_x', -0.271)),
    (('translate_y', 0.411), ('auto_contrast', 0)),
    (('sharpness', 0.22), ('posterize', 1)),
    (('contrast', 1.77), ('solarize', 31)),
)
LEVELS = (0.0, 2.5, 5.0, 7.3, 9.0, 9.4, 10.0)
SHARES = (1.0, 0.9, 0.37, 0.0)
CENTRE = (3, 8)


def pictures() -> np.ndarray:
    """Pictures `[3, 48, 60, 3]`."""
    whole = [sklearn.datasets.load_sample_image(f'{name}.jpg') for name in ('china', 'flower')]
    small = [np.asarray(Image.fromarray(picture).resize((60, 48))) for picture in whole]
    return np.stack([*small, small[0] // 5 + 20])


def applied(picture: np.ndarray, name: str, argument: float, interpolation: str) -> np.ndarray:
    arguments = () if name in ('auto_contrast', 'equalize', 'invert') else (argument,)
    how = {'resample': getattr(Image.Resampling, interpolation.upper()), 'fillcolor': FILL}
    operation = auto_augment.NAME_TO_OP[WORDS[name]]
    return np.asarray(operation(Image.fromarray(picture), *arguments, **how))


def views(values: dict[str, np.ndarray]) -> None:
    photographs = values['pictures'] = pictures()
    for name, arguments in ARGUMENTS.items():
        values[f'arguments_{name}'] = np.float32(arguments)
        moves = name in ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y')
        for interpolation in ('bicubic', 'bilinear') if moves else ('bicubic',):
            made = [
                [applied(picture, name, argument, interpolation) for picture in photographs]
                for argument in arguments
            ]
            values[f'{name}_{interpolation}'] = np.array(made)
    chains = []
    for chain in CHAINS:
        made = photographs[0]
        for name, argument in chain:
            made = applied(made, name, argument, 'bicubic')
        chains.append(made)
    values['chains'] = np.array(chains)


def levels(values: dict[str, np.ndarray]) -> None:
    """Arguments `[sign, level]` of every operation, increasing and not."""
    values['levels'] = np.array(LEVELS)
    for name, word in WORDS.items():
        for kind, key in (('increasing', word), ('original', word.removesuffix('Increasing'))):
            function = auto_augment.LEVEL_TO_ARG[key]
            rows = []
            for draw in (0.9, 0.1):  # above 0.5 timm negates
                auto_augment.random.random = lambda draw=draw: draw
                rows.append([(function(x, {}) if function else (0,))[0] for x in LEVELS])
            values[f'argument_{kind}_{name}'] = np.float64(rows)


class Numbers:
    """In place of `random` in timm's erasing: numbers `[box, try, 4]` (area, aspect, y, x)."""

    def __init__(self, numbers: np.ndarray, count: int):
        self.numbers, self.count = numbers, count
        self.box, self.attempt, self.drawn = 0, -1, 0

    def random(self) -> float:
        return 0.0

    def uniform(self, low: float, high: float) -> float:
        self.attempt += self.drawn % 2 == 0  # an area begins a try, an aspect follows
        number = self.numbers[self.box, self.attempt, self.drawn % 2]
        self.drawn += 1
        return low + number * (high - low)

    def randint(self, low: int, high: int) -> int:
        if self.drawn == 0:  # how many boxes
            return self.count
        number = self.numbers[self.box, self.attempt, 2 + self.drawn % 2]
        self.drawn += 1
        if self.drawn % 2 == 0:  # both places are known: the next box begins
            self.box, self.attempt = self.box + 1, -1
        return low + int(number * (high - low + 1))


def erased(values: dict[str, np.ndarray]) -> None:
    """Which pixels of 40 x 30 timm erases, for given numbers and 1, 2 and 3 boxes."""
    numbers = np.float32(np.random.default_rng(0).random((60, 3, 10, 4)))
    masks = []
    for case, boxes in enumerate(numbers):
        random_erasing.random = Numbers(boxes.astype(np.float64), 1 + case % 3)
        image = torch.ones(3, 40, 30)
        random_erasing.RandomErasing(1.0, max_count=3, device='cpu')(image)
        masks.append(image[0].numpy() == 0)
    values['erase_numbers'], values['erase_masks'] = numbers, np.array(masks)


def mixed(values: dict[str, np.ndarray]) -> None:
    generator = np.random.default_rng(0)
    images = values['mix_images'] = generator.normal(size=(4, 12, 10, 2)).astype(np.float32)
    labels = values['mix_labels'] = generator.integers(0, 5, 4)
    values['mix_shares'], values['mix_centre'] = np.array(SHARES), np.array(CENTRE)
    for cutmix in (False, True):
        for smoothing in (0.0, 0.1):
            made = []
            for share in SHARES:
                places = list(CENTRE)
                mixup.np.random.rand = lambda cutmix=cutmix: 0.0 if cutmix else 0.49
                mixup.np.random.beta = lambda *_, share=share: share
                mixup.np.random.randint = lambda *_, size, places=places: places.pop(0)
                original = mixup.Mixup(
                    0.8, 1.0, switch_prob=0.3, label_smoothing=smoothing, num_classes=5
                )
                tensor = torch.tensor(images.transpose(0, 3, 1, 2).copy())
                made.append(original(tensor, torch.tensor(labels)))
            key = f'{"cutmix" if cutmix else "mixup"}_{smoothing}'
            values[f'{key}_images'] = np.stack([x.permute(0, 2, 3, 1).numpy() for x, _ in made])
            values[f'{key}_targets'] = np.stack([y.numpy() for _, y in made])
    boxes = np.random.RandomState(1)  # what the edges leave of a share, in pixels
    mixup.np.random.randint = lambda *limits, size: boxes.randint(*limits, size=size)
    shares = np.random.RandomState(2).beta(1.0, 1.0, 4000)
    left = [mixup.cutmix_bbox_and_lam((4, 2, 12, 10), share)[1] for share in shares]
    values['cutmix_left'] = np.rint(np.multiply(left, 120)).astype(np.int32)


def main() -> None:
    values = {}
    views(values)
    levels(values)
    erased(values)
    mixed(values)
    np.savez_compressed(pathlib.Path(__file__).with_suffix('.npz'), **values)


if __name__ == '__main__':
    main()
