"""The encoder file: what is written is read, and what is damaged is refused."""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from simclr_jax.config import ConfigError
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture, Head, flat

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from random_weights import random_weights

ARCHITECTURES = [
    Architecture('resnet_tiny', stem='small'),
    Architecture('resnet18', padding='simclr', head=Head(16, 8, 3, output_norm='scale_only')),
    Architecture('vit_ti16', num_heads=3, positions='learned', pooling='mean'),
]


@pytest.mark.parametrize('architecture', ARCHITECTURES, ids=lambda a: a.encoder)
def test_a_file_gives_back_what_was_saved(architecture, tmp_path):
    weights = random_weights(architecture, mean=(0.5, 0.4, 0.3), std=(0.2,), antialias=True)
    native.save(tmp_path / native.NAME, weights)
    found = native.read(tmp_path / native.NAME)
    assert found.architecture == architecture and found.preprocess == weights.preprocess
    assert found.origin == weights.origin
    want, have = flat(weights.variables), flat(found.variables)
    assert want.keys() == have.keys()
    assert all(np.array_equal(want[name], have[name]) for name in want)
    images = jax.numpy.zeros((2, 32, 32, 3))
    features = [architecture.module().apply(w.variables, images, False) for w in (weights, found)]
    assert np.array_equal(*features) and np.ptp(features[0]) > 0


def test_a_change_of_any_byte_is_noticed(tmp_path):
    path = tmp_path / native.NAME
    native.save(path, random_weights(ARCHITECTURES[0]))
    content = path.read_bytes()
    places = np.random.default_rng(0).choice(len(content), 60, replace=False)
    for place in [*places, *range(0, 4000, 100)]:
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=str(path)):
            native.read(path)
    for length in (0, 7, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ConfigError, match=str(path)):
            native.read(path)


def rewrite(path, change) -> None:
    """Saves a file whose description was changed before its checksum was computed."""
    tensors = safetensors.numpy.load(path.read_bytes())
    with safetensors.safe_open(path, 'numpy') as file:
        described = json.loads(file.metadata()['simclr_jax'])
    del described['checksum']
    change(described, tensors)
    described['checksum'] = native._checksum(described, tensors)
    safetensors.numpy.save_file(tensors, path, {'simclr_jax': json.dumps(described)})


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (lambda d, t: d.update(format=2), 'is of format 2, but .* install a newer simclr_jax'),
        (lambda d, t: d['architecture'].update(width='2'), "architecture.width='2': is not of"),
        (lambda d, t: d['architecture'].update(colour=1), 'architecture: has unknown .*colour'),
        (lambda d, t: d['preprocess'].pop('size'), 'preprocess.size: is missing'),
        (
            lambda d, t: d['architecture'].update(width=2),
            r'of shape \(16,\), but .* wants of shape \(32,\)',
        ),
        (lambda d, t: t.pop('params/encoder/stem_conv/kernel'), 'stem_conv/kernel is missing'),
        (lambda d, t: t.update(more=np.zeros(3, np.float32)), 'wants missing'),
    ],
)
def test_what_is_wrong_in_a_whole_file_is_named(change, match, tmp_path):
    path = tmp_path / native.NAME
    native.save(path, random_weights(ARCHITECTURES[0]))
    rewrite(path, change)
    with pytest.raises(ConfigError, match=match):
        native.read(path)


def test_other_files_are_told_from_ours(tmp_path):
    path = tmp_path / 'other.safetensors'
    with pytest.raises(ConfigError, match='no such file'):
        native.read(path)
    safetensors.numpy.save_file({'conv1.weight': np.zeros(3, np.float32)}, path)
    with pytest.raises(ConfigError, match="not this library's"):
        native.read(path)


def test_unknown_encoders_and_bad_fields_are_refused(tmp_path):
    path = tmp_path / native.NAME
    native.save(path, random_weights(ARCHITECTURES[0]))
    rewrite(path, lambda d, t: d['architecture'].update(encoder='resnet19'))
    with pytest.raises(ConfigError, match='resnet19'):
        native.read(path)


def test_every_field_of_the_architecture_is_one_of_create_encoder():
    from inspect import signature

    from simclr_jax.models.factory import create_encoder

    own = {field.name for field in dataclasses.fields(Architecture)}
    assert own - {'encoder', 'head', 'head_layers'} <= signature(create_encoder).parameters.keys()
