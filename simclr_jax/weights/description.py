"""What a file of weights holds: an encoder, perhaps a classifier, how pictures become its input."""

import dataclasses
import functools
import hashlib
import json
import math
import typing
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from simclr_jax.config import ConfigError
from simclr_jax.data.deep import WHOLE
from simclr_jax.methods.base import Representation
from simclr_jax.models.classifier import ClassifierNetwork
from simclr_jax.models.factory import VITS, create_encoder
from simclr_jax.models.heads import MLPHead

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Head:
    """A projection head; its fields are those of `MLPHead`."""

    hidden_dim: int
    output_dim: int
    num_layers: int = 2
    hidden_bias: bool = False
    output_bias: bool = False
    hidden_norm: bool = True
    output_norm: str = 'none'


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The encoder; its fields are those of `create_encoder`, and of `config.model`.

    Attributes:
      encoder: a name of `models.factory.ENCODERS`.
      stem: of a ResNet, 'imagenet' or 'small'.
      padding: of a ResNet, 'torch', 'simclr' or 'same'.
      width: multiplies the filters of a ResNet.
      sk_ratio: of a ResNet's selective kernels, 0 without.
      pooling: of a ViT, 'token', 'mean' or 'patches'; all but 'mean' have a class token.
      num_heads: of a ViT.
      patch_size: of a ViT, in pixels.
      positions: of a ViT, 'sincos' or 'learned'.
      epsilon: of a ViT's LayerNorm.
      head: the projection head that the variables hold beside the encoder, if any.
      head_layers: how many layers of `head` the features come from; 0 are the encoder's.
      dtype: of the arithmetic that it was trained with, 'float32' or 'bfloat16'.
    """

    encoder: str
    stem: str = 'imagenet'
    padding: str = 'torch'
    width: int = 1
    sk_ratio: float = 0.0
    pooling: str = 'token'
    num_heads: int = 0
    patch_size: int = 16
    positions: str = 'sincos'
    epsilon: float = 1e-6
    head: Head | None = None
    head_layers: int = 0
    dtype: str = 'float32'

    @property
    def is_vit(self) -> bool:
        return self.encoder in VITS

    @property
    def has_token(self) -> bool:
        """Whether a ViT has a class token."""
        return self.pooling != 'mean'

    def module(self, dtype: str = 'float32', **training: Any) -> Representation:
        """Returns the module whose variables a file holds: encoder and head, if there is one.

        Args:
          dtype: of its arithmetic.
          **training: other arguments of `create_encoder`, such as `remat`.
        """
        own = dataclasses.asdict(self)
        for field in ('encoder', 'head', 'head_layers', 'dtype'):
            del own[field]
        encoder = create_encoder(self.encoder, image_size=0, dtype=dtype, **own, **training)
        head = MLPHead(**dataclasses.asdict(self.head), dtype=dtype) if self.head else None
        return Representation(encoder, head, self.head_layers)

    def network(self, classes: int, dtype: str = 'float32') -> ClassifierNetwork:
        """Returns the module whose variables a file with a classifier of `classes` labels holds."""
        made = self.module(dtype)
        projector = made.projector if self.head_layers else None
        return ClassifierNetwork(made.encoder, projector, self.head_layers, classes)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the encoder's input, `[size, size, channels]`.

    Attributes:
      size: height and width, in pixels.
      crop: share of the shorter side that the square in the centre has.
      interpolation: 'bicubic' or 'bilinear', by which the square is resized.
      antialias: whether all pixels count where it is made smaller.
      mean: subtracted from pixels in [0, 1]; one number, or one a channel.
      std: divides them.
      channels: 1 or 3.
      intensity: the values that are black and white in pictures of more than 8 bits.
    """

    size: int
    crop: float = 1.0
    interpolation: str = 'bicubic'
    antialias: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: int = 3
    intensity: tuple[float, float] = WHOLE


@dataclasses.dataclass(frozen=True)
class Classifier:
    """What the outputs of a classifier mean; its parameters are `params/classifier`.

    Attributes:
      names: of the labels, one for each output.
      several: whether a picture may have several of them: a sigmoid each, in place of a softmax.
      temperature: divides the logits before that, so that probabilities are calibrated.
    """

    names: tuple[str, ...]
    several: bool = False
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class Weights:
    """What any layout is read into, and written from.

    Attributes:
      architecture: of the encoder.
      preprocess: of its pictures.
      origin: where it came from, JSON: of a run `method`, `data`, `steps`, `config`, `version`; of
        another library's file `layout`, `file`, `sha256`.
      variables: `{'params': {'encoder': ..., 'projector': ...}, 'batch_stats': ...}`, float32 numpy
        arrays; what `architecture.module()` is applied with. With a classifier, `params` has
        `classifier` as well, and of the projection head only the layers that are used.
      classifier: its labels; None of an encoder alone.
    """

    architecture: Architecture
    preprocess: Preprocess
    origin: Mapping[str, Any]
    variables: Tree
    classifier: Classifier | None = None

    def network(self, dtype: str = 'float32') -> ClassifierNetwork:
        """Returns the module that gives features and logits, of weights with a classifier."""
        return self.architecture.network(len(self.classifier.names), dtype)


