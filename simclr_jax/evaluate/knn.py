"""Nearest neighbours by cosine similarity, exactly, and the classifier that they vote for."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from simclr_jax.evaluate import subsets
from simclr_jax.evaluate.linear import check_labels
from simclr_jax.evaluate.predictions import Predictions, likeliest
from simclr_jax.evaluate.rows import Rows, local_mesh, put_rows
from simclr_jax.parallel import DATA_AXIS

MAX_SIMILARITIES = 2**27  # at once on a device: 512 MiB
MAX_KEYS = 2**29  # values of the keys that a device holds at once: 2 GiB
CHUNK_STEP = 256  # sizes of chunks of queries to keys that stay on the devices are multiples


def knn_eval(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    labels_per_class: Sequence[str | int] = ('all', 10, 1),
    draws: int = 5,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> dict[str, dict]:
    """Test accuracy in [0, 1] of the weighted k nearest neighbours of features `[example, dim]`.

    A neighbour votes for its class with weight exp(similarity / temperature) (Wu et al. 2018,
    section 3.4). Returns `{'all': {'mean', 'std'}, '10': ..., '1': ...}`, ready for JSON: mean and
    standard deviation over the draws of that many labels a class, the draws of `linear_eval`. `k`
    is capped at the number of training examples. Examples labelled -1 are left out. `mesh` is as in
    `nearest_neighbours`.
    """
    if temperature <= 0.0:
        raise ValueError(f'temperature is {temperature}: it must be above 0.')
    train, train_labels = subsets.labelled(train_features, train_labels)
    test, test_labels = subsets.labelled(test_features, test_labels)
    check_labels(train_labels, test_labels, num_classes)

    def accuracy(chosen):
        shares = _vote(
            test, train.take(chosen), train_labels[chosen], num_classes, k, temperature, mesh
        )
        return float(np.mean(np.argmax(shares, axis=1) == test_labels))

    accuracies = {}
    for count in labels_per_class:
        if count == 'all':
            accuracies['all'] = [accuracy(slice(None))]
        else:
            accuracies[str(count)] = [
                accuracy(subsets.draw_subset(train_labels, count, seed, draw))
                for draw in range(draws)
            ]
    return {
        count: {'mean': float(np.mean(values)), 'std': float(np.std(values))}
        for count, values in accuracies.items()
    }


def knn_predictions(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    chosen: np.ndarray | None = None,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    mesh: Mesh | None = None,
) -> Predictions:
    """Returns what the vote of `knn_eval` says of test features `[example, dim]`.

    Args:
      train_features: `[example, dim]`.
      train_labels: `[example]`, -1 where there is none.
      test_features: `[example, dim]`.
      chosen: places of the training examples that may vote; None for all that have a label.
      num_classes: of the labels.
      k: neighbours, at most the number of examples that may vote.
      temperature: of a vote, above 0.
      mesh: as in `nearest_neighbours`.

    Returns:
      The likeliest classes; a class's probability is its share of the votes.
    """
    if temperature <= 0.0:
        raise ValueError(f'temperature is {temperature}: it must be above 0.')
    index = np.flatnonzero(train_labels != subsets.UNLABELLED) if chosen is None else chosen
    labels = np.asarray(train_labels)[index]
    check_labels(labels, labels, num_classes)
    test = Rows(test_features, np.arange(len(test_features)))
    keys = Rows(train_features, index)
    return likeliest(_vote(test, keys, labels, num_classes, k, temperature, mesh))


def _vote(test, keys, key_labels, num_classes, k, temperature, mesh) -> np.ndarray:
    """Each class's share of the votes for every test example, `[example, class]` float64."""
    indices, similarities = nearest_neighbours(test, keys, min(k, len(keys)), mesh=mesh)
    # Relative to the nearest: the same votes, and no overflow at a low temperature.
    votes = np.exp((similarities - similarities[:, :1]).astype(np.float64) / temperature)
    scores = np.zeros((len(test), num_classes))
    np.add.at(scores, (np.arange(len(test))[:, None], key_labels[indices]), votes)
    return scores / scores.sum(axis=1, keepdims=True)


class OnDevices(NamedTuple):
    """Keys on the devices of `mesh`: `[row, dim]`, normalized; the first `count` rows are real."""

    rows: jax.Array
    count: int
    mesh: Mesh

    @property
    def shape(self) -> tuple[int, int]:
        return self.count, self.rows.shape[1]


def put_keys(keys: np.ndarray | Rows, *, mesh: Mesh | None = None) -> np.ndarray | Rows | OnDevices:
    """Returns keys `[key, dim]` that `nearest_neighbours` shall be asked for more than once.

    They lie on the devices of `mesh`, by default those of this process, if all fit there
    (`MAX_KEYS`). If not, they are what was given, and every call sends them in parts.
    """
    mesh = mesh or local_mesh()
    of_device, _ = plan_chunks(1, *keys.shape, mesh)
    padded = mesh.devices.size * of_device
    if keys.shape[0] > padded:
        return keys
    return _put_part(keys, slice(0, padded), padded, mesh)


