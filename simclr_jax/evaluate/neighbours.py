"""What the neighbours of vectors show: near-duplicates, clusters and odd ones out.

Vectors are normalized, and may lie in a file that is mapped into memory: they are read in blocks.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from simclr_jax.evaluate.knn import nearest_neighbours
from simclr_jax.evaluate.rows import blocks

NEIGHBOURS = 10  # of each picture
_SHARE_OF_COPIES = 0.9  # that are found by the threshold
_MOST_CLUSTERS = 30


class Neighbours(NamedTuple):
    """The nearest others of every vector, nearest first.

    Attributes:
      indices: `[n, k]` int32.
      similarities: `[n, k]` float32, cosines in [-1, 1].
    """

    indices: np.ndarray
    similarities: np.ndarray


class Group(NamedTuple):
    """Near-duplicates.

    Attributes:
      rows: of the pictures; all are at least as similar to the first one as the threshold.
      similarities: to the first one, of the others, `[len(rows) - 1]`, falling.
    """

    rows: list[int]
    similarities: list[float]


class Cluster(NamedTuple):
    """Pictures around a centre.

    Attributes:
      size: how many there are.
      central: rows of the most central ones, the most central first.
      labels: label to the number of its pictures, most first; {} without labels.
    """

    size: int
    central: list[int]
    labels: dict[int, int]


def find_neighbours(
    vectors: np.ndarray, k: int = NEIGHBOURS, *, mesh: Mesh | None = None
) -> Neighbours:
    """Returns the `k` nearest others of every vector `[n, dim]`; fewer where there are fewer.

    Exact: all pairs are compared, in tiles, and no matrix `[n, n]` is ever held.
    """
    n = len(vectors)
    k = min(k, n - 1)
    if k < 1:
        return Neighbours(np.zeros((n, 0), np.int32), np.zeros((n, 0), np.float32))
    indices, similarities = nearest_neighbours(vectors, vectors, k + 1, mesh=mesh)
    own = indices == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True  # more than k copies come before it
    return Neighbours(indices[~own].reshape(n, k), similarities[~own].reshape(n, k))


def threshold_of(copies: np.ndarray) -> float:
    """Returns the cosine from which two pictures are called near-duplicates.

    Args:
      copies: similarity of pictures to copies that were made of them, `[m]`.

    It is the one that nine of ten of these copies reach. So it fits the encoder, whose cosines may
    lie anywhere: features that are never negative are all similar.
    """
    return float(np.quantile(copies, 1 - _SHARE_OF_COPIES))


def near_duplicates(vectors: np.ndarray, neighbours: Neighbours, threshold: float) -> list[Group]:
    """Returns groups of near-duplicates, the most similar first; a picture is in one at most.

    Pairs are taken from the most similar one on. A picture joins a group only if it is similar
    enough to the group's first picture: no chain leads from one picture to quite another one.
    """
    rows, places = np.nonzero(neighbours.similarities >= threshold)
    others, similarity = neighbours.indices[rows, places], neighbours.similarities[rows, places]
    first, second = np.minimum(rows, others), np.maximum(rows, others)
    group_of: dict[int, int] = {}
    members: list[list[int]] = []
    for i in np.lexsort((second, first, -similarity)):
        a, b = int(first[i]), int(second[i])
        if a not in group_of and b not in group_of:
            group_of[a] = group_of[b] = len(members)
            members.append([a, b])
        elif (a in group_of) != (b in group_of):
            new, old = (b, a) if a in group_of else (a, b)
            group = members[group_of[old]]
            if float(vectors[group[0]] @ vectors[new]) >= threshold:
                group_of[new] = group_of[old]
                group.append(new)
    return sorted(
        (_sorted(vectors, group) for group in members),
        key=lambda group: (-group.similarities[0], group.rows),
    )


def _sorted(vectors: np.ndarray, group: list[int]) -> Group:
    head, rest = group[0], np.array(group[1:])
    similarities = vectors[rest] @ vectors[head]
    order = np.lexsort((rest, -similarities))
    return Group([head, *rest[order].tolist()], similarities[order].clip(-1, 1).tolist())


def find_clusters(
    vectors: np.ndarray, labels: np.ndarray | None = None, *, central: int = 8, seed: int = 0
) -> list[Cluster]:
    """Returns clusters by k-means (Sculley 2010, in mini-batches), the largest first.

    There are about sqrt(n / 2) of them, 30 at most. Centres are means of normalized vectors.

    Args:
      vectors: `[n, dim]` float32, normalized.
      labels: `[n]`, -1 for none.
      central: how many of the most central pictures to name.
      seed: of the choice of the first centres.
    """
    from sklearn.cluster import MiniBatchKMeans

    n = len(vectors)
    count = min(n, _MOST_CLUSTERS, max(2, round(float(np.sqrt(n / 2)))))
    if count < 2:
        return []
    means = MiniBatchKMeans(count, batch_size=4096, n_init=3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # fewer distinct vectors than clusters
        means.fit(vectors)
    centres = means.cluster_centers_.astype(np.float32)
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    of, closeness = np.empty(n, np.int32), np.empty(n, np.float32)
    for rows in blocks(vectors.shape):
        of[rows] = means.predict(np.asarray(vectors[rows]))
        closeness[rows] = (vectors[rows] * centres[of[rows]]).sum(axis=1)
    found = []
    for number in range(count):
        rows = np.flatnonzero(of == number)
        if not len(rows):
            continue
        best = rows[np.lexsort((rows, -closeness[rows]))][:central]
        found.append(Cluster(len(rows), best.tolist(), _mix(labels, rows)))
    return sorted(found, key=lambda cluster: (-cluster.size, cluster.central))


def _mix(labels: np.ndarray | None, rows: np.ndarray) -> dict[int, int]:
    if labels is None:
        return {}
    values, counts = np.unique(labels[rows], return_counts=True)
    order = np.lexsort((values, -counts))
    return {int(values[i]): int(counts[i]) for i in order if values[i] >= 0}


def odd_ones_out(neighbours: Neighbours, count: int) -> tuple[list[int], list[float]]:
    """Returns the rows that are least similar to their neighbours on average, and that average."""
    if not neighbours.similarities.shape[1]:
        return [], []
    mean = neighbours.similarities.mean(axis=1)
    order = np.lexsort((np.arange(len(mean)), mean))[:count]
    return order.tolist(), mean[order].tolist()
