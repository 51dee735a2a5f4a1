"""The temperature of a classifier: which labels it is fitted on, and that it is found once."""

import json
import pathlib

import numpy as np
import pytest

from simclr_jax.config_loading import load
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.calibration import fit_temperature
from simclr_jax.modes import calibrate
from simclr_jax.modes.calibrate import Temperature, find_temperature

CONFIG = str(pathlib.Path(__file__).parents[2] / 'configs/finetune_digits.py')
LABELS = np.repeat(np.arange(10), 10)


def source_of(labels=LABELS):
    return Source(
        read=lambda chosen: [b'' for _ in chosen],
        num_examples=len(labels),
        image_shape=(8, 8, 1),
        label_names=tuple('0123456789'),
        labels=np.asarray(labels),
        identify=lambda: np.arange(len(labels)),
    )


@pytest.fixture
def trained(monkeypatch):
    """Stands in for the training, and remembers what it learned from and was asked about."""
    calls = []

    def fit(config, kept, rest, weights, logits_of):
        calls.append((kept, rest))
        random = np.random.default_rng(0)
        return fit_temperature(random.normal(size=(len(rest.labels), 10)), rest.labels)

    monkeypatch.setattr(calibrate, '_fit', fit)
    return calls


def find(workdir, labels=LABELS, **fields):
    fields = {name.replace('__', '.'): value for name, value in fields.items()}
    return find_temperature(load(CONFIG, fields), str(workdir), source_of(labels), None, None)


def test_it_is_fitted_on_labels_that_were_not_trained_on(trained, tmp_path):
    found = find(tmp_path)
    ((kept, rest),) = trained
    places = [part.identify() for part in (kept, rest)]
    assert not {*places[0]} & {*places[1]} and len(places[0]) + len(places[1]) == 100
    assert (np.bincount(rest.labels) == 2).all()  # a fifth of each class
    assert found.held_out == 20 and found.value > 1


def test_it_is_found_once_and_to_the_bit(trained, tmp_path):
    first = find(tmp_path)
    assert find(tmp_path) == first and len(trained) == 1
    content = json.loads((tmp_path / 'calibration.json').read_text())
    assert (content['value'], content['held_out']) == first
    # A file that is damaged, or of another learning rate, is no answer.
    find(tmp_path, optimizer__learning_rate='0.3')
    assert len(trained) == 2
    (tmp_path / 'calibration.json').write_text('{"about": ')
    assert find(tmp_path) == first and len(trained) == 3


def test_what_a_sweep_has_found_is_taken(trained, tmp_path):
    options = str(tmp_path), source_of(), None, None
    assert find_temperature(load(CONFIG, {}), *options, known=1.5) == (1.5, 20)
    assert find(tmp_path) == (1.5, 20) and not trained
    off = load(CONFIG, {'finetune.calibrate': 'False'})
    assert find_temperature(off, *options, known=1.5) == (1.0, 0)


@pytest.mark.parametrize('labels', [np.arange(10), np.repeat(np.arange(10), 2)])
def test_with_so_few_labels_that_none_is_left_it_is_1(labels, trained, tmp_path):
    assert find(tmp_path, labels) == Temperature(1.0, 0)
    assert not trained and not list(tmp_path.iterdir())


def test_it_can_be_left_out(trained, tmp_path):
    assert find(tmp_path, finetune__calibrate='False') == (1.0, 0)
    assert not trained
