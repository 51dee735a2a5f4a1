"""The classifier file, and labels of pictures."""

import dataclasses
import hashlib
import pathlib
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, softmax

import simclr_jax
from simclr_jax.config import ConfigError
from simclr_jax.weights import description, heads, native
from simclr_jax.weights.classifier import Classifier
from simclr_jax.weights.description import Architecture, Head, flat
from simclr_jax.weights.encoder import Encoder
from simclr_jax.weights.loading import read_weights

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from random_weights import random_classifier, random_weights

TINY = Architecture('resnet_tiny', stem='small')
KEPT = dataclasses.replace(TINY, head=Head(16, 8, 3), head_layers=1)
NAMES = ('cat', 'dog', 'Kätzchen, klein')


@pytest.fixture(scope='module')
def classifier():
    return Classifier(random_classifier(TINY, NAMES, size=16, temperature=2.0))


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.mark.parametrize('architecture', [TINY, KEPT], ids=['encoder', 'head'])
def test_a_file_gives_back_the_classifier(architecture, tmp_path):
    weights = random_classifier(architecture, NAMES, size=16, temperature=1.7, several=True)
    assert native.name_of(weights) == 'classifier.safetensors'
    path = tmp_path / native.name_of(weights)
    native.save(path, weights)
    found = native.read(path)
    assert found.classifier == weights.classifier and found.architecture == architecture
    want, have = flat(weights.variables), flat(found.variables)
    assert want.keys() == have.keys() and 'params/classifier/kernel' in want
    assert all(np.array_equal(want[name], have[name]) for name in want)
    assert native.checksum(found) == native.checksum(weights)
    assert description.checksum(found) == description.checksum(weights)
    # Of the head, only what is used is there.
    assert ('params/projector/dense1/kernel' in want) == (architecture is KEPT)
    assert 'params/projector/dense2/kernel' not in want
    loaded = simclr_jax.load(tmp_path)
    assert isinstance(loaded, Classifier) and '3 labels, several a picture' in repr(loaded)


def test_files_of_encoders_are_what_they_were_before_there_were_classifiers(tmp_path):
    weights = random_weights(TINY, 16)
    whole = jax.tree.map(
        lambda value: np.float32(np.arange(value.size) % 7).reshape(value.shape), weights.variables
    )  # the same on every machine
    weights = dataclasses.replace(weights, variables=whole)
    path = tmp_path / native.name_of(weights)
    native.save(path, weights)
    assert path.name == 'encoder.safetensors'
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == '2c388c58dbe084b368754069be26bb93caf236630919399be136addb6922ab6f'
    found = description.checksum(weights)
    assert found == '0c084a01eddbb0856c6a803407532d4ef056410c521533fe658d227ac98450d6'
    found = native.checksum(weights)
    assert found == '9a990120652cfbb1ac9a80cf8bcae40c12c10b9fc12058831ee463655adc70a7'


def test_a_temperature_or_a_name_changes_the_checksum():
    weights = random_classifier(TINY, NAMES, size=16)
    sums = {native.checksum(weights), description.checksum(weights)}
    for change in ({'temperature': 2.0}, {'names': ('a', 'b', 'c')}, {'several': True}):
        other = dataclasses.replace(
            weights, classifier=dataclasses.replace(weights.classifier, **change)
        )
        sums |= {native.checksum(other), description.checksum(other)}
    assert len(sums) == 8


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        ({'names': ('a', 'b')}, r'classifier/bias is of shape \(3,\), but .* \(2,\)'),
        ({'names': ()}, 'without names'),
        ({'names': ('a', 'b', 'a')}, "two labels with the name 'a'"),
        ({'temperature': 0.0}, 'temperature=0.0: must be above 0'),
        ({'temperature': float('nan')}, 'temperature=nan: must be above 0'),
        ({'names': ('a', 'b', 3)}, 'is not of the type str'),
        ({'several': 1}, 'several=1: is not of the type bool'),
    ],
)
def test_what_is_wrong_with_a_classifier_is_named(change, match, tmp_path):
    weights = random_classifier(TINY, NAMES, size=16)
    wrong = dataclasses.replace(weights.classifier, **change)
    native.save(tmp_path / 'x.safetensors', dataclasses.replace(weights, classifier=wrong))
    with pytest.raises(ConfigError, match=match):
        native.read(tmp_path / 'x.safetensors')


