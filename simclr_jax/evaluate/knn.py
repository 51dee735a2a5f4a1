"""Nearest neighbours by cosine similarity, exactly, and the classifier that they vote for."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.evaluate import subsets
from simclr_jax.evaluate.linear import check_labels

MAX_SIMILARITIES = 2**27  # at once: 512 MiB


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
) -> dict[str, dict]:
    """Test accuracy in [0, 1] of the weighted k nearest neighbours of features `[example, dim]`.

    A neighbour votes for its class with weight exp(similarity / temperature) (Wu et al. 2018,
    section 3.4). Returns `{'all': {'mean', 'std'}, '10': ..., '1': ...}`, ready for JSON: mean and
    standard deviation over the draws of that many labels a class, the draws of `linear_eval`. `k`
    is capped at the number of training examples. Examples labelled -1 are left out.
    """
    if temperature <= 0.0:
        raise ValueError(f'temperature is {temperature}: it must be above 0.')
    train, train_labels = subsets.drop_unlabelled(train_features, train_labels)
    test, test_labels = subsets.drop_unlabelled(test_features, test_labels)
    check_labels(train_labels, test_labels, num_classes)

    def accuracy(chosen):
        keys, key_labels = train[chosen], train_labels[chosen]
        indices, similarities = nearest_neighbours(test, keys, min(k, len(keys)))
        # Relative to the nearest: the same votes, and no overflow at a low temperature.
        votes = np.exp((similarities - similarities[:, :1]).astype(np.float64) / temperature)
        scores = np.zeros((len(test), num_classes))
        np.add.at(scores, (np.arange(len(test))[:, None], key_labels[indices]), votes)
        return float(np.mean(np.argmax(scores, axis=1) == test_labels))

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


def nearest_neighbours(
    queries: np.ndarray, keys: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of and cosine similarities to the `k` nearest `keys` `[key, dim]` of every query.

    Both are `[query, k]`, nearest first; of equals, the first key. A query that is also a key finds
    itself. Queries go in chunks of one shape: memory is bounded, and one program is compiled.
    """
    if not 1 <= k <= len(keys):
        raise ValueError(f'k is {k}: it must lie between 1 and the number of keys, {len(keys)}.')
    if len(queries) == 0:
        return np.zeros((0, k), np.int32), np.zeros((0, k), np.float32)
    keys = _normalize(jnp.asarray(keys, jnp.float32))
    chunk = min(len(queries), max(1, MAX_SIMILARITIES // len(keys)))
    indices, similarities = [], []
    for start in range(0, len(queries), chunk):
        part = np.asarray(queries[start : start + chunk], np.float32)
        padded = np.pad(part, ((0, chunk - len(part)), (0, 0)))
        found = jax.device_get(_nearest(padded, keys, k=k))
        indices.append(found[0][: len(part)])
        similarities.append(found[1][: len(part)])
    return np.concatenate(indices), np.concatenate(similarities)


@partial(jax.jit, static_argnames='k')
def _nearest(queries, keys, *, k):
    similarity = jnp.matmul(_normalize(queries), keys.T, precision='highest')
    values, indices = jax.lax.top_k(similarity, k)
    return indices, values


@jax.jit
def _normalize(vectors):
    norm = jnp.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / jnp.maximum(norm, 1e-12)
