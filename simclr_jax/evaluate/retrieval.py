"""Segmentation without training: a patch has the labels of the training patches most like it.

Dense nearest-neighbour retrieval of Hummingbird (Balazevic et al. 2023, "Towards In-context Scene
Understanding"), as open-hummingbird-eval has it (vpariza/open-hummingbird-eval, `hbird_eval.py`):
a memory of training patches, what share of each is of which class, and for every patch of a test
picture the mean of these shares over the 30 nearest patches of the memory, weighted by a softmax
of their cosine similarities over 0.02.

Two things differ, and are meant to. There, an ignored pixel of a training mask is one of class 0,
the background of PASCAL VOC; here it is of no class (give `patch_labels` a mask with 0 in its place
to have it the other way). There, predicted classes are matched with the true ones before mIoU is
taken, as if they were clusters without names; here a class is taken for what it says.
"""

import functools
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from simclr_jax.evaluate.knn import nearest_neighbours, put_keys
from simclr_jax.evaluate.rows import blocks

NEIGHBOURS = 30
TEMPERATURE = 0.02
_STREAM = 0x4B1D  # beside the seed: no other draws are like these


class Memory(NamedTuple):
    """Patches of training pictures, in the order of the pictures.

    Attributes:
      features: `[m, dim]` float32, each of norm 1 (or 0).
      labels: `[m, class]` float32, the share of the patch's pixels that is of each class.
    """

    features: np.ndarray
    labels: np.ndarray


