"""Few-shot ridge regression: big_vision's, in float64."""

import numpy as np
import pytest

from simclr_jax.evaluate import few_shot


def big_visions(features, labels, num_classes, tested, l2):
    """`fewshot_lsr.py` (big_vision 1475d53), `_precompute_cache` and what follows, in float64."""
    x = np.asarray(features, np.float64)
    mean, std = x.mean(axis=0, keepdims=True), x.std(axis=0, keepdims=True) + 1e-5
    x = np.pad((x - mean) / std, ((0, 0), (0, 1)), constant_values=100.0)
    y = 2.0 * np.eye(num_classes)[labels] - 1.0
    if len(x) >= x.shape[1]:
        eigs, q = np.linalg.eigh(x.T @ x)
        rhs, lhs = q.T @ (x.T @ y), q
    else:
        eigs, q = np.linalg.eigh(x @ x.T)
        rhs, lhs = q.T @ y, x.T @ q
    w = (lhs * (1.0 / (eigs + l2)).reshape(1, -1)) @ rhs
    tested = (np.asarray(tested, np.float64) - mean) / std
    return np.pad(tested, ((0, 0), (0, 1)), constant_values=100.0) @ w


@pytest.fixture
def data():
    rng = np.random.RandomState(0)
    labels = rng.randint(6, size=400)
    centres = rng.randn(6, 30)
    features = (5 + centres[labels] + 2 * rng.randn(400, 30)).astype(np.float32)
    features[:, 3] = 1.0  # constant: standardized to 0, not to infinity
    return features, labels


@pytest.mark.parametrize('count', [12, 31, 200])  # fewer, as many, and more than features + 1
@pytest.mark.parametrize('l2', [2.0**10, 1e-2])
def test_equals_big_visions(data, count, l2):
    features, labels = data
    ridge = few_shot.fit_ridge(features[:count], labels[:count], 6, l2)
    expected = big_visions(features[:count], labels[:count], 6, features[200:], l2)
    np.testing.assert_allclose(ridge.score(features[200:]), expected, rtol=1e-6, atol=1e-8)


def test_more_labels_are_better_and_draws_differ(data):
    features, labels = data
    found = few_shot.few_shot_eval(
        features[:200], labels[:200], features[200:], labels[200:], num_classes=6
    )
    assert list(found) == ['1', '5', '10', '25']
    means = [one['mean'] for one in found.values()]
    assert 1 / 6 < means[0] < means[1] < means[3] and found['1']['std'] > 0


def test_the_mean_and_deviation_are_over_the_seeds(data):
    features, labels = data
    train, rest = (features[:200], labels[:200]), (features[200:], labels[200:])
    accuracies = []
    for seed in range(4):
        chosen = few_shot.subsets.draw_at_most(train[1], 5, seed)
        assert (np.bincount(train[1][chosen]) == 5).all()
        scores = big_visions(train[0][chosen], train[1][chosen], 6, rest[0], 2.0**10)
        accuracies.append(np.mean(scores.argmax(axis=1) == rest[1]))
    assert len(set(accuracies)) > 1
    found = few_shot.few_shot_eval(*train, *rest, num_classes=6, shots=[5], seeds=4)
    expected = {'mean': np.mean(accuracies), 'std': np.std(accuracies)}
    assert found == {'5': pytest.approx(expected)}


def test_a_small_class_gives_all_it_has_and_unlabelled_examples_are_left_out(data):
    features, labels = data
    labels = labels.copy()
    labels[labels == 2] = -1
    labels[:2] = 2
    chosen = few_shot.subsets.draw_at_most(labels[labels >= 0], 25, 0)
    assert np.bincount(labels[labels >= 0][chosen]).tolist() == [25, 25, 2, 25, 25, 25]
    with pytest.raises(ValueError, match='no labelled examples'):
        few_shot.few_shot_eval(features, 0 * labels - 1, features, labels, num_classes=6)
    found = few_shot.few_shot_eval(features, labels, features, labels, num_classes=6, shots=[25])
    assert found['25']['mean'] > 0.5
