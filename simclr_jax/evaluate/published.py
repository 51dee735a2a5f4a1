"""Linear evaluation as the papers have it: SGD on augmented images, the encoder frozen."""

import contextlib
import dataclasses
import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from simclr_jax import files, interruption, parallel
from simclr_jax.augment.pixels import normalize_images
from simclr_jax.augment.recipe import CROP_AND_FLIP, ViewRecipe
from simclr_jax.command import command
from simclr_jax.evaluate import subsets
from simclr_jax.evaluate.features import Features
from simclr_jax.evaluate.linear import predict
from simclr_jax.evaluate.rows import Rows
from simclr_jax.methods.base import Tree
from simclr_jax.optim.schedules import scaled_learning_rate, warmup_cosine, warmup_step_decay
from simclr_jax.progress import Progress
from simclr_jax.workdir.checkpoint import Checkpoints, abstract_like
from simclr_jax.workdir.lock import hold

# What is held out of the training labels where several rates are compared: BYOL's 10,009 of
# ImageNet's 1.28 million, at most a fifth of a smaller set.
HELD_OUT = 10_009
HELD_OUT_FRACTION = 0.2
_PROGRESS_LINES = 20  # of a training
_MAX_IN_FLIGHT = 2  # steps


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a paper trains its linear classifier."""

    epochs: float
    batch_size: int
    learning_rates: tuple[float, ...]  # before scaling; of several, a held-out part chooses one
    view: ViewRecipe  # of the training images; evaluation sees central crops
    scaling: str = 'linear'  # of the rate with the batch, as `optimizer.learning_rate_scaling`
    nesterov: bool = False
    weight_decay: float = 0.0  # of kernel and bias
    decay_at: tuple[float, ...] = ()  # shares of the run where the rate drops to a tenth; () cosine
    kernel_std: float | None = 0.01  # of the normal initialization; None is 1 / sqrt(dim)


_TORCHVISION = dataclasses.replace(
    CROP_AND_FLIP, crop_sampler='torchvision', interpolation='bilinear', antialias=True
)

# In all of them momentum is 0.9 and the encoder is in evaluation mode (of SimCLR, `model.py` sets
# it where `--fine_tune_after_block=4`). Two originals change the rate once an epoch (MoCo), here a
# cosine falls at every step.
PROTOCOLS = {
    # google-research/simclr, README:136-146, ImageNet: `--zero_init_logits_layer=True`.
    'simclr': Protocol(
        epochs=90.0,
        batch_size=4096,
        learning_rates=(0.1,),
        view=CROP_AND_FLIP,
        nesterov=True,
        weight_decay=1e-6,
        kernel_std=0.0,
    ),
    # google-research/simclr, README:116-131, CIFAR-10.
    'simclr_cifar': Protocol(
        epochs=100.0,
        batch_size=512,
        learning_rates=(0.1,),
        view=CROP_AND_FLIP,
        nesterov=True,
        kernel_std=0.0,
    ),
    # The paper's appendix C.1. deepmind-research, byol/configs/eval.py, has one of the five rates.
    'byol': Protocol(
        epochs=80.0,
        batch_size=1024,
        learning_rates=(0.4, 0.3, 0.2, 0.1, 0.05),
        view=dataclasses.replace(CROP_AND_FLIP, crop_sampler='byol'),
        nesterov=True,
        kernel_std=None,
    ),
    # facebookresearch/moco, main_lincls.py; v1 and v2 alike.
    'moco_v2': Protocol(
        epochs=100.0,
        batch_size=256,
        learning_rates=(30.0,),
        view=_TORCHVISION,
        scaling='none',
        decay_at=(0.6, 0.8),
    ),
    # facebookresearch/moco-v3, main_lincls.py.
    'moco_v3': Protocol(epochs=90.0, batch_size=1024, learning_rates=(0.1,), view=_TORCHVISION),
}
# CONFIG.md: `-a vit_small --lr=3`.
_MOCO_V3_VIT = dataclasses.replace(PROTOCOLS['moco_v3'], learning_rates=(3.0,))


def published_protocol(name: str, encoder: str, **changes: Any) -> Protocol:
    """The protocol of that name, with those `changes` to its fields that are not 0 or empty.

    MoCo v3 has a rate of its own where the encoder is a ViT.
    """
    protocol = PROTOCOLS[name]
    if name == 'moco_v3' and encoder.startswith('vit'):
        protocol = _MOCO_V3_VIT
    return dataclasses.replace(protocol, **{k: v for k, v in changes.items() if v})


# From the records to train on `[n]`, the first step and the number of steps to the batches of those
# steps: `image` `[batch, 1, height, width, channel]` uint8 and `label` `[batch]`.
Batches = Callable[[np.ndarray, int, int], Iterator[dict[str, np.ndarray]]]


def published_linear_eval(
    trainer: 'LinearTrainer', batches: Batches, train: Features, test: Features
) -> dict[str, Any]:
    """Test accuracy in [0, 1] of the trainer's classifier on the features 'encoder'.

    Where its protocol has several rates, each is trained without a held-out part of the training
    labels, and the one that is best there is trained again on all. Test labels are only counted.

    Args:
      trainer: trains the classifiers.
      batches: of the records whose places in the training source are `train.index`.
      train: of the central crops of all training examples.
      test: of the central crops.

    Returns:
      `mean` (the accuracy), `std` (0: one run), `learning_rate`, and `held_out`: the accuracy of
      every rate that was compared, by the rate.
    """
    features, labels = train.values['encoder'], train.labels
    labelled, dim = np.flatnonzero(labels != subsets.UNLABELLED), features.shape[1]
    rates, held_out = trainer.protocol.learning_rates, {}
    with trainer.keep(train):
        if len(rates) > 1:
            fraction = min(HELD_OUT_FRACTION, HELD_OUT / len(labelled))
            split = subsets.holdout_split(labels[labelled], fraction, trainer.seed)
            kept, out = (labelled[part] for part in split)
            classifiers = trainer.train(batches, train.index[kept], dim, rates)
            found = _accuracies(classifiers, Rows(features, out), labels[out])
            held_out = {str(rate): value for rate, value in zip(rates, found, strict=True)}
            rates = (rates[int(np.argmax(found))],)
        classifiers = trainer.train(batches, train.index[labelled], dim, rates)
    test_rows, test_labels = subsets.labelled(test.values['encoder'], test.labels)
    (accuracy,) = _accuracies(classifiers, test_rows, test_labels)
    return {
        'mean': accuracy,
        'std': 0.0,
        'learning_rate': rates[0],
        'held_out': held_out,
    }


def stream_seed(seed: int) -> int:
    """Returns the seed of the probe's batches, which are not those of pretraining."""
    return zlib.crc32(f'linear_eval {seed}'.encode())


