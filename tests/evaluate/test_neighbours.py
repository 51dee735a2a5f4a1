import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from simclr_jax.evaluate import neighbours

RNG = np.random.default_rng(0)


def normalized(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_neighbours_are_those_of_scikit_learn():
    vectors = normalized(RNG.normal(size=(300, 16)))
    found = neighbours.find_neighbours(vectors, 5)
    theirs = NearestNeighbors(n_neighbors=6, metric='cosine').fit(vectors).kneighbors(vectors)
    np.testing.assert_array_equal(found.indices, theirs[1][:, 1:])
    np.testing.assert_allclose(found.similarities, 1 - theirs[0][:, 1:], atol=1e-6)


def test_no_picture_is_its_own_neighbour_among_many_copies():
    vectors = normalized(np.ones((30, 4)))
    found = neighbours.find_neighbours(vectors, 3)
    assert not (found.indices == np.arange(30)[:, None]).any()
    np.testing.assert_allclose(found.similarities, 1, atol=1e-6)


@pytest.mark.parametrize('count', [1, 2, 3])
def test_few_pictures_have_few_neighbours(count):
    vectors = normalized(RNG.normal(size=(count, 4)))
    found = neighbours.find_neighbours(vectors, 10)
    assert found.indices.shape == found.similarities.shape == (count, count - 1)
    assert len(neighbours.odd_ones_out(found, 5)[0]) == (count if count > 1 else 0)
    assert sum(cluster.size for cluster in neighbours.find_clusters(vectors)) in (0, count)


def test_planted_duplicates_are_found_and_nothing_else():
    vectors = normalized(RNG.normal(size=(500, 64)))
    noise = 0.02 * RNG.normal(size=(6, 64)) / 8
    vectors[[100, 200, 300, 400]] = normalized(vectors[[7, 7, 7, 50]] + noise[:4])
    found = neighbours.find_neighbours(vectors)
    groups = neighbours.near_duplicates(vectors, found, 0.99)
    assert sorted(sorted(group.rows) for group in groups) == [[7, 100, 200, 300], [50, 400]]
    for group in groups:
        first, *others = group.rows
        np.testing.assert_allclose(group.similarities, vectors[others] @ vectors[first], atol=1e-6)
        assert group.similarities == sorted(group.similarities, reverse=True)
    best = [group.similarities[0] for group in groups]
    assert best == sorted(best, reverse=True)


def test_a_chain_is_no_group():
    """Each picture resembles the next one, the first and the last one are at right angles."""
    angles = np.linspace(0, np.pi / 2, 40)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = neighbours.find_neighbours(vectors)
    threshold = float(np.cos(0.1))
    groups = neighbours.near_duplicates(vectors, found, threshold)
    assert groups
    for group in groups:
        assert min(vectors[group.rows] @ vectors[group.rows[0]]) >= threshold - 1e-6
    rows = [row for group in groups for row in group.rows]
    assert len(rows) == len(set(rows))


def test_nine_of_ten_copies_reach_the_threshold():
    similarities = np.linspace(0.5, 1, 1001)
    threshold = neighbours.threshold_of(similarities)
    assert (similarities >= threshold).mean() == pytest.approx(0.9, abs=0.002)


def test_clusters_are_the_planted_ones_with_their_labels():
    centres = normalized(RNG.normal(size=(4, 32)))
    labels = np.repeat([0, 1, 2, 3], [40, 30, 20, 10])
    vectors = normalized(centres[labels] + 0.02 * RNG.normal(size=(100, 32)))
    labels_with_none = np.where(np.arange(100) == 0, -1, labels)
    clusters = neighbours.find_clusters(vectors, labels_with_none, central=3)
    assert sum(cluster.size for cluster in clusters) == 100
    assert len(clusters) == 7  # sqrt(100 / 2)
    for cluster in clusters:
        assert len(cluster.labels) == 1  # none mixes two
        (label,) = cluster.labels
        assert set(labels[cluster.central]) == {label}
    assert sum(sum(cluster.labels.values()) for cluster in clusters) == 99
    sizes = [cluster.size for cluster in clusters]
    assert sizes == sorted(sizes, reverse=True)


def test_equal_vectors_are_one_cluster():
    (cluster,) = neighbours.find_clusters(normalized(np.ones((50, 4))))
    assert cluster.size == 50


def test_the_odd_one_is_out():
    vectors = normalized(np.ones((50, 8)) + 0.1 * RNG.normal(size=(50, 8)))
    vectors[13] = normalized(-np.ones((1, 8)))
    rows, means = neighbours.odd_ones_out(neighbours.find_neighbours(vectors), 3)
    assert rows[0] == 13
    assert means[0] < -0.9 < 0.9 < means[1]