def nearest_neighbours(
    queries: np.ndarray | Rows,
    keys: np.ndarray | Rows | OnDevices,
    k: int,
    *,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of and cosine similarities to the `k` nearest `keys` `[key, dim]` of every query.

    Both are `[query, k]`, nearest first; of equals, the first key. A query that is also a key finds
    itself. Keys are spread over the devices of `mesh`, by default those of this process, as many
    at a time as fit there (`MAX_KEYS`), unless they are there already (`put_keys`); every process
    of several gives the same arguments and gets the whole result. Queries go in chunks of one
    shape: memory is bounded, and one program is compiled.
    """
    count = keys.shape[0]
    if not 1 <= k <= count:
        raise ValueError(f'k is {k}: it must lie between 1 and the number of keys, {count}.')
    if len(queries) == 0:
        return np.zeros((0, k), np.int32), np.zeros((0, k), np.float32)
    queries = queries if isinstance(queries, Rows) else np.asarray(queries)
    if isinstance(keys, OnDevices):
        return _nearest_of_part(queries, keys, k, _even_chunk(len(queries), keys))
    mesh = mesh or local_mesh()
    keys = keys if isinstance(keys, Rows) else np.asarray(keys)
    of_device, chunk = plan_chunks(len(queries), *keys.shape, mesh)
    padded = mesh.devices.size * of_device
    indices, similarities = [], []
    for start in range(0, count, padded):
        part = _put_part(keys, slice(start, start + padded), padded, mesh)
        found = _nearest_of_part(queries, part, min(k, part.count), chunk)
        indices.append(found[0] + start)
        similarities.append(found[1])
    if len(indices) == 1:
        return indices[0], similarities[0]
    indices, similarities = (np.concatenate(x, axis=1) for x in (indices, similarities))
    # Stable: of equals, the first key.
    best = np.argsort(-similarities, axis=1, kind='stable')[:, :k]
    return np.take_along_axis(indices, best, 1), np.take_along_axis(similarities, best, 1)


def plan_chunks(queries: int, keys: int, dim: int, mesh: Mesh) -> tuple[int, int]:
    """Returns how many keys a device holds at once, and how many queries are asked at once."""
    of_device = max(1, min(-(-keys // mesh.devices.size), MAX_KEYS // dim))
    return of_device, min(queries, max(1, MAX_SIMILARITIES // of_device))


def _even_chunk(queries: int, keys: OnDevices) -> int:
    """Of a few sizes, so that calls with other numbers of queries share their programs."""
    padded = -(-queries // CHUNK_STEP) * CHUNK_STEP
    _, most = plan_chunks(padded, *keys.shape, keys.mesh)
    chunks = -(-queries // most)
    return min(most, -(-queries // (chunks * CHUNK_STEP)) * CHUNK_STEP)


def _put_part(keys, rows, padded, mesh):
    part = Rows(keys, np.arange(*rows.indices(keys.shape[0])), _normalize)
    return OnDevices(put_rows(part, padded, mesh), len(part), mesh)


def _nearest_of_part(queries, keys, k, chunk):
    count = np.int32(keys.count)
    indices, similarities = [], []
    for start in range(0, len(queries), chunk):
        part = _normalize(queries[start : start + chunk])
        filled = np.pad(part, ((0, chunk - len(part)), (0, 0)))
        found = jax.device_get(nearest(filled, keys.rows, count, k=k, mesh=keys.mesh))
        indices.append(found[0][: len(part)])
        similarities.append(found[1][: len(part)])
    return np.concatenate(indices), np.concatenate(similarities)


@partial(jax.jit, static_argnames=('k', 'mesh'))
def nearest(
    queries: jax.Array, keys: jax.Array, count: jax.Array, *, k: int, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """Indices and similarities `[query, k]`: of each device's keys, then of all devices'.

    `queries` `[query, dim]` are everywhere, `keys` `[key, dim]` spread over the devices; both are
    normalized. Only the first `count` keys are real. Of equals, the first key.
    """

    def of_device(queries, keys, count):
        place = jax.lax.axis_index(DATA_AXIS) * len(keys) + jnp.arange(len(keys))
        similarity = jnp.matmul(queries, keys.T, precision='highest')
        similarity = jnp.where(place[None] < count, similarity, -jnp.inf)
        values, indices = jax.lax.top_k(similarity, min(k, len(keys)))
        # In the order of the devices, which is that of the keys.
        values, indices = (
            jax.lax.all_gather(x, DATA_AXIS, axis=1, tiled=True) for x in (values, place[indices])
        )
        values, best = jax.lax.top_k(values, k)
        return jnp.take_along_axis(indices, best, axis=1), values

    return jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(P(), P(DATA_AXIS), P()),
        out_specs=P(),
        check_vma=False,  # what was gathered is equal on all devices
    )(queries, keys, count)


def _normalize(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norm, 1e-12)
