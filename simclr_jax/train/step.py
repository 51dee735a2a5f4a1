"""The train step: one jitted function over a mesh, state donated, batch sharded."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from simclr_jax import parallel
from simclr_jax.augment.pixels import normalize_images
from simclr_jax.methods.base import Method, Tree, is_supervised, is_taught
from simclr_jax.train.probe import OnlineProbe
from simclr_jax.train.state import TrainState

Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)
# From a batch and the step to views `[batch, view, height, width, channel]` in [0, 1].
Augment = Callable[[dict[str, jax.Array], jax.Array], jax.Array]
# From normalized views, the examples' indices `[batch]` and `step` to views.
Erase = Callable[..., jax.Array]

_EMBEDDINGS = 256  # images of a batch whose embeddings are measured, about


def make_train_step(
    method: Method,
    tx: optax.GradientTransformation,
    probe: OnlineProbe | None,
    mesh: Mesh,
    *,
    seed: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    skip_nonfinite: bool = False,
    augment: Augment | None = None,
    erase: Erase | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns `step(state, batch) -> (state, metrics)`.

    The input state is donated and must not be used again. Of a method that is taught it is
    `step(state, batch, teacher)`, with the variables of what it learns from.

    Args:
      method: gives the loss.
      tx: the optimizer.
      probe: the online probe; needs `label` in the batch.
      mesh: the devices; the batch is split over all of them.
      seed: of the step's randomness, which is a function of (seed, step).
      mean: subtracted from pixels in [0, 1].
      std: divides them.
      skip_nonfinite: what to do after a loss or a gradient that is not finite. That update is
        always dropped. True: train on with the next batch. False: freeze the state, so that the
        host, which notices a few steps later, can save it unharmed.
      augment: makes the views of a batch at a step; where None the batch's `image` holds views.
      erase: changes normalized views, where a recipe erases parts of them.
    """

    taught = is_taught(method)

    def train_step(
        state: TrainState, batch: dict[str, jax.Array], *teacher: Tree
    ) -> tuple[TrainState, Metrics]:
        images = augment(batch, state.step) if augment else batch['image']
        views = normalize_images(images, mean, std)
        if erase:
            views = erase(views, batch['index'], step=state.step)
        rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), state.step)
        learned_from = {'labels': batch['label']} if is_supervised(method) else {}
        if taught:
            (learned_from['teacher'],) = teacher
        (loss, aux), grads = jax.value_and_grad(method.loss, has_aux=True)(
            state.params, state.variables, state.extra, views, rng, state.step, **learned_from
        )
        norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        one = jnp.ones(())
        metrics = {
            'loss': (loss, one),
            'gradient_norm': (norm, one),
            **aux.metrics,
        }
        probe_state = state.probe
        if probe is not None:
            probe_state, probe_metrics = probe.update(probe_state, aux.features, batch['label'])
            metrics |= probe_metrics
        new_state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            variables=aux.variables,
            opt_state=opt_state,
            probe=probe_state,
        )
        extra = method.update_extra(state.extra, new_state, aux, state.step)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        # A run that went on with 'skip' has a count; only what is frozen here is below 0.
        frozen = state.skipped < 0
        keep = finite & ~frozen
        new_state = jax.tree.map(
            lambda new, old: jnp.where(keep, new, old), new_state.replace(extra=extra), state
        )
        skipped = jnp.where(frozen, state.skipped, state.skipped + ~finite)
        if skip_nonfinite:  # a batch that gave no update is used up all the same
            new_state = new_state.replace(step=state.step + 1)
        else:
            skipped = jnp.where(finite, skipped, -jnp.abs(skipped))
        new_state = new_state.replace(skipped=skipped)
        metrics['skipped_updates'] = (jnp.abs(skipped), one)
        if aux.embeddings is not None:  # measured on the host, where somebody reads them
            metrics['embeddings'] = (_some_rows(aux.embeddings).astype(jnp.float32), one)
        return new_state, metrics

    replicated = parallel.replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(replicated, parallel.batch_sharding(mesh), *[replicated] * taught),
        out_shardings=replicated,
        donate_argnums=0,
    )


def _some_rows(embeddings: jax.Array) -> jax.Array:
    """Takes every k-th row, which gives some of every device's rows.

    The first 256 rows would all lie on one device, and XLA would send them with a collective each.
    """
    batch = len(embeddings)
    every = next(k for k in range(max(batch // _EMBEDDINGS, 1), 0, -1) if batch % k == 0)
    return embeddings.reshape(-1, every, *embeddings.shape[1:])[:, 0]
