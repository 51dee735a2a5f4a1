"""Dense retrieval beside a plain float64 form of it, and beside the original's lines."""

import jax
import numpy as np
import pytest

from simclr_jax import parallel
from simclr_jax.evaluate import knn
from simclr_jax.evaluate.retrieval import (
    Collection,
    Memory,
    Retrieval,
    label_map,
    patch_labels,
    sample_patches,
    upsample,
)


def random_memory(m=400, dim=12, classes=5, seed=0):
    random = np.random.RandomState(seed)
    features = random.randn(m, dim)
    labels = random.dirichlet(np.full(classes, 0.3), m) * random.choice([1.0, 0.4], (m, 1))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Memory(features.astype(np.float32), labels.astype(np.float32))


def brute_force(memory, queries, k, temperature):
    """In float64, with every similarity at once."""
    features, queries = memory.features.astype(np.float64), queries.astype(np.float64)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    similarity = queries @ (features / np.linalg.norm(features, axis=1, keepdims=True)).T
    scores = []
    for row in similarity:
        nearest = np.argsort(-row)[:k]
        weights = np.exp(row[nearest] / temperature)
        scores.append((weights / weights.sum()) @ memory.labels[nearest].astype(np.float64))
    return np.array(scores)


def test_predictions_equal_brute_force():
    memory = random_memory()
    queries = 7 * np.random.RandomState(1).randn(97, 12).astype(np.float32)
    found = Retrieval(memory).predict(queries)
    np.testing.assert_allclose(found, brute_force(memory, queries, 30, 0.02), atol=2e-5)
    assert found.dtype == np.float32
    maps = Retrieval(memory, k=3, temperature=0.1).predict(queries[:96].reshape(2, 6, 8, 12))
    assert maps.shape == (2, 6, 8, 5)
    np.testing.assert_allclose(
        maps.reshape(96, 5), brute_force(memory, queries[:96], 3, 0.1), atol=2e-5
    )


def test_no_matrix_of_all_similarities_and_a_memory_in_parts(monkeypatch):
    memory = random_memory(m=333)
    queries = np.random.RandomState(1).randn(50, 12).astype(np.float32)
    whole = Retrieval(memory).predict(queries)
    one = parallel.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(knn, 'MAX_SIMILARITIES', 16 * 333)
    assert knn.plan_chunks(50, 333, 12, one) == (333, 16)
    knn.nearest.clear_cache()
    np.testing.assert_allclose(Retrieval(memory, mesh=one).predict(queries), whole, atol=1e-5)
    assert knn.nearest._cache_size() == 1
    monkeypatch.setattr(knn, 'MAX_KEYS', 100 * 12)
    parts = Retrieval(memory, mesh=one)
    assert parts._keys is memory.features
    np.testing.assert_allclose(parts.predict(queries), whole, atol=1e-5)


@pytest.mark.parametrize('devices', [2, 8])
def test_several_devices_predict_as_one(devices):
    memory = random_memory(m=101)
    queries = np.random.RandomState(1).randn(13, 12).astype(np.float32)
    one, several = (
        Retrieval(memory, mesh=parallel.make_mesh(jax.devices()[:n])).predict(queries)
        for n in (1, devices)
    )
    np.testing.assert_allclose(several, one, atol=1e-5)


def test_the_memory_is_sent_once_and_programs_are_shared(monkeypatch):
    memory, puts = random_memory(m=64), []
    original = knn.put_rows
    monkeypatch.setattr(knn, 'put_rows', lambda *args: puts.append(1) or original(*args))
    retrieval = Retrieval(memory)
    knn.nearest.clear_cache()
    for count in (17, 20, 256):
        retrieval.predict(np.ones((count, 12)))
    assert puts == [1]
    assert knn.nearest._cache_size() == 1


def test_chunks_of_many_queries_are_even(monkeypatch):
    memory, sizes = random_memory(m=64), []
    retrieval = Retrieval(memory, mesh=parallel.make_mesh(jax.devices()[:1]))
    monkeypatch.setattr(knn, 'MAX_SIMILARITIES', 1100 * 64)
    original = knn.nearest
    monkeypatch.setattr(
        knn, 'nearest', lambda q, *args, **kw: sizes.append(len(q)) or original(q, *args, **kw)
    )
    queries = np.random.RandomState(1).randn(1300, 12).astype(np.float32)
    found = retrieval.predict(queries)
    assert sizes == [768, 768]
    np.testing.assert_allclose(found, brute_force(memory, queries, 30, 0.02), atol=2e-5)


