"""What people give in place of weights: each error says what it is, and what to give instead."""

import io
import json
import pathlib
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import made_files
from made_files import Call, Global, pickled, tensor, zipped

from simclr_jax.config import ConfigError
from simclr_jax.weights.loading import read_weights

SMALL = [np.zeros(4, np.float32)]


def saved(tree) -> bytes:
    """A file of `torch.save`."""
    return zipped(pickled(tree), SMALL)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new('RGB', (8, 8)).save(buffer, 'PNG')
    return buffer.getvalue()


def archive(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as file:
        file.addfile(tarfile.TarInfo('storages'))
    return buffer.getvalue()


LIGHTNING = {'epoch': 3, 'pytorch-lightning_version': '2.5', 'hyper_parameters': {'lr': 0.1}}
MODULE = {'_parameters': {}, '_modules': {'conv1': Call((Global('torch.nn.Conv2d'), ()))}}
FILES = {  # name, content, what the error says
    'lightly': (
        'last.ckpt',
        saved(LIGHTNING | {'state_dict': {'backbone.0.weight': tensor('0', (4,))}}),
        r'Lightning.*backbone\.0\.weight.*torch\.save\(model\.backbone\.state_dict\(\)',
    ),
    'solo-learn': (
        'simclr-cifar10.ckpt',
        saved(LIGHTNING | {'state_dict': {'backbone.conv1.weight': tensor('0', (4,))}}),
        r'Lightning.*backbone\.conv1\.weight.*torch\.save\(',
    ),
    'a whole model': (
        'model.pth',
        saved(Call((Global('torchvision.models.resnet.ResNet'), (), MODULE))),
        r'whole object.*torchvision\.models\.resnet\.ResNet.*torch\.save\(model\.state_dict\(\)',
    ),
    'other keys': (
        'clip.pt',
        saved({'visual.conv1.weight': tensor('0', (4,)), 'text': tensor('0', (4,))}),
        r'no layout that is known.*visual\.conv1\.weight.*torchvision, timm.*BYOL, SimCLR',
    ),
    'no tensors': ('log.pth', saved({'epoch': 3, 'loss': 0.5}), r'no layout.*epoch, loss'),
    'a list': ('list.pth', saved([1, 2]), 'no tensors by name; known are'),
    'a script': (
        'model.pt',
        zipped(pickled({}), **{'code/__torch__.py': b'x'}),
        r'TorchScript.*torch\.save\(torch\.jit\.load',
    ),
    'ONNX': ('model.onnx', b'\x08\x08\x12\x07pytorch', 'ONNX graph.*state dict'),
    'HDF5': ('weights.h5', b'\x89HDF\r\n\x1a\n' + bytes(99), 'HDF5 file, as Keras.*state dict'),
    'Keras': (
        'model.keras',
        archive(**{'metadata.json': b'{}', 'config.json': b'{}', 'model.weights.h5': b''}),
        'Keras model; give',
    ),
    'arrays': ('w.npz', archive(**{'a.npy': b''}), 'npz archive of arrays'),
    'a picture': ('cat.png', picture(), 'PNG picture, not weights.*--data'),
    'a tar': ('x.tar', tar(), 'tar archive; unpack it'),
    'gzip': ('x.gz', b'\x1f\x8b' + bytes(99), 'gzip; unpack'),
    'a web page': ('resnet.pth', b'<!DOCTYPE html><html>404', 'web page, not weights; download'),
    'a pointer': ('m.safetensors', b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
    'JSON': ('config.json', b'{"architecture": "resnet50"}', 'JSON, not weights; give'),
    'text': ('notes.txt', b'my notes on the training run\n' * 9, 'neither a safetensors file nor'),
    'nothing': ('empty.pth', b'', 'is empty'),
    'transformers': (
        'model.safetensors',
        safetensors.numpy.save({'embeddings.position_embeddings': np.zeros((1, 2, 3))}),
        r'needs its config\.json beside it',
    ),
}


@pytest.mark.parametrize('kind', FILES)
def test_a_file(kind, tmp_path):
    name, content, says = FILES[kind]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f'^{path}: (?s:.*){says}'):
        read_weights(path)


FOLDERS = {
    'empty': ({}, 'folder without weights: it is empty'),
    'pictures': ({'cat.png': picture()}, r'without weights: it has cat\.png'),
    'a SavedModel': ({'saved_model.pb': b'\x08'}, r'SavedModel.*model\.ckpt'),
    'two files': ({'a.pth': b'', 'b.pth': b''}, r'several files of weights, a\.pth, b\.pth'),
    'parts': (
        {
            'model-00001-of-00002.safetensors': b'',
            'model-00002-of-00002.safetensors': b'',
            'model.safetensors.index.json': b'{}',
        },
        'in several parts',
    ),
    'bad JSON': ({'model.safetensors': b'', 'config.json': b'{"a'}, r'config\.json: is no JSON'),
    'a list': (
        {'model.safetensors': b'', 'config.json': b'[]'},
        r'config\.json: is no JSON object',
    ),
    'two checkpoints': ({'a.index': b'', 'b.index': b''}, 'several TensorFlow checkpoints'),
}


@pytest.mark.parametrize('kind', FOLDERS)
def test_a_folder(kind, tmp_path):
    files, says = FOLDERS[kind]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f'^{tmp_path}(?s:.*){says}'):
        read_weights(tmp_path)


def resnet(**change) -> dict[str, np.ndarray]:
    return {k: v for k, v in (made_files.state_dict() | change).items() if v is not None}


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        ({'bn1.weight': None}, r'has no bn1\.weight'),
        ({'layer1.0.se.fc.weight': np.zeros(3)}, r'layer1\.0\.se\.fc\.weight, which it does not'),
        ({'conv1.weight': np.zeros((16, 3, 5, 5), np.float32)}, r'\(16, 3, 5, 5\).*7x7 or a 3x3'),
        ({'layer1.0.conv2.weight': np.zeros((16, 8, 3, 3), np.float32)}, r'conv2\.weight is of'),
        ({'bn1.weight': np.zeros(16, np.int64)}, 'type int64; weights are floats'),
    ],
)
def test_what_is_wrong_with_a_state_dict_is_named(change, says, tmp_path):
    path = tmp_path / 'weights.safetensors'
    safetensors.numpy.save_file(resnet(**change), path)
    with pytest.raises(ConfigError, match=f'^{path}: .*{says}'):
        read_weights(path)


def test_what_is_beside_a_file_of_another_name_is_not_about_it(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'bert'}))
    path = tmp_path / 'weights.safetensors'
    safetensors.numpy.save_file(resnet(), path)
    assert read_weights(path).architecture == made_files.TINY


def test_weights_outlive_their_file(tmp_path):
    """They are no views of it: it may be written again, by an export to the same place."""
    path = tmp_path / 'weights.safetensors'
    safetensors.numpy.save_file(resnet(), path)
    weights = read_weights(path)
    before = weights.variables['params']['encoder']['stem_norm']['scale'].copy()
    with path.open('r+b') as file:
        file.write(bytes(path.stat().st_size))
    np.testing.assert_array_equal(
        weights.variables['params']['encoder']['stem_norm']['scale'], before
    )
