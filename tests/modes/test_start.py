"""Going on from weights: what is set from them, what is refused, and where a run then starts."""

import dataclasses
import pathlib
import sys

import jax
import numpy as np
import pytest

from simclr_jax import parallel
from simclr_jax.config import ConfigError, to_json
from simclr_jax.config_loading import check_same_run, load, load_saved
from simclr_jax.data.sources import Source
from simclr_jax.modes import start
from simclr_jax.train.setup import assemble, prepare
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture, checksum

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'weights'))
from random_weights import random_weights

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
DIGITS = str(CONFIGS / 'simclr_digits.py')
TINY = Architecture('resnet_tiny', stem='small', padding='simclr')
SOURCE = Source(
    read=None, num_examples=1297, image_shape=(8, 8, 1), label_names=tuple('0123456789')
)

SOURCE_RGB = dataclasses.replace(SOURCE, image_shape=(32, 32, 3))


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


@pytest.fixture(scope='module')
def weights():
    return random_weights(TINY, size=8, channels=1, mean=(0.25,), std=(0.75,))


@pytest.fixture
def file(weights, tmp_path):
    native.save(tmp_path / native.NAME, weights)
    return str(tmp_path / native.NAME)


def settle(fields, workdir='', trains=True, recipe=DIGITS):
    return start.settle(load(recipe, fields), str(workdir), trains=trains)


def claim(workdir, config):
    """Leaves what a run leaves at its first start, and takes the file away if told."""
    workdir.mkdir()
    (workdir / 'config.json').write_text(to_json(config))


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), want)


@pytest.mark.parametrize(
    'name',
    [
        'simclr',
        pytest.param('byol', marks=pytest.mark.slow),
        pytest.param('moco_v2', marks=pytest.mark.slow),
        'moco_v3',
    ],
)
def test_the_encoder_and_what_follows_it_start_as_the_weights(name, weights, file):
    recipe = str(CONFIGS / f'{name}_digits.py')
    config, _ = settle({'start.encoder': file}, recipe=recipe)
    run = assemble(config, parallel.make_mesh(jax.devices()[:1]), SOURCE)
    run = dataclasses.replace(run, start=start.read(config, ''))
    state, random = run.init(), run.init_at_random()
    want = {name: tree['encoder'] for name, tree in weights.variables.items()}
    assert_same(state.encoder_variables(), want)
    if name != 'simclr':
        follower = state.extra['key_network'] if name == 'moco_v2' else state.extra
        found = {kind: tree['encoder'] for kind, tree in follower.items() if kind in want}
        assert_same(found, want)
    before, after = jax.device_get((random, state))
    for part in before.params:
        if part == 'encoder':
            kernels = (tree.params[part]['stem_conv']['kernel'] for tree in (before, after))
            assert not np.array_equal(*kernels)
        else:  # heads start as ever
            assert_same(after.params[part], before.params[part])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), run.abstract_state()
    )


def test_architecture_and_pixels_follow_from_the_file(weights, file):
    config, lines = settle({'start.encoder': file, 'data.std': '(0.5,)', 'model.stem': 'auto'})
    model = config.model
    assert (model.encoder, model.stem, model.padding) == ('resnet_tiny', 'auto', 'simclr')
    assert config.data.mean == (0.25,) and config.data.std == (0.5,)
    assert config.start.checksum == checksum(weights) and config.start.given == ()
    assert lines[0] == f'data.std=(0.5,) as given; start.encoder={file!r} has (0.75,)'
    assert lines[1].startswith(
        f'starting from {file} (simclr_jax, checksum {checksum(weights)[:12]}'
    )
    assert '--config.model.padding=simclr' in lines[1]
    assert 'data.std' not in lines[1] and 'patch_size' not in lines[1]
    assert start.read(config, '') is not None
    assert settle({})[0].start.checksum == ''


def test_what_the_machine_would_choose_is_the_files_to_decide(file, tmp_path):
    config = settle({'start.encoder': file}, recipe=str(CONFIGS / 'simclr_folder.py'))[0]
    assert 'model.encoder' not in config.auto and 'batch_size' in config.auto
    assert config.model.encoder == 'resnet_tiny'


