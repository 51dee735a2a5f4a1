"""Makes `torchvision_views.npz`: torchvision's transforms of PIL's pictures, as MoCo calls them.

    python tests/goldens/torchvision_views.py        # needs torch, torchvision, Pillow and NumPy

Made with torchvision 0.28.0 and Pillow 12.3.0. Pictures are uint8 `[height, width, 3]`. Boxes are
(y, x, height, width). The blur is that of facebookresearch/moco, `moco/loader.py`, and
facebookresearch/moco-v3, `moco/loader.py`: PIL's, of a radius that is sigma; so is solarization.
"""

import pathlib

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

BOXES = {'large': (7, 21, 150, 190), 'small': (60, 80, 41, 30), 'tall': (0, 100, 178, 60)}
SIZE = 64  # of what boxes are resized to
FACTORS = (0.6, 1.4)
HUES = (-0.4, 0.1)
SIGMAS = (0.3, 1.0, 2.0)
EVAL = (64, 56)  # Resize and CenterCrop, in the ratio of 256 and 224


def picture() -> np.ndarray:
    """A picture `[180, 240, 3]` with smooth parts, edges, fine texture and saturated colours."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:180, :240] / 180
    waves = [np.sin(7 * x + i) + np.cos(5 * y * x - 2 * i) for i in range(3)]
    smooth = 0.5 + 0.25 * np.stack(waves, axis=-1)
    checks = ((np.arange(180)[:, None] // 9 + np.arange(240) // 7) % 2)[..., None]
    smooth = np.where((x < 0.5)[..., None], smooth * (0.6 + 0.4 * checks), smooth)
    smooth[20:60, 150:230] = (0.9, 0.1, 0.05)
    smooth[100:130, 30:90] = (0.02, 0.2, 0.95)
    texture = random.normal(0, 0.06, (180, 240, 3)) * (y > 0.5)[..., None]
    return np.uint8(np.round(np.clip(smooth + texture, 0, 1) * 255))


def main() -> None:
    whole = Image.fromarray(picture())
    values = {'picture': np.asarray(whole)}
    for name, (y, x, height, width) in BOXES.items():
        values[f'box_{name}'] = np.array([y, x, height, width])
        for mode in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC):
            crop = F.resized_crop(whole, y, x, height, width, [SIZE, SIZE], mode)
            values[f'crop_{name}_{mode.value}'] = np.asarray(crop)
    view = F.resized_crop(whole, *BOXES['large'], [SIZE, SIZE])
    values['view'] = np.asarray(view)
    for name in ('brightness', 'contrast', 'saturation', 'hue'):
        for factor in HUES if name == 'hue' else FACTORS:
            changed = getattr(F, f'adjust_{name}')(view, factor)
            values[f'{name}_{factor}'] = np.asarray(changed)
    values['grayscale'] = np.asarray(F.rgb_to_grayscale(view, 3))
    values['solarize'] = np.asarray(ImageOps.solarize(view))
    for sigma in SIGMAS:
        values[f'blur_{sigma}'] = np.asarray(view.filter(ImageFilter.GaussianBlur(sigma)))

    # MoCo v2's chain with numbers for what it draws, and MoCo v1's, which makes grey first.
    chain = F.adjust_brightness(F.adjust_saturation(view, 1.3), 0.9)
    chain = F.adjust_hue(F.adjust_contrast(chain, 0.7), 0.06)
    values['chain_v2'] = np.asarray(F.hflip(chain.filter(ImageFilter.GaussianBlur(1.5))))
    chain = F.adjust_contrast(F.adjust_hue(F.rgb_to_grayscale(view, 3), -0.3), 1.4)
    values['chain_v1'] = np.asarray(F.adjust_brightness(F.adjust_saturation(chain, 0.7), 1.1))

    part = whole.crop((0, 0, 240, 160))  # of a shape that resizing to 64 rows keeps
    for mode in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC):
        evaluated = F.center_crop(F.resize(part, EVAL[0], mode), EVAL[1])
        values[f'evaluation_{mode.value}'] = np.asarray(evaluated)
    np.savez_compressed(pathlib.Path(__file__).with_suffix('.npz'), **values)


if __name__ == '__main__':
    main()
