import json

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from simclr_jax.evaluate import linear, subsets
from simclr_jax.evaluate.linear import linear_eval


@pytest.fixture(scope='module')
def digits():
    features, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        features.astype(np.float32), labels, test_size=500, stratify=labels, random_state=0
    )
    return train, train_labels, test, test_labels


@pytest.fixture(scope='module')
def result(digits):
    return linear_eval(*digits, num_classes=10)


def standardize(train, test):
    scale = linear.standardization(train, test)
    return scale(train), scale(test)


def sklearn_fit(features, labels, l2):
    model = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-6, max_iter=3000)
    return model.fit(features.astype(np.float64), labels)


def test_accuracies_of_raw_digits(result):
    assert 0.96 < result['all']['mean'] < 0.985 and result['all']['std'] == 0.0
    assert 0.87 < result['10']['mean'] < 0.91 and 0.0 < result['10']['std'] < 0.03
    assert 0.5 < result['1']['mean'] < 0.7 and 0.0 < result['1']['std'] < 0.1
    assert [len(result[count]['l2']) for count in ('all', '10', '1')] == [1, 5, 5]
    assert all(result[count]['converged'] for count in result)
    assert json.loads(json.dumps(result)) == result


def test_accuracy_with_all_labels_equals_sklearn(digits, result):
    train, train_labels, test, test_labels = digits
    train, test = standardize(train, test)
    other = sklearn_fit(train, train_labels, result['all']['l2'][0])
    assert abs(result['all']['mean'] - other.score(test, test_labels)) <= 2 / 500


def test_accuracy_with_few_labels_equals_sklearn(digits, result):
    """Twice the features: more of them than examples, where the solver works in their span."""
    train, train_labels, test, test_labels = digits
    train, test = (np.concatenate([x, np.sqrt(x)], axis=1) for x in (train, test))
    result = linear_eval(
        train, train_labels, test, test_labels, num_classes=10, labels_per_class=(1, 10), draws=2
    )
    train, test = standardize(train, test)
    for count in (1, 10):
        scores = []
        for draw in range(2):
            chosen = subsets.draw_subset(train_labels, count, seed=0, draw=draw)
            other = sklearn_fit(train[chosen], train_labels[chosen], result[str(count)]['l2'][draw])
            scores.append(other.score(test, test_labels))
        assert abs(result[str(count)]['mean'] - np.mean(scores)) <= 2 / 500


def test_strength_has_the_best_held_out_likelihood(digits, result):
    train, train_labels, test, _ = digits
    train, _ = standardize(train, test)
    kept, held_out = subsets.holdout_split(train_labels, 0.2, seed=0)
    losses = []
    for l2 in (1e-7, 1e-5, 1e-3):
        model = sklearn_fit(train[kept], train_labels[kept], l2)
        losses.append(log_loss(train_labels[held_out], model.predict_proba(train[held_out])))
    chosen = linear_eval(
        *digits, num_classes=10, labels_per_class=['all'], l2_grid=(1e-3, 1e-7, 1e-5)
    )
    assert chosen['all']['l2'] == [(1e-7, 1e-5, 1e-3)[int(np.argmin(losses))]]


@pytest.mark.slow
def test_test_labels_never_influence_the_strength(digits, result):
    train, train_labels, test, test_labels = digits
    shuffled = np.random.RandomState(0).permutation(test_labels)
    other = linear_eval(train, train_labels, test, shuffled, num_classes=10)
    assert [other[count]['l2'] for count in other] == [result[count]['l2'] for count in result]
    assert other['all']['mean'] < 0.2


def test_more_labels_never_influence_the_result_with_one(digits, result):
    alone = linear_eval(*digits, num_classes=10, labels_per_class=[1])
    assert alone['1']['l2'] == [linear.L2_WITHOUT_HOLDOUT] * 5
    assert abs(alone['1']['mean'] - result['1']['mean']) <= 1 / 500


@pytest.mark.slow
def test_order_of_test_examples_does_not_matter(digits, result):
    train, train_labels, test, test_labels = digits
    order = np.random.RandomState(0).permutation(500)
    other = linear_eval(train, train_labels, test[order], test_labels[order], num_classes=10)
    assert other == result


@pytest.mark.slow
def test_unlabelled_examples_are_left_out(digits, result):
    train, train_labels, test, test_labels = digits
    # The same features once more leave the standardization as it is.
    other = linear_eval(
        np.concatenate([train, train]),
        np.concatenate([train_labels, np.full(len(train), -1)]),
        np.concatenate([test, test]),
        np.concatenate([test_labels, np.full(len(test), -1)]),
        num_classes=10,
    )
    for count in result:
        assert other[count]['l2'] == result[count]['l2']
        assert abs(other[count]['mean'] - result[count]['mean']) <= 1 / 500


