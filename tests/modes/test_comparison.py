"""The comparison that fine-tuning ends with, on real digits, with trainings that are quick."""

import json
import pathlib

import jax
import numpy as np
import pytest
from flax import linen as nn

from simclr_jax import parallel
from simclr_jax.config import RunError
from simclr_jax.config_loading import load
from simclr_jax.data import splits
from simclr_jax.data.factory import open_split
from simclr_jax.evaluate.predictions import likeliest
from simclr_jax.modes import comparison, results
from simclr_jax.modes.encoder_file import preprocess_of
from simclr_jax.modes.eval_data import open_eval_data
from simclr_jax.modes.subject import Network, Subject

DIGITS = str(pathlib.Path(__file__).parents[2] / 'configs/simclr_digits.py')
FIELDS = {'eval.batch_size': '256', 'finetune.draws': '2', 'finetune.compare': "('knn', 'scratch')"}


class Pixels(nn.Module):
    """An encoder without parameters, which needs no compiling to speak of."""

    def __call__(self, images, train):
        assert not train
        return images.reshape(len(images), -1)


class Nearest:
    """Trains by remembering the mean picture of each class, and counts how often."""

    def __init__(self, config, data, dies_at=None):
        self._test = data.test
        self._dies_at = dies_at
        self.trials = []

    def __call__(self, trial, source):
        if len(self.trials) == self._dies_at:
            raise RunError('the power is gone')
        self.trials.append((trial, splits.all_labels(source)))
        train, test = (pixels(x) for x in (source, self._test))
        labels = splits.all_labels(source)
        means = np.stack([train[labels == label].mean(0) for label in range(10)])
        distance = ((test[:, None] - means[None]) ** 2).sum(-1)
        closeness = np.exp(-distance if trial.way == 'fine_tuned' else -distance / 99)
        return likeliest(closeness / closeness.sum(1, keepdims=True))


def pixels(source):
    from simclr_jax.data import device

    return device.load(source).images.reshape(source.num_examples, -1) / 255


@pytest.fixture(scope='module')
def opened():
    config = load(DIGITS, FIELDS)
    source = open_split(config, config.data.train_split)
    # One device: more of them would compile the same programs again.
    subject = Subject(
        Network(Pixels(), {}),
        preprocess_of(config, 1, source.intensity),
        parallel.make_mesh(jax.devices()[:1]),
        'pixels',
        about={'weights': {'path': 'runs/mine', 'layout': 'simclr_jax', 'checksum': 'abc' * 20}},
    )
    return config, subject, open_eval_data(config, source, needed=True)


def run(opened, workdir, fit=None, **fields):
    config, subject, data = opened
    config = config.copy_and_resolve_references()
    config.finetune.update(fields)
    fit = fit or Nearest(config, data)
    own = likeliest(np.eye(10)[splits.all_labels(data.test)])
    return comparison.compare(subject, config, str(workdir), data, own, fit), fit


@pytest.mark.parametrize(
    'others',
    [('knn', 'scratch'), pytest.param(('linear', 'knn', 'scratch'), marks=pytest.mark.slow)],
)
def test_every_way_is_given_the_same_labels_and_all_of_it_is_written(
    others, opened, tmp_path, capsys
):
    found, fit = run(opened, tmp_path, compare=others)
    entry = results.read(tmp_path)['finetune']
    assert entry == json.loads(json.dumps(found.entry))
    ways = results.figures(entry)
    assert list(ways) == ['fine_tuned', *others]
    for figures in ways.values():
        assert list(figures) == ['all', '10', '1']
        assert [len(value['draws']) for value in figures.values()] == [1, 2, 2]
        assert all(len(value['per_class']) == 10 for value in figures.values())
        assert figures['all']['mean'] > figures['10']['mean'] > figures['1']['mean'] > 0.3
    assert ways['fine_tuned']['all']['mean'] == 1.0  # what the run's own classifier said
    trained = {
        (trial.way, trial.labels, trial.draw): np.bincount(labels) for trial, labels in fit.trials
    }
    assert len(trained) == 2 * 2 * 2 + 1  # the run's own training is not done again
    assert trained['scratch', 10, 1].tolist() == [10] * 10
    assert entry['data']['test_pictures'] == 500
    text = capsys.readouterr().out
    assert 'knn, labels: 10, draw 2 of 2: ' in text
    table = results.format_results({'finetune': entry})
    assert 'runs/mine (simclr_jax, checksum abcabcabcabc)' in table
    heads = {'linear': 'linear', 'knn': 'k-NN', 'scratch': 'from scratch'}
    expected = ['accuracy', 'labels', 'fine-tuned', *(heads[way] for way in others)]
    assert table.splitlines()[2].split() == ' '.join(expected).split()


def test_what_is_finished_is_not_done_again_and_the_end_is_the_same_bits(opened, tmp_path):
    whole, _ = run(opened, tmp_path / 'whole')
    data = opened[2]
    done = []
    for dies_at in (3, 2):
        fit = Nearest(None, data, dies_at)
        with pytest.raises(RunError, match='the power is gone'):
            run(opened, tmp_path / 'killed', fit)
        done += [trial for trial, _ in fit.trials]
    found, fit = run(opened, tmp_path / 'killed')
    done += [trial for trial, _ in fit.trials]
    assert len(done) == len(set(done)) == 9
    assert found.entry == whole.entry
    again, fit = run(opened, tmp_path / 'killed')
    assert fit.trials == [] and again.entry == whole.entry
    # More draws are added to those that are there.
    _, fit = run(opened, tmp_path / 'killed', draws=3)
    assert {trial.draw for trial, _ in fit.trials} == {2}


def test_counts_that_a_class_is_too_small_for_are_left_out_with_a_word(opened, tmp_path, capsys):
    found, _ = run(opened, tmp_path, labels_per_class=(1000, 10), compare=('knn',), draws=1)
    assert list(found.entry['knn']) == ['all', '10']
    assert '1000 labels a class are left out' in capsys.readouterr().out
    assert 'scratch' not in found.entry
