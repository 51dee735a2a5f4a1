"""What is evaluated: an encoder on its devices, and others that it is compared with."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from jax.sharding import Mesh

from simclr_jax import parallel
from simclr_jax.methods.base import Tree
from simclr_jax.weights.description import Preprocess, Weights


class Network(NamedTuple):
    """A module, and what it is applied with."""

    module: nn.Module
    variables: Tree


def network_of(weights: Weights, mesh: Mesh, dtype: str, **how: Any) -> Network:
    """Returns the encoder of a file on the devices of `mesh`, as a run would have it there.

    Args:
      weights: what the file holds.
      mesh: the devices.
      dtype: of the arithmetic.
      **how: other arguments of `create_encoder`.
    """
    on_cpu = mesh.devices.flat[0].platform == 'cpu'
    module = weights.architecture.module(dtype, dot_1x1=on_cpu, **how)
    return Network(module, jax.device_put(weights.variables, parallel.replicated(mesh)))


@dataclasses.dataclass(frozen=True)
class Subject:
    """An encoder that is evaluated; neither a run nor a train state belongs to it.

    Attributes:
      encoder: what is evaluated.
      preprocess: how a picture becomes its input.
      mesh: the devices, each of which holds the variables whole.
      architecture: a name of `models.factory.ENCODERS`; some protocols depend on it.
      others: makes those that it is compared with, by the name of their row in the tables, as
        'untrained'; they take the same input.
      about: what `result.json` says of it, beside what it says of the data: `step` of a run,
        `weights` of a file.
      settings: what else decides its features, for `result.json`.
    """

    encoder: Network
    preprocess: Preprocess
    mesh: Mesh
    architecture: str
    others: Callable[[], dict[str, Network]] = dict
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def central_view(self) -> dict[str, Any]:
        """Returns what it sees of a picture: options of a reader's `eval_batches`."""
        return {
            'image_size': self.preprocess.size,
            'crop': self.preprocess.crop,
            'interpolation': self.preprocess.interpolation,
            'antialias': self.preprocess.antialias,
        }
