"""What makes one random view of an image: every probability, strength and range, as data."""

import dataclasses
import math

from simclr_jax.augment import rand_augment

# SimCLR lets TensorFlow's sampler try 100 times; where ten tries fail, the image is so elongated
# that hardly any box fits.
CROP_TRIES = 10
# SimCLR's; the "object" is the whole image, so smaller boxes are drawn again.
MIN_OBJECT_COVERED = 0.1
JITTER = ('brightness', 'contrast', 'saturation', 'hue')  # an `order` holds indices into it

_CHOICES = {
    'crop_sampler': ('tensorflow', 'byol', 'torchvision', 'continuous'),
    'interpolation': ('bicubic', 'bilinear'),
    'brightness_mode': ('multiplicative', 'additive'),
    'colour_mode': ('tensorflow', 'blend'),
    'blur_edges': ('zeros', 'extend'),
    'erase_mode': ('const', 'pixel'),
}
_PROBABILITIES = ('flip', 'jitter', 'grayscale', 'blur', 'solarize', 'erase')
_RANGES = {  # field -> the largest value its upper end may have
    'crop_area': 1.0,
    'crop_aspect': math.inf,
    'blur_sigma': math.inf,
    'erase_area': 1.0,
    'erase_aspect': math.inf,
}
_LIMITS = {  # field -> the largest value; the smallest is 0
    'rotation': 180.0,
    'brightness': math.inf,
    'contrast': math.inf,
    'saturation': math.inf,
    'hue': 0.5,
    'blur_kernel_fraction': 1.0,
    'solarize_threshold': 1.0,
}


