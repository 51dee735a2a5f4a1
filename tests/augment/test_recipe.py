import dataclasses
import math
import subprocess
import sys

import pytest

from simclr_jax.augment.recipe import PRESETS, ViewRecipe, kernel_size


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('crop_area', (0.0, 1.0)),
        ('crop_area', (0.5, 1.1)),
        ('crop_area', (0.9, 0.5)),
        ('crop_area', 0.5),
        ('crop_area', (0.1, 0.2, 0.3)),
        ('crop_aspect', (-1.0, 1.0)),
        ('crop_aspect', (1.0, math.inf)),
        ('crop_sampler', 'pytorch'),
        ('interpolation', 'area'),
        ('flip_probability', 1.5),
        ('jitter_probability', -0.1),
        ('grayscale_probability', math.nan),
        ('blur_probability', 2),
        ('solarize_probability', -1),
        ('brightness', -0.1),
        ('brightness', math.inf),
        ('contrast', math.nan),
        ('saturation', -1.0),
        ('rotation', 181.0),
        ('hue', 0.6),
        ('brightness_mode', 'add'),
        ('blur_kernel_fraction', 1.5),
        ('blur_sigma', (0.0, 2.0)),
        ('blur_sigma', (2.0, 1.0)),
        ('solarize_threshold', 1.5),
        ('rand_augment', 'rand-x1'),
        ('rand_augment_fill', (124.0, 116.0)),
        ('rand_augment_fill', (124.0, 116.0, 300.0)),
        ('erase_probability', 1.1),
        ('erase_mode', 'rand'),
        ('erase_area', (0.0, 0.3)),
        ('erase_aspect', (3.0, 0.3)),
        ('erase_count', 0),
        ('erase_count', True),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(ValueError) as error:
        ViewRecipe(**{name: value})
    assert f'{name}={value!r}' in str(error.value)


def test_a_recipe_is_immutable_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ViewRecipe().hue = 0.1
    assert hash(ViewRecipe()) == hash(ViewRecipe())


def test_kernel_is_simclrs_at_every_size():
    sizes = range(1, 1025)
    # SimCLR: `kernel_size=height // 10`, then `radius = int(kernel_size / 2)` on both sides.
    expected = [2 * int((size // 10) / 2) + 1 for size in sizes]
    assert [kernel_size(ViewRecipe(), size) for size in sizes] == expected
    assert kernel_size(ViewRecipe(), 224) == 23


# Written down from the original repositories once more.
_TF, _PT = ('tensorflow', 'bicubic'), ('torchvision', 'bilinear')
_BYOL, _SOLO = ('byol', 'bicubic'), ('torchvision', 'bicubic')
_FULL, _SMALL = (0.08, 1.0), (0.2, 1.0)
_MULTIPLY, _ADD = 'multiplicative', 'additive'


@pytest.mark.parametrize(
    ('name', 'view', 'area', 'crop', 'jitter', 'mode', 'strengths', 'gray', 'blur', 'solarize'),
    [
        ('simclr', 0, _FULL, _TF, 0.8, _MULTIPLY, (0.8, 0.8, 0.8, 0.2), 0.2, 0.5, 0.0),
        ('simclr', 1, _FULL, _TF, 0.8, _MULTIPLY, (0.8, 0.8, 0.8, 0.2), 0.2, 0.5, 0.0),
        ('simclr_cifar', 0, _FULL, _TF, 0.8, _MULTIPLY, (0.4, 0.4, 0.4, 0.1), 0.2, 0.0, 0.0),
        ('simclr_cifar', 1, _FULL, _TF, 0.8, _MULTIPLY, (0.4, 0.4, 0.4, 0.1), 0.2, 0.0, 0.0),
        ('byol', 0, _FULL, _BYOL, 0.8, _ADD, (0.4, 0.4, 0.2, 0.1), 0.2, 1.0, 0.0),
        ('byol', 1, _FULL, _BYOL, 0.8, _ADD, (0.4, 0.4, 0.2, 0.1), 0.2, 0.1, 0.2),
        ('byol_cifar', 0, _FULL, _SOLO, 0.8, _MULTIPLY, (0.4, 0.4, 0.2, 0.1), 0.2, 0.0, 0.0),
        ('byol_cifar', 1, _FULL, _SOLO, 0.8, _MULTIPLY, (0.4, 0.4, 0.2, 0.1), 0.2, 0.0, 0.2),
        ('moco_v1', 0, _SMALL, _PT, 1.0, _MULTIPLY, (0.4, 0.4, 0.4, 0.4), 0.2, 0.0, 0.0),
        ('moco_v1', 1, _SMALL, _PT, 1.0, _MULTIPLY, (0.4, 0.4, 0.4, 0.4), 0.2, 0.0, 0.0),
        ('moco_v2', 0, _SMALL, _PT, 0.8, _MULTIPLY, (0.4, 0.4, 0.4, 0.1), 0.2, 0.5, 0.0),
        ('moco_v2', 1, _SMALL, _PT, 0.8, _MULTIPLY, (0.4, 0.4, 0.4, 0.1), 0.2, 0.5, 0.0),
        ('moco_v3', 0, _SMALL, _PT, 0.8, _MULTIPLY, (0.4, 0.4, 0.2, 0.1), 0.2, 1.0, 0.0),
        ('moco_v3', 1, _SMALL, _PT, 0.8, _MULTIPLY, (0.4, 0.4, 0.2, 0.1), 0.2, 0.1, 0.2),
    ],
)
def test_presets(name, view, area, crop, jitter, mode, strengths, gray, blur, solarize):
    recipe = PRESETS[name][view]
    assert recipe.crop_area == area
    assert recipe.crop_aspect == (3 / 4, 4 / 3)
    assert (recipe.crop_sampler, recipe.interpolation) == crop
    assert recipe.flip_probability == 0.5
    assert (recipe.jitter_probability, recipe.brightness_mode) == (jitter, mode)
    assert (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue) == strengths
    assert recipe.grayscale_probability == gray
    assert (recipe.blur_probability, recipe.blur_sigma) == (blur, (0.1, 2.0))
    assert (recipe.solarize_probability, recipe.solarize_threshold) == (solarize, 0.5)


def test_every_preset_is_in_the_table():
    (marks,) = (mark for mark in test_presets.pytestmark if mark.name == 'parametrize')
    assert {(row[0], row[1]) for row in marks.args[1]} == {(n, v) for n in PRESETS for v in (0, 1)}


def test_importing_the_recipe_imports_no_framework():
    code = (
        'import sys, simclr_jax.augment.recipe\n'
        "loaded = {'jax', 'tensorflow', 'numpy'} & set(sys.modules)\n"
        'assert not loaded, loaded'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
