"""The papers' linear evaluation: SGD against NumPy in float64, and the choice of the rate."""

import pathlib
import zlib

import jax
import numpy as np
import pytest
from flax import linen as nn

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.config_loading import load
from simclr_jax.evaluate import published
from simclr_jax.evaluate.features import Features
from simclr_jax.modes.probes import check_protocol
from simclr_jax.train.setup import prepare

DIGITS = str(pathlib.Path(__file__).parents[2] / 'configs/simclr_digits.py')
CLASSES, SIZE = 3, 4


class Pixels(nn.Module):
    """An encoder without parameters, whose features NumPy can make too."""

    def __call__(self, images, train):
        assert not train
        return images.reshape(len(images), -1)


def make_data(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose class shows in which row is bright, and their labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=count).astype(np.int32)
    images = random.integers(0, 120, (count, 1, SIZE, SIZE, 1), np.uint8)
    images[np.arange(count), 0, labels] += 60
    return images, labels


def make_batches(images, labels, batch_size, seen=None):
    def batches(examples, start_step, total_steps):
        if seen is not None:
            seen.append(set(examples))
        for step in range(start_step, total_steps):
            random = np.random.default_rng(step)
            chosen = random.choice(examples, batch_size, replace=False)
            yield {'image': images[chosen], 'label': labels[chosen], 'index': chosen}

    return batches


def features_of(images, labels) -> Features:
    values = {'encoder': images.reshape(len(images), -1) / np.float32(255)}
    return Features(values, labels, np.arange(len(images)))


def initial_key(seed: int) -> jax.Array:
    """The stream of the initialization; pretraining's own streams are other folds of the seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(b'linear_eval'))


def make_trainer(protocol) -> published.LinearTrainer:
    return published.LinearTrainer(Pixels(), {}, protocol, parallel.make_mesh(), CLASSES, seed=4)


def numpy_sgd(protocol, batches, examples, rate, steps, kernel) -> tuple[np.ndarray, np.ndarray]:
    """Momentum as Sutskever et al. have it, the decay a part of the gradient (PyTorch's SGD)."""
    params = {'kernel': kernel.astype(np.float64), 'bias': np.zeros(CLASSES)}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    for step, batch in enumerate(batches(examples, 0, steps)):
        features = batch['image'].reshape(len(batch['image']), -1) / 255
        logits = features @ params['kernel'] + params['bias']
        error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        error[np.arange(len(error)), batch['label']] -= 1
        gradients = {'kernel': features.T @ error / len(error), 'bias': error.mean(0)}
        if protocol.decay_at:
            factor = 0.1 ** sum(step >= share * steps for share in protocol.decay_at)
        else:
            factor = (1 + np.cos(np.pi * step / steps)) / 2
        scale = protocol.batch_size / 256 if protocol.scaling == 'linear' else 1
        for name, gradient in gradients.items():
            gradient = gradient + protocol.weight_decay * params[name]
            velocity[name] = 0.9 * velocity[name] + gradient
            move = gradient + 0.9 * velocity[name] if protocol.nesterov else velocity[name]
            params[name] = params[name] - rate * scale * factor * move
    return params['kernel'], params['bias']


@pytest.mark.parametrize('name', published.PROTOCOLS)
def test_every_rate_is_trained_as_numpy_does(name):
    images, labels = make_data(64, seed=1)
    batch_size = 16
    protocol = published.published_protocol(
        name, 'resnet50', epochs=5.0, batch_size=batch_size, learning_rates=(2.0, 0.5)
    )
    batches, examples, steps = make_batches(images, labels, batch_size), np.arange(64), 20
    dim = SIZE * SIZE
    trained = make_trainer(protocol).train(batches, examples, dim, (2.0, 0.5))
    std = dim**-0.5 if protocol.kernel_std is None else protocol.kernel_std
    start = std * np.asarray(jax.random.normal(initial_key(4), (dim, CLASSES)))
    for place, rate in enumerate((2.0, 0.5)):
        kernel, bias = numpy_sgd(protocol, batches, examples, rate, steps, start)
        np.testing.assert_allclose(trained['kernel'][place], kernel, atol=2e-5)
        np.testing.assert_allclose(trained['bias'][place, 0], bias, atol=2e-5)


@pytest.mark.slow
def test_a_held_out_part_of_the_training_split_chooses_the_rate():
    images, labels = make_data(400, seed=1)
    labels[:40] = -1  # without a label, an example is never trained on
    test_images, test_labels = make_data(100, seed=2)
    protocol = published.published_protocol(
        'byol', 'resnet50', epochs=40.0, batch_size=40, learning_rates=(1e-5, 10.0)
    )

    def result(test_labels, labels=labels):
        seen = []
        found = published.published_linear_eval(
            make_trainer(protocol),
            make_batches(images, labels, 40, seen),
            features_of(images, labels),
            features_of(test_images, test_labels),
        )
        return found, seen

    found, (compared, final) = result(test_labels)
    assert found['learning_rate'] == 10.0 and found['mean'] > 0.9
    assert set(found['held_out']) == {'1e-05', '10.0'}
    assert final == set(range(40, 400)) and compared < final
    assert abs(len(final - compared) - 72) <= 1  # a fifth of every class, rounded
    # Whatever the test labels are, the choice is the same.
    wrong, _ = result((test_labels + 1) % CLASSES)
    assert wrong['held_out'] == found['held_out'] and wrong['mean'] < 0.1


def test_one_rate_needs_no_part_held_out():
    images, labels = make_data(100, seed=1)
    protocol = published.published_protocol('simclr', 'resnet50', epochs=2.0, batch_size=40)
    seen = []
    features = features_of(images, labels)
    found = published.published_linear_eval(
        make_trainer(protocol), make_batches(images, labels, 40, seen), features, features
    )
    assert seen == [set(range(100))] and found['held_out'] == {}
    assert found['learning_rate'] == 0.1


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


def load_digits(data_dir, **linear_eval):
    fields = {'data.data_dir': data_dir, 'eval.baselines': 'False', 'batch_size': '64'}
    fields |= {f'linear_eval.{name}': str(value) for name, value in linear_eval.items()}
    return load(DIGITS, fields)


def test_a_batch_that_cannot_be_is_named_before_anything_runs(data_dir):
    run = prepare(load_digits(data_dir, protocol='simclr'))
    with pytest.raises(ConfigError, match=r'linear_eval\.batch_size=0: is 4096 .* 1297 training'):
        check_protocol(run.config, run.source, run.config.model.encoder, run.mesh)
    run = prepare(load_digits(data_dir, protocol='simclr', batch_size=100))
    with pytest.raises(ConfigError, match=r'linear_eval\.batch_size=100: .* 8 devices; use 96'):
        check_protocol(run.config, run.source, run.config.model.encoder, run.mesh)
    run = prepare(load_digits(data_dir))
    assert check_protocol(run.config, run.source, run.config.model.encoder, run.mesh) is None
    # A mirrored digit is another sign.
    run = prepare(load_digits(data_dir, protocol='byol', batch_size=64))
    assert (
        check_protocol(
            run.config, run.source, run.config.model.encoder, run.mesh
        ).view.flip_probability
        == 0
    )