@dataclasses.dataclass(frozen=True)
class ViewRecipe:
    """The distribution of one view; the defaults are SimCLR's at strength 1 (`tf2/data_util.py`).

    Operations run in the order of the fields. Raises `ValueError` for a value out of range.

    Four fields say whose operations they are, TensorFlow's or PIL's, which torchvision's transforms
    of pictures call: `antialias`, `colour_mode`, `grayscale_first` and `blur_edges`. PIL rounds to
    whole levels of 255 after each operation, turns the hue in steps of 1/255 and blurs with three
    boxes instead of a Gaussian; ours does not.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)  # share of the image's area, in (0, 1]
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the crop, above 0
    # How a box is drawn, and what replaces one that does not fit. 'tensorflow': uniform aspect and
    # height, else the whole image. 'byol' and 'torchvision': uniform area, log-uniform aspect;
    # the first clamps to the image, the second takes a central crop. 'continuous' is torchvision's
    # with boxes that start and end between pixels: for images of so few pixels that whole ones
    # leave little choice. It is for data sets of small images of one size.
    crop_sampler: str = 'tensorflow'
    interpolation: str = 'bicubic'  # or 'bilinear'
    # Whether what is made smaller is averaged over all its pixels, as in PIL; TensorFlow's default
    # is not.
    antialias: bool = False
    flip_probability: float = 0.5  # left to right, in [0, 1]
    rotation: float = 0.0  # degrees around the centre, in +- this, black beyond; in [0, 180]
    # timm's RandAugment, in its words, as 'rand-m9-mstd0.5-inc1'; '': none. What is turned, sheared
    # or moved is interpolated as the crop.
    rand_augment: str = ''
    # Beyond the edges, levels in [0, 255]: ImageNet's mean colour, as in timm.
    rand_augment_fill: tuple[float, float, float] = (124.0, 116.0, 104.0)
    # Of the four colour operations together, in random order, in [0, 1].
    jitter_probability: float = 0.8
    brightness: float = 0.8  # factor in 1 +- this, not below 0 (or addend in +- this)
    contrast: float = 0.8  # factor in 1 +- this, not below 0
    saturation: float = 0.8  # factor in 1 +- this, not below 0
    hue: float = 0.2  # turns of the colour circle, in +- this; in [0, 0.5]
    brightness_mode: str = 'multiplicative'  # SimCLR v2; 'additive' in SimCLR v1 and BYOL
    # 'tensorflow': contrast scales the distance to each channel's mean, saturation that of HSV.
    # 'blend' is PIL's: contrast blends with the picture's mean luma, saturation with the luma.
    colour_mode: str = 'tensorflow'
    grayscale_probability: float = 0.2  # in [0, 1]
    grayscale_first: bool = False  # before the colour operations, as in MoCo v1
    blur_probability: float = 0.5  # in [0, 1]
    blur_kernel_fraction: float = 0.1  # kernel size as a share of the image's height, in [0, 1]
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels of the resized crop, above 0
    blur_edges: str = 'zeros'  # beyond the edges lie zeros, or ('extend', PIL) the edge's pixels
    solarize_probability: float = 0.0  # in [0, 1]
    solarize_threshold: float = 0.5  # values at or above it are inverted, in [0, 1]
    # Random erasing (`erasing.py`), in [0, 1]; the last operation, after pixels are normalized.
    erase_probability: float = 0.0
    erase_mode: str = 'const'  # boxes of the mean colour; 'pixel': of normal noise, as in MAE
    erase_area: tuple[float, float] = (0.02, 1 / 3)  # share of the picture's, of all boxes, (0, 1]
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)  # height / width of a box, above 0
    erase_count: int = 1  # boxes a picture: 1 to this many; in [1, 16]

    def __post_init__(self):
        for name, choices in _CHOICES.items():
            self._require(name, getattr(self, name) in choices, f'one of {choices}')
        for name in _PROBABILITIES:
            name = f'{name}_probability'
            self._require(name, 0 <= getattr(self, name) <= 1, 'a probability in [0, 1]')
        for name, top in _RANGES.items():
            value = getattr(self, name)
            valid = isinstance(value, tuple) and len(value) == 2
            valid = valid and 0 < value[0] <= value[1] <= top and value[1] < math.inf
            self._require(name, valid, f'a tuple (low, high) with 0 < low <= high <= {top}')
        for name, top in _LIMITS.items():
            value = getattr(self, name)
            self._require(name, 0 <= value <= top and value < math.inf, f'a number in [0, {top}]')

        count, fill = self.erase_count, self.rand_augment_fill
        valid = type(count) is int and 1 <= count <= 16
        self._require('erase_count', valid, 'a whole number in [1, 16]')
        valid = isinstance(fill, tuple) and len(fill) == 3
        valid = valid and all(type(x) in (int, float) and 0 <= x <= 255 for x in fill)
        self._require('rand_augment_fill', valid, 'three levels in [0, 255]')
        if self.rand_augment:
            try:
                rand_augment.parse(self.rand_augment)
            except ValueError as error:
                raise ValueError(f'rand_augment={self.rand_augment!r}: {error}') from error

    def _require(self, name: str, valid: bool, wanted: str):
        if not valid:
            raise ValueError(f'{name}={getattr(self, name)!r}: give {wanted}.')


def kernel_size(recipe: ViewRecipe, image_size: int) -> int:
    """Blur kernel for an image this high, in pixels: the share of it, made odd (224 -> 23)."""
    return int(image_size * recipe.blur_kernel_fraction) // 2 * 2 + 1


# The fields of a recipe whose original uses torchvision's transforms on PIL's pictures.
PIL = {'antialias': True, 'colour_mode': 'blend', 'blur_edges': 'extend'}

_SIMCLR = ViewRecipe()
# The CIFAR command of the SimCLR README: `--color_jitter_strength=0.5 --use_blur=False`.
_SIMCLR_CIFAR = ViewRecipe(
    brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur_probability=0.0
)
# deepmind-research `byol/utils/augmentations.py`: t, and t' with little blur and some solarization.
_BYOL_1 = ViewRecipe(
    crop_sampler='byol',
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    brightness_mode='additive',
    blur_probability=1.0,
)
_BYOL_2 = dataclasses.replace(_BYOL_1, blur_probability=0.1, solarize_probability=0.2)
# solo-learn `scripts/pretrain/cifar/augmentations/asymmetric.yaml`; torchvision's crop, bicubic.
_BYOL_CIFAR_1 = dataclasses.replace(
    _BYOL_1,
    crop_sampler='torchvision',
    brightness_mode='multiplicative',
    blur_probability=0.0,
    **PIL,
)
_BYOL_CIFAR_2 = dataclasses.replace(_BYOL_CIFAR_1, solarize_probability=0.2)
# facebookresearch/moco and moco-v3 `main_moco.py`. They flip last, which changes nothing.
_MOCO_V2 = ViewRecipe(
    crop_area=(0.2, 1.0),
    crop_sampler='torchvision',
    interpolation='bilinear',
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    **PIL,
)
_MOCO_V1 = dataclasses.replace(
    _MOCO_V2, jitter_probability=1.0, hue=0.4, grayscale_first=True, blur_probability=0.0
)
# The crop of the ResNet-50 recipes; the ViT recipes set `crop_area=(0.08, 1.0)`.
_MOCO_V3_1 = dataclasses.replace(_MOCO_V2, saturation=0.2, blur_probability=1.0)
_MOCO_V3_2 = dataclasses.replace(_MOCO_V3_1, blur_probability=0.1, solarize_probability=0.2)

# Ours, for scikit-learn's gray 8 x 8 digits: subpixel crops, small turns, no flip (a mirrored digit
# is another sign), blur over three pixels.
DIGITS = ViewRecipe(
    crop_area=(0.5, 1.0),
    crop_sampler='continuous',
    flip_probability=0.0,
    rotation=15.0,
    brightness=0.4,
    contrast=0.4,
    saturation=0.0,
    hue=0.0,
    grayscale_probability=0.0,
    blur_kernel_fraction=0.4,
    blur_sigma=(0.3, 1.0),
)

# What classifiers are trained on in the papers: SimCLR's crop, and a flip.
CROP_AND_FLIP = ViewRecipe(jitter_probability=0.0, grayscale_probability=0.0, blur_probability=0.0)

# timm's views for fine-tuning a ViT, as MAE sets them (`main_finetune.py`, `util/datasets.py`).
MAE_FINETUNE = ViewRecipe(
    crop_sampler='torchvision',
    rand_augment='rand-m9-mstd0.5-inc1',
    jitter_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
    erase_probability=0.25,
    erase_mode='pixel',
    **PIL,
)

# The two views of each published recipe (view1, view2).
PRESETS: dict[str, tuple[ViewRecipe, ViewRecipe]] = {
    'simclr': (_SIMCLR, _SIMCLR),
    'simclr_cifar': (_SIMCLR_CIFAR, _SIMCLR_CIFAR),
    'byol': (_BYOL_1, _BYOL_2),
    'byol_cifar': (_BYOL_CIFAR_1, _BYOL_CIFAR_2),
    'moco_v1': (_MOCO_V1, _MOCO_V1),
    'moco_v2': (_MOCO_V2, _MOCO_V2),
    'moco_v3': (_MOCO_V3_1, _MOCO_V3_2),
}
