"""What a classifier starts with where it is solved: the regression on the file's own features."""

import pathlib
import sys

import jax
import numpy as np
import pytest

import simclr_jax
from simclr_jax.config import ConfigError
from simclr_jax.config_loading import load
from simclr_jax.data import device, splits
from simclr_jax.evaluate.linear import linear_classifier
from simclr_jax.evaluate.subsets import draw_subset
from simclr_jax.modes import labelled, start
from simclr_jax.modes.outputs import logits_of, with_head
from simclr_jax.train.setup import prepare
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'weights'))
from random_weights import random_weights

DIGITS = str(pathlib.Path(__file__).parents[2] / 'configs/finetune_digits.py')
SOLVED = {'finetune.head_init': 'linear', 'batch_size': '8'}


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp('encoder') / 'encoder.safetensors'
    architecture = Architecture('resnet_tiny', stem='small')
    native.save(path, random_weights(architecture, size=8, channels=1, mean=(0.0,), std=(1.0,)))
    return path


@pytest.mark.slow
def test_it_is_solved_on_what_the_file_makes_of_the_pictures(encoder, tmp_path):
    fields = SOLVED | {'data.data_dir': str(tmp_path), 'start.encoder': str(encoder)}
    config, _ = start.settle(load(DIGITS, fields), str(tmp_path / 'run'), trains=True)
    train = labelled.open_labelled(config).train
    few = splits.subset(train, draw_subset(splits.all_labels(train), 10, seed=0, draw=0))
    run = with_head(prepare(config, None, start.read(config, str(tmp_path / 'run')), few))
    state = run.init()
    found = jax.device_get(state.params['classifier'])

    pixels = device.load(few).images
    features = simclr_jax.load(encoder)(pixels)
    kernel, bias = linear_classifier(features, splits.all_labels(few), num_classes=10)
    np.testing.assert_allclose(found['kernel'], kernel, rtol=1e-2, atol=1e-3 * abs(kernel).max())
    np.testing.assert_allclose(found['bias'], bias, rtol=1e-2, atol=1e-3 * abs(bias).max())
    # So it begins far above the tenth that guessing gives.
    network = run.method.network
    logits, labels = logits_of(network, state.all_variables(), few, config, run.mesh)
    assert np.mean(logits.argmax(1) == labels) > 0.8
    assert not np.asarray(run.init_at_random().params['classifier']['kernel']).any()


@pytest.mark.parametrize('init', ['zero', 'linear'])
def test_at_random_there_is_nothing_to_solve_it_on(init):
    class AtRandom:
        config = load(DIGITS, {'finetune.head_init': init})
        start = None

    run = AtRandom()
    assert with_head(run) is run


def test_a_student_has_no_labels_to_solve_it_on():
    with pytest.raises(ConfigError, match=r"^finetune\.head_init='linear': is solved on labels"):
        load(DIGITS.replace('finetune', 'distill'), SOLVED)