def test_a_classifier_says_what_its_network_says(classifier, images):
    inputs = classifier.normalize(images)
    with jax.default_matmul_precision('highest'):
        features, logits = classifier.network.apply(
            classifier.weights.variables, inputs, train=False
        )
    np.testing.assert_allclose(classifier.logits(images), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(classifier.features(images), features, rtol=1e-4, atol=1e-4)
    assert np.array_equal(classifier.features(images), classifier(images))
    shares = classifier.probabilities(images)
    np.testing.assert_allclose(shares, softmax(np.float64(logits) / 2, axis=1), atol=1e-4)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)


def test_the_features_are_those_of_the_encoder_alone(classifier, images):
    alone = Encoder(description.without_classifier(classifier.weights))
    np.testing.assert_array_equal(alone(images), classifier(images))
    kept = random_classifier(KEPT, NAMES, size=16)
    np.testing.assert_allclose(
        Classifier(kept)(images),
        kept.architecture.module().apply(
            kept.variables, Classifier(kept).normalize(images), train=False
        ),
        rtol=1e-4,
        atol=1e-4,
    )


def test_predictions_are_names_with_probabilities(classifier, images, tmp_path):
    shares = classifier.probabilities(images)
    labels, probabilities = classifier.predict(images)
    assert labels.tolist() == [NAMES[i] for i in shares.argmax(axis=1)]
    np.testing.assert_array_equal(probabilities, shares.max(axis=1))
    labels, probabilities = classifier.predict(images, top=2)
    assert labels.shape == probabilities.shape == (5, 2)
    order = np.argsort(-shares, axis=1)
    assert labels.tolist() == [[NAMES[i] for i in row[:2]] for row in order]
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f'{i}.png')
    again = classifier.predict(tmp_path)
    assert again.labels.tolist() == labels[:, 0].tolist()
    assert classifier.predict([]).labels.shape == (0,)
    for top in (0, 4):
        with pytest.raises(ConfigError, match=f'top={top}: must be 1 to 3'):
            classifier.predict(images, top=top)


def test_several_labels_a_picture_have_a_probability_each(images):
    weights = random_classifier(TINY, NAMES, size=16, several=True, temperature=0.5)
    made = Classifier(weights)
    shares = made.probabilities(images)
    np.testing.assert_allclose(shares, expit(np.float64(made.logits(images)) / 0.5), rtol=1e-5)
    assert np.abs(shares.sum(axis=1) - 1).max() > 0.1


def test_an_encoder_alone_knows_no_labels(tmp_path, images):
    path = tmp_path / native.NAME
    native.save(path, random_weights(TINY, 16))
    encoder = simclr_jax.load(path)
    with pytest.raises(ConfigError, match=r'resnet_tiny.* has no classifier.*--mode=finetune'):
        encoder.predict(images)
    with pytest.raises(ConfigError, match=r'encoder\.safetensors: is an encoder without a'):
        simclr_jax.load(path, classifier=True)
    with pytest.raises(ConfigError, match='weights: have no classifier'):
        Classifier(random_weights(TINY, 16))


def test_a_workdir_of_both_gives_the_classifier(tmp_path):
    native.save(tmp_path / native.NAME, random_weights(TINY, 16))
    native.save(tmp_path / native.CLASSIFIER_NAME, random_classifier(TINY, NAMES, size=16))
    assert read_weights(tmp_path).classifier.names == NAMES


def test_a_temperature_inside_the_weights_gives_the_same_probabilities(classifier, images):
    made = Classifier(heads.with_temperature_inside(classifier.weights))
    assert made.weights.classifier.temperature == 1
    np.testing.assert_allclose(
        made.probabilities(images), classifier.probabilities(images), rtol=1e-5
    )
    np.testing.assert_allclose(made.logits(images), classifier.logits(images) / 2, rtol=1e-5)