def test_few_patches_cap_the_neighbours():
    memory = random_memory(m=4)
    queries = np.random.RandomState(1).randn(3, 12).astype(np.float32)
    np.testing.assert_allclose(
        Retrieval(memory).predict(queries), brute_force(memory, queries, 4, 0.02), atol=2e-5
    )


# The lines of open-hummingbird-eval's hbird_eval.py that make labels and choose patches, in NumPy.
def original_labels(mask, patch, classes):
    h, w = mask.shape
    cells = mask.reshape(h // patch, patch, w // patch, patch).transpose(0, 2, 1, 3)
    cells = cells.reshape(h // patch, w // patch, patch * patch)
    return cells, np.eye(classes)[cells].mean(axis=2)


def original_choice(cells, classes, count, uniform):
    frequency = np.zeros(classes)
    for row in cells:
        for cell in row:
            frequency[np.unique(cell)] += 1
    scores = np.array([[frequency[np.unique(cell)].sum() for cell in row] for row in cells])
    return np.sort(np.argsort(scores.ravel() * uniform, kind='stable')[:count])


def test_patches_have_the_labels_and_are_chosen_as_in_the_original():
    mask = np.random.RandomState(0).randint(0, 2, (4, 6)).repeat(6, 0).repeat(6, 1)
    mask[:5, :7], mask[-3:, -3:] = 3, 2
    cells, expected = original_labels(mask, 4, 4)
    labels = patch_labels(mask, (6, 9), 4)
    np.testing.assert_allclose(labels, expected, atol=1e-6)
    uniform = np.random.default_rng([0x4B1D, 5, 7]).random(54)
    for count in (1, 10, 54):
        np.testing.assert_array_equal(
            sample_patches(labels.reshape(54, 4), count, seed=5, picture=7),
            original_choice(cells, 4, count, uniform),
        )


def test_patches_of_rare_classes_are_likelier():
    labels = np.zeros((100, 2))
    labels[:, 0] = 1.0
    labels[:5] = 0.0, 1.0
    times = [np.sum(sample_patches(labels, 10, 0, picture) < 5) for picture in range(50)]
    assert np.mean(times) > 4  # 0.5 if all were alike


def test_ignored_pixels_are_of_no_class():
    mask = np.array([[-1, -1, 0, 0], [-1, -1, -1, 1]])
    np.testing.assert_allclose(patch_labels(mask, (1, 2), 2), [[[0, 0], [0.5, 0.25]]])
    chosen = sample_patches(patch_labels(mask, (1, 2), 2).reshape(2, 2), 2, 0, 0)
    assert chosen.tolist() == [1]
    assert not patch_labels(np.full((4, 4), -1), (2, 2), 3).any()


def test_patches_that_cut_pixels_share_them_by_area():
    mask = np.random.RandomState(0).randint(-1, 3, (7, 5))
    fine = mask.repeat(3, 0).repeat(4, 1)  # pixels that the patches do not cut
    np.testing.assert_allclose(
        patch_labels(mask, (3, 4), 3), patch_labels(fine, (3, 4), 3), atol=1e-6
    )
    shares = patch_labels(np.zeros((7, 5), int), (3, 4), 1)
    np.testing.assert_allclose(shares, 1.0, atol=1e-6)
    # More patches than pixels: each has the label of the pixel that it lies in.
    np.testing.assert_allclose(
        patch_labels(mask, (14, 10), 3), patch_labels(fine, (14, 10), 3), atol=1e-6
    )


def collect(order, size=40, seed=3, grid=(4, 5), pictures=6):
    collection = Collection(size=size, pictures=pictures, seed=seed)
    for picture in order:
        random = np.random.RandomState(picture)
        mask = random.randint(-1, 3, grid) if picture != 2 else np.full(grid, -1)
        collection.add(picture, 3 * random.randn(*grid, 8), patch_labels(mask, grid, 3))
    return collection.memory()


def test_the_memory_is_bounded_and_a_function_of_seed_and_pictures():
    memory = collect(range(6))
    assert memory.features.shape == (5 * (40 // 6), 8)  # picture 2 has no labelled pixel
    assert memory.labels.shape == (30, 3)
    np.testing.assert_allclose(np.linalg.norm(memory.features, axis=1), 1.0, atol=1e-6)
    assert (memory.labels.max(axis=1) == 1.0).all()
    for again in (collect(range(6)), collect([4, 0, 5, 2, 1, 3])):
        np.testing.assert_array_equal(again.features, memory.features)
        np.testing.assert_array_equal(again.labels, memory.labels)
    assert not np.array_equal(collect(range(6), seed=4).features, memory.features)
    # Features go with their labels.
    random = np.random.RandomState(0)
    labels, features = random.randint(-1, 3, (4, 5)), random.randn(4, 5, 8)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    places = [
        np.argmin(np.abs(features.reshape(20, 8) - row).sum(axis=1)) for row in memory.features[:6]
    ]
    np.testing.assert_array_equal(memory.labels[:6].argmax(axis=1), labels.ravel()[places])


def test_a_memory_that_is_large_enough_has_every_labelled_patch():
    memory = collect(range(6), size=10_000)
    labelled = sum(
        int((np.random.RandomState(i).randint(-1, 3, (4, 5)) >= 0).sum()) for i in (0, 1, 3, 4, 5)
    )
    assert len(memory.features) == labelled


SIZES = pytest.mark.parametrize(
    ('grid', 'size'), [((3, 4), (48, 64)), ((5, 7), (33, 20)), ((1, 2), (9, 9)), ((4, 6), (6, 6))]
)


@SIZES
def test_enlarging_equals_jax(grid, size):
    scores = np.random.RandomState(0).rand(*grid, 3).astype(np.float32)
    expected = jax.image.resize(scores, (*size, 3), 'bilinear')
    np.testing.assert_allclose(upsample(scores, size), expected, atol=1e-6)


@SIZES
def test_enlarging_equals_torch(grid, size):
    torch = pytest.importorskip('torch', reason='the other library is not installed')
    scores = np.random.RandomState(0).rand(*grid, 3).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(scores.transpose(2, 0, 1)[None]), size, mode='bilinear', align_corners=False
    )
    expected = expected[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(upsample(scores, size), expected, atol=1e-6)


def test_pixels_have_the_likeliest_class():
    scores = np.zeros((1, 2, 3))
    scores[0, 0, 1], scores[0, 1, 2] = 1.0, 0.5
    assert label_map(scores, (1, 8)).tolist() == [[1, 1, 1, 1, 1, 2, 2, 2]]
    assert label_map(np.zeros((2, 2, 3)), (4, 4)).dtype == np.int32


def test_retrieval_finds_what_a_picture_shows():
    """Two textures, with noise: the patches of new pictures have their own labels."""
    random = np.random.RandomState(0)
    means, collection = random.randn(2, 16), Collection(size=60, pictures=3, seed=0)

    def picture():
        mask = np.zeros((32, 48), int)
        mask[:, random.randint(10, 38) :] = 1
        shares = patch_labels(mask, (8, 12), 2)
        return mask, shares @ means + 0.1 * random.randn(8, 12, 16)

    for i in range(3):
        mask, maps = picture()
        collection.add(i, maps, patch_labels(mask, (8, 12), 2))
    retrieval = Retrieval(collection.memory())
    mask, maps = picture()
    assert np.mean(label_map(retrieval.predict(maps), (32, 48)) == mask) > 0.93


def test_errors():
    with pytest.raises(ValueError, match='size is 5, pictures 6: the memory needs a patch'):
        Collection(size=5, pictures=6, seed=0)
    collection = Collection(size=6, pictures=2, seed=0)
    with pytest.raises(ValueError, match=r'features is \(2, 2, 4\), labels \(2, 3, 2\)'):
        collection.add(0, np.zeros((2, 2, 4)), np.zeros((2, 3, 2)))
    with pytest.raises(ValueError, match='features of picture 0 are not finite'):
        collection.add(0, np.full((2, 4), np.nan), np.ones((2, 2)))
    collection.add(0, np.ones((2, 4)), np.zeros((2, 2)))
    for picture in (0, 2):
        with pytest.raises(ValueError, match=f'picture is {picture}: each of 0 to 1'):
            collection.add(picture, np.ones((2, 4)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match='1 pictures have no labelled patch'):
        collection.memory()
    with pytest.raises(ValueError, match='temperature is 0'):
        Retrieval(random_memory(m=4), temperature=0)
    with pytest.raises(ValueError, match='mask runs from 0 to 7'):
        patch_labels(np.array([[0, 7]]), (1, 1), 3)
