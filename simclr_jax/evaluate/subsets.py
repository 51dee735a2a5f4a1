"""Which training examples an evaluation may see: labelled ones, few-label draws, hold-outs.

Every choice is a pure function of the labels and a seed. It orders examples by raw Philox bits,
whose values NumPy guarantees, and so stays the same across NumPy's versions.
"""

import zlib

import numpy as np

from simclr_jax.evaluate.rows import Rows

UNLABELLED = -1


def labelled(features: np.ndarray, labels: np.ndarray) -> tuple[Rows, np.ndarray]:
    """The examples of `features` `[example, dim]` whose `labels` `[example]` are not -1.

    Features are not copied: at ImageNet's scale they have 10 GB.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if len(features) != len(labels):
        raise ValueError(
            f'features has {len(features)} examples, labels has {len(labels)}: they must be equal.'
        )
    index = np.flatnonzero(labels != UNLABELLED)
    return Rows(features, index), labels[index]


def draw_subset(labels: np.ndarray, per_class: int, seed: int, draw: int) -> np.ndarray:
    """Indices, ascending, of `per_class` examples of every class in `labels` `[example]`.

    Draws are nested: with the same seed and draw, a smaller subset lies inside a larger one.
    Raises ValueError where a class has too few examples.
    """
    if per_class < 1:
        raise ValueError(f'per_class is {per_class}: ask for at least one label a class.')
    labels = _labelled(labels)
    classes, counts = np.unique(labels, return_counts=True)
    short = np.flatnonzero(counts < per_class)
    if len(short):
        raise ValueError(
            f'class {classes[short[0]]} has {counts[short[0]]} labelled examples, fewer than the '
            f'{per_class} asked for ({len(short)} such classes): ask for at most {counts.min()} '
            'labels a class, or read more training examples.'
        )
    rank, _ = _rank_in_class(labels, 'draw_subset', seed, draw)
    return np.flatnonzero(rank < per_class)


def draw_at_most(labels: np.ndarray, per_class: int, seed: int, draw: int = 0) -> np.ndarray:
    """As `draw_subset`, but a class of fewer examples gives all of them."""
    rank, _ = _rank_in_class(_labelled(labels), 'draw_subset', seed, draw)
    return np.flatnonzero(rank < per_class)


def draw_share(labels: np.ndarray, share: float, seed: int, draw: int) -> np.ndarray:
    """Indices, ascending, of about `share` of every class in `labels` `[example]`, one at least.

    Draws are nested, with those of `draw_subset` too.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f'share is {share}: it must lie between 0 and 1.')
    rank, count = _rank_in_class(_labelled(labels), 'draw_subset', seed, draw)
    return np.flatnonzero(rank < np.maximum(np.rint(share * count), 1))


def holdout_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices `(kept, held_out)`; of every class, about `fraction` is held out.

    No class is held out entirely. Raises ValueError where nothing at all would be held out.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f'fraction is {fraction}: it must lie between 0 and 1.')
    rank, count = _rank_in_class(_labelled(labels), 'holdout_split', seed)
    held_out = rank < np.minimum(np.rint(fraction * count), count - 1)
    if not held_out.any():
        raise ValueError(
            f'fraction {fraction} of classes with at most {count.max()} examples holds nothing out:'
            ' raise the fraction, or give more labels.'
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def stratified_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold, 0 to `folds` - 1, of every example in `labels`; every class is spread evenly."""
    rank, _ = _rank_in_class(_labelled(labels), 'stratified_folds', seed)
    return rank % folds


def _labelled(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if (labels == UNLABELLED).any():
        raise ValueError(
            f'labels has {np.sum(labels == UNLABELLED)} unlabelled examples (-1): '
            'leave them out first (`labelled`).'
        )
    return labels


def _rank_in_class(
    labels: np.ndarray, stream: str, seed: int, draw: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Each example's place, 0, 1, ..., in a random order of its class, and its class's size."""
    entropy = np.random.SeedSequence((zlib.crc32(stream.encode()), seed, draw))
    bits = np.random.Philox(entropy).random_raw(len(labels))
    order = np.lexsort((bits, labels))
    _, first, inverse, count = np.unique(
        labels[order], return_index=True, return_inverse=True, return_counts=True
    )
    rank, size = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - first[inverse]
    size[order] = count[inverse]
    return rank, size