def patch_labels(mask: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """Returns the share of each patch's area that is of each class, `[gh, gw, class]` float32.

    A patch's shares sum to 1 less the share of its pixels that are ignored: these are of no class,
    so that a patch with few labelled pixels says little, and one without any says nothing.

    Args:
      mask: `[height, width]` integers from 0, -1 of a pixel that is ignored.
      grid: rows and columns of patches, which divide the mask evenly; a pixel on an edge between
        two of them belongs to each by its area there.
      classes: how many there are.

    Raises:
      ValueError: a label is no class.
    """
    mask = np.asarray(mask)
    present = np.unique(mask)
    if present.size and (present[0] < -1 or present[-1] >= classes):
        raise ValueError(
            f'mask runs from {present[0]} to {present[-1]}: there are the classes 0 to '
            f'{classes - 1}, and the label -1 of ignored pixels.'
        )
    rows, columns = (_areas(n, cells) for n, cells in zip(mask.shape, grid, strict=True))
    labels = np.zeros((*grid, classes), np.float32)
    for label in present[present >= 0]:
        labels[..., label] = rows @ (mask == label).astype(np.float32) @ columns.T
    return labels


@functools.lru_cache(maxsize=32)
def _areas(pixels: int, cells: int) -> np.ndarray:
    """The share of each cell of a line that each pixel covers, `[cell, pixel]` float32."""
    # In units of 1 / (pixels * cells) of the line, which are whole numbers.
    cell, pixel = np.arange(cells)[:, None] * pixels, np.arange(pixels)[None] * cells
    covered = np.minimum(cell + pixels, pixel + cells) - np.maximum(cell, pixel)
    return (np.maximum(covered, 0) / pixels).astype(np.float32)


def sample_patches(labels: np.ndarray, count: int, seed: int, picture: int) -> np.ndarray:
    """Returns which patches of a picture are remembered, at most `count`, ascending.

    As in open-hummingbird-eval (`sample_features`), patches of classes that are rare in the picture
    are likelier: a class's frequency is the number of patches that have any of it, a patch's score
    the sum of the frequencies of its classes times a number drawn from [0, 1), and the lowest
    scores are taken. Patches without a labelled pixel come last there; here they are left out.

    Args:
      labels: `[patch, class]`, what `patch_labels` returned.
      count: how many.
      seed: of the run.
      picture: index of the picture; what is drawn depends on this, `seed` and the number of
        patches alone.
    """
    present = np.asarray(labels) > 0
    score = (present @ present.sum(axis=0)).astype(np.float64)
    score *= np.random.default_rng([_STREAM, seed % 2**64, picture]).random(len(score))
    labelled = np.flatnonzero(present.any(axis=1))
    return np.sort(labelled[np.argsort(score[labelled], kind='stable')[:count]])


class Collection:
    """Collects a `Memory` of bounded size, picture by picture, in any order.

    Args:
      size: the most patches to remember.
      pictures: how many pictures will be added; each gives at most size / pictures patches. A
        picture that is added in several versions counts, and has an index, for each of them.
      seed: of which patches are remembered.

    Raises:
      ValueError: there are more pictures than patches to remember.
    """

    def __init__(self, *, size: int, pictures: int, seed: int):
        if not 1 <= pictures <= size:
            raise ValueError(
                f'size is {size}, pictures {pictures}: the memory needs a patch of each picture at '
                'least; make it larger, or give it fewer pictures.'
            )
        self._of_picture, self._seed = size // pictures, seed
        self._pictures, self._kept = pictures, {}

    def add(self, picture: int, features: np.ndarray, labels: np.ndarray) -> None:
        """Remembers some patches of a picture.

        Args:
          picture: its index, from 0, below `pictures`.
          features: `[..., dim]`, of all its patches.
          labels: `[..., class]`, their `patch_labels`.

        Raises:
          ValueError: the shapes do not fit, the index is none or was there before, or a feature is
            not finite.
        """
        features, labels = np.asarray(features), np.asarray(labels)
        if features.shape[:-1] != labels.shape[:-1]:
            raise ValueError(
                f'features is {features.shape}, labels {labels.shape}: they must be of the same '
                'patches.'
            )
        if not 0 <= picture < self._pictures or picture in self._kept:
            raise ValueError(
                f'picture is {picture}: each of 0 to {self._pictures - 1} is added once.'
            )
        features, labels = (x.reshape(-1, x.shape[-1]) for x in (features, labels))
        chosen = sample_patches(labels, self._of_picture, self._seed, picture)
        kept = features[chosen].astype(np.float32)
        if not np.isfinite(kept).all():
            raise ValueError(f'features of picture {picture} are not finite: look at the encoder.')
        norm = np.linalg.norm(kept, axis=1, keepdims=True)
        self._kept[picture] = kept / np.maximum(norm, 1e-12), labels[chosen].astype(np.float32)

    def memory(self) -> Memory:
        """Returns what was remembered, and forgets it here: nothing is held twice.

        Raises:
          ValueError: no picture had a labelled patch.
        """
        count = sum(len(features) for features, _ in self._kept.values())
        if not count:
            raise ValueError(
                f'{len(self._kept)} pictures have no labelled patch: nothing can be retrieved.'
            )
        features, labels = next(iter(self._kept.values()))
        memory = Memory(*(np.empty((count, x.shape[1]), np.float32) for x in (features, labels)))
        start = 0
        for picture in sorted(self._kept):
            features, labels = self._kept.pop(picture)
            rows = slice(start, start + len(features))
            memory.features[rows], memory.labels[rows] = features, labels
            start = rows.stop
        return memory


class Retrieval:
    """Predicts patches' classes from a memory, which stays on the devices if it fits there.

    Args:
      memory: as `Collection.memory` returns it.
      k: how many neighbours; capped at the patches of the memory.
      temperature: of the softmax over their cosine similarities, above 0.
      mesh: devices that the memory is spread over; by default those of this process. Every process
        of several gives the same arguments and gets the whole result.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        k: int = NEIGHBOURS,
        temperature: float = TEMPERATURE,
        mesh: Mesh | None = None,
    ):
        if temperature <= 0.0:
            raise ValueError(f'temperature is {temperature}: it must be above 0.')
        self._keys, self._mesh = put_keys(memory.features, mesh=mesh), mesh
        self._labels, self._temperature = memory.labels, temperature
        self._k = min(k, len(memory.features))

    def predict(self, queries: np.ndarray) -> np.ndarray:
        """Returns the score of each class for each patch.

        Args:
          queries: `[..., dim]`, features of patches, of any norm.

        Returns:
          `[..., class]` float32 from 0; they sum to 1, or to less where neighbours have ignored
          pixels.
        """
        queries = np.asarray(queries)
        shape, queries = queries.shape[:-1], queries.reshape(-1, queries.shape[-1])
        indices, similarities = nearest_neighbours(queries, self._keys, self._k, mesh=self._mesh)
        # Relative to the nearest: the same shares, and no overflow at a low temperature.
        weights = np.exp((similarities - similarities[:, :1]) / np.float32(self._temperature))
        weights /= weights.sum(axis=1, keepdims=True)
        classes = self._labels.shape[1]
        scores = np.empty((len(queries), classes), np.float32)
        for rows in blocks((len(queries), self._k, classes)):
            scores[rows] = np.matmul(weights[rows, None], self._labels[indices[rows]])[:, 0]
        return scores.reshape(*shape, classes)


def upsample(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns `scores` `[gh, gw, class]` enlarged bilinearly to `size`, `[height, width, class]`.

    Equal to PyTorch's `interpolate(mode='bilinear', align_corners=False)`. It compiles nothing:
    pictures of a data set may have as many sizes as there are pictures.
    """
    scores = np.asarray(scores, np.float32)
    height, width, classes = scores.shape
    rows, columns = _weights(height, size[0]), _weights(width, size[1])
    tall = (rows @ scores.reshape(height, -1)).reshape(size[0], width, classes)
    return np.matmul(columns, tall)


@functools.lru_cache(maxsize=32)
def _weights(from_: int, to: int) -> np.ndarray:
    """What each of `to` places between the centres of `from_` cells has of them, `[to, from_]`."""
    place = np.maximum((np.arange(to) + 0.5) * from_ / to - 0.5, 0.0)
    low = np.minimum(place.astype(np.int64), from_ - 1)
    share = (place - low).astype(np.float32)
    weights = np.zeros((to, from_), np.float32)
    weights[np.arange(to), low] = 1.0 - share
    weights[np.arange(to), np.minimum(low + 1, from_ - 1)] += share
    return weights


def label_map(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the likeliest class of each pixel, `size` int32; of equals, the first class.

    Args:
      scores: `[gh, gw, class]`, of the patches of a picture.
      size: height and width of the picture.
    """
    return np.argmax(upsample(scores, size), axis=-1).astype(np.int32)
