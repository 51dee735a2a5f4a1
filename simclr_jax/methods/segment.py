"""Segmentation: what is at each pixel, by classifiers of the places of an encoder's maps."""

import dataclasses
import math
import zlib
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from simclr_jax.methods.base import Aux, Tree, start_from
from simclr_jax.models import maps as maps_lib

ENCODER = 'encoder'


@dataclasses.dataclass(frozen=True)
class Maps:
    """What a classifier sees of a picture.

    Attributes:
      encoder: whose maps they are; None are the pixels themselves, `stride` x `stride` to a place.
      layers: stages or blocks, counted from 1. The maps of several are concatenated, those of later
        stages resized to the first one's.
      stride: pixels, down and across, to a place.
    """

    encoder: nn.Module | None
    layers: tuple[int, ...]
    stride: int

    def apply(self, variables: Tree, images: jax.Array) -> jax.Array:
        """Normalized pictures `[n, height, width, channel]` to `[n, rows, columns, dim]` float32.

        Batch normalization uses its running averages.
        """
        if self.encoder is None:
            return _patches(images, self.stride)
        return _together(maps_lib.of_pictures(self.encoder, variables, images, self.layers))

    def train(self, variables: Tree, images: jax.Array, rng: jax.Array) -> tuple[jax.Array, Tree]:
        """Returns the maps in training mode, and the new statistics. Patches have to divide sides.

        Args:
          variables: of the encoder.
          images: normalized pictures `[n, height, width, channel]`.
          rng: of what is dropped.
        """
        made, statistics = self.encoder.apply(
            variables,
            images,
            train=True,
            layers=self.layers,
            mutable=['batch_stats'],
            rngs={'drop_path': rng},
        )
        return _together(made), statistics


def _together(made: tuple[jax.Array, ...]) -> jax.Array:
    size = made[0].shape[:3]
    resized = [made[0]] + [jax.image.resize(x, (*size, x.shape[-1]), 'bilinear') for x in made[1:]]
    return jnp.concatenate(resized, axis=-1) if len(resized) > 1 else made[0]


