"""An encoder that is ready to be used: from pictures to features."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from simclr_jax import parallel
from simclr_jax.augment.pixels import normalize_images
from simclr_jax.config import ConfigError
from simclr_jax.methods.base import Representation
from simclr_jax.models import maps
from simclr_jax.weights.description import Architecture, Preprocess, Tree, Weights
from simclr_jax.weights.views import Images, Picture, items_of, name_of, prepare, whole_views

# What a device takes at a time: pixels, and pictures however small they are. On a CPU more take up
# to twice as long: the system clears the memory of large intermediate values anew for each batch.
_MOST = {'cpu': (8 * 224**2, 64)}
_MOST_ELSEWHERE = (256 * 224**2, 1024)


class Part(NamedTuple):
    """Features of some pictures of a stream, in its order.

    Attributes:
      places: of the pictures in the stream, `[n]` int64, counted from 0.
      features: `[n, dim]` float32, or maps `[n, height, width, dim]`.
      bad: place to the reason, of those pictures among them that cannot be read.
    """

    places: np.ndarray
    features: np.ndarray
    bad: dict[int, str]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """An encoder with its variables, and with how a picture becomes its input.

    ```
    encoder = simclr_jax.load('runs/mine')
    features = encoder(images)     # uint8 [n, height, width, 3] or a list of paths -> [n, dim]
    maps = encoder.maps(images)    # -> [n, height / 32, width / 32, dim] of a ResNet
    finer = dataclasses.replace(encoder, dilated=1).maps(images)    # -> [n, height / 16, ...]
    ```

    Batches are its own business: they are spread over all the devices of this process, and the
    last one is filled up. It may be used by several threads.

    Attributes:
      weights: all of what it was made from.
      dtype: of its arithmetic, 'float32' or 'bfloat16'; features are float32.
      dilated: how many of a ResNet's last stages keep the size of their maps, with the same
        weights: their convolutions look at pixels further apart. Maps of 1 have a stride of 16,
        of 2 one of 8, in place of 32.
    """

    weights: Weights
    dtype: str = 'float32'
    dilated: int = 0

    def __post_init__(self):
        if self.dtype not in ('float32', 'bfloat16'):
            raise ConfigError(f"dtype={self.dtype!r}: must be 'float32' or 'bfloat16'")
        if self.dilated and self.architecture.is_vit:
            raise ConfigError(f'dilated={self.dilated}: is for a ResNet; {self!r} has patches')
        if not 0 <= self.dilated <= self.depth:
            raise ConfigError(
                f'dilated={self.dilated}: must be 0 to {self.depth}, the number of stages'
            )

    @property
    def architecture(self) -> Architecture:
        """What network it is."""
        return self.weights.architecture

    @property
    def preprocess(self) -> Preprocess:
        """How a picture becomes its input."""
        return self.weights.preprocess

    @property
    def origin(self) -> Mapping[str, Any]:
        """Where the weights came from."""
        return self.weights.origin

    @functools.cached_property
    def module(self) -> nn.Module:
        """The linen module: `module.apply(variables, inputs, train=False)` gives features.

        It is the bare ResNet or VisionTransformer, or a `Representation` where features come from
        a layer of the projection head. `normalize` makes its inputs.
        """
        return self._module()

    @functools.cached_property
    def variables(self) -> Tree:
        """What `module.apply` takes: `params` and, of a ResNet, `batch_stats`; float32 arrays."""
        if self.architecture.head_layers:
            return self.weights.variables
        return self._encoder_variables

    @functools.cached_property
    def dim(self) -> int:
        """The number of features of a picture."""
        size = self.preprocess.size
        return self._nothing(self._features, size, size).shape[-1]

    def __call__(self, images: Images) -> np.ndarray:
        """Returns the features of pictures, `[n, dim]` float32, in their order.

        Args:
          images: uint8 `[n, height, width, channel]` of any size, with 1 channel or 3; or several
            pictures, each a path, the bytes of a file, or uint8 `[height, width, channel]`; or a
            folder, all of whose pictures are taken, sorted (`views.files_in`); or one path.

        Raises:
          ConfigError: a picture cannot be read, which it names; or `images` is nothing of this.
        """
        return self._run(images, self._features)

    @property
    def depth(self) -> int:
        """How many layers there are maps of: a ResNet's stages, or a ViT's blocks."""
        encoder = self.architecture.module().encoder
        return encoder.depth if self.architecture.is_vit else len(encoder.stage_sizes)

    def stride(self, layer: int = 0) -> int:
        """Returns the pixels, down and across, to a place of a layer's map; 0 is the last one."""
        return self._bare.stride(layer or self.depth)

    def maps(
        self, images: Images, layers: int | Sequence[int] = 0, whole: bool = False
    ) -> np.ndarray | tuple[np.ndarray, ...]:
        """Returns maps of features, `[n, height, width, dim]` float32.

        They are the output of a ResNet's last stage, whose average over the pixels are its
        features, or of a ViT's patches.

        Args:
          images: as for `__call__`.
          layers: a stage of a ResNet or a block of a ViT, counted from 1; 0 is the last one. Of
            several there is a tuple of maps. A ViT's blocks but the last have the last one's
            LayerNorm, too, as in DINOv2.
          whole: whether whole pictures are seen as large as they are, rather than the square in
            their middle: then all of them have one size. Positions of a ViT are interpolated, and
            what its patches do not divide is padded at the bottom and on the right. A map's sides
            are the picture's divided by `stride`, rounded up.

        Raises:
          ConfigError: there is no such layer, a picture cannot be read, whole pictures differ in
            size, or `images` is nothing of this.
        """
        chosen = [layers] if isinstance(layers, int) else list(layers)
        if not chosen or not all(isinstance(n, int) and 0 <= n <= self.depth for n in chosen):
            raise ConfigError(
                f'layers={layers!r}: must be of 1 to {self.depth}, or 0 for the last one'
            )
        function = self._maps(tuple(layer or self.depth for layer in chosen))
        made = self._run_whole(images, function) if whole else self._run(images, function)
        return made[0] if isinstance(layers, int) else made

    def attention(self, images: Images, whole: bool = False) -> np.ndarray:
        """Returns what a ViT's class token looks at in the last block, `[n, head, height, width]`.

        Each head's weights are those of the patches; with that of the class token itself, which is
        left out, their sum is 1. `images` and `whole` are as for `maps`.

        Raises:
          ConfigError: there is no class token, or as for `maps`.
        """
        if not (self.architecture.is_vit and self.architecture.has_token):
            raise ConfigError(f'{self!r} has no class token, so there is no attention of it')
        run = self._run_whole if whole else self._run
        return run(images, self._attention)

    def stream(self, items: Iterable[Picture], batch_size: int = 0) -> Iterator[Part]:
        """Yields the features of pictures as they are made: as many as there are, in little memory.

        Pictures that cannot be read are told, not raised. Every item is in one part, in order.

        Args:
          items: each a path, the bytes of a file, or uint8 `[height, width, channel]`; they are
            read as they are needed, a few batches ahead.
          batch_size: pictures a part; 0 is `batch_size`.

        Raises:
          ConfigError: an item is nothing of this.
        """
        return self._stream(items, self._features, batch_size)

    def forward(self, views: np.ndarray) -> jax.Array:
        """Starts to compute features `[batch, dim]` of what `views.view_of` made; does not wait.

        Args:
          views: uint8 `[batch, size, size, channels]`, as many for each device of this process.
        """
        return self._features(self._on_devices, self._spread(views))

    def predict(self, images: Images, top: int | None = None) -> NoReturn:
        """Is what a `weights.classifier.Classifier` has; an encoder knows no labels.

        Raises:
          ConfigError: always.
        """
        del images, top
        raise ConfigError(
            f'{self!r} has no classifier, so it knows no labels: --mode=finetune makes a '
            'classifier.safetensors from pictures with labels. Of a file of another library that '
            'has one, simclr_jax.load(path, classifier=True) reads it'
        )

    def normalize(self, images: np.ndarray | jax.Array) -> jax.Array:
        """Turns uint8 `[n, size, size, channels]` into float32 inputs of `module`."""
        return normalize_images(images, self.preprocess.mean, self.preprocess.std)

    @functools.cached_property
    def batch_size(self) -> int:
        """Pictures that all devices together take at a time."""
        return self._batch_size(self.preprocess.size**2)

    def _batch_size(self, of_each: int) -> int:
        """Returns how many pictures of `of_each` pixels all devices together take at a time."""
        devices = self._mesh.devices
        pixels, pictures = _MOST.get(devices.flat[0].platform, _MOST_ELSEWHERE)
        count = min(pictures, max(1, pixels // of_each))
        return 2 ** (count.bit_length() - 1) * devices.size

    def __repr__(self) -> str:
        architecture, preprocess, origin = self.architecture, self.preprocess, self.origin
        size = f'{preprocess.size} x {preprocess.size} x {preprocess.channels}'
        layers = f', layer {n} of its head' if (n := architecture.head_layers) else ''
        told = [str(origin[key]) for key in ('method', 'layout') if key in origin]
        told += [f'{origin["steps"]:,} steps'] if isinstance(origin.get('steps'), int) else []
        source = f'; {", ".join(told)}' if told else ''
        return f'<Encoder {architecture.encoder}{layers}, pictures of {size}{source}>'

    def _run(self, images: Images, function: Callable) -> Any:
        items = items_of(images)
        parts = []
        for part in self._stream(items, function):
            for place, reason in part.bad.items():
                raise ConfigError(f'{name_of(items[place], place)}: {reason}')
            parts.append(part.features)
        if not parts:
            size = self.preprocess.size
            return self._nothing(function, size, size)
        return jax.tree.map(lambda *rows: np.concatenate(rows) if rows[1:] else rows[0], *parts)

    def _run_whole(self, images: Images, function: Callable) -> Any:
        views, parts = whole_views(images, self.preprocess), []
        pixels, devices = views[0].shape[0] * views[0].shape[1], self._mesh.devices.size
        rows = min(self._batch_size(pixels), -(-len(views) // devices) * devices)
        for start in range(0, len(views), rows):
            some = np.stack(views[start : start + rows])
            made = function(self._on_devices, self._spread(_filled_up(some, rows)))
            parts.append(_rows(made, len(some)))
        return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)

    def _stream(
        self, items: Iterable[Picture], function: Callable, batch_size: int = 0
    ) -> Iterator[Part]:
        batch_size, in_flight, rows = batch_size or self.batch_size, None, 0
        for places, images, bad in prepare(items, self.preprocess, batch_size):
            # One shape a stream, whose program is compiled once. It is small where the stream is.
            rows = rows or self._rows(len(places) + len(bad), batch_size)
            made = function(self._on_devices, self._spread(_filled_up(images, rows)))
            if in_flight:
                yield _fetch(*in_flight)
            in_flight = places, made, bad
        if in_flight:
            yield _fetch(*in_flight)

    def _rows(self, count: int, batch_size: int) -> int:
        """Returns how many rows a program for `count` pictures has, of few possible numbers."""
        devices = self._mesh.devices.size
        count, most = (-(-number // devices) for number in (count, batch_size))
        power = ((count - 1).bit_length() + 1) // 2  # of 4
        return min(most, 4**power) * devices

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        return parallel.make_mesh(jax.local_devices())

    @functools.cached_property
    def _on_devices(self) -> Tree:
        return jax.device_put(self.variables, parallel.replicated(self._mesh))

    def _spread(self, views: np.ndarray) -> jax.Array:
        """Puts views on the devices; of several processes, `jit` itself spreads no NumPy array."""
        return jax.device_put(views, parallel.batch_sharding(self._mesh))

    @functools.cached_property
    def _encoder_variables(self) -> Tree:
        trees = self.weights.variables
        return {name: tree['encoder'] for name, tree in trees.items() if 'encoder' in tree}

    def _module(self, **how: Any) -> nn.Module:
        made = self._representation(**how)
        return made if self.architecture.head_layers else made.encoder

    def _representation(self, **how: Any) -> Representation:
        if self.architecture.is_vit:  # whose positions are interpolated for pictures of other sizes
            how['grid'] = self.preprocess.size // self.architecture.patch_size
        return self.architecture.module(
            self.dtype, freeze_patch_projection=False, dilated=self.dilated, **how
        )

    @functools.cached_property
    def _bare(self) -> nn.Module:
        """The encoder without layers of a projection head."""
        return self._representation().encoder

    @functools.cached_property
    def _features(self) -> Callable:
        module = self._module(dot_1x1=self._mesh.devices.flat[0].platform == 'cpu')
        return self._compiled(functools.partial(module.apply, train=False))

    def _maps(self, layers: tuple[int, ...]) -> Callable:
        """Returns from variables and pictures to a tuple of maps; compiled once."""
        if layers not in self._programs:

            def apply(variables: Tree, inputs: jax.Array) -> tuple[jax.Array, ...]:
                return maps.of_pictures(self._bare, self._own(variables), inputs, layers)

            self._programs[layers] = self._compiled(apply)
        return self._programs[layers]

    @functools.cached_property
    def _programs(self) -> dict[tuple[int, ...], Callable]:
        return {}

    @functools.cached_property
    def _attention(self) -> Callable:
        def apply(variables: Tree, inputs: jax.Array) -> jax.Array:
            return maps.token_attention(self._bare, self._own(variables), inputs)

        return self._compiled(apply)

    def _own(self, variables: Tree) -> Tree:
        """Returns the bare encoder's of `self.variables`."""
        if not self.architecture.head_layers:
            return variables
        return {name: tree['encoder'] for name, tree in variables.items() if 'encoder' in tree}

    def _compiled(self, apply: Callable) -> Callable:
        batch = parallel.batch_sharding(self._mesh)
        return jax.jit(
            lambda variables, images: apply(variables, self.normalize(images)),
            in_shardings=(parallel.replicated(self._mesh), batch),
            out_shardings=batch,
        )

    def _nothing(self, function: Callable, height: int, width: int) -> Any:
        """Returns what `function` gives of no picture."""
        shape = self._mesh.devices.size, height, width, self.preprocess.channels
        images = jax.ShapeDtypeStruct(shape, jnp.uint8)
        made = jax.eval_shape(function, self.variables, images)
        return jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), np.float32), made)


def _filled_up(images: np.ndarray, rows: int) -> np.ndarray:
    if len(images) == rows:
        return images
    made = np.zeros((rows, *images.shape[1:]), np.uint8)
    made[: len(images)] = images
    return made


def _fetch(places: np.ndarray, made: jax.Array, bad: dict[int, str]) -> Part:
    return Part(places, _rows(made, len(places)), bad)


def _rows(made: Any, count: int) -> Any:
    return jax.tree.map(lambda x: np.array(x[:count]), made)