@pytest.mark.slow
def test_features_may_be_spread_over_devices(digits, result):
    train, train_labels, test, test_labels = digits
    mesh = jax.make_mesh((8,), ('batch',), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(None, 'batch'))
    train, test = jax.device_put((train, test), spread)
    assert linear_eval(train, train_labels, test, test_labels, num_classes=10) == result


@pytest.mark.parametrize('dim', [3, 30])
def test_of_equal_strengths_the_strongest(dim):
    """Constant features predict nothing at any strength."""
    labels = np.arange(40) % 2
    features = np.ones((40, dim))
    result = linear_eval(
        features, labels, features, labels, num_classes=2, draws=1, l2_grid=(1e-1, 1e-3, 1e-2)
    )
    assert result['all']['l2'] == result['10']['l2'] == [1e-1]


@pytest.mark.slow
def test_noise_asks_for_a_strong_penalty():
    rng = np.random.RandomState(0)
    features, labels = rng.randn(300, 100), np.arange(300) % 3
    result = linear_eval(
        features, labels, features, labels, num_classes=3, labels_per_class=('all', 20), draws=2
    )
    assert result['all']['l2'] == [1e-2] and result['20']['l2'] == [1e-2, 1e-2]


def test_two_labels_a_class_have_two_folds():
    rng = np.random.RandomState(0)
    labels = np.arange(60) % 3
    features = np.eye(3)[labels] + 0.01 * rng.randn(60, 3)
    result = linear_eval(
        features, labels, features, labels, num_classes=3, labels_per_class=[2], draws=2
    )
    assert result['2']['mean'] == 1.0


@pytest.mark.parametrize('folded', [True, False])
def test_a_classifier_is_the_regression_behind_features_as_they_are(digits, folded, monkeypatch):
    features, labels, test, _ = digits
    chosen = subsets.draw_subset(labels, 20, seed=0, draw=0)
    features, labels = 3 * features[chosen] + 5, labels[chosen]
    labels = np.where(np.arange(200) % 7, labels, subsets.UNLABELLED)
    if not folded:
        monkeypatch.setattr(linear, 'MAX_FOLDED', 100)
    kernel, bias = linear.linear_classifier(features, labels, num_classes=10)
    assert kernel.dtype == bias.dtype == np.float32 and kernel.shape == (64, 10)
    index = np.flatnonzero(labels >= 0) if folded else None
    said = linear.linear_predictions(features, labels, 3 * test + 5, index, num_classes=10)
    own = (3.0 * test + 5) @ kernel + bias
    np.testing.assert_array_equal(own.argmax(1), said.classes[:, 0])
    odds = np.exp(own - own.max(1, keepdims=True))
    np.testing.assert_allclose(
        (odds / odds.sum(1, keepdims=True)).max(1), said.probabilities[:, 0], 1e-3
    )


def test_standardize_equals_sklearn_and_empties_constant_features():
    rng = np.random.RandomState(0)
    train = np.stack(
        [rng.randn(50), 1e2 + rng.randn(50), np.full(50, 1e3 / 7), np.zeros(50)], axis=1
    )
    train = train.astype(np.float32)
    test = train[:7] + 1.0
    scaler = StandardScaler().fit(train[:, :2])
    ours = standardize(train, test)
    for features, original in zip(ours, (train, test), strict=True):
        # Divided so that the mean squared norm does not grow with the number of features.
        expected = scaler.transform(original[:, :2]) / np.sqrt(4)
        np.testing.assert_allclose(features[:, :2], expected, atol=2e-5)
        assert np.all(features[:, 2:] == 0.0)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'train_labels': np.arange(20)}, 'train_labels runs from 0 to 19.*num_classes to 20'),
        ({'test_labels': np.full(20, -1)}, 'test_labels has no labelled example'),
        ({'test_labels': np.full(20, -2)}, 'test_labels runs from -2'),
        (
            {'test_features': np.zeros((20, 4))},
            r'train_features is \(20, 3\), test_features \(20, 4',
        ),
        ({'train_features': np.full((20, 3), np.nan)}, 'train_features has values .* not finite'),
        ({'train_labels': np.zeros(19)}, 'features has 20 examples, labels has 19'),
        ({'l2_grid': (0.0, 1.0)}, 'l2_grid is'),
        ({'l2_grid': ()}, 'l2_grid is'),
        ({'labels_per_class': [11]}, 'class 0 has 10 labelled examples'),
    ],
)
def test_errors(change, message):
    arguments = {
        'train_features': np.random.RandomState(0).randn(20, 3),
        'train_labels': np.arange(20) % 2,
        'test_features': np.zeros((20, 3)),
        'test_labels': np.arange(20) % 2,
        'num_classes': 2,
    }
    with pytest.raises(ValueError, match=message):
        linear_eval(**{**arguments, **change})
