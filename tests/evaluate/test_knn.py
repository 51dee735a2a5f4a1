import json

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from simclr_jax.evaluate import knn, subsets
from simclr_jax.evaluate.knn import knn_eval, nearest_neighbours

FEATURES, LABELS = load_digits(return_X_y=True)
DIGITS = FEATURES[:800], LABELS[:800], FEATURES[800:1103], LABELS[800:1103]


def sklearn_accuracy(train, train_labels, test, test_labels, k, temperature):
    model = KNeighborsClassifier(
        k, metric='cosine', weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    return model.fit(train, train_labels).score(test, test_labels)


@pytest.mark.parametrize(
    ('k', 'temperature'), [(1, 0.07), (20, 0.07), (200, 0.07), (200, 0.01), (200, 1.0)]
)
def test_accuracy_equals_sklearn(k, temperature):
    result = knn_eval(
        *DIGITS, num_classes=10, k=k, temperature=temperature, labels_per_class=['all']
    )
    assert result == {'all': {'mean': sklearn_accuracy(*DIGITS, k, temperature), 'std': 0.0}}


def test_few_labels_equal_sklearn_and_k_is_capped():
    train, train_labels, test, test_labels = DIGITS
    result = knn_eval(*DIGITS, num_classes=10, draws=3, seed=5)
    assert list(result) == ['all', '10', '1']
    for count, k in [(10, 20), (1, 10)]:
        accuracies = []
        for draw in range(3):
            chosen = subsets.draw_subset(train_labels, count, seed=5, draw=draw)
            accuracies.append(
                sklearn_accuracy(train[chosen], train_labels[chosen], test, test_labels, k, 0.07)
            )
        np.testing.assert_allclose(result[str(count)]['mean'], np.mean(accuracies))
        np.testing.assert_allclose(result[str(count)]['std'], np.std(accuracies))
    assert json.loads(json.dumps(result)) == result


def test_a_low_temperature_is_the_nearest_neighbour():
    cold = knn_eval(*DIGITS, num_classes=10, temperature=1e-6, labels_per_class=['all'])
    nearest = knn_eval(*DIGITS, num_classes=10, k=1, labels_per_class=['all'])
    assert cold == nearest


def test_order_of_examples_does_not_matter():
    train, train_labels, test, test_labels = DIGITS
    a, b = np.random.RandomState(0).permutation(800), np.random.RandomState(1).permutation(303)
    assert knn_eval(*DIGITS, num_classes=10, labels_per_class=['all']) == knn_eval(
        train[a], train_labels[a], test[b], test_labels[b], num_classes=10, labels_per_class=['all']
    )


def test_unlabelled_examples_are_left_out():
    train, train_labels, test, test_labels = DIGITS
    result = knn_eval(
        np.concatenate([test, train]),
        np.concatenate([np.full(303, -1), train_labels]),
        np.concatenate([train, test]),
        np.concatenate([np.full(800, -1), test_labels]),
        num_classes=10,
    )
    assert result == knn_eval(*DIGITS, num_classes=10)


def test_neighbours_equal_sklearn():
    train, _, test, _ = DIGITS
    indices, similarities = nearest_neighbours(test, train, 7)
    distances, expected = (
        NearestNeighbors(n_neighbors=7, metric='cosine').fit(train).kneighbors(test)
    )
    np.testing.assert_allclose(similarities, 1 - distances, atol=2e-6)
    # Where two keys are equally near, to float32, either may come first.
    apart = np.diff(distances, axis=1, append=np.inf) > 1e-5
    apart &= np.diff(distances, axis=1, prepend=-np.inf) > 1e-5
    apart[:, -1] = False  # the eighth is unknown
    assert apart.mean() > 0.8
    np.testing.assert_array_equal(indices[apart], expected[apart])


@pytest.mark.parametrize('queries', [1, 64, 65, 127])
def test_ragged_chunks_compile_one_program(monkeypatch, queries):
    train, _, test, _ = DIGITS
    whole = nearest_neighbours(test[:queries], train, 5)
    monkeypatch.setattr(knn, 'MAX_SIMILARITIES', 64 * len(train))
    knn.nearest.clear_cache()
    chunked = nearest_neighbours(test[:queries], train, 5)
    assert knn.nearest._cache_size() == 1
    assert chunked[0].shape == (queries, 5)
    np.testing.assert_array_equal(chunked[0], whole[0])
    np.testing.assert_allclose(chunked[1], whole[1], atol=1e-6)


def test_a_key_finds_itself_and_zero_vectors_are_similar_to_nothing():
    keys = np.concatenate([np.random.RandomState(0).randn(20, 8), np.zeros((1, 8))])
    indices, similarities = nearest_neighbours(keys, keys, 1)
    assert indices[:20, 0].tolist() == list(range(20))
    np.testing.assert_allclose(similarities[:20], 1.0, atol=1e-6)
    assert similarities[20, 0] == 0.0


def test_no_queries():
    indices, similarities = nearest_neighbours(np.zeros((0, 3)), np.eye(3), 2)
    assert indices.shape == similarities.shape == (0, 2)


def test_keys_may_be_spread_over_devices():
    train, _, test, _ = DIGITS
    mesh = jax.make_mesh((8,), ('batch',), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.sharding.PartitionSpec('batch'))
    spread = jax.device_put(train.astype(np.float32), sharding)
    np.testing.assert_array_equal(
        nearest_neighbours(test, spread, 5)[0], nearest_neighbours(test, train, 5)[0]
    )


def test_errors():
    with pytest.raises(ValueError, match=r'k is 4: .* number of keys, 3'):
        nearest_neighbours(np.eye(3), np.eye(3), 4)
    with pytest.raises(ValueError, match='temperature is 0'):
        knn_eval(*DIGITS, num_classes=10, temperature=0.0)
    with pytest.raises(ValueError, match=r'train_labels runs from 0 to 9.*num_classes to 10'):
        knn_eval(*DIGITS, num_classes=5)
