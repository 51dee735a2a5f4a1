"""What a classifier says of pictures, and what it makes of them before."""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.data.factory import reader
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.features import extract_features
from simclr_jax.evaluate.linear import linear_classifier
from simclr_jax.methods.base import Tree
from simclr_jax.models.classifier import ClassifierNetwork
from simclr_jax.train.out_of_memory import EVALUATION, explained
from simclr_jax.train.setup import Run
from simclr_jax.train.state import TrainState

_FEATURES, _LOGITS = 0, 1  # places in what a classifier returns


def logits_of(
    network: ClassifierNetwork, variables: Tree, source: Source, config: ConfigDict, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits `[example, class]` of every picture of `source`, and labels `[example]`.

    Args:
      network: of the classifier.
      variables: that it is applied with, on the devices.
      source: the pictures.
      config: how they are seen.
      mesh: the devices.
    """
    return _outputs(_Output(network, _LOGITS), variables, source, config, mesh)


def with_head(run: Run) -> Run:
    """Returns a run that starts with the classifier that `finetune.head_init='linear'` asks for.

    It is the logistic regression of the labels of `run.source` on the features that the encoder has
    before it is trained, as in "linear probing, then fine-tuning" (Kumar et al.,
    https://arxiv.org/abs/2202.10054). It is solved when the run's first state is made. A run that
    starts at random, or with another `head_init`, is returned as it is.
    """
    if run.config.finetune.head_init != 'linear' or run.start is None:
        return run
    return dataclasses.replace(run, head=_solve)


def _solve(run: Run, state: TrainState) -> Tree:
    """Returns kernel `[dim, class]` and bias `[class]` of the classifier."""
    encoder = _Output(run.method.network, _FEATURES)
    found = _outputs(encoder, state.all_variables(), run.source, run.config, run.mesh)
    kernel, bias = linear_classifier(
        *found, num_classes=run.method.classes, seed=run.config.seed, mesh=run.mesh
    )
    return {'kernel': kernel, 'bias': bias}


@dataclasses.dataclass(frozen=True)
class _Output:
    """One of the things that a classifier returns."""

    network: ClassifierNetwork
    place: int

    def apply(self, variables: Tree, images: jax.Array, train: bool) -> jax.Array:
        return self.network.apply(variables, images, train)[self.place]


@explained('evaluation', EVALUATION)
def _outputs(
    output: _Output, variables: Tree, source: Source, config: ConfigDict, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    data = config.data
    batches = reader(config).eval_batches(
        source,
        batch_size=config.eval.batch_size,
        rows=parallel.local_rows(config.eval.batch_size, mesh),
        workers=data.workers,
        image_size=data.image_size,
        crop=data.eval_crop,
        interpolation=data.eval_interpolation,
        antialias=data.eval_antialias,
    )
    found = extract_features(
        {'output': output},
        {'output': variables},
        batches,
        mesh,
        num_examples=source.num_examples,
        mean=data.mean,
        std=data.std,
        raw_pixels=False,
    )
    return found.values['output'], found.labels