def test_a_field_that_contradicts_is_named_beside_what_the_file_has(file):
    with pytest.raises(ConfigError) as error:
        settle({'start.encoder': file, 'model.padding': 'torch', 'model.encoder': 'resnet18'})
    first, second = str(error.value).splitlines()
    assert first == (
        f"model.encoder='resnet18': start.encoder={file!r} has 'resnet_tiny'; leave it out"
    )
    assert second.startswith("model.padding='torch'") and "has 'simclr'" in second
    # What says the same is no contradiction.
    settle({'start.encoder': file, 'model.padding': 'simclr', 'model.stem': 'small'})


def test_a_vit_comes_with_its_heads_patches_and_epsilon(tmp_path):
    path = str(tmp_path / 'vit.safetensors')
    native.save(path, random_weights(Architecture('vit_ti16', patch_size=8, epsilon=1e-5), size=32))
    fields = {'start.encoder': path, 'data.image_size': '32', 'model.num_heads': '3'}
    config = settle(fields)[0]
    assert config.model.patch_size == 8 and config.model.epsilon == 1e-5
    encoder = assemble(config, parallel.make_mesh(), SOURCE_RGB).method.encoder
    assert encoder.epsilon == 1e-5 and encoder.num_heads == 3
    with pytest.raises(ConfigError, match=r'model\.num_heads=6: .* has 3'):
        settle(fields | {'model.num_heads': '6'})


def test_learned_positions_are_for_one_size(tmp_path):
    path = str(tmp_path / 'vit.safetensors')
    native.save(path, random_weights(Architecture('vit_ti16', positions='learned'), size=32))
    with pytest.raises(ConfigError, match=r'image_size=8: .* give --config.data.image_size=32'):
        settle({'start.encoder': path})
    assert settle({'start.encoder': path, 'data.image_size': '32'})[0].model.positions == 'learned'
    folder = str(CONFIGS / 'simclr_folder.py')
    config, lines = settle({'start.encoder': path}, recipe=folder)
    assert config.data.image_size == 32 and '--config.data.image_size=32' in lines[0]


def test_pictures_of_other_channels_are_refused(data_dir, tmp_path):
    path = str(tmp_path / 'colour.safetensors')
    native.save(path, random_weights(TINY, size=8))
    config = settle({'start.encoder': path, 'data.data_dir': data_dir})[0]
    with pytest.raises(ConfigError, match=r'takes pictures of 3 channel.* of digits have 1'):
        prepare(config, start=start.read(config, ''))


def test_a_checksum_that_is_given_is_compared(weights, file):
    settle({'start.encoder': file, 'start.checksum': checksum(weights)})
    with pytest.raises(ConfigError, match=f'{checksum(weights)}, but wanted is abc'):
        settle({'start.encoder': file, 'start.checksum': 'abc'})
    with pytest.raises(ConfigError, match=r'start\.checksum.* needs start.encoder'):
        load(DIGITS, {'start.checksum': 'abc'})
    with pytest.raises(ConfigError, match='no/such'):
        settle({'start.encoder': 'no/such'})


def test_a_run_remembers_what_it_started_from(weights, file, tmp_path):
    began = settle({'start.encoder': file})[0]
    workdir = tmp_path / 'run'
    claim(workdir, began)
    start.keep(str(workdir), weights)
    # Neither the flag nor, later, the file is needed.
    for gone in (False, True):
        if gone:
            pathlib.Path(file).unlink()
        for config in (load(DIGITS), load(DIGITS, {'start.encoder': file}), load_saved(workdir)):
            found = start.settle(config, str(workdir), trains=True)[0]
            check_same_run(found, to_json(began), str(workdir))
            assert to_json(found) == to_json(began)
            assert checksum(start.read(found, str(workdir))) == found.start.checksum
    # What is given is compared with the run, as any field is.
    given = start.settle(load(DIGITS, {'data.mean': '(0.1,)'}), str(workdir), trains=True)[0]
    with pytest.raises(ConfigError, match=r'data\.mean: \[0\.25\] there, \[0\.1\] now'):
        check_same_run(given, to_json(began), str(workdir))
    (workdir / 'start.safetensors').unlink()
    run = assemble(began, parallel.make_mesh(), SOURCE)
    assert start.read(began, str(workdir)) is None
    with pytest.raises(ConfigError, match='is not there, nor its copy'):
        run.init()


