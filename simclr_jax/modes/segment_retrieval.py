"""Retrieval in a segmentation run: training places that are remembered, and what they say."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.data import mask_batches
from simclr_jax.data.masks import MaskSource
from simclr_jax.evaluate import retrieval
from simclr_jax.methods.base import Tree
from simclr_jax.methods.segment import Segment

_ROWS = 8  # pictures at a time, for each device
_STREAM = 0x4E4E  # beside the seed: no other draws are like these


class Remembered:
    """Training places that others are compared with, for each of a method's maps.

    Every picture is seen whole, resized to one square, as in open-hummingbird-eval. Which places
    are remembered depends on masks and seed alone: all maps have the same ones. Each process of
    several remembers all of them.
    """

    def __init__(
        self,
        method: Segment,
        frozen: Tree,
        mesh: Mesh,
        normalize: Callable[[jax.Array], jax.Array],
        side: int,
    ):
        """Remembers nothing yet.

        Args:
          method: whose maps and classes they are.
          frozen: variables of the encoders by the name of their maps, on the devices of `mesh`.
          mesh: of this process.
          normalize: makes the input of the encoders.
          side: height and width of the square, in pixels.
        """
        self._method, self._frozen, self._mesh, self._side = method, frozen, mesh, side
        self._asked: dict[str, retrieval.Retrieval] = {}

        def maps(frozen: Tree, images: jax.Array) -> dict[str, jax.Array]:
            inputs = normalize(images)
            return {name: m.apply(frozen.get(name, {}), inputs) for name, m in method.maps.items()}

        batch = parallel.batch_sharding(mesh)
        replicated = parallel.replicated(mesh)
        self._maps = jax.jit(maps, in_shardings=(replicated, batch), out_shardings=batch)

    def remember(
        self,
        source: MaskSource,
        *,
        size: int,
        neighbours: int,
        temperature: float,
        seed: int,
    ) -> None:
        """Goes once through the training pictures, and keeps as many places of each as have room.

        Where there are more pictures than room, it is one place of as many of them.

        Args:
          source: the pictures.
          size: places at most.
          neighbours: that vote.
          temperature: of a vote.
          seed: of what is drawn.

        Raises:
          ConfigError: no picture has a pixel of a class.
        """
        random = np.random.default_rng((seed, _STREAM))
        chosen = np.sort(random.permutation(source.num_examples)[:size]).tolist()
        kept = {
            name: retrieval.Collection(size=size, pictures=len(chosen), seed=seed)
            for name in self._method.maps
        }
        for place, (_, labels, maps) in enumerate(self._of(source, chosen)):
            (grid,) = {made.shape[:2] for made in maps.values()}  # all have the same stride
            shares = retrieval.patch_labels(labels, grid, self._method.classes)
            for name, made in maps.items():
                kept[name].add(place, made, shares)
        try:
            for name, collection in kept.items():
                self._asked[name] = retrieval.Retrieval(
                    collection.memory(), k=neighbours, temperature=temperature, mesh=self._mesh
                )
        except ValueError as error:
            raise ConfigError(f'segment.memory={size}: {error} See segment.ignore') from error

    def predictions(
        self, source: MaskSource, indices: Sequence[int]
    ) -> Iterator[tuple[int, np.ndarray, dict[str, np.ndarray]]]:
        """Yields index, labels, and the class of each pixel by each of the maps, as int32.

        Args:
          source: the pictures.
          indices: which ones.
        """
        for index, labels, maps in self._of(source, indices):
            yield (
                index,
                labels,
                {
                    name: retrieval.label_map(self._asked[name].predict(made), labels.shape)
                    for name, made in maps.items()
                },
            )

    def _of(
        self, source: MaskSource, indices: Sequence[int]
    ) -> Iterator[tuple[int, np.ndarray, dict[str, np.ndarray]]]:
        """Yields index, labels and maps `[rows, columns, dim]` of pictures."""
        side, rows = self._side, _ROWS * self._mesh.devices.size
        pictures = mask_batches.whole(source, indices)
        while some := [*itertools.islice(pictures, rows)]:
            batch = np.zeros((rows, side, side, source.image_shape[-1]), np.uint8)
            for row, (_, picture, _) in enumerate(some):
                batch[row] = _square(picture, side)
            spread = jax.device_put(batch, parallel.batch_sharding(self._mesh))
            made = jax.device_get(self._maps(self._frozen, spread))
            for row, (index, _, labels) in enumerate(some):
                yield index, labels, {name: maps[row] for name, maps in made.items()}


def _square(picture: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    resized = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    return resized.reshape(side, side, -1)
