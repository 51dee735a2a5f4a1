"""Segmentation as a run: what it learns, what it says, and that it goes on to the bit."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from simclr_jax.config import ConfigError
from simclr_jax.config_loading import load
from simclr_jax.modes import segment, start
from simclr_jax.train import memory
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture
from simclr_jax.workdir.metrics import read_metrics

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'weights'))
from random_weights import random_weights

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = str(ROOT / 'configs/segment_folder.py')
SHORT = {
    'batch_size': '8',
    'epochs': '30',
    'data.image_size': '16',
    'segment.memory': '300',
    'segment.neighbours': '5',
    'segment.distort': 'False',
    'segment.scale': '(0.75,1.5)',
    'optimizer.learning_rate': '0.02',
    'optimizer.warmup_epochs': '0',
    'log.every_steps': '1',
    'log.tensorboard': 'False',
    'checkpoint.every_steps': '10',
}
COLOURS = np.array([[200, 40, 40], [40, 200, 60], [50, 60, 210]], np.uint8)
STEPS = 30


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Pictures of three classes that differ in colour, under noise; a border is ignored."""
    root, random = tmp_path_factory.mktemp('segment') / 'pictures', np.random.default_rng(0)
    for split, count in (('train', 8), ('val', 2), ('test', 5)):
        for kind in ('images', 'masks'):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            classes = random.integers(0, 3, (3, 4)).repeat(8, axis=0).repeat(8, axis=1)
            picture = COLOURS[classes] + random.normal(0, 20, (24, 32, 3))
            classes[:, :2] = 255
            picture = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
            picture.save(root / split / 'images' / f'{i}.png')
            Image.fromarray(classes.astype(np.uint8)).save(root / split / 'masks' / f'{i}.png')
    (root / 'classes.txt').write_text('red\ngreen\nblue\n')
    native.save(
        root.parent / 'encoder.safetensors',
        random_weights(Architecture('resnet_tiny', stem='small')),
    )
    return root


def config_of(folder, **fields):
    fields = {name.replace('__', '.'): value for name, value in fields.items()}
    own = {
        'data.path': str(folder),
        'data.data_dir': str(folder.parent / 'data'),
        'start.encoder': str(folder.parent / 'encoder.safetensors'),
    }
    return load(RECIPE, SHORT | own | fields)


def run(config, workdir):
    config, _ = start.settle(config, str(workdir), trains=True)
    segment.main(config, str(workdir))
    return json.loads((workdir / 'result.json').read_text())['segment']


@pytest.mark.slow
def test_probes_and_retrieval_learn_colours(folder, tmp_path, capsys):
    found = run(config_of(folder), tmp_path / 'run')
    assert {*found} >= {'linear', 'plain', 'retrieval'}
    for head in ('linear', 'plain', 'retrieval'):
        assert [*found[head]] == ['encoder', 'untrained', 'raw_pixels']
    figures = found['linear']['raw_pixels']
    assert figures['miou'] > 0.8 and figures['pixel_accuracy'] > 0.85
    assert [*figures['per_class']] == ['red', 'green', 'blue']
    np.testing.assert_allclose(figures['miou'], np.mean([*figures['per_class'].values()]))
    assert found['retrieval']['raw_pixels']['miou'] > 0.8
    printed = capsys.readouterr().out
    assert 'mIoU' in printed and 'raw_pixels' in printed and 'not used: the split' in printed
    page = (tmp_path / 'run/report.html').read_text()
    assert 'green' in page
    # The same command again trains nothing, and finds the same.
    assert run(config_of(folder), tmp_path / 'run') == found


