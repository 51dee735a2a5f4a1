"""Fine-tuning as a run: what it learns from, that it learns, and that it goes on to the bit."""

import pathlib

import numpy as np
import pytest

from simclr_jax.config import ConfigError, resolve_length
from simclr_jax.config_loading import load
from simclr_jax.data import splits
from simclr_jax.modes import finetune, labelled

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = str(ROOT / 'configs/finetune_digits.py')
SHORT = {
    'epochs': '2',
    'finetune.min_steps': '30',
    'log.every_steps': '10',
    'log.tensorboard': 'False',
    'start.encoder': 'scratch',
}


def config_of(data_dir, **fields):
    fields = {name.replace('__', '.'): value for name, value in fields.items()}
    return load(DIGITS, SHORT | {'data.data_dir': data_dir} | fields)


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


def chosen(data_dir, labels, draw=0):
    config = config_of(data_dir, finetune__labels=labels, finetune__draw=str(draw))
    opened = labelled.open_labelled(config)
    return labelled.choose(config, opened), opened


def test_labels_are_chosen_alike_by_class_and_nested(data_dir):
    ten, opened = chosen(data_dir, '10')
    assert (np.bincount(splits.read_labels(ten).values) == 10).all()
    assert opened.train.num_examples == 1297 and opened.test.test.num_examples == 500
    records = [
        {*source.identify()}
        for source in (chosen(data_dir, '1')[0], ten, chosen(data_dir, '0.1')[0], opened.train)
    ]
    assert len(records[0]) == 10 and 120 <= len(records[2]) <= 140
    assert records[0] < records[1] < records[2] < records[3]
    assert not records[3] & {*opened.test.test.identify()}
    assert {*chosen(data_dir, '10', draw=1)[0].identify()} != records[1]


def test_more_labels_than_a_class_has_are_refused(data_dir):
    with pytest.raises(ConfigError, match=r"finetune.labels='500': the class '\d' has only 1\d\d "):
        chosen(data_dir, '500')


def test_a_list_of_names_needs_names(data_dir):
    with pytest.raises(ConfigError, match='imagenet2012_subset/1pct'):
        chosen(data_dir, 'names.txt')


@pytest.mark.parametrize('labels', ['0', '-1', '1.0', 'some', '1.5'])
def test_what_labels_cannot_be(data_dir, labels):
    with pytest.raises(ConfigError, match=r'finetune\.labels='):
        config_of(data_dir, finetune__labels=labels)


def test_few_labels_have_steps_enough_and_a_schedule_of_the_whole_run(data_dir):
    config = config_of(data_dir, epochs='4', finetune__min_steps='30', batch_size='128')
    length = resolve_length(config, 10)
    assert length.total_steps == 30 and length.steps_per_epoch == 7.5 and length.epoch(30) == 4
    assert resolve_length(config, 1280).total_steps == 40
    config.data.drop_remainder = True
    with pytest.raises(ConfigError, match='has only 10 examples'):
        resolve_length(config, 10)


def test_an_encoder_has_to_be_named(data_dir, tmp_path):
    config = config_of(data_dir)
    config.start.encoder = ''
    with pytest.raises(ConfigError, match='--encoder=scratch'):
        finetune.main(config, str(tmp_path / 'run'))
