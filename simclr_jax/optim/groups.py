"""Which parameters fine-tuning trains, how fast each one, and which ones decay."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

_EMBEDDING = ('class_token', 'positions', 'patch_projection')
_ONE_DIMENSIONAL = ('bias', 'scale')
_NOT_DECAYED = ('class_token', 'positions')  # MAE's `no_weight_decay`


@dataclasses.dataclass(frozen=True)
class Groups:
    """Parameters `{'encoder', 'projector'?, 'classifier'}`, each with a rate and a decay.

    Attributes:
      first_trained: the first stage of a ResNet or block of a ViT that is trained, counted from 1;
        0 trains all of the encoder.
      frozen_encoder: whether the classifier alone is trained.
      head_rate: learning rate of the classifier, as a multiple of the encoder's; above 0.
      layer_decay: what a layer's rate is of that of the layer after it, in (0, 1]: MAE's
        `util/lr_decay.py`. The classifier and a ViT's last LayerNorm have the whole rate, the last
        block `layer_decay` times it, and so on down to what precedes the first block.
      head_decayed: whether weight decay and LARS' adaptation are for the classifier's kernel, too.
    """

    first_trained: int = 0
    frozen_encoder: bool = False
    head_rate: float = 1.0
    layer_decay: float = 1.0
    head_decayed: bool = True

    def trained(self, params: Any) -> Any:
        """Returns a tree of booleans: which parameters change."""

        def is_trained(path: tuple[Any, ...], _) -> bool:
            names = _names(path)
            if names[0] == 'classifier':
                return True
            if self.frozen_encoder:
                return False
            return names[0] != 'encoder' or layer_of(names[1], last=self.first_trained) >= (
                self.first_trained
            )

        return jax.tree_util.tree_map_with_path(is_trained, params)

    def rates(self, params: Any) -> Any:
        """Returns a tree of numbers: multiples of the encoder's learning rate."""
        paths = [_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        blocks = [layer_of(names[1], last=0) for names in paths if names[0] == 'encoder']
        last = 1 + max(blocks, default=0)

        def rate(path: tuple[Any, ...], _) -> float:
            names = _names(path)
            if names[0] == 'classifier':
                return self.head_rate
            if names[0] != 'encoder':
                return 1.0
            return self.layer_decay ** (last - layer_of(names[1], last))

        return jax.tree_util.tree_map_with_path(rate, params)

    def decayed(self, params: Any) -> Any:
        """Returns a tree of booleans: what has weight decay, and LARS' adaptation.

        Biases, scales, a class token and positions have none.
        """

        def is_decayed(path: tuple[Any, ...], _) -> bool:
            names = _names(path)
            if names[0] == 'classifier' and not self.head_decayed:
                return False
            return names[-1] not in (*_ONE_DIMENSIONAL, *_NOT_DECAYED)

        return jax.tree_util.tree_map_with_path(is_decayed, params)

    def wrap(self, tx: optax.GradientTransformation) -> optax.GradientTransformation:
        """Returns `tx` with these rates, for what is trained; the rest has no state."""

        def scale(updates: Any, params: Any) -> Any:
            rates = self.rates(params)
            return jax.tree.map(lambda update, rate: update * jnp.float32(rate), updates, rates)

        def labels(params: Any) -> Any:
            return jax.tree.map(lambda yes: 'trained' if yes else 'frozen', self.trained(params))

        if self.head_rate != 1 or self.layer_decay != 1:
            tx = optax.chain(tx, optax.stateless(scale))
        if self.frozen_encoder or self.first_trained:
            tx = optax.partition({'trained': tx, 'frozen': optax.set_to_zero()}, labels)
        return tx


@dataclasses.dataclass(frozen=True)
class Probes:
    """Parameters whose names hold that of a head, 'plain', and others.

    Attributes:
      plain_rate: Adam's rate for that head, from the first step to the last, without weight decay;
        STEGO's (`train_segmentation.py`). The others have the run's optimizer.
    """

    plain_rate: float

    def decayed(self, params: Any) -> Any:
        """Returns a tree of booleans: kernels alone have weight decay, where it is not for all."""
        return jax.tree_util.tree_map_with_path(
            lambda path, _: _names(path)[-1] not in (*_ONE_DIMENSIONAL, *_NOT_DECAYED), params
        )

    def wrap(self, tx: optax.GradientTransformation) -> optax.GradientTransformation:
        """Returns `tx` for all but the plain heads."""

        def labels(params: Any) -> Any:
            return jax.tree_util.tree_map_with_path(
                lambda path, _: 'plain' if 'plain' in _names(path) else 'others', params
            )

        return optax.partition({'plain': optax.adam(self.plain_rate), 'others': tx}, labels)


def layer_of(name: str, last: int) -> int:
    """Returns the layer of an encoder's parameters, by the first part of their name.

    0 is what precedes the first stage or block; these are counted from 1; `last` is what follows.
    """
    if match := re.fullmatch(r'stage(\d+)_block\d+', name):
        return int(match[1])
    if match := re.fullmatch(r'block(\d+)', name):
        return int(match[1]) + 1
    return 0 if name in _EMBEDDING or name.startswith('stem_') else last


def _names(path: tuple[Any, ...]) -> list[str]:
    return [jax.tree_util.keystr((key,), simple=True) for key in path]