def test_another_file_under_the_same_path_is_refused(weights, file, tmp_path):
    began = settle({'start.encoder': file})[0]
    claim(tmp_path / 'run', began)
    moved = str(tmp_path / 'moved.safetensors')
    native.save(moved, weights)
    other = dataclasses.replace(
        weights, preprocess=dataclasses.replace(weights.preprocess, mean=(0.3,))
    )
    native.save(file, other)
    for fields in ({}, {'start.encoder': file}):
        with pytest.raises(ConfigError) as error:
            settle(fields, tmp_path / 'run')
        assert checksum(weights) in str(error.value) and checksum(other) in str(error.value)
    assert settle({}, tmp_path / 'run', trains=False)[0].start.checksum == checksum(weights)
    # The same weights under another name are the same.
    found = settle({'start.encoder': moved}, tmp_path / 'run')[0]
    check_same_run(found, to_json(began), 'run')
    with pytest.raises(ConfigError, match='no/such'):
        settle({'start.encoder': 'no/such'}, tmp_path / 'run')


def test_a_run_that_started_at_random_does_not_go_on_from_weights(file, tmp_path):
    claim(tmp_path / 'run', settle({})[0])
    with pytest.raises(ConfigError, match='already holds a run, which started at random'):
        settle({'start.encoder': file}, tmp_path / 'run')


def test_a_copy_that_is_not_of_this_run_is_not_taken(weights, file, tmp_path):
    """It may be left by a command that failed."""
    config = settle({'start.encoder': file})[0]
    other = dataclasses.replace(
        weights, preprocess=dataclasses.replace(weights.preprocess, mean=(0.3,))
    )
    start.keep(str(tmp_path), other)
    assert checksum(start.read(config, str(tmp_path))) == checksum(weights)
    start.keep(str(tmp_path), weights)
    assert checksum(native.read(tmp_path / 'start.safetensors')) == checksum(weights)


VIT = Architecture('vit_ti16', num_heads=3, positions='learned')
MAE = {'finetune.pooling': 'patches', 'batch_size': '8', 'data.image_size': '32'}


def file_of(tmp_path, architecture):
    weights = random_weights(architecture, size=32, mean=(0.5,), std=(0.25,))
    native.save(tmp_path / native.NAME, weights)
    return weights, str(tmp_path / native.NAME)


def test_a_vit_may_be_fine_tuned_by_the_mean_of_its_patches(tmp_path):
    weights, file = file_of(tmp_path, VIT)
    recipe = str(CONFIGS / 'finetune_digits.py')
    config, lines = settle(MAE | {'start.encoder': file}, recipe=recipe)
    assert config.model.pooling == 'token' and 'model.pooling=token' in lines[-1]
    run = assemble(config, parallel.make_mesh(jax.devices()[:1]), SOURCE_RGB, weights)
    encoder = jax.device_get(run.init().params['encoder'])
    norm = encoder.pop('fc_norm')
    assert (norm['scale'] == 1).all() and not norm['bias'].any()  # MAE's `fc_norm`
    want = dict(weights.variables['params']['encoder'])
    want.pop('norm')  # of the class token, which no longer leaves the network
    assert_same(encoder, want)


@pytest.mark.parametrize(
    ('architecture', 'match'),
    [
        (TINY, "finetune.pooling='patches': is for a ViT .*'resnet_tiny' is none; leave"),
        (
            dataclasses.replace(VIT, pooling='mean'),
            r"'vit_ti16' is none \(model.pooling=mean\); leave",
        ),
    ],
)
def test_other_encoders_have_no_patches_beside_a_class_token(architecture, match, tmp_path):
    _, file = file_of(tmp_path, architecture)
    with pytest.raises(ConfigError, match=match):
        settle(MAE | {'start.encoder': file}, recipe=str(CONFIGS / 'finetune_digits.py'))


def test_fine_tuning_sees_pictures_of_the_size_that_the_encoder_knows(tmp_path):
    _, file = file_of(tmp_path, Architecture('resnet_tiny', stem='small'))
    recipe, fields = str(CONFIGS / 'finetune_folder.py'), {'start.encoder': file, 'data.path': '/x'}
    config, _ = settle(fields, recipe=recipe)
    assert config.data.image_size == 32 and config.auto == (
        'batch_size',
        'model.dtype',
        'augment.dtype',
    )
    config, _ = settle(fields | {'data.image_size': '48'}, recipe=recipe)
    assert config.data.image_size == 48
    pretraining = str(CONFIGS / 'simclr_folder.py')
    assert 'data.image_size' in settle(fields, recipe=pretraining)[0].auto
