"""Every field is there once, and fits what reads it."""

import dataclasses
import pathlib

import pytest

from simclr_jax import config as config_lib
from simclr_jax.methods.factory import METHODS
from simclr_jax.models.factory import ENCODERS

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


def test_names_are_those_of_the_factories():
    assert set(config_lib.METHODS) == METHODS.keys()
    assert set(config_lib.ENCODERS) == set(ENCODERS)


# What other sections say, or the machine.
NOT_ITS_OWN = {'encoder', 'total_steps', 'norm_scope', 'dtype', 'accumulation_steps', 'mesh'}


@pytest.mark.parametrize('name', METHODS)
def test_a_methods_section_holds_the_fields_of_its_class(name):
    fields = {field.name for field in dataclasses.fields(METHODS[name])}
    assert set(config_lib.default()[name]) == fields - NOT_ITS_OWN


def test_at_least_the_six_recipes_are_there():
    names = {path.stem for path in CONFIGS}
    data = ('digits', 'cifar10', 'imagenet')
    assert {f'{m}_{d}' for m in ('simclr', 'byol') for d in data} <= names


def test_length_in_steps():
    config = config_lib.default()
    config.epochs = 2.5
    assert config_lib.resolve_length(config, 1297) == config_lib.Length(5, 12)
    with pytest.raises(config_lib.ConfigError, match=r'batch_size=256: .* only 200 examples'):
        config_lib.resolve_length(config, 200)
