"""An online linear probe on stopped gradients: how linearly separable the features are, now."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from simclr_jax.methods.base import Tree


@dataclasses.dataclass(frozen=True)
class OnlineProbe:
    """Softmax regression on standardized features, trained by Adam beside the encoder.

    Its accuracy is on the training batch's augmented views, before the update that sees them: a
    sign of life during the run, not an evaluation.
    """

    num_classes: int
    learning_rate: float

    @property
    def tx(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)

    def init(self, dim: int) -> Tree:
        """Returns the state for features of `dim` dimensions, starting at zero weights."""
        params = {
            'kernel': jnp.zeros((dim, self.num_classes)),
            'bias': jnp.zeros((self.num_classes,)),
        }
        return {'params': params, 'opt_state': self.tx.init(params)}

    def update(
        self, state: Tree, features: jax.Array, labels: jax.Array
    ) -> tuple[Tree, dict[str, tuple[jax.Array, jax.Array]]]:
        """Takes a step on features `[batch, view, dim]`, labels `[batch]`; -1 is no label."""
        features = jax.lax.stop_gradient(features.astype(jnp.float32))
        features -= features.mean((0, 1), keepdims=True)
        features *= jax.lax.rsqrt(features.var((0, 1), keepdims=True) + 1e-6)
        mask = jnp.broadcast_to((labels >= 0)[:, None], features.shape[:2]).astype(jnp.float32)
        count = mask.sum()

        def loss(params):
            logits = features @ params['kernel'] + params['bias'][None, None]
            targets = jnp.broadcast_to(jnp.maximum(labels, 0)[:, None], logits.shape[:2])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            correct = (logits.argmax(-1) == targets) * mask
            return (losses * mask).sum() / jnp.maximum(count, 1.0), correct.sum()

        grads, correct = jax.grad(loss, has_aux=True)(state['params'])
        updates, opt_state = self.tx.update(grads, state['opt_state'], state['params'])
        params = optax.apply_updates(state['params'], updates)
        return {'params': params, 'opt_state': opt_state}, {'probe_accuracy': (correct, count)}
