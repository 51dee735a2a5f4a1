"""Evaluation in this process: no figure flatters, and each says what it is of."""

import json
import pathlib
import types

import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from simclr_jax import parallel
from simclr_jax.config import PROBES as NAMES
from simclr_jax.config_loading import load
from simclr_jax.data.factory import open_split
from simclr_jax.modes import evaluation, results, run_evaluation
from simclr_jax.modes.probes import PROBES
from simclr_jax.modes.reporting import load_views, save_views
from simclr_jax.train.setup import prepare

DIGITS = str(pathlib.Path(__file__).parents[2] / 'configs/simclr_digits.py')
FIELDS = {'batch_size': '64', 'eval.batch_size': '256'}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


class Pixels(nn.Module):
    """An encoder without parameters, which needs no compiling to speak of."""

    def __call__(self, images, train):
        assert not train
        return images.reshape(len(images), -1)


def evaluate(fields, workdir, probes, step=0, encoder='pixels'):
    config = load(DIGITS, FIELDS | fields)
    if encoder == 'pixels':
        state = types.SimpleNamespace(step=step, all_variables=lambda: {})
        run = types.SimpleNamespace(
            config=config,
            mesh=parallel.make_mesh(),
            source=open_split(config, config.data.train_split),
            method=types.SimpleNamespace(
                representation=Pixels, chance_loss=lambda batch_size: None
            ),
            init=lambda: state,
        )
    else:
        run = prepare(config)
        state = run.init()
    data = run_evaluation.prepare_evaluation(run, probes)
    workdir.mkdir(exist_ok=True)
    run_evaluation.evaluate_run(run, str(workdir), state, data, probes)
    return data


def test_every_probe_is_a_function_with_a_name():
    assert list(PROBES) == list(NAMES)
    assert all(callable(probe) for probe in PROBES.values())


@pytest.mark.parametrize('encoder', ['pixels', pytest.param('resnet', marks=pytest.mark.slow)])
def test_no_probe_is_above_chance_on_noise_with_random_labels_and_train_split_all(
    encoder, tmp_path
):
    """Raw pixels had 96 % where the test pictures were training pictures too."""
    classes, count = 4, 800
    random = np.random.default_rng(0)
    for i in range(count):
        place = tmp_path / f'pictures/class{random.integers(classes)}/{i:04}.png'
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(place)
    fields = {
        'data.dataset': 'folder',
        'data.path': str(tmp_path / 'pictures'),
        'data.data_dir': str(tmp_path / 'cache'),
        'data.train_split': 'all',
        # The features of `Pixels` are raw pixels, with and without training.
        'eval.baselines': str(encoder != 'pixels'),
    }
    data = evaluate(fields, tmp_path / 'run', tuple(PROBES), encoder=encoder)
    result = results.read(tmp_path / 'run')
    chance = result['knn']['data']['largest_class']  # what a constant guess gets
    error = np.sqrt(chance * (1 - chance) / data.test.num_examples)
    found = [
        values['mean']
        for probe in PROBES
        for accuracies in results.figures(result[probe]).values()
        for values in accuracies.values()
    ]
    assert len(found) == 2 * (1 if encoder == 'pixels' else 3) * 3
    print(f'highest {max(found):.3f}, chance {chance:.3f} +- {error:.3f}')
    assert max(found) < chance + 3 * error, (found, chance, error)
    about = results.subject(result['knn'])
    assert f'{data.test.num_examples} of the test pictures were pretrained on' in about