@pytest.mark.slow
def test_an_encoder_that_is_trained(folder, tmp_path):
    config = config_of(
        folder, segment__trained='all', segment__dilated='1', optimizer__learning_rate='0.003'
    )
    found = run(config, tmp_path / 'run')
    assert [*found['fcn']] == ['encoder'] and 'retrieval' not in found
    assert found['fcn']['encoder']['miou'] > 0.5
    rows = read_metrics(tmp_path / 'run')
    assert len(rows) == STEPS and rows[-1]['loss'] < 0.7 * rows[0]['loss']


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'start__encoder': ''}, 'name the encoder with --encoder'),
        ({'start__encoder': 'scratch'}, '--encoder=scratch: probes need a trained encoder'),
        ({'eval__test_split': 'train'}, "eval.test_split='train': is what the probes are trained"),
        ({'segment__names': "('a','b')"}, 'segment.names: has 2 names'),
        ({'data__path': '/no/such/folder'}, 'data.path'),
    ],
)
def test_mistakes(folder, tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        run(config_of(folder, **fields), tmp_path / 'run')
    assert not (tmp_path / 'run/config.json').exists()


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'segment__scale': '(2.0,0.5)'}, r'segment.scale=\(2.0, 0.5\): must hold two numbers'),
        ({'segment__ignore': '(-1,)'}, r'segment.ignore=\(-1,\)'),
        ({'segment__step': '17'}, 'segment.step=17: must be at most data.image_size=16'),
        ({'segment__names': "('a','a')"}, 'segment.names'),
        ({'augment__backend': 'jax'}, "augment.backend='jax'"),
        ({'optimizer__accumulation_steps': '2'}, 'optimizer.accumulation_steps=2'),
        ({'data__drop_remainder': 'True'}, 'data.drop_remainder=True: .* leave it at False'),
    ],
)
def test_values_that_are_refused_at_once(folder, fields, message):
    with pytest.raises(ConfigError, match=message):
        config_of(folder, **fields)


def test_more_layers_than_there_are(folder, tmp_path):
    with pytest.raises(ConfigError, match=r'segment\.layers=4: .* has 3 layers only'):
        run(config_of(folder, segment__layers='4'), tmp_path / 'run')


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_said_with_one_that_does(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, 'available', lambda mesh: 8e6)
    with pytest.raises(ConfigError, match='a step of 512 pictures at 16 pixels') as error:
        run(config_of(folder, batch_size='512', segment__baselines='False'), tmp_path / 'run')
    fits = re.search(r'--config.batch_size=(\d+)', str(error.value))
    assert int(fits[1]) < 512 and 'model.encoder=' not in str(error.value)
    assert not (tmp_path / 'run/config.json').exists()


def leaves(workdir):
    with ocp.CheckpointManager(workdir / 'checkpoints') as manager:
        assert manager.latest_step() == 400
        state = manager.restore(400, args=ocp.args.StandardRestore())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_bits(folder, tmp_path):
    """In real processes: SIGKILL in the middle of the training."""
    own = {
        'data.path': folder,
        'data.data_dir': folder.parent / 'data',
        'segment.memory': 0,
        'epochs': 400,
        'log.every_steps': 10,
        'checkpoint.every_steps': 20,
    }
    fields = [f'--config.{name}={value}' for name, value in (SHORT | own).items()]
    encoder = f'--encoder={folder.parent / "encoder.safetensors"}'
    command = [sys.executable, 'run.py', f'--config={RECIPE}', '--mode=segment', encoder, *fields]
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache'),
    }

    def begin(name):
        with (tmp_path / f'{name}.log').open('w') as log:
            return subprocess.Popen(
                [*command, f'--workdir={tmp_path / name}'],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def finish(process, name):
        status = process.wait(300)
        log = (tmp_path / f'{name}.log').read_text()
        assert status == 0, log
        return log

    undisturbed, killed = begin('undisturbed'), begin('killed')
    while killed.poll() is None:
        # Of two checkpoints the first is whole.
        if len([*(tmp_path / 'killed').glob('checkpoints/[0-9]*0')]) > 1:
            killed.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert killed.wait() == -signal.SIGKILL
    finish(undisturbed, 'undisturbed')
    again = begin('killed')
    assert 'going on from the checkpoint of step' in finish(again, 'killed')
    for one, other in zip(
        leaves(tmp_path / 'killed'), leaves(tmp_path / 'undisturbed'), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    results = [
        json.loads((tmp_path / name / 'result.json').read_text())['segment']
        for name in ('killed', 'undisturbed')
    ]
    assert results[0] == results[1]
