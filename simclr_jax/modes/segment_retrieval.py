"""Retrieval in a segmentation run: training places that are remembered, and what they say."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.data import mask_batches
from simclr_jax.data.masks import MaskSource
from simclr_jax.evaluate import retrieval
from simclr_jax.evaluate.windows import Windows
from simclr_jax.methods.base import Tree
from simclr_jax.methods.segment import Segment
from simclr_jax.models import maps as maps_lib
from simclr_jax.modes.segment_windows import in_batches

_ROWS = 4  # windows of a training picture at a time, for each device
_STREAM = 0x4E4E  # beside the seed: no other draws are like these


class Remembered:
    """Training places that others are compared with, for each of a method's maps.

    Which places are remembered depends on masks and seed alone: all maps have the same ones. Each
    process of several remembers all of them.
    """

    def __init__(
        self,
        method: Segment,
        frozen: Tree,
        mesh: Mesh,
        normalize: Callable[[jax.Array], jax.Array],
    ):
        """Remembers nothing yet.

        Args:
          method: whose maps and classes they are.
          frozen: variables of the encoders by the name of their maps, on the devices of `mesh`.
          mesh: of this process.
          normalize: makes the input of the encoders.
        """
        self._method, self._frozen, self._mesh = method, frozen, mesh
        (self._stride,) = {maps.stride for maps in method.maps.values()}
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
        windows: Windows,
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
          windows: how they are seen.
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
        pictures = mask_batches.whole(source, chosen)
        for place, (_, picture, labels) in enumerate(pictures):
            shares = np.stack([self._shares(window) for window in windows.cut_labels(labels)])
            for name, made in self._of(windows.cut(picture)).items():
                kept[name].add(place, made, shares)
        try:
            for name, collection in kept.items():
                self._asked[name] = retrieval.Retrieval(
                    collection.memory(), k=neighbours, temperature=temperature, mesh=self._mesh
                )
        except ValueError as error:
            raise ConfigError(f'segment.memory={size}: {error} See segment.ignore') from error

    def values(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns each class's share of each pixel, `{maps: [n, height, width, classes]}`.

        `images` are uint8 `[n, height, width, channel]` on the devices.
        """
        _, height, width, _ = images.shape
        return {
            name: _to_pixels(
                self._asked[name].predict(np.asarray(made)), self._stride, height, width
            )
            for name, made in self._maps(self._frozen, images).items()
        }

    def _shares(self, labels: np.ndarray) -> np.ndarray:
        """Each class's share of the places of a window's labels `[side, side]`."""
        stride = self._stride
        sides = [(0, -side % stride) for side in labels.shape]
        padded = np.pad(labels, sides, constant_values=-1)
        grid = tuple(side // stride for side in padded.shape)
        return retrieval.patch_labels(padded, grid, self._method.classes)

    def _of(self, cut: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the maps of windows `[n, side, side, channel]` uint8."""
        parts = [
            self._maps(self._frozen, batch)
            for batch in in_batches(cut, _ROWS * self._mesh.devices.size, self._mesh)
        ]
        return jax.tree.map(lambda *x: np.concatenate([*map(np.asarray, x)])[: len(cut)], *parts)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _to_pixels(shares: np.ndarray, stride: int, height: int, width: int) -> jax.Array:
    return maps_lib.to_pixels(shares, stride, height, width)