@dataclasses.dataclass(frozen=True)
class LinearTrainer:
    """Trains a classifier for every rate at once: the encoder's forward pass is shared.

    Attributes:
      encoder: the linen module.
      variables: what it is applied with, in evaluation mode.
      protocol: the numbers.
      mesh: the devices.
      num_classes: how many there are.
      mean: subtracted from pixels in [0, 1].
      std: divides them.
      seed: of the initialization, and of what is held out.
      folder: where checkpoints are kept; '' for nowhere.
      save_every: steps between two checkpoints.
    """

    encoder: Any
    variables: Tree
    protocol: Protocol
    mesh: Mesh
    num_classes: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    seed: int = 0
    folder: str = ''
    save_every: int = 1000

    @contextlib.contextmanager
    def keep(self, train: Features) -> Iterator[None]:
        """Inside the block this process alone uses `folder`, whose checkpoints are of this work.

        Those of another encoder, protocol or training split are removed.

        Raises:
          ConfigError: another process is at work there.
        """
        if not self.folder:
            yield
            return
        with hold(self.folder):
            if parallel.is_main_process():
                folder, name = epath.Path(self.folder), self._name_work(train)
                mark = folder / 'work.txt'
                if not mark.exists() or mark.read_text() != name:
                    for path in folder.iterdir():
                        if path.is_dir():
                            path.rmtree()
                    files.write_text(mark, name)
            yield

    def _name_work(self, train: Features) -> str:
        """What decides every bit of the classifiers, but for the pictures, as a hash."""
        digest = hashlib.sha256(
            repr((self.protocol, self.num_classes, self.mean, self.std, self.seed)).encode()
        )
        for leaf in (train.index, train.labels, *jax.tree.leaves(jax.device_get(self.variables))):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()

    def train(
        self, batches: Batches, examples: np.ndarray, dim: int, rates: tuple[float, ...]
    ) -> Tree:
        """Trains, or goes on from the last checkpoint of the same rates.

        After SIGTERM or Ctrl-C it saves and exits, if there is a folder.

        Args:
          batches: as in `published_linear_eval`.
          examples: the records to train on, `[n]`.
          dim: of the features.
          rates: before scaling.

        Returns:
          `kernel` `[rate, dim, class]` and `bias` `[rate, 1, class]`.
        """
        protocol = self.protocol
        total_steps = max(1, int(protocol.epochs * len(examples) / protocol.batch_size))
        peaks = [scaled_learning_rate(r, protocol.batch_size, protocol.scaling) for r in rates]
        step_fn = self._make_step(total_steps, peaks)
        state, start, checkpoints = self._init(dim, len(rates)), 0, None
        if self.folder:
            name = '_'.join(map(str, rates))
            checkpoints = Checkpoints(f'{self.folder}/{name}', keep=1)
            start = checkpoints.latest_step() or 0
            if start:
                abstract = abstract_like(state, parallel.replicated(self.mesh))
                state = checkpoints.restore(start, abstract)
                _say(f'linear_eval: going on from step {start} of {total_steps} in {self.folder}')
            interruption.defer()
        every, progress = -(-total_steps // _PROGRESS_LINES), Progress(total_steps)
        unread = []
        stream = batches(examples, start, total_steps) if start < total_steps else ()
        for step, batch in enumerate(stream, start + 1):
            batch = {name: batch[name] for name in ('image', 'label')}
            batch = parallel.put_batch(batch, self.mesh)
            *state, losses = step_fn(self.variables, *state, batch)
            unread.append(losses)
            if len(unread) > _MAX_IN_FLIGHT:  # waits, so that no more batches pile up there
                jax.block_until_ready(unread.pop(0))
            if step % every == 0 and parallel.is_main_process():
                progress.update(step, {'loss': float(np.min(jax.device_get(losses)))})
            if not checkpoints:
                continue
            stop = interruption.asked(step) and step < total_steps
            if stop or step == total_steps:
                checkpoints.save_and_wait(step, tuple(state))
            elif step % self.save_every == 0:
                checkpoints.save(step, tuple(state))
            if stop:
                checkpoints.close()
                progress.finish()
                _say(f'saved step {step} in {self.folder}; the same command goes on from there:\n')
                _say(f'  {command()}')
                sys.exit(interruption.status())
        progress.finish()
        if checkpoints:
            checkpoints.close()
            interruption.finish()
        return jax.device_get(state[0])

    def _features(self, variables: Tree, images: jax.Array) -> jax.Array:
        images = normalize_images(images[:, 0], self.mean, self.std)
        return self.encoder.apply(variables, images, train=False).astype(jnp.float32)

    def _init(self, dim: int, rates: int) -> tuple[Tree, Any]:
        std = self.protocol.kernel_std
        std = dim**-0.5 if std is None else std
        key = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(b'linear_eval'))
        kernel = std * jax.random.normal(key, (dim, self.num_classes))
        params = {
            'kernel': jnp.tile(kernel[None], (rates, 1, 1)),
            'bias': jnp.zeros((rates, 1, self.num_classes)),
        }
        state = params, self._optimizer(optax.constant_schedule(1.0)).init(params)
        return jax.device_put(state, parallel.replicated(self.mesh))

    def _optimizer(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(self.protocol.weight_decay),
            optax.sgd(schedule, 0.9, self.protocol.nesterov),
        )

    def _make_step(self, total_steps: int, peaks: list[float]):
        decay_steps = tuple(round(share * total_steps) for share in self.protocol.decay_at)
        if decay_steps:
            schedule = warmup_step_decay(1.0, 0, decay_steps)
        else:
            schedule = warmup_cosine(1.0, 0, total_steps)
        tx = self._optimizer(schedule)
        peaks = jnp.asarray(peaks)[:, None, None]

        def step(variables, params, opt_state, batch):
            features = self._features(variables, batch['image'])

            def loss(params):
                # A sum over the rates: the gradient of each is its own.
                logits = _logits(params, features)
                labels = jnp.broadcast_to(batch['label'][None], logits.shape[:2])
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
                of_each = losses.mean(axis=1)
                return of_each.sum(), of_each

            gradient, losses = jax.grad(loss, has_aux=True)(params)
            updates, opt_state = tx.update(gradient, opt_state, params)
            updates = jax.tree.map(lambda update: update * peaks, updates)
            return optax.apply_updates(params, updates), opt_state, losses

        replicated = parallel.replicated(self.mesh)
        return jax.jit(
            step,
            in_shardings=(replicated, replicated, replicated, parallel.batch_sharding(self.mesh)),
            out_shardings=replicated,
            donate_argnums=(1, 2),
        )


def _logits(params: Tree, features: jax.Array) -> jax.Array:
    """`[rate, n, class]`."""
    return jnp.einsum('nd,rdc->rnc', features, params['kernel']) + params['bias']


def _accuracies(params: Tree, features: Rows, labels: np.ndarray) -> list[float]:
    """The share that each of the classifiers gets right, `[rate]`."""
    classifiers = zip(params['kernel'], params['bias'], strict=True)
    return [float(np.mean(predict(features, w, b[0]) == labels)) for w, b in classifiers]


def _say(text: str) -> None:
    if parallel.is_main_process():
        print(text, flush=True)
