"""Fine-tuning as a run: what it learns from, that it learns, and that it goes on to the bit."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import simclr_jax
from simclr_jax.config import ConfigError, resolve_length
from simclr_jax.config_loading import load
from simclr_jax.data import device, splits
from simclr_jax.modes import encoder_file, finetune, labelled
from simclr_jax.workdir.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = str(ROOT / 'configs/finetune_digits.py')
SHORT = {
    'epochs': '2',
    'finetune.min_steps': '30',
    'log.every_steps': '10',
    'log.tensorboard': 'False',
    'start.encoder': 'scratch',
}


def config_of(data_dir, **fields):
    fields = {name.replace('__', '.'): value for name, value in fields.items()}
    return load(DIGITS, SHORT | {'data.data_dir': data_dir} | fields)


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


def chosen(data_dir, labels, draw=0):
    config = config_of(data_dir, finetune__labels=labels, finetune__draw=str(draw))
    opened = labelled.open_labelled(config)
    return labelled.choose(config, opened), opened


def test_labels_are_chosen_alike_by_class_and_nested(data_dir):
    ten, opened = chosen(data_dir, '10')
    assert (np.bincount(splits.read_labels(ten).values) == 10).all()
    assert opened.train.num_examples == 1297 and opened.test.test.num_examples == 500
    records = [
        {*source.identify()}
        for source in (chosen(data_dir, '1')[0], ten, chosen(data_dir, '0.1')[0], opened.train)
    ]
    assert len(records[0]) == 10 and 120 <= len(records[2]) <= 140
    assert records[0] < records[1] < records[2] < records[3]
    assert not records[3] & {*opened.test.test.identify()}
    assert {*chosen(data_dir, '10', draw=1)[0].identify()} != records[1]


def test_more_labels_than_a_class_has_are_refused(data_dir):
    with pytest.raises(ConfigError, match=r"finetune.labels='500': the class '\d' has only 1\d\d "):
        chosen(data_dir, '500')


def test_a_list_of_names_needs_names(data_dir):
    with pytest.raises(ConfigError, match='imagenet2012_subset/1pct'):
        chosen(data_dir, 'names.txt')


def test_several_labels_a_picture_are_refused(data_dir, monkeypatch):
    def opened(config, split, held=None):
        found = splits_of_digits(config, split, held)
        return dataclasses.replace(found, several=np.zeros((found.num_examples, 10)))

    splits_of_digits = labelled.open_split
    monkeypatch.setattr(labelled, 'open_split', opened)
    with pytest.raises(ConfigError, match=r'data\.several_labels=True: .* one label a picture'):
        chosen(data_dir, 'all')


@pytest.mark.parametrize('labels', ['0', '-1', '1.0', 'some', '1.5'])
def test_what_labels_cannot_be(data_dir, labels):
    with pytest.raises(ConfigError, match=r'finetune\.labels='):
        config_of(data_dir, finetune__labels=labels)


def test_few_labels_have_steps_enough_and_a_schedule_of_the_whole_run(data_dir):
    config = config_of(data_dir, epochs='4', finetune__min_steps='30', batch_size='128')
    length = resolve_length(config, 10)
    assert length.total_steps == 30 and length.steps_per_epoch == 7.5 and length.epoch(30) == 4
    assert resolve_length(config, 1280).total_steps == 40
    config.data.drop_remainder = True
    with pytest.raises(ConfigError, match='has only 10 examples'):
        resolve_length(config, 10)


def test_an_encoder_has_to_be_named(data_dir, tmp_path):
    config = config_of(data_dir)
    config.start.encoder = ''
    with pytest.raises(ConfigError, match='--encoder=scratch'):
        finetune.main(config, str(tmp_path / 'run'))


# It takes some fifty steps until the running averages of batch normalization are those of the data.
@pytest.mark.slow
@pytest.mark.parametrize('backend, cache', [('jax', 'device'), ('tf', 'none')])
def test_both_backends_learn_from_ten_labels_a_class(data_dir, tmp_path, backend, cache):
    fields = {'augment__backend': backend, 'data__cache': cache, 'finetune__labels': '10'}
    config = config_of(data_dir, finetune__min_steps='120', **fields)
    finetune.main(config, str(tmp_path / 'run'))
    result = json.loads((tmp_path / 'run/result.json').read_text())
    found = result['finetune']['scratch']['10']
    assert found['mean'] > 0.5 and len(found['per_class']) == 10
    assert result['finetune']['data']['train_pictures'] == 100
    assert result['finetune']['data']['test_pictures'] == 500
    rows = read_metrics(tmp_path / 'run')
    assert rows[-1]['step'] == 120 and rows[-1]['accuracy'] > rows[0]['accuracy']
    # The file is the classifier that was tested.
    classifier = simclr_jax.load(tmp_path / 'run')
    assert classifier.names == tuple(map(str, range(10)))
    test = labelled.open_labelled(config).test.test
    labels, _ = classifier.predict(device.load(test).images)
    right = np.mean(labels == np.array(classifier.names)[splits.all_labels(test)])
    assert right == pytest.approx(found['mean'], abs=0.005)  # one picture may be on the edge
    calibration = result['calibration']
    assert sum(calibration['after']['counts']) == 500 and calibration['held_out_pictures'] == 20
    assert classifier.weights.classifier.temperature == calibration['temperature'] != 1
    # Given again, nothing is trained, and all stays as it is.
    written = (tmp_path / 'run/classifier.safetensors').read_bytes()
    finetune.main(config, str(tmp_path / 'run'))
    assert json.loads((tmp_path / 'run/result.json').read_text()) == result
    assert (tmp_path / 'run/classifier.safetensors').read_bytes() == written
    with pytest.raises(ConfigError, match='take --encoder='):
        encoder_file.checkpoint_weights(str(tmp_path / 'run'))


def start(workdir, data_dir):
    flags = {name: value for name, value in SHORT.items() if name != 'start.encoder'}
    return subprocess.Popen(
        [
            *(sys.executable, 'run.py', '--mode=finetune', f'--config={DIGITS}'),
            *(f'--workdir={workdir}', '--encoder=scratch', '--config.checkpoint.every_steps=5'),
            *(f'--config.{name}={value}' for name, value in flags.items()),
            *('--config.finetune.min_steps=60', '--config.log.every_steps=1'),
            '--config.finetune.calibrate=False',
        ],
        cwd=ROOT,
        env=os.environ
        | {
            'JAX_PLATFORMS': 'cpu',
            'JAX_NUM_CPU_DEVICES': '1',
            'TFDS_DATA_DIR': data_dir,
            'SIMCLR_JAX_CACHE': f'{data_dir}/cache',
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def leaves(workdir):
    with ocp.CheckpointManager(workdir / 'checkpoints') as manager:
        assert manager.latest_step() == 60
        return jax.tree.leaves(manager.restore(60, args=ocp.args.StandardRestore()))


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_bits(data_dir, tmp_path):
    process = start(tmp_path / 'whole', data_dir)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    process = start(tmp_path / 'killed', data_dir)
    metrics = tmp_path / 'killed/metrics.jsonl'
    while not (metrics.exists() and metrics.read_bytes().count(b'\n') >= 12):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = start(tmp_path / 'killed', data_dir)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and 'going on from the checkpoint' in output, output
    pairs = zip(leaves(tmp_path / 'killed'), leaves(tmp_path / 'whole'), strict=True)
    for got, want in pairs:
        np.testing.assert_array_equal(got, want)
    results = [
        json.loads((tmp_path / name / 'result.json').read_text())['finetune']
        for name in ('killed', 'whole')
    ]
    assert results[0] == results[1]
    files = [tmp_path / name / 'classifier.safetensors' for name in ('killed', 'whole')]
    assert files[0].read_bytes() == files[1].read_bytes()
