import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from simclr_jax.evaluate import logistic

EXAMPLES, DIM, CLASSES = 203, 12, 4


@pytest.fixture(scope='module')
def data():
    rng = np.random.RandomState(0)
    features = (rng.randn(EXAMPLES, DIM) / np.sqrt(DIM)).astype(np.float32)
    features[:, 0] += 0.5  # the mean is not zero, so the bias has work to do
    logits = 6 * features @ rng.randn(DIM, CLASSES) + rng.gumbel(size=(EXAMPLES, CLASSES))
    return features, logits.argmax(axis=1)


def objective(features, labels, kernel, bias, l2):
    """In float64."""
    logits = features.astype(np.float64) @ kernel + bias
    log_probability = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    loss = -np.mean(log_probability[np.arange(len(labels)), labels])
    return loss + 0.5 * l2 * np.sum(np.square(kernel, dtype=np.float64))


def solve(features, labels, weights, l2, **options):
    return logistic.fit(
        features, labels, weights, np.asarray(l2), num_classes=CLASSES, tolerance=1e-5, **options
    )


def test_equals_sklearn_at_every_strength(data):
    features, labels = data
    strengths = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    fit = solve(features, labels, np.ones((5, EXAMPLES)), strengths)
    assert fit.converged.all()
    for problem, l2 in enumerate(strengths):
        other = LogisticRegression(C=1 / (l2 * EXAMPLES), tol=1e-9, max_iter=5000)
        other.fit(features.astype(np.float64), labels)
        best = objective(features, labels, other.coef_.T, other.intercept_, l2)
        found = objective(features, labels, fit.kernel[problem], fit.bias[problem], l2)
        assert abs(found - best) < 2e-6
        assert abs(fit.objective[problem] - best) < 2e-6
        scale = np.abs(other.coef_).max()
        np.testing.assert_allclose(fit.kernel[problem], other.coef_.T, atol=4e-3 * scale)
        # Only differences between biases mean anything.
        bias = fit.bias[problem] - fit.bias[problem].mean()
        expected = other.intercept_ - other.intercept_.mean()
        np.testing.assert_allclose(bias, expected, atol=4e-3 * scale)


def test_weights_choose_the_examples(data):
    features, labels = data
    weights = (np.arange(EXAMPLES) % 3 > 0).astype(np.float32)
    held_out = 1 - weights
    fit = solve(features, labels, weights[None], [1e-2], held_out=held_out[None])
    part = weights > 0
    alone = solve(features[part], labels[part], np.ones((1, part.sum())), [1e-2])
    np.testing.assert_allclose(fit.kernel, alone.kernel, atol=1e-3)
    loss = objective(features[~part], labels[~part], fit.kernel[0], fit.bias[0], l2=0.0)
    np.testing.assert_allclose(fit.held_out[0], loss * np.sum(~part), rtol=1e-5)


def test_problems_do_not_disturb_each_other(data):
    features, labels = data
    together = solve(features, labels, np.ones((2, EXAMPLES)), [1e-4, 1.0])
    for problem, l2 in enumerate([1e-4, 1.0]):
        alone = solve(features, labels, np.ones((1, EXAMPLES)), [l2])
        np.testing.assert_allclose(together.objective[problem], alone.objective[0], atol=1e-6)


def test_ragged_chunks_count_every_example_once(data, monkeypatch):
    features, labels = data
    whole = solve(features, labels, np.ones((2, EXAMPLES)), [1e-3, 1e-1])
    monkeypatch.setattr(logistic, 'MAX_LOGITS', 50 * 2 * CLASSES)  # chunks of 50: the last has 3
    chunked = solve(features, labels, np.ones((2, EXAMPLES)), [1e-3, 1e-1])
    np.testing.assert_allclose(chunked.objective, whole.objective, atol=1e-6)
    np.testing.assert_allclose(chunked.kernel, whole.kernel, atol=1e-2)


def test_order_of_examples_does_not_matter(data):
    features, labels = data
    order = np.random.RandomState(1).permutation(EXAMPLES)
    a = solve(features, labels, np.ones((1, EXAMPLES)), [1e-2])
    b = solve(features[order], labels[order], np.ones((1, EXAMPLES)), [1e-2])
    np.testing.assert_allclose(a.kernel, b.kernel, atol=1e-3)


def test_large_features_only_shorten_the_steps(data):
    """The first step is far too long there: backtracking has to find its way."""
    features, labels = data
    fit = solve(100 * features, labels, np.ones((1, EXAMPLES)), [1e-2 * 100**2])
    plain = solve(features, labels, np.ones((1, EXAMPLES)), [1e-2])
    np.testing.assert_allclose(fit.objective, plain.objective, atol=1e-5)


def test_tells_where_it_did_not_converge(data):
    features, labels = data
    fit = solve(features, labels, np.ones((2, EXAMPLES)), [1e-6, 1.0], max_steps=40)
    assert fit.converged.tolist() == [False, True]
