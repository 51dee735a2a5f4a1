"""Temperatures against SciPy's minimum of the loss, calibration errors against a plain count."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from simclr_jax.evaluate import calibration
from simclr_jax.evaluate.calibration import LARGEST


def drawn(count, classes, sure, seed=0):
    """Logits that are `sure` times those of the probabilities that the labels are drawn by."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 2, (count, classes))
    shares = softmax(true, axis=1)
    labels = np.array([rng.choice(classes, p=row) for row in shares])
    return np.float32(sure * true), labels


@pytest.mark.parametrize('classes', [2, 7])
@pytest.mark.parametrize('sure', [0.3, 1.0, 4.0])
def test_the_temperature_is_the_minimum_of_the_loss(classes, sure):
    logits, labels = drawn(400, classes, sure)
    labels[::9] = -1
    known = labels >= 0

    def loss(log_temperature):
        shares = log_softmax(np.float64(logits[known]) / np.exp(log_temperature), axis=1)
        return -shares[np.arange(known.sum()), labels[known]].mean()

    best = minimize_scalar(loss, (-1.0, 1.0), tol=1e-12)
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(np.exp(best.x), rel=1e-5)
    assert calibration.negative_log_likelihood(logits, labels, found) == pytest.approx(best.fun)
    # The labels were drawn at a temperature of `sure`.
    assert found == pytest.approx(sure, rel=0.3)


def test_the_temperature_of_several_labels_is_the_minimum_of_the_loss():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (300, 4))
    labels = np.float64(rng.random((300, 4)) < expit(true))
    labels[::7] = np.nan
    labels[1::7] = -1
    known = np.nan_to_num(labels, nan=-1).min(axis=1) >= 0

    def loss(log_temperature):
        z = 3 * true[known] / np.exp(log_temperature)
        return -np.log(np.where(labels[known] == 1, expit(z), expit(-z))).mean()

    best = minimize_scalar(loss, (-1.0, 2.0), tol=1e-12)
    found = calibration.fit_temperature(3 * true, labels)
    assert found == pytest.approx(np.exp(best.x), rel=1e-5)
    assert calibration.negative_log_likelihood(3 * true, labels, found) == pytest.approx(best.fun)


def test_labels_that_say_no_temperature_leave_it_at_one():
    logits = np.array([[5.0, 1.0], [0.0, 2.0]])
    assert calibration.fit_temperature(logits, np.array([0, 1])) == 1
    assert calibration.fit_temperature(logits, np.array([-1, -1])) == 1
    assert calibration.fit_temperature(logits - 1.5, np.array([[1, 0], [0, 1]])) == 1
    assert np.isnan(calibration.negative_log_likelihood(logits, np.array([-1, -1])))


def test_logits_that_are_worse_than_chance_get_the_largest_temperature():
    logits = np.array([[5.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    assert calibration.fit_temperature(logits, np.array([1, 0, 0])) == LARGEST


@pytest.mark.parametrize(
    ('logits', 'labels'),
    [
        (np.zeros((3, 2)), np.zeros(4, int)),
        (np.zeros((3, 2)), np.full(3, 2)),
        (np.zeros((3, 2)), np.full((3, 2), 2)),
        (np.array([[0, np.nan]]), np.zeros(1, int)),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels):
    with pytest.raises(ValueError, match=r'shape|the label 2|finite'):
        calibration.fit_temperature(logits, labels)


def test_the_calibration_error_is_that_of_a_plain_count():
    logits, labels = drawn(1000, 5, 3.0)
    shares = softmax(logits, axis=1)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    error = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = calibration.expected_calibration_error(shares, labels)
    assert found == pytest.approx(error) and found > 0.05
    bins = calibration.reliability(shares, labels)
    assert bins.counts.sum() == 1000 and len(bins.edges) == 16
    assert np.nansum(bins.accuracy * bins.counts) == pytest.approx(right.sum())
    # With its temperature it is less wrong, and nothing else is predicted.
    scaled = softmax(logits / calibration.fit_temperature(logits, labels), axis=1)
    assert calibration.expected_calibration_error(scaled, labels) < found / 2
    assert np.array_equal(scaled.argmax(axis=1), shares.argmax(axis=1))


def test_the_calibration_error_by_hand():
    shares = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0], [0.5, 0.5]])
    labels = np.array([0, 1, 1, 1, -1])
    # 0.9 twice, right once: off by 0.4; 0.6, right; 1.0, right.
    want = (2 * 0.4 + 0.4 + 0) / 4
    assert calibration.expected_calibration_error(shares, labels) == pytest.approx(want)
    several = np.array([[0, 1], [1, 0], [0, 1], [0, 1], [-1, -1]])
    # 0.9 twice and right once; 0.1 twice, there once; 0.4 is not; 0.6, 1.0 are; 0.0 is not.
    want = (2 * 0.4 + 2 * 0.4 + 0.4 + 0.4) / 8
    assert calibration.expected_calibration_error(shares, several) == pytest.approx(want)
    assert np.isnan(calibration.expected_calibration_error(shares, np.full(5, -1)))


def test_figures_of_test_pictures_are_json_and_those_of_the_functions():
    random = np.random.default_rng(5)
    logits, labels = 3 * random.normal(size=(200, 4)), random.integers(-1, 4, 200)
    found = json.loads(json.dumps(calibration.figures(logits, labels, 2.5), allow_nan=False))
    for name, divisor in (('before', 1.0), ('after', 2.5)):
        shares = softmax(logits / divisor, axis=1)
        want = calibration.expected_calibration_error(shares, labels)
        assert found[name]['expected_calibration_error'] == want
        want = calibration.negative_log_likelihood(logits, labels, divisor)
        assert found[name]['negative_log_likelihood'] == want
    assert sum(found['after']['counts']) == np.sum(labels >= 0)
    assert found['after']['accuracy'][0] is None  # nothing is as unsure as that
    assert found['temperature'] == 2.5