def _patches(images: jax.Array, side: int) -> jax.Array:
    images = maps_lib.padded(images, side)
    count, height, width, channels = images.shape
    shape = count, height // side, side, width // side, side, channels
    rows = jnp.moveaxis(images.reshape(shape), 3, 2)
    return rows.reshape(count, height // side, width // side, -1)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Softmax cross-entropy of each pixel with a label; -1 is none.

    Logits are resized bilinearly to the picture, as in DINOv2's and BYOL's protocols. STEGO resizes
    the maps instead, which gives the same: both are linear, and the weights' sum is 1.

    Several encoders and heads are trained at once, on the same pictures. The loss is the sum of
    theirs, and none has a parameter in common with another, so each learns as if it were alone.

    Attributes:
      encoder: of the maps named 'encoder'.
      maps: name to maps.
      heads: name to a module from maps to logits, one of `models.segmentation_heads`; there is one
        of each for each of `maps`.
      classes: how many there are.
      trained: whether the encoder is trained, with batch statistics; then `maps` has it alone.
        Otherwise all encoders stay as they are: their variables are the `teacher` of the loss.
    """

    supervised: ClassVar[bool] = True
    dense: ClassVar[bool] = True  # its labels are those of pixels

    encoder: nn.Module
    maps: dict[str, Maps]
    heads: dict[str, nn.Module]
    classes: int
    trained: bool = False

    @property
    def taught(self) -> bool:
        return not self.trained

    def representation(self) -> nn.Module:
        return self.encoder

    def init(self, rng: jax.Array, views: jax.Array, encoder: Tree = None) -> tuple[Tree, Tree]:
        """Returns the variables of the heads, and of the encoder where it is trained."""
        images, variables = views[:, 0], {}
        if self.trained:
            own = self.encoder.init(jax.random.fold_in(rng, 0), images, train=False)
            variables = {name: {ENCODER: tree} for name, tree in own.items()}
            variables = start_from(variables, encoder)
        for name, maps in self.maps.items():
            made = jnp.zeros((len(images), 2, 2, self._dim(maps, images)))
            for head, module in self.heads.items():
                # By their names: the same random numbers, whatever else is trained.
                key = jax.random.fold_in(rng, zlib.crc32(f'{name}/{head}'.encode()))
                for kind, tree in module.init(key, made, train=False).items():
                    parts = variables.setdefault(kind, {}).setdefault('heads', {})
                    parts.setdefault(name, {})[head] = tree
        return variables, ()

    def _dim(self, maps: Maps, images: jax.Array) -> int:
        def shape() -> jax.Array:
            if maps.encoder is None:
                return maps.apply({}, images)
            variables = maps.encoder.init(jax.random.key(0), images, train=False)
            return maps.apply(variables, images)

        return jax.eval_shape(shape).shape[-1]

    def loss(
        self,
        params: Tree,
        variables: Tree,
        extra: Tree,
        views: jax.Array,
        rng: jax.Array,
        step,
        labels: jax.Array,
        teacher: Tree = None,
    ) -> tuple[jax.Array, Aux]:
        """`views` are `[batch, 1, height, width, channel]`, `labels` `[batch, height, width]`.

        `teacher` are the variables of each encoder, by the name of its maps.
        """
        images, statistics = views[:, 0], dict(variables)
        known = jnp.maximum((labels >= 0).sum(), 1).astype(jnp.float32)
        total, metrics, features = jnp.zeros(()), {}, None
        for name, maps in self.maps.items():
            if self.trained:
                own = {'params': params[ENCODER], **_part(variables, ENCODER)}
                made, new = maps.train(own, images, rng)
                statistics = _with(statistics, new, ENCODER)
            else:
                made = jax.lax.stop_gradient(maps.apply(teacher.get(name, {}), images))
            if features is None:
                features = made.mean(axis=(1, 2))[:, None]
            for head, module in self.heads.items():
                place = 'heads', name, head
                own = {'params': params['heads'][name][head], **_part(variables, *place)}
                logits, new = module.apply(own, made, train=True, mutable=['batch_stats'])
                statistics = _with(statistics, new, *place)
                # The logits of every pixel are made again in the backward pass: they are the most.
                losses, right = jax.checkpoint(_of_pixels, static_argnums=2)(
                    logits, labels, maps.stride
                )
                total += losses / known
                metrics[f'accuracy_{name}_{head}'] = right, known
        return total, Aux(statistics, features, metrics)

    def logits(
        self, variables: Tree, frozen: Tree, images: jax.Array
    ) -> dict[str, dict[str, jax.Array]]:
        """Returns the logits of each pixel, `{maps: {head: [n, height, width, classes]}}`.

        Args:
          variables: as `init` returns them.
          frozen: of the encoders that are not trained, by the name of their maps.
          images: normalized pictures `[n, height, width, channel]`.
        """
        _, height, width, _ = images.shape
        found: dict[str, dict[str, jax.Array]] = {}
        for name, maps in self.maps.items():
            own = _part(variables, ENCODER) if self.trained else frozen.get(name, {})
            made = maps.apply(own, images)
            for head, module in self.heads.items():
                logits = module.apply(_part(variables, 'heads', name, head), made, train=False)
                pixels = maps_lib.to_pixels(logits, maps.stride, height, width)
                found.setdefault(name, {})[head] = pixels
        return found

    def update_extra(self, extra: Tree, state: Any, aux: Aux, step) -> Tree:
        return extra

    def chance_loss(self, batch_size: int) -> float:
        return math.log(self.classes) * len(self.maps) * len(self.heads)


def _of_pixels(logits: jax.Array, labels: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of the losses, and how many pixels are right."""
    logits = maps_lib.to_pixels(logits, stride, *labels.shape[1:])
    known = labels >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    right = known & (logits.argmax(-1) == labels)
    return jnp.where(known, losses, 0).sum(), right.sum().astype(jnp.float32)


def _part(variables: Tree, *path: str) -> Tree:
    """Returns what every collection that has it has below `path`."""
    found = {}
    for kind, tree in variables.items():
        for name in path:
            tree = tree.get(name) if tree is not None else None
        if tree is not None:
            found[kind] = tree
    return found


def _with(variables: Tree, new: Tree, *path: str) -> Tree:
    """Returns `variables` with those of `new` below `path`."""

    def put(tree: Tree, names: tuple[str, ...], value: Tree) -> Tree:
        return value if not names else {**tree, names[0]: put(tree[names[0]], names[1:], value)}

    return {
        kind: put(tree, path, new[kind]) if kind in new else tree
        for kind, tree in variables.items()
    }
