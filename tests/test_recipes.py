"""The recipes that ship have the published numbers: one that changes by accident fails here."""

import inspect
import pathlib
import runpy
import sys

import pytest

from simclr_jax import config as config_lib
from simclr_jax.config import LINEAR_PROTOCOLS
from simclr_jax.config_loading import load as load_config
from simclr_jax.evaluate.published import published_protocol
from simclr_jax.optim.schedules import scaled_learning_rate

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from published_recipes import RECIPES

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'


@pytest.mark.parametrize(('name', 'preset'), RECIPES)
def test_a_recipe_has_the_published_numbers(name, preset):
    config = load_config(f'{CONFIGS / name}.py:{preset}')
    fields = config_lib.flatten(config)
    fields['peak'] = scaled_learning_rate(
        config.optimizer.learning_rate,
        config.batch_size,
        config.optimizer.learning_rate_scaling,
    )
    expected = RECIPES[name, preset]
    found = {field: fields[field] for field in expected}
    assert found == expected | {'peak': pytest.approx(expected['peak'])}


# epochs x images // batch: BYOL's `max_steps`; the original SimCLR's `get_train_steps` is one more.
STEPS = {  # recipe -> images, steps
    ('simclr_imagenet', 'v1'): (1_281_167, 31_278),
    ('byol_imagenet', '1000'): (1_281_167, 312_784),
    ('simclr_cifar10', 'v1'): (50_000, 97_656),
    ('byol_imagenette', ''): (9_469, 36_988),
    ('moco_v2_imagenet', '200'): (1_281_167, 200 * 5_004),  # whole batches of every epoch
    ('moco_v3_imagenet', 'r50_100'): (1_281_167, 100 * 312),
}


@pytest.mark.parametrize(('name', 'preset'), STEPS)
def test_a_recipe_has_as_many_steps_as_the_original(name, preset):
    images, steps = STEPS[name, preset]
    config = load_config(f'{CONFIGS / name}.py:{preset}')
    assert config_lib.resolve_length(config, images).total_steps == steps


def test_no_recipe_is_missing():
    shipped = set()
    for path in CONFIGS.glob('*.py'):
        if not path.stem.endswith(('_digits', '_folder')):  # numbers of nobody's but ours
            module = runpy.run_path(str(path))
            takes_preset = inspect.signature(module['get_config']).parameters
            presets = module['PRESETS'] if takes_preset else ('',)
            shipped |= {(path.stem, preset) for preset in presets}
    assert shipped == set(RECIPES)


# The papers' linear classifiers: epochs, batch, rates, what they are times at that batch, decay.
PROTOCOLS = {
    'simclr': (90.0, 4096, (0.1,), 16.0, 1e-6),  # SimCLR's README:136-146
    'simclr_cifar': (100.0, 512, (0.1,), 2.0, 0.0),  # SimCLR's README:116-131
    'byol': (80.0, 1024, (0.4, 0.3, 0.2, 0.1, 0.05), 4.0, 0.0),  # configs/eval.py, and the paper
    'moco_v2': (100.0, 256, (30.0,), 1.0, 0.0),  # MoCo's main_lincls.py
    'moco_v3': (90.0, 1024, (0.1,), 4.0, 0.0),  # MoCo v3's main_lincls.py
}


@pytest.mark.parametrize('name', PROTOCOLS)
def test_a_linear_evaluation_has_the_published_numbers(name):
    epochs, batch_size, rates, factor, weight_decay = PROTOCOLS[name]
    protocol = published_protocol(name, 'resnet50')
    assert (protocol.epochs, protocol.batch_size) == (epochs, batch_size)
    assert protocol.learning_rates == rates and protocol.weight_decay == weight_decay
    assert scaled_learning_rate(1.0, batch_size, protocol.scaling) == factor
    assert protocol.nesterov == ('moco' not in name)
    assert protocol.decay_at == ((0.6, 0.8) if name == 'moco_v2' else ())  # 60 and 80 of 100
    original = name.partition('_')[0]
    assert protocol.kernel_std == {'simclr': 0.0, 'byol': None, 'moco': 0.01}[original]
    view = protocol.view
    assert view.crop_area == (0.08, 1.0) and view.flip_probability == 0.5
    samplers = {'simclr': 'tensorflow', 'moco': 'torchvision', 'byol': 'byol'}
    assert view.crop_sampler == samplers[original]
    how = ('bilinear', True) if original == 'moco' else ('bicubic', False)
    assert (view.interpolation, view.antialias) == how
    for operation in ('jitter', 'grayscale', 'blur', 'solarize'):
        assert getattr(view, f'{operation}_probability') == 0


def test_a_vit_has_moco_v3s_other_rate():
    assert published_protocol('moco_v3', 'vit_s16').learning_rates == (3.0,)  # CONFIG.md
    assert set(LINEAR_PROTOCOLS) == {'fast', *PROTOCOLS}


@pytest.mark.parametrize('name', sorted({name for name, _ in RECIPES}))
def test_a_config_without_preset_is_one_of_its_presets(name):
    path = f'{CONFIGS / name}.py'
    plain = config_lib.to_json(load_config(path))
    presets = [preset for other, preset in RECIPES if other == name]
    assert plain in [config_lib.to_json(load_config(f'{path}:{p}')) for p in presets]
