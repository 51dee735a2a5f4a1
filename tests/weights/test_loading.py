"""`simclr_jax.load`: from whatever lies at a path to an encoder, with few imports."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import simclr_jax
from simclr_jax.config import ConfigError
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture
from simclr_jax.weights.loading import read_weights

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from random_weights import random_weights

ROOT = pathlib.Path(__file__).parents[2]
TINY = Architecture('resnet_tiny', stem='small')


def in_a_process(code, *arguments):
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', code, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_and_a_workdir_are_loaded(tmp_path):
    weights = random_weights(TINY)
    native.save(tmp_path / native.NAME, weights)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    by_file = simclr_jax.load(tmp_path / native.NAME)
    by_workdir = simclr_jax.load(str(tmp_path))
    assert by_file.architecture == by_workdir.architecture == TINY
    np.testing.assert_array_equal(by_file(images), by_workdir(images))
    assert simclr_jax.load(tmp_path, dtype='bfloat16').dtype == 'bfloat16'


def test_another_name_will_do(tmp_path):
    native.save(tmp_path / 'mine.bin', random_weights(TINY))
    assert read_weights(tmp_path / 'mine.bin').architecture == TINY


def test_a_folder_with_one_file_of_ours_is_that_file_whatever_its_name(tmp_path):
    native.save(tmp_path / 'mine.safetensors', random_weights(TINY))
    # What a run keeps of the weights that it started from is not what it makes.
    resnet = random_weights(Architecture('resnet_tiny', stem='imagenet'))
    native.save(tmp_path / 'start.safetensors', resnet)
    assert read_weights(tmp_path).architecture == TINY
    native.save(tmp_path / 'other.safetensors', resnet)
    names = r'holds 2 files of encoders, mine\.safetensors, other\.safetensors; name one of them'
    with pytest.raises(ConfigError, match=names):
        read_weights(tmp_path)
    native.save(tmp_path / native.NAME, resnet)  # the name that a workdir has it by
    assert read_weights(tmp_path).architecture.stem == 'imagenet'


def test_a_workdir_without_a_file_says_how_to_write_it(tmp_path):
    (tmp_path / 'config.json').write_text('{}')
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(ConfigError, match=r'--mode=export --format=native --workdir=/\S+$') as e:
        read_weights(tmp_path)
    assert str(tmp_path) in str(e.value)


def test_what_is_not_there(tmp_path):
    for name in ('none', 'none/none.safetensors'):
        with pytest.raises(ConfigError, match=f'{tmp_path / name}: '):
            read_weights(tmp_path / name)


def test_a_damaged_file_of_ours_is_not_taken_for_anothers(tmp_path):
    native.save(tmp_path / native.NAME, random_weights(TINY))
    content = bytearray((tmp_path / native.NAME).read_bytes())
    content[-3] ^= 1
    (tmp_path / native.NAME).write_bytes(content)
    with pytest.raises(ConfigError, match='does not match its checksum'):
        read_weights(tmp_path / native.NAME)
    (tmp_path / native.NAME).write_bytes(content[:-100])
    with pytest.raises(ConfigError, match='damaged'):
        read_weights(tmp_path / native.NAME)


def test_the_package_alone_imports_neither_jax_nor_tensorflow():
    code = (
        'import sys, simclr_jax; print({"jax", "flax", "numpy", "tensorflow"} & set(sys.modules))'
    )
    assert in_a_process(code) == 'set()\n'


def test_load_and_the_first_feature_need_few_packages(tmp_path):
    native.save(tmp_path / native.NAME, random_weights(TINY))
    code = (
        'import sys\n'
        # What is None here cannot be imported.
        'blocked = ["tensorflow", "tensorflow_datasets", "orbax", "orbax.checkpoint", "optax",\n'
        '           "sklearn", "matplotlib", "grain", "torch"]\n'
        'sys.modules.update(dict.fromkeys(blocked))\n'
        'import simclr_jax\n'
        'encoder = simclr_jax.load(sys.argv[1])\n'
        'import numpy\n'
        'print(encoder(numpy.zeros((1, 48, 40, 3), numpy.uint8)).shape)\n'
        'assert not any(sys.modules[name] for name in blocked)\n'
    )
    assert in_a_process(code, str(tmp_path)) == '(1, 128)\n'
