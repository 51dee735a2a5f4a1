"""What classifiers of pixels, and retrieval, say of the test pictures of a segmentation run."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from simclr_jax import parallel
from simclr_jax.augment.pixels import normalize_images
from simclr_jax.data import mask_batches
from simclr_jax.data.masks import MaskSource
from simclr_jax.evaluate import segmentation
from simclr_jax.evaluate.windows import Windows
from simclr_jax.methods.base import Tree
from simclr_jax.methods.segment import ENCODER, Segment
from simclr_jax.models import maps as maps_lib
from simclr_jax.models.vit import VisionTransformer
from simclr_jax.modes.segment_retrieval import Remembered
from simclr_jax.train.out_of_memory import EVALUATION, explained
from simclr_jax.train.setup import Run

RETRIEVAL = 'retrieval'  # beside the heads
_SHOWN = 4  # pictures in the report
_MOST_BYTES = 256 * 2**20  # of the values of a batch of windows
_MOST_WINDOWS = 32  # of a batch, for each device

# {head: {maps: ...}}: figures, confusion matrices, or pixels
ByHead = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Shown:
    """A test picture for the report.

    Attributes:
      name: of its file.
      picture: uint8 `[height, width, channel]`.
      mask: int32 `[height, width]`, -1 where it is ignored.
      predictions: `{head: {maps: [height, width]}}`.
      maps: of the encoder, `[rows, columns, dim]` float32.
      attention: of a ViT's class token, `[rows, columns]`, the mean over heads; None without one.
    """

    name: str
    picture: np.ndarray
    mask: np.ndarray
    predictions: ByHead
    maps: np.ndarray
    attention: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Found:
    """What a test has found: figures for `result.json`, and pictures for the report."""

    figures: ByHead
    shown: list[Shown]


@explained('evaluation', EVALUATION)
def evaluate(
    run: Run, variables: Tree, train_source: MaskSource, test_source: MaskSource, windows: Windows
) -> Found:
    """Tests the heads of a run, and retrieval where `segment.memory` has room for places.

    Of several processes each sees its share of the pictures.

    Args:
      run: the parts of the run.
      variables: of its method, whole in this process.
      train_source: the pictures that retrieval compares with.
      test_source: the pictures.
      windows: how they are seen.
    """
    mesh = parallel.make_mesh(jax.local_devices())
    everywhere = parallel.replicated(mesh)
    method, config = run.method, run.config
    own = jax.device_put(variables, everywhere)
    frozen = jax.device_put(run.frozen or {}, everywhere)
    normalize = functools.partial(normalize_images, mean=config.data.mean, std=config.data.std)
    heads = _jitted(lambda own, frozen, x: _by_head(method.logits(own, frozen, normalize(x))), mesh)
    mine = range(jax.process_index(), test_source.num_examples, jax.process_count())
    wanted = set(np.linspace(0, test_source.num_examples - 1, _SHOWN).round().astype(int).tolist())
    retrieves = bool(config.segment.memory) and not method.trained
    # All of them, in a process without pictures, too: they are added up over processes.
    shape = method.classes, method.classes
    matrices: ByHead = {
        head: {name: np.zeros(shape, np.int64) for name in method.maps}
        for head in (*method.heads, *[RETRIEVAL] * retrieves)
    }
    predictions: dict[int, ByHead] = {}  # of the pictures that are shown

    def count(index: int, labels: np.ndarray, head: str, name: str, found: np.ndarray) -> None:
        matrices[head][name] += segmentation.confusion(labels, found, method.classes)
        if index in wanted:
            predictions.setdefault(index, {}).setdefault(head, {})[name] = found

    shown = {}
    for index, picture, labels, values in _pixels(
        test_source, mine, windows, functools.partial(heads, own, frozen), mesh, method
    ):
        for head, by_maps in values.items():
            for name, joined in by_maps.items():
                count(index, labels, head, name, joined.argmax(axis=-1).astype(np.int32))
        if index in wanted:
            maps, attention = _of_whole(method, own, frozen, normalize(picture[None]))
            shown[index] = picture, labels, maps, attention
    if retrieves:
        retrieval = Remembered(method, frozen, mesh, normalize, config.data.image_size)
        retrieval.remember(
            train_source,
            size=config.segment.memory,
            neighbours=config.segment.neighbours,
            temperature=config.segment.temperature,
            seed=config.seed,
        )
        for index, labels, found in retrieval.predictions(test_source, mine):
            for name, classes in found.items():
                count(index, labels, RETRIEVAL, name, classes)
    figures = {
        head: {
            name: segmentation.figures(_over_processes(matrix), test_source.names)
            for name, matrix in by_maps.items()
        }
        for head, by_maps in matrices.items()
    }
    return Found(
        figures,
        [
            Shown(
                test_source.name(index),
                picture,
                labels,
                {head: predictions[index][head] for head in matrices},
                maps,
                attention,
            )
            for index, (picture, labels, maps, attention) in sorted(shown.items())
        ],
    )


def _pixels(
    source: MaskSource,
    indices: Sequence[int],
    windows: Windows,
    heads: Callable[[jax.Array], ByHead],
    mesh: Mesh,
    method: Segment,
) -> Iterator[tuple[int, np.ndarray, np.ndarray, ByHead]]:
    """Yields index, picture, labels, and the logits of each pixel `[height, width, class]`."""
    of_window = windows.side**2 * method.classes * 4 * len(method.maps) * len(method.heads)
    devices = mesh.devices.size
    most = max(1, min(_MOST_WINDOWS, _MOST_BYTES // of_window // devices))
    for index, picture, labels in mask_batches.whole(source, indices):
        cut = windows.cut(picture)
        # Of few numbers, each of which is a program.
        rows = min(most, 2 ** math.ceil(math.log2(-(-len(cut) // devices)))) * devices
        parts = []
        for start in range(0, len(cut), rows):
            batch = np.zeros((rows, *cut.shape[1:]), np.uint8)
            batch[: len(cut) - start] = cut[start : start + rows]
            parts.append(heads(jax.device_put(batch, parallel.batch_sharding(mesh))))
        join = functools.partial(_joined, windows, len(cut), picture.shape[:2])
        yield index, picture, labels, jax.tree.map(join, *parts)


def _joined(windows: Windows, count: int, size: tuple[int, int], *parts: jax.Array) -> np.ndarray:
    values = np.concatenate([np.asarray(part) for part in parts])
    return windows.join(values[:count], size)


def _by_head(logits: dict[str, dict[str, Any]]) -> ByHead:
    found: ByHead = {}
    for name, heads in logits.items():
        for head, values in heads.items():
            found.setdefault(head, {})[name] = values
    return found


def _of_whole(
    method: Segment, variables: Tree, frozen: Tree, images: jax.Array
) -> tuple[np.ndarray, np.ndarray | None]:
    """The encoder's maps of a picture `[1, height, width, channel]`, and its token's attention."""
    own = frozen.get(ENCODER)
    if method.trained:
        own = {kind: tree[ENCODER] for kind, tree in variables.items() if ENCODER in tree}
    maps, encoder = method.maps[ENCODER], method.encoder
    made = jax.jit(maps.apply)(own, images)
    if not (isinstance(encoder, VisionTransformer) and encoder.has_token):
        return np.asarray(made[0]), None
    attention = jax.jit(functools.partial(maps_lib.token_attention, encoder))(own, images)
    return np.asarray(made[0]), np.asarray(attention[0].mean(axis=0))


def _over_processes(matrix: np.ndarray) -> np.ndarray:
    """Adds up what each process counted."""
    if jax.process_count() == 1:
        return matrix
    from jax.experimental import multihost_utils

    # In two halves: JAX has integers of 32 bits.
    halves = np.stack([matrix >> 31, matrix & (2**31 - 1)]).astype(np.int32)
    high, low = multihost_utils.process_allgather(halves).astype(np.int64).sum(axis=0)
    return (high << 31) + low


def _jitted(function: Callable, mesh: Mesh) -> Callable:
    replicated, batch = parallel.replicated(mesh), parallel.batch_sharding(mesh)
    return jax.jit(function, in_shardings=(replicated, replicated, batch), out_shardings=batch)
