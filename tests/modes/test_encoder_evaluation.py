"""Evaluation of an encoder file: the figures of the run that wrote it, with no run there."""

import dataclasses
import pathlib
import sys

import jax
import numpy as np
import pytest

from simclr_jax.config import ConfigError
from simclr_jax.config_loading import load
from simclr_jax.modes import knn, linear_eval, results, run_evaluation, start
from simclr_jax.modes.subject import network_of
from simclr_jax.train.setup import prepare
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture, Head, checksum

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'weights'))
from random_weights import random_weights

DIGITS = str(pathlib.Path(__file__).parents[2] / 'configs/simclr_digits.py')
TINY = Architecture('resnet_tiny', stem='small', padding='simclr')
FEW = {
    'batch_size': '64',
    'eval.batch_size': '256',
    'linear_eval.labels_per_class': '()',
    'knn.draws': '2',
}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


@pytest.fixture(scope='module')
def weights():
    return random_weights(TINY, size=8, channels=1, mean=(0.25,), std=(0.75,))


@pytest.fixture(scope='module')
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'mine.safetensors'
    native.save(path, weights)
    return str(path)


@pytest.fixture(scope='module', params=['knn', pytest.param('linear_eval', marks=pytest.mark.slow)])
def probe(request):
    return request.param


@pytest.fixture(scope='module')
def of_the_run(probe, file, data_dir, tmp_path_factory):
    """The evaluation of a run that started from the file and took no step."""
    workdir = tmp_path_factory.mktemp('run')
    fields = FEW | {'data.data_dir': data_dir, 'start.encoder': file}
    config, _ = start.settle(load(DIGITS, fields), str(workdir), trains=True)
    run = prepare(config, start=start.read(config, str(workdir)))
    data = run_evaluation.prepare_evaluation(run, (probe,))
    run_evaluation.evaluate_run(run, str(workdir), run.init(), data, (probe,))
    return workdir


def test_a_run_that_started_from_weights_shows_them_as_a_row(of_the_run, probe, file, weights):
    result = results.read(of_the_run)
    rows = results.figures(result[probe])
    assert list(rows) == ['encoder', 'start', 'untrained', 'raw_pixels']
    assert rows['encoder'] == rows['start'] != rows['untrained']
    assert 'start' in results.format_results(result).splitlines()[2]
    report = (of_the_run / 'report.html').read_text()
    assert file in report and checksum(weights) in report


@pytest.mark.slow
def test_a_file_has_the_figures_of_its_run(of_the_run, probe, file, weights, data_dir, tmp_path):
    # Size and normalization are the file's, whatever the config has.
    others = {'data.mean': '(0.9,)', 'data.image_size': '16', 'model.encoder': 'resnet18'}
    config = load(DIGITS, FEW | others | {'data.data_dir': data_dir})
    {'knn': knn, 'linear_eval': linear_eval}[probe].main(
        config, str(tmp_path / 'probe'), encoder=file
    )
    entry = results.read(tmp_path / 'probe')[probe]
    want = results.figures(results.read(of_the_run)[probe])
    assert want.pop('start') == want['encoder']
    assert results.figures(entry) == want
    about = entry['weights']
    assert (about['path'], about['layout']) == (file, 'simclr_jax')
    assert about['checksum'] == checksum(weights) and about['preprocess']['size'] == 8
    assert entry['data']['pretrained_on'] is None and 'step' not in entry
    assert f'{file} (simclr_jax, checksum' in results.subject(entry)
    assert checksum(weights) in (tmp_path / 'probe/report.html').read_text()
    assert not (tmp_path / 'probe/config.json').exists()


@pytest.mark.slow
def test_a_papers_protocol_evaluates_a_file(file, data_dir, tmp_path):
    fields = {'protocol': 'simclr_cifar', 'batch_size': '256', 'epochs': '1'}
    fields = {f'linear_eval.{name}': value for name, value in fields.items()}
    config = load(DIGITS, FEW | fields | {'data.data_dir': data_dir})
    linear_eval.main(config, str(tmp_path), encoder=file)
    found = results.figures(results.read(tmp_path)['linear_eval'])
    assert list(found) == ['encoder'] and 0 < found['encoder']['all']['mean'] <= 1


def test_pictures_get_the_channels_that_the_encoder_takes(data_dir, tmp_path, capsys):
    native.save(tmp_path / 'colour.safetensors', random_weights(TINY, size=8))
    fields = {'data.data_dir': data_dir, 'eval.baselines': 'False', 'knn.labels_per_class': '()'}
    config = load(DIGITS, FEW | fields | {'data.cache': 'none', 'augment.backend': 'tf'})
    knn.main(config, str(tmp_path / 'probe'), encoder=str(tmp_path / 'colour.safetensors'))
    assert 'have 1 channel(s), the encoder takes 3: grey is repeated' in capsys.readouterr().out
    assert results.read(tmp_path / 'probe')['knn']['encoder']['all']['mean'] > 0.3


def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(file, data_dir, tmp_path):
    config = load(DIGITS, FEW | {'data.data_dir': data_dir})
    workdir = tmp_path / 'probe'
    with pytest.raises(ConfigError, match='--step=3: names a checkpoint'):
        knn.main(config, str(workdir), step=3, encoder=file)
    with pytest.raises(ConfigError, match='no/such'):
        knn.main(config, str(workdir), encoder='no/such')
    odd = load(DIGITS, FEW | {'data.data_dir': data_dir, 'eval.batch_size': '100'})
    with pytest.raises(ConfigError, match=r'eval\.batch_size=100'):
        knn.main(odd, str(workdir), encoder=file)
    assert not workdir.exists()
    workdir.mkdir()
    (workdir / 'config.json').write_text('{}')
    with pytest.raises(ConfigError, match='holds a run, whose figures'):
        knn.main(config, str(workdir), encoder=file)


def test_a_kept_layer_of_the_head_is_what_is_evaluated(data_dir, tmp_path):
    """As in SimCLR v2: of the run's figures, too, its row is the file's."""
    head = Head(16, 8, 3, output_norm='scale_only')
    weights = random_weights(
        dataclasses.replace(TINY, head=head, head_layers=1), size=8, channels=1
    )
    native.save(tmp_path / 'v2.safetensors', weights)
    fields = FEW | {'data.data_dir': data_dir, 'start.encoder': str(tmp_path / 'v2.safetensors')}
    config, _ = start.settle(load(DIGITS, fields), str(tmp_path / 'run'), trains=True)
    run = prepare(config, start=start.read(config, ''))
    module, variables = network_of(run.start, run.mesh, 'float32')
    images = jax.ShapeDtypeStruct((2, 8, 8, 1), np.float32)
    features = jax.eval_shape(lambda v, x: module.apply(v, x, train=False), variables, images)
    assert features.shape == (2, 16)
    assert run.method.representation().head_layers == 0  # the run's own head starts at random
