"""Classifiers in other libraries' layouts: both ways, and what the libraries say of pictures."""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import pytest
import safetensors.numpy
from scipy.special import softmax

import simclr_jax
from simclr_jax.config import ConfigError
from simclr_jax.weights import exporting, formats, heads, parity, timm, torchvision, transformers
from simclr_jax.weights.classifier import Classifier
from simclr_jax.weights.description import Architecture, flat
from simclr_jax.weights.loading import read_weights

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from random_weights import random_classifier, random_weights

NAMES = ('cat', 'dog', 'Käfer')
RESNET = Architecture('resnet18')
VIT = Architecture('vit_ti16', patch_size=16)
LAYOUTS = {'torchvision': torchvision, 'timm': timm, 'transformers': transformers}
PACKAGES = {
    'torchvision': ('torch', 'torchvision'),
    'timm': ('torch', 'timm'),
    'transformers': ('torch', 'transformers'),
    'onnx': ('onnx', 'onnxruntime'),
}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('architecture', [RESNET, VIT], ids=lambda a: a.encoder)
def test_a_folder_of_each_layout_gives_back_the_classifier(layout, architecture, tmp_path):
    """The files alone; what the libraries make of them is below."""
    weights = random_classifier(architecture, NAMES, 32, several=layout == 'timm')
    LAYOUTS[layout].write(weights, tmp_path)
    found = read_weights(tmp_path, classifier=True)
    assert found.classifier == weights.classifier
    want, have = flat(weights.variables), flat(found.variables)
    assert want.keys() == have.keys()
    assert all(np.array_equal(want[name], have[name]) for name in want)
    assert not any('classifier' in name or 'fc' in name for name in found.origin['dropped'])
    # Without being asked, it is the encoder alone.
    alone = read_weights(tmp_path)
    assert alone.classifier is None and 'classifier' not in alone.variables['params']


def test_names_are_numbers_where_a_file_has_none(tmp_path):
    weights = random_classifier(RESNET, NAMES, 32)
    path = tmp_path / 'resnet18.safetensors'
    safetensors.numpy.save_file(torchvision.to_tensors(weights), path)
    found = simclr_jax.load(path, classifier=True)
    assert isinstance(found, Classifier) and found.names == ('0', '1', '2')
    kernel = weights.variables['params']['classifier']['kernel']
    assert np.array_equal(found.weights.variables['params']['classifier']['kernel'], kernel)
    safetensors.numpy.save_file(torchvision.to_tensors(random_weights(RESNET, 32)), path)
    with pytest.raises(ConfigError, match=r'has no classifier, which is fc\.weight and fc\.bias'):
        simclr_jax.load(path, classifier=True)


def test_names_of_another_number_are_refused(tmp_path):
    weights = random_classifier(RESNET, NAMES, 32)
    other = dataclasses.replace(
        weights, classifier=dataclasses.replace(weights.classifier, names=('a', 'b'))
    )
    path = tmp_path / 'x.safetensors'
    safetensors.numpy.save_file(torchvision.to_tensors(weights), path, heads.metadata(other))
    with pytest.raises(ConfigError, match='has 3 outputs, but names for 2 labels'):
        simclr_jax.load(path, classifier=True)


def test_configurations_say_the_names():
    weights = random_classifier(RESNET, NAMES, 32)
    config = transformers.config_of(weights)
    assert config['id2label'] == {'0': 'cat', '1': 'dog', '2': 'Käfer'}
    assert config['label2id'] == {'cat': 0, 'dog': 1, 'Käfer': 2}
    assert config['architectures'] == ['ResNetForImageClassification']
    config = timm.config_of(weights)
    assert config['label_names'] == list(NAMES) and config['num_classes'] == 3
    assert timm.config_of(random_weights(RESNET, 32))['num_classes'] == 0


def export(weights, name, place):
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package, reason="needs what pip install -e '.[export]' brings")
    return exporting.export(weights, name, place, *parity.pictures_for(weights.preprocess))


@pytest.mark.slow
@pytest.mark.parametrize('name', [*LAYOUTS, 'onnx', 'stablehlo', 'native'])
@pytest.mark.parametrize('architecture', [RESNET, VIT], ids=lambda a: a.encoder)
def test_the_libraries_compute_the_calibrated_logits(name, architecture, tmp_path):
    weights = random_classifier(architecture, NAMES, 32, temperature=1.7)
    place = tmp_path / 'made'
    assert 'largest relative difference' in export(weights, name, place)
    text = (place / 'README.md').read_text()
    assert '# A classifier for' in text and '2. Käfer' in text and 'logits = ' in text
    assert ('divided by the temperature, 1.7' in text) == (name == 'native')
    if name in LAYOUTS:
        found = simclr_jax.load(place, classifier=True)
        pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
        want = Classifier(weights)
        # The same probabilities with nothing to divide by.
        shares = softmax(np.float64(found.logits(pictures)), axis=1)
        np.testing.assert_allclose(shares, want.probabilities(pictures), atol=1e-5)


def test_a_tiny_classifier_is_exported_and_compared(tmp_path):
    weights = random_classifier(Architecture('resnet_tiny', stem='small'), NAMES, 16, temperature=2)
    proof = export(weights, 'stablehlo', tmp_path / 'made')
    assert 'largest relative difference' in proof


@pytest.mark.slow
@pytest.mark.parametrize('architecture', [RESNET, VIT], ids=lambda a: a.encoder)
def test_transformers_says_the_names(architecture, tmp_path):
    pytest.importorskip('torch', reason="needs what pip install -e '.[export]' brings")
    library = pytest.importorskip('transformers', reason="needs '.[export]'")
    weights = random_classifier(architecture, NAMES, 32)
    transformers.write(weights, tmp_path)
    model = library.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert model.config.id2label == dict(enumerate(NAMES))
    assert json.loads((tmp_path / 'config.json').read_text())['problem_type'].startswith('single')


def test_detectron2_gets_the_encoder_alone():
    assert not formats.module_of('detectron2').CLASSIFIES