def without_classifier(weights: Weights) -> Weights:
    """Returns the encoder alone, with the layers of a projection head that it may end in."""
    if weights.classifier is None:
        return weights
    architecture, variables = weights.architecture, dict(weights.variables)
    variables['params'] = {
        name: tree for name, tree in variables['params'].items() if name != 'classifier'
    }
    if not architecture.head_layers:
        architecture = dataclasses.replace(architecture, head=None)
    return Weights(architecture, weights.preprocess, weights.origin, variables)


def flat(variables: Tree) -> dict[str, Any]:
    """Returns `{'params/encoder/stem_conv/kernel': array, ...}`."""
    return flatten_dict(variables, sep='/')


def checksum(weights: Weights) -> str:
    """Returns the SHA-256 of all that decides features, wherever they came from."""
    described = [to_json(weights.architecture), to_json(weights.preprocess)]
    described += [to_json(weights.classifier)] if weights.classifier else []
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, value in sorted(flat(weights.variables).items()):
        digest.update(f'\n{name} {np.shape(value)}\n'.encode())
        digest.update(np.ascontiguousarray(value, np.float32))
    return digest.hexdigest()


@functools.cache  # it takes tens of milliseconds, and reading asks for it twice
def expected_shapes(
    architecture: Architecture, preprocess: Preprocess, classes: int = 0
) -> dict[str, tuple]:
    """Returns the shape of each variable by its name, as `flat` has them; computes nothing.

    Args:
      architecture: of the encoder.
      preprocess: of its pictures.
      classes: labels of the classifier, 0 without one.
    """
    module, size = architecture.module(), preprocess.size
    if classes:
        module = architecture.network(classes)
    elif architecture.head:  # all its layers are kept, whichever the features come from
        module = module.clone(head_layers=architecture.head.num_layers)
    images = jax.ShapeDtypeStruct((1, size, size, preprocess.channels), jnp.float32)
    tree = jax.eval_shape(
        lambda images: module.init(jax.random.key(0), images, train=False), images
    )
    return {name: value.shape for name, value in flat(tree).items()}


def check_variables(weights: Weights, path: str) -> None:
    """Checks that the variables are those of the architecture.

    Raises:
      ConfigError: one is missing, has another shape, or belongs to nothing, or there is no such
        architecture; it names `path`.
    """
    head, count = weights.architecture.head, len(flat(weights.variables))
    if head and not 0 < head.num_layers <= count:
        raise ConfigError(f'{path}: has a head of {head.num_layers} layers in {count} variables')
    classes = _checked_classes(weights.classifier, path)
    try:
        want = expected_shapes(weights.architecture, weights.preprocess, classes)
    except (ValueError, TypeError, ArithmeticError) as error:  # a width of -1 is JAX's TypeError
        raise ConfigError(f'{path}: {error}') from error
    have = {name: np.shape(value) for name, value in flat(weights.variables).items()}
    for name in [*want, *have]:
        if want.get(name) != have.get(name):
            raise ConfigError(
                f'{path}: {name} is {_shape(have.get(name))}, but {weights.architecture.encoder} '
                f'wants {_shape(want.get(name))}'
            )


def _checked_classes(classifier: Classifier | None, path: str) -> int:
    if classifier is None:
        return 0
    names, temperature = classifier.names, classifier.temperature
    if not names:
        raise ConfigError(f'{path}: has a classifier without names of its labels')
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ConfigError(f'{path}: has two labels with the name {twice!r}')
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f'{path}: classifier.temperature={temperature}: must be above 0')
    return len(names)


def _shape(shape: tuple[int, ...] | None) -> str:
    return 'missing' if shape is None else f'of shape {tuple(shape)}'


def to_json(part: Any) -> Any:
    """Returns an `Architecture`, `Preprocess`, `Classifier` or `Head` as JSON."""
    return dataclasses.asdict(part)


def from_json(kind: type, value: Any, name: str) -> Any:
    """Returns the dataclass `kind` that `to_json` made `value` of.

    Raises:
      ConfigError: a field is missing, unknown or of another type; it begins with `name`.
    """
    if not isinstance(value, dict):
        raise ConfigError(f'{name}: is not an object, but {value!r}')
    fields, types = {}, typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in value:
            place = f'{name}.{field.name}'
            fields[field.name] = _as_type(types[field.name], value[field.name], place)
        elif field.default is dataclasses.MISSING:
            raise ConfigError(f'{name}.{field.name}: is missing')
    unknown = ', '.join(sorted(value.keys() - fields.keys()))
    if unknown:
        raise ConfigError(f'{name}: has unknown fields: {unknown}')
    return kind(**fields)


def _as_type(kind: Any, value: Any, name: str) -> Any:
    if kind == Head | None:
        return None if value is None else from_json(Head, value, name)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_as_type(typing.get_args(kind)[0], element, name) for element in value)
    if kind is float and type(value) is int:
        return float(value)
    if not isinstance(kind, type) or type(value) is not kind:
        raise ConfigError(f'{name}={value!r}: is not of the type {getattr(kind, "__name__", kind)}')
    return value