def test_each_entry_has_its_step_data_and_settings_and_other_rows_stay(data_dir, tmp_path, capsys):
    few = {'data.data_dir': data_dir, 'eval.baselines': 'False', 'knn.labels_per_class': '()'}
    evaluate(few, tmp_path, ('knn',), step=7)
    output = capsys.readouterr().out
    assert output.startswith('evaluating by knn: 1,297 training and 500 test pictures\n')
    assert 'step 7' in output
    half = few | {'eval.test_split': 'test[:50%]', 'linear_eval.labels_per_class': '()'}
    evaluate(half, tmp_path, ('linear_eval',), step=9)
    result = results.read(tmp_path)
    assert [result[probe]['step'] for probe in ('knn', 'linear_eval')] == [7, 9]
    assert result['knn']['data'] | {'largest_class': 0.1} == {
        'name': 'digits',
        'train_split': 'train',
        'test_split': 'test',
        'train_pictures': 1297,
        'test_pictures': 500,
        'largest_class': 0.1,
        'pretrained_on': 0,
    }
    assert result['knn']['settings']['k'] == 20
    assert result['linear_eval']['settings']['protocol'] == 'fast'
    assert result['linear_eval']['data']['test_pictures'] == 250
    # Two headings on the screen, and rows of the report that say which they are.
    output = capsys.readouterr().out
    one, other = output.split('Accuracy in percent on ')[1:]
    assert one.startswith('250 pictures of digits (test[:50%])') and 'linear' in one
    assert other.startswith('500 pictures of digits (test)') and 'k-NN' in other
    assert 'linear' not in other and 'k-NN' not in one
    report = (tmp_path / 'report.html').read_text()
    assert 'k-NN: 500 pictures of digits (test)' in report


def test_a_figure_is_written_before_the_next_probe_runs(data_dir, tmp_path, monkeypatch):
    def fails(subject, config, workdir, train, test):
        raise RuntimeError('out of memory')

    monkeypatch.setitem(PROBES, 'knn', fails)
    few = {'data.data_dir': data_dir, 'eval.baselines': 'False'}
    few |= {'linear_eval.labels_per_class': '()'}
    with pytest.raises(RuntimeError, match='out of memory'):
        evaluate(few, tmp_path, ('linear_eval', 'knn'))
    assert list(results.read(tmp_path)) == ['linear_eval']


def test_what_no_probe_asks_for_is_not_extracted(data_dir, tmp_path, monkeypatch):
    """Neither the untrained encoder nor raw pixels, and a part of the pictures for the report."""
    monkeypatch.setattr(evaluation, '_SAMPLE', 50)
    shown = []
    monkeypatch.setattr(run_evaluation, 'write_run_report', lambda *args: shown.append(args[-2:]))
    evaluate({'data.data_dir': data_dir}, tmp_path, ())
    ((train, test),) = shown
    for split in (train, test):
        assert list(split.features.values) == ['encoder']
        assert len(split.features.labels) == split.source.num_examples == 50
    assert not (tmp_path / 'result.json').exists()


def test_data_without_labels_end_with_a_report(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / 'pictures').mkdir()
    for i in range(70):
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'pictures/{i}.png')
    fields = {
        'data.dataset': 'folder',
        'data.path': str(tmp_path / 'pictures'),
        'data.data_dir': str(tmp_path / 'cache'),
        'data.train_split': 'all',
    }
    data = evaluate(fields, tmp_path / 'run', tuple(PROBES))
    assert not data.labelled
    assert (tmp_path / 'run/report.html').exists()
    assert not (tmp_path / 'run/result.json').exists()


def test_entries_of_earlier_versions_are_shown_as_such(tmp_path):
    figures = {'encoder': {'all': {'mean': 0.5, 'std': 0.0}}}
    entry = {
        'step': 3,
        'data': {
            'name': 'digits',
            'train_split': 'train',
            'test_split': 'test',
            'train_pictures': 10,
            'test_pictures': 5,
            'largest_class': 0.2,
            'pretrained_on': 0,
        },
        'settings': {'protocol': 'byol'},
    }
    (tmp_path / 'result.json').write_text(json.dumps({'knn': figures}))
    results.write(tmp_path, 'linear_eval', figures | entry)
    text = results.format_results(results.read(tmp_path))
    assert text.count('Accuracy in percent on') == 2 and text.count('earlier version') == 1
    assert 'linear, byol' in text


def test_views_are_kept_for_later_reports(tmp_path):
    assert load_views(str(tmp_path)) is None
    views = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4, 1), np.uint8)
    save_views(str(tmp_path), views)
    np.testing.assert_array_equal(load_views(str(tmp_path)), views)
    assert [path.name for path in tmp_path.iterdir()] == ['views.npy']
