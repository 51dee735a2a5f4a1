"""What a recipe for any machine chooses, on hardware that is made up."""

import pathlib

import pytest

from simclr_jax.config import AUTO_FIELDS, ConfigError, flatten, to_json
from simclr_jax.config_auto import GIB, Hardware, choose, settle
from simclr_jax.config_loading import check_same_run
from simclr_jax.config_loading import load as load_file

ROOT = pathlib.Path(__file__).parents[1]
RECIPES = ('simclr_folder', 'byol_folder')
LAPTOP = Hardware('cpu', 'cpu', 1, None, False)
TPU = Hardware('tpu', 'TPU v5 lite', 8, 15.75 * GIB, True)


def gpu(kind: str, gib: float, bfloat16: bool = True, devices: int = 1) -> Hardware:
    return Hardware('gpu', kind, devices, gib * GIB, bfloat16)


def load(recipe: str = 'simclr_folder', **fields: str):
    given = {name.replace('__', '.'): value for name, value in fields.items()}
    return load_file(str(ROOT / f'configs/{recipe}.py'), {'data.path': '/pictures'} | given)


@pytest.mark.parametrize(
    ('hardware', 'encoder', 'size', 'batch', 'dtype'),
    [
        (LAPTOP, 'resnet_tiny', 64, 128, 'float32'),
        (TPU, 'resnet50', 224, 256, 'bfloat16'),
        (gpu('Tesla T4', 11.0, bfloat16=False), 'resnet18', 128, 256, 'float32'),
        (gpu('NVIDIA L4', 16.6), 'resnet50', 224, 128, 'bfloat16'),
        (gpu('NVIDIA A100-SXM4-40GB', 29.6), 'resnet50', 224, 256, 'bfloat16'),
        (gpu('NVIDIA GeForce GTX 1050', 3.0, bfloat16=False), 'resnet18', 96, 128, 'float32'),
        (Hardware('gpu', 'unknown', 1, None, True), 'resnet18', 96, 128, 'bfloat16'),
    ],
)
@pytest.mark.parametrize('recipe', RECIPES)
def test_a_folder_recipe_follows_from_the_machine(recipe, hardware, encoder, size, batch, dtype):
    config, line = settle(load(recipe), hardware)
    assert (config.model.encoder, config.data.image_size) == (encoder, size)
    assert (config.batch_size, config.model.dtype, config.augment.dtype) == (batch, dtype, dtype)
    assert config.auto == ()
    assert line.count('\n') == 0 and f'--config.model.encoder={encoder}' in line
    assert ('no GPU or TPU' if hardware is LAPTOP else hardware.kind) in line


def test_what_is_given_wins_over_what_is_chosen():
    config, line = settle(load(model__encoder='resnet34', batch_size='32'), LAPTOP)
    assert (config.model.encoder, config.batch_size) == ('resnet34', 32)
    assert config.data.image_size == 64
    assert 'encoder' not in line and 'batch_size' not in line and 'data.image_size=64' in line
    config, line = settle(load(auto='()'), LAPTOP)
    assert config.model.encoder == 'resnet50' and line is None


def test_the_batch_divides_over_the_devices():
    for devices in (1, 2, 3, 6, 8, 96, 512):
        for hardware in (gpu('NVIDIA L4', 16.6, devices=devices), TPU):
            fields, _ = choose(hardware)
            assert fields['batch_size'] % hardware.devices == 0 and fields['batch_size'] >= 2
        assert set(fields) == set(AUTO_FIELDS)


def test_a_run_goes_on_elsewhere_with_what_it_began_with():
    began, _ = settle(load(), LAPTOP)
    moved, line = settle(load(), TPU, to_json(began))
    assert flatten(moved) == flatten(began) and line is None
    check_same_run(moved, to_json(began), 'runs/mine')


def test_a_given_value_that_does_not_go_with_a_chosen_one_is_told_with_both():
    config = load()
    config.data.canvas = 32
    with pytest.raises(ConfigError, match=r'(?s)data\.canvas=32: .*--config\.data\.image_size=64'):
        settle(config, LAPTOP)


def test_auto_holds_fields_that_can_be_chosen():
    with pytest.raises(ConfigError, match=r"auto=\('epochs',\): must hold some of batch_size"):
        load(auto="('epochs',)")
