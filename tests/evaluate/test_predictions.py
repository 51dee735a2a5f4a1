"""Figures of predictions, tested against scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from simclr_jax.evaluate import predictions as lib

CLASSES = 12


@pytest.fixture(scope='module')
def scores():
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES - 1, 300)  # the last class has no picture
    logits = random.normal(size=(300, CLASSES)) + 2 * np.eye(CLASSES)[labels]
    return logits, labels


def test_figures_are_those_of_scikit_learn(scores):
    logits, labels = scores
    found = lib.of_logits(logits)
    predicted = logits.argmax(1)
    known = range(CLASSES)
    np.testing.assert_array_equal(
        lib.confusion(found, labels, CLASSES),
        metrics.confusion_matrix(labels, predicted, labels=known),
    )
    for k in (1, 2, 5):
        expected = metrics.top_k_accuracy_score(labels, logits, k=k, labels=known)
        assert lib.top_accuracy(found, labels, k) == pytest.approx(expected)
    figures = lib.figures([found], labels, CLASSES)
    assert figures['mean'] == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert figures['std'] == 0.0
    recall = metrics.recall_score(labels, predicted, labels=range(CLASSES - 1), average=None)
    np.testing.assert_allclose(figures['per_class'][:-1], recall)
    assert figures['per_class'][-1] is None
    assert figures['top_5']['mean'] == lib.top_accuracy(found, labels, 5)


def test_probabilities_are_the_softmax(scores):
    logits, _ = scores
    found = lib.of_logits(logits.astype(np.float32) * 400)  # far beyond what exp can take
    assert np.isfinite(found.probabilities).all()
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = lib.of_logits(logits)
    assert found.classes.shape == found.probabilities.shape == (300, 5)
    np.testing.assert_allclose(found.probabilities, -np.sort(-softmax, 1)[:, :5], rtol=1e-6)


def test_means_and_deviations_are_over_the_draws():
    labels = np.array([0, 0, 1, 1])
    draws = [
        lib.likeliest(np.eye(2)[classes]) for classes in ([0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 0, 0])
    ]
    figures = lib.figures(draws, labels, 2)
    assert figures['draws'] == [1.0, 0.75, 0.25]
    assert figures['mean'] == pytest.approx(2 / 3)
    assert figures['std'] == pytest.approx(np.std([1.0, 0.75, 0.25]))
    assert figures['per_class'] == pytest.approx([2 / 3, 2 / 3])
    assert 'top_5' not in figures


def test_pictures_without_a_label_are_not_counted():
    labels = np.array([-1, 0, 1])
    found = lib.likeliest(np.eye(2)[[0, 0, 0]])
    assert lib.figures([found], labels, 2)['mean'] == 0.5
    assert lib.confusion(found, labels, 2).sum() == 2
    np.testing.assert_array_equal(lib.confident_mistakes(found, labels, 9), [2])


def test_the_surest_mistakes_come_first():
    sure = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.8, 0.2]])
    found = lib.likeliest(sure)
    labels = np.array([0, 1, 0, 0, 1])
    np.testing.assert_array_equal(lib.confident_mistakes(found, labels, 3), [3, 4, 2])


def test_more_than_what_is_kept_is_refused():
    with pytest.raises(ValueError, match='only 2 classes'):
        lib.top_accuracy(lib.likeliest(np.eye(2)), np.arange(2), 3)
