"""All ways are given the same labels, and a comparison that dies goes on with the same bits."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from simclr_jax.evaluate import comparison
from simclr_jax.evaluate.comparison import Trial, Trials
from simclr_jax.evaluate.knn import knn_eval, knn_predictions
from simclr_jax.evaluate.linear import linear_eval, linear_predictions
from simclr_jax.evaluate.predictions import likeliest

CLASSES = 4


def blobs(seed, count):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    centres = np.random.default_rng(9).normal(size=(CLASSES, 6))
    return (centres[labels] + random.normal(size=(count, 6))).astype(np.float32), labels


def test_a_plan_has_every_way_at_every_count_and_draw():
    trials = comparison.plan(('fine_tuned', 'knn'), (1, 10, 10), 2)
    assert [trial.name for trial in trials] == [
        *('fine_tuned-all-0', 'knn-all-0'),
        *('fine_tuned-10-0', 'knn-10-0', 'fine_tuned-10-1', 'knn-10-1'),
        *('fine_tuned-1-0', 'knn-1-0', 'fine_tuned-1-1', 'knn-1-1'),
    ]


def test_draws_are_balanced_nested_the_same_for_all_ways_and_never_unlabelled():
    labels = np.where(np.arange(60) % 5 == 4, -1, np.arange(60) % CLASSES)
    for draw in range(3):
        few, more = (
            comparison.drawn(labels, Trial('fine_tuned', count, draw), 7) for count in (2, 5)
        )
        assert np.bincount(labels[few]).tolist() == [2] * CLASSES
        assert np.isin(few, more).all() and (labels[more] >= 0).all()
        for way in comparison.WAYS:
            np.testing.assert_array_equal(comparison.drawn(labels, Trial(way, 5, draw), 7), more)
    first, second = (comparison.drawn(labels, Trial('knn', 2, draw), 7) for draw in (0, 1))
    assert first.tolist() != second.tolist()
    everything = comparison.drawn(labels, Trial('knn', 'all'), 7)
    np.testing.assert_array_equal(everything, np.flatnonzero(labels >= 0))


@pytest.mark.parametrize('way', [pytest.param('linear', marks=pytest.mark.slow), 'knn'])
def test_frozen_figures_are_those_of_the_probes(way):
    """The probes fit several subsets at once; one after the other they have the same accuracies."""
    (train, labels), (test, test_labels) = blobs(0, 200), blobs(1, 400)
    labels = np.where(np.arange(200) % 7 == 6, -1, labels)
    evaluate, predict = {
        'linear': (linear_eval, linear_predictions),
        'knn': (knn_eval, knn_predictions),
    }[way]
    options = {'num_classes': CLASSES} | ({'seed': 3} if way == 'linear' else {})
    expected = evaluate(train, labels, test, test_labels, draws=3, **options | {'seed': 3})
    trials = comparison.plan((way,), (10, 1), 3)
    found = {}
    for trial in trials:
        chosen = None if trial.labels == 'all' else comparison.drawn(labels, trial, 3)
        predictions = predict(train, labels, test, chosen, **options)
        accuracy = np.mean(predictions.classes[:, 0] == test_labels)
        found.setdefault(str(trial.labels), []).append(accuracy)
    assert found.keys() == expected.keys()
    for count, accuracies in found.items():
        # The regression stops within a tolerance: a picture at the border may fall to either side.
        assert np.mean(accuracies) == pytest.approx(expected[count]['mean'], abs=0.0051)


def test_all_labels_may_be_one_a_class():
    train, labels = blobs(0, CLASSES)
    found = linear_predictions(train, labels, train, num_classes=CLASSES)
    np.testing.assert_array_equal(found.classes[:, 0], labels)


def random_predictions(seed):
    return likeliest(np.random.default_rng(seed).dirichlet(np.ones(CLASSES), 50))


def test_what_is_of_other_data_or_damaged_counts_as_missing(tmp_path):
    trials = comparison.plan(('linear', 'knn'), (1,), 2)
    kept = Trials(tmp_path / 'comparison', {'test': 'a'})
    assert kept.missing(trials) == trials
    for number, trial in enumerate(trials):
        kept.save(trial, random_predictions(number))
    assert kept.missing(trials) == []
    for mine, theirs in zip(kept.load(trials[3]), random_predictions(3), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert Trials(tmp_path / 'comparison', {'test': 'b'}).missing(trials) == trials
    other = Trials(tmp_path / 'comparison', {'test': 'a'}, {'knn': {'k': 5}})
    assert other.missing(trials) == [trial for trial in trials if trial.way == 'knn']
    damaged = tmp_path / 'comparison' / f'{trials[2].name}.npz'
    content = damaged.read_bytes()
    for broken in (b'', content[:-100], b'x' * 100, content[:300] + b'\xff' + content[301:]):
        damaged.write_bytes(broken)
        assert kept.missing(trials) == [trials[2]]


_PROCESS = """
import json, sys, time
from simclr_jax.evaluate import comparison
sys.path.insert(0, sys.argv[1])
from test_comparison import random_predictions
import numpy as np

kept = comparison.Trials(sys.argv[2], {})
trials = comparison.plan(comparison.WAYS, (10, 1), 5)
for trial in kept.missing(trials):
    kept.save(trial, random_predictions(trials.index(trial)))
    print(trial.name, flush=True)
    time.sleep(0.002)
print(json.dumps(kept.figures(trials, np.arange(50) % 4, 4)), flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_the_end_is_the_same_bits(tmp_path):
    """Real processes and real SIGKILLs; a finished trial is never done again."""

    def start(folder):
        here = os.path.dirname(__file__)
        return subprocess.Popen(
            [sys.executable, '-c', _PROCESS, here, str(folder)], stdout=subprocess.PIPE, text=True
        )

    whole = start(tmp_path / 'whole').communicate()[0].splitlines()
    assert len(whole) == 44 + 1
    done = []
    for after in (9, 17):
        process = start(tmp_path / 'killed')
        done += [process.stdout.readline().strip() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].splitlines()
        done += [name for name in rest if name in whole]
    *last, figures = start(tmp_path / 'killed').communicate()[0].splitlines()
    # A kill between saving and printing hides a name: then it is in neither, and done once.
    assert len(set(done + last)) == len(done + last) >= 42
    assert figures == whole[-1] and set(json.loads(figures)) == set(comparison.WAYS)
