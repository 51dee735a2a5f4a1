"""An encoder that is ready to be used: from pictures to features."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from simclr_jax import parallel
from simclr_jax.augment.pixels import normalize_images
from simclr_jax.config import ConfigError
from simclr_jax.weights.description import Architecture, Preprocess, Tree, Weights
from simclr_jax.weights.views import Picture, check_images, files_in, is_folder, prepare

# One array of pixels, several pictures, a folder of them, or one.
Images = np.ndarray | Iterable[Picture] | str | os.PathLike

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
    ```

    Batches are its own business: they are spread over all the devices of this process, and the
    last one is filled up. It may be used by several threads.

    Attributes:
      weights: all of what it was made from.
      dtype: of its arithmetic, 'float32' or 'bfloat16'; features are float32.
    """

    weights: Weights
    dtype: str = 'float32'

    def __post_init__(self):
        if self.dtype not in ('float32', 'bfloat16'):
            raise ConfigError(f"dtype={self.dtype!r}: must be 'float32' or 'bfloat16'")

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
        return self._shape(self._features)[-1]

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

    def maps(self, images: Images) -> np.ndarray:
        """Returns maps of features, `[n, height, width, dim]` float32.

        They are the output of a ResNet's last stage, whose average over the pixels are its
        features, or of a ViT's patches. `images` are as for `__call__`, as are the errors.
        """
        return self._run(images, self._maps)

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
        devices = self._mesh.devices
        pixels, pictures = _MOST.get(devices.flat[0].platform, _MOST_ELSEWHERE)
        count = min(pictures, max(1, pixels // self.preprocess.size**2))
        return 2 ** (count.bit_length() - 1) * devices.size

    def __repr__(self) -> str:
        architecture, preprocess, origin = self.architecture, self.preprocess, self.origin
        size = f'{preprocess.size} x {preprocess.size} x {preprocess.channels}'
        layers = f', layer {n} of its head' if (n := architecture.head_layers) else ''
        told = [str(origin[key]) for key in ('method', 'layout') if key in origin]
        told += [f'{origin["steps"]:,} steps'] if isinstance(origin.get('steps'), int) else []
        source = f'; {", ".join(told)}' if told else ''
        return f'<Encoder {architecture.encoder}{layers}, pictures of {size}{source}>'

    def _run(self, images: Images, function: Callable) -> np.ndarray:
        items = _items(images)
        parts = []
        for part in self._stream(items, function):
            for place, reason in part.bad.items():
                raise ConfigError(f'{_name(items[place], place)}: {reason}')
            parts.append(part.features)
        if not parts:
            return np.zeros((0, *self._shape(function)[1:]), np.float32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

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
        made = self.architecture.module(self.dtype, freeze_patch_projection=False, **how)
        return made if self.architecture.head_layers else made.encoder

    @functools.cached_property
    def _features(self) -> Callable:
        module = self._module(dot_1x1=self._mesh.devices.flat[0].platform == 'cpu')
        return self._compiled(functools.partial(module.apply, train=False))

    @functools.cached_property
    def _maps(self) -> Callable:
        made = self.architecture.module(self.dtype)

        def apply(variables, images):
            if self.architecture.head_layers:
                variables = {name: tree.get('encoder', {}) for name, tree in variables.items()}
            return made.encoder.apply(variables, images, train=False, layers=(last,))[0]

        return self._compiled(apply)

    def _compiled(self, apply: Callable) -> Callable:
        batch = parallel.batch_sharding(self._mesh)
        return jax.jit(
            lambda variables, images: apply(variables, self.normalize(images)),
            in_shardings=(parallel.replicated(self._mesh), batch),
            out_shardings=batch,
        )

    def _shape(self, function: Callable) -> tuple[int, ...]:
        size, devices = self.preprocess.size, self._mesh.devices.size
        images = jax.ShapeDtypeStruct((devices, size, size, self.preprocess.channels), jnp.uint8)
        return jax.eval_shape(function, self.variables, images).shape


def _items(images: Images) -> list[Picture] | np.ndarray:
    """Returns `images` as a sequence of pictures."""
    if isinstance(images, str | os.PathLike):
        return files_in(images) if is_folder(images) else [images]
    if isinstance(images, bytes):
        return [images]
    if hasattr(images, '__array__') or hasattr(images, '__array_interface__'):
        images = np.asarray(images)
        check_images(images)
        return images
    if not isinstance(images, Iterable):
        raise ConfigError(
            f'images: a {type(images).__name__} is neither pixels, uint8 [n, height, width, '
            'channel], nor a list of paths, nor a folder'
        )
    return list(images)


def _name(item: Picture, place: int) -> str:
    return os.fspath(item) if isinstance(item, str | os.PathLike) else f'picture {place}'


def _filled_up(images: np.ndarray, rows: int) -> np.ndarray:
    if len(images) == rows:
        return images
    made = np.zeros((rows, *images.shape[1:]), np.uint8)
    made[: len(images)] = images
    return made


def _fetch(places: np.ndarray, made: jax.Array, bad: dict[int, str]) -> Part:
    return Part(places, np.array(made[: len(places)]), bad)
