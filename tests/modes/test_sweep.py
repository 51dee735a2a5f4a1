"""The choice of a learning rate: what is tried on what, which one wins, and what a kill changes."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from simclr_jax.config import ConfigError, RunError
from simclr_jax.config_loading import load
from simclr_jax.data.sources import Source
from simclr_jax.modes import sweep
from simclr_jax.modes.sweep import Candidate
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'weights'))
from random_weights import random_weights

ROOT = pathlib.Path(__file__).parents[2]
LABELS = np.repeat(np.arange(10), 10)
RATES = '(0.1,0.02,0.5)'


def source_of(labels=LABELS):
    return Source(
        read=lambda chosen: [b'' for _ in chosen],
        num_examples=len(labels),
        image_shape=(8, 8, 1),
        label_names=tuple('0123456789'),
        labels=np.asarray(labels),
        identify=lambda: np.arange(len(labels)),
    )


def config_of(**fields):
    fields = {name.replace('__', '.'): value for name, value in fields.items()}
    return load(str(ROOT / 'configs/finetune_digits.py'), fields)


@pytest.fixture
def tried(monkeypatch):
    """Stands in for the trainings, and remembers them; how many are right is a matter of the rate.

    What a training does of a config is tested below, in real processes.
    """
    calls, scores = [], {}

    def train(config, kept, held_out, weights, predict):
        calls.append((config, kept, held_out))
        found = scores.get(config.optimizer.learning_rate, 0)
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(sweep, '_try', train)
    return calls, scores


def choose(config, workdir, source=None):
    return sweep.choose_rate(config, str(workdir), source or source_of(), None, None)


def test_every_rate_learns_from_the_same_labels_and_is_tested_on_the_others(tried, tmp_path):
    calls, scores = tried
    scores |= {0.02: 11, 0.1: 15, 0.5: 12}
    config = choose(config_of(finetune__learning_rates=RATES), tmp_path)
    assert config.optimizer.learning_rate == 0.1
    assert [c.optimizer.learning_rate for c, _, _ in calls] == [0.02, 0.1, 0.5]
    for _, kept, held_out in calls:
        places = [part.identify() for part in (kept, held_out)]
        assert not {*places[0]} & {*places[1]} and len(places[0]) + len(places[1]) == 100
        assert (np.bincount(held_out.labels) == 2).all()  # a fifth of each class
        np.testing.assert_array_equal(places[0], calls[0][1].identify())
    entry = json.loads((tmp_path / 'result.json').read_text())['sweep']
    assert entry['learning_rate'] == 0.1 and entry['held_out_pictures'] == 20
    accuracies = {c['learning_rate']: c['accuracy'] for c in entry['candidates']}
    assert accuracies == {0.02: 0.55, 0.1: 0.75, 0.5: 0.6}


def test_of_equals_the_smallest_and_of_pairs_all(tried, tmp_path):
    calls, scores = tried
    scores |= {0.02: 15, 0.1: 15}
    fields = {'finetune__learning_rates': '(0.1,0.02)', 'finetune__head_learning_rates': '(0.3,1)'}
    config = choose(config_of(**fields), tmp_path)
    rates = config.optimizer.learning_rate, config.finetune.head_learning_rate
    assert rates == (0.02, 0.3)
    pairs = [(c.optimizer.learning_rate, c.finetune.head_learning_rate) for c, _, _ in calls]
    assert pairs == [(0.02, 0.3), (0.02, 1.0), (0.1, 0.3), (0.1, 1.0)]


def test_one_that_diverges_is_not_chosen(tried, tmp_path, capsys):
    _, scores = tried
    scores |= {0.02: 1, 0.1: None, 0.5: None}
    config = config_of(finetune__learning_rates=RATES)
    assert choose(config, tmp_path).optimizer.learning_rate == 0.02
    assert 'learning_rate=0.5: diverged' in capsys.readouterr().out
    scores |= {0.02: None}
    (tmp_path / 'sweep.json').unlink()
    with pytest.raises(RunError, match=r'diverged with each of 0\.02, 0\.1, 0\.5; give lower'):
        choose(config, tmp_path)


@pytest.mark.parametrize('labels', [np.arange(10), np.repeat(np.arange(10), 2)])
def test_with_so_few_labels_that_none_is_left_it_is_the_recipes(labels, tried, tmp_path, capsys):
    config = config_of(finetune__learning_rates=RATES)
    assert choose(config, tmp_path, source_of(labels)) is config
    rate = config.optimizer.learning_rate
    assert f'so few labels leave none to choose a learning rate by; it is {rate:g}' in (
        capsys.readouterr().out
    )
    assert not tried[0] and not list(tmp_path.iterdir())


@pytest.mark.parametrize('rates', ['()', '(0.1,)'])
def test_of_one_rate_there_is_no_choice(rates, tried, tmp_path):
    config = config_of(finetune__learning_rates=rates)
    assert choose(config, tmp_path) is config and not tried[0]


def test_it_goes_on_with_what_was_not_tried(tried, tmp_path):
    calls, scores = tried
    scores |= {0.02: 11, 0.1: KeyboardInterrupt(), 0.5: 12}
    config = config_of(finetune__learning_rates=RATES)
    with pytest.raises(KeyboardInterrupt):
        choose(config, tmp_path)
    scores |= {0.1: 15}
    assert choose(config, tmp_path).optimizer.learning_rate == 0.1
    assert [c.optimizer.learning_rate for c, _, _ in calls] == [0.02, 0.1, 0.1, 0.5]
    assert choose(config, tmp_path).optimizer.learning_rate == 0.1 and len(calls) == 4
    # Other labels are another question.
    choose(config, tmp_path, source_of(LABELS[::-1]))
    assert len(calls) == 7


def test_seen_otherwise_it_begins_anew_unless_one_was_chosen(tried, tmp_path):
    calls, scores = tried
    scores |= {0.02: 11, 0.1: KeyboardInterrupt(), 0.5: 12}
    with pytest.raises(KeyboardInterrupt):
        choose(config_of(finetune__learning_rates=RATES), tmp_path)
    scores |= {0.1: 15}
    config = config_of(finetune__learning_rates=RATES, data__eval_antialias='True')
    choose(config, tmp_path)
    assert [c.optimizer.learning_rate for c, _, _ in calls] == [0.02, 0.1, 0.02, 0.1, 0.5]
    choose(config_of(finetune__learning_rates=RATES), tmp_path)
    assert len(calls) == 5


@pytest.mark.parametrize('damage', [None, '{', '{}'])
def test_a_run_that_trains_needs_to_know_its_rate(damage, tried, tmp_path):
    config = config_of(finetune__learning_rates=RATES)
    choose(config, tmp_path)
    (tmp_path / 'checkpoints/20').mkdir(parents=True)
    assert choose(config, tmp_path).optimizer.learning_rate == 0.02
    path = tmp_path / 'sweep.json'
    path.unlink() if damage is None else path.write_text(damage)
    with pytest.raises(ConfigError, match=r'sweep\.json, which says with which learning rate'):
        choose(config, tmp_path)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('finetune.learning_rates', '(0.1,-1)'),
        ('finetune.learning_rates', "('a',)"),
        ('finetune.head_learning_rates', '(0,)'),
        ('method', 'simclr'),
        ('finetune.held_out', '1'),
        ('finetune.held_out', '0'),
    ],
)
def test_what_cannot_be(field, value):
    named = 'finetune.learning_rates' if field == 'method' else field
    with pytest.raises(ConfigError, match=f'^{named}='):
        config_of(**{'finetune.learning_rates': RATES, field: value})


def test_a_pair_in_words():
    assert str(Candidate(0.05)) == 'learning_rate=0.05'
    assert str(Candidate(1e-5, 0.5)) == 'learning_rate=1e-05, head_learning_rate=0.5'


FIELDS = {
    'batch_size': 64,
    'epochs': 0.5,
    'finetune.min_steps': 4,
    'finetune.labels': 10,
    'finetune.learning_rates': '(1e-6,0.02,0.1)',
    'finetune.compare': '()',
    'log.every_steps': 1,
    'log.tensorboard': False,
}


def start(encoder, workdir):
    command = ['--mode=finetune', '--config=configs/finetune_digits.py', f'--workdir={workdir}']
    command += [f'--encoder={encoder}', *(f'--config.{k}={v}' for k, v in FIELDS.items())]
    return subprocess.Popen(
        [sys.executable, 'run.py', *command],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONUNBUFFERED': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long
def test_killed_within_the_sweep_it_ends_with_the_same_bits(tmp_path):
    encoder = tmp_path / 'encoder.safetensors'
    architecture = Architecture('resnet_tiny', stem='small')
    native.save(encoder, random_weights(architecture, size=8, channels=1, mean=(0.0,), std=(1.0,)))

    text, _ = (whole := start(encoder, tmp_path / 'whole')).communicate()
    assert whole.returncode == 0, text
    killed = start(encoder, tmp_path / 'killed')
    lines = iter(killed.stdout.readline, '')
    assert any('learning_rate=1e-06: ' in line for line in lines)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert json.loads((tmp_path / 'killed/sweep.json').read_text())['chosen'] is None
    text, _ = (again := start(encoder, tmp_path / 'killed')).communicate()
    assert again.returncode == 0, text
    assert 'learning_rate=1e-06: ' not in text and 'learning_rate=0.1: ' in text

    results, rows = (
        [read(tmp_path / name) for name in ('killed', 'whole')]
        for read in (
            lambda folder: json.loads((folder / 'result.json').read_text()),
            lambda folder: [
                {k: json.loads(line)[k] for k in ('step', 'loss', 'learning_rate')}
                for line in (folder / 'metrics.jsonl').read_text().splitlines()
            ],
        )
    )
    for part in ('sweep', 'finetune'):
        assert results[0][part] == results[1][part]
    assert rows[0] == rows[1] and len(rows[0]) == 4
    chosen = results[0]['sweep']['learning_rate']
    assert rows[0][0]['learning_rate'] == pytest.approx(chosen)  # of the first step
    accuracies = {c['learning_rate']: c['accuracy'] for c in results[0]['sweep']['candidates']}
    assert accuracies[chosen] == max(accuracies.values()) and len(accuracies) == 3


@pytest.mark.slow
def test_a_training_that_diverges_is_told_from_one_that_learns(tmp_path):
    from simclr_jax.data import splits
    from simclr_jax.modes import finetune, labelled

    # So many steps that the running averages of batch normalization are those of the data.
    fields = {'epochs': '2', 'finetune__min_steps': '120', 'start__encoder': 'scratch'}
    config = config_of(data__data_dir=str(tmp_path), **fields)
    train = labelled.open_labelled(config).train
    parts = splits.subset(train, np.arange(0, 400)), splits.subset(train, np.arange(400, 500))
    found = [
        sweep._try(Candidate(rate).of(config), *parts, None, finetune._logits_of_run)
        for rate in (0.05, 1e30)
    ]
    assert 30 < found[0] <= 100 and found[1] is None
