"""The probes: each says how well the labels can be read off frozen features.

A new one is a function of `(subject, config, workdir, train, test)` and its name in `PROBES` here
and in `config.PROBES`, with a section of that name in `config.default()`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.data.sources import Source
from simclr_jax.data.splits import subset
from simclr_jax.evaluate.features import Features
from simclr_jax.evaluate.knn import knn_eval
from simclr_jax.evaluate.linear import linear_eval as fit_linear
from simclr_jax.evaluate.published import (
    HELD_OUT_FRACTION,
    LinearTrainer,
    Protocol,
    published_linear_eval,
    published_protocol,
    stream_seed,
)
from simclr_jax.modes.eval_data import too_few_labels
from simclr_jax.modes.subject import Subject

# Name of the feature ('encoder', 'untrained', 'raw_pixels') to labels a class ('all', '10', ...)
# to `mean` and `std`, accuracies in [0, 1], and what else the probe tells of itself.
Accuracies = dict[str, dict[str, dict[str, Any]]]


class Split(NamedTuple):
    """Pictures and what was extracted from them; `features.index` has places in `source`."""

    source: Source
    features: Features


def linear_eval(
    subject: Subject, config: ConfigDict, workdir: str, train: Split, test: Split
) -> Accuracies:
    """Logistic regression on the features, or a paper's classifier on augmented pictures."""
    if config.linear_eval.protocol == 'fast':
        return _of_each_feature(fit_linear, subject, config, 'linear_eval', train, test)
    return {'encoder': {'all': _published(subject, config, workdir, train, test)}}


def knn(
    subject: Subject, config: ConfigDict, workdir: str, train: Split, test: Split
) -> Accuracies:
    """A weighted vote of the nearest training pictures."""
    del workdir  # nothing is kept there: it takes seconds
    settings = config.knn
    options = {'k': settings.k, 'temperature': settings.temperature}
    return _of_each_feature(knn_eval, subject, config, 'knn', train, test, **options)


PROBES: dict[str, Callable[[Subject, ConfigDict, str, Split, Split], Accuracies]] = {
    'linear_eval': linear_eval,
    'knn': knn,
}


def needs_baselines(config: ConfigDict, probe: str) -> bool:
    """Whether a probe looks at other encoders, as the untrained one, and at raw pixels too."""
    published = probe == 'linear_eval' and config.linear_eval.protocol != 'fast'
    return config.eval.baselines and not published


def _of_each_feature(
    function,
    subject: Subject,
    config: ConfigDict,
    probe: str,
    train: Split,
    test: Split,
    **options,
) -> Accuracies:
    settings, labels = config[probe], train.features.labels
    names = train.source.label_names
    note = too_few_labels(labels, settings.labels_per_class, names)
    if note and parallel.is_main_process():
        print(f'{probe}: {note}', flush=True)
    smallest = np.unique(labels[labels >= 0], return_counts=True)[1].min()
    options |= {
        'num_classes': len(names),
        'labels_per_class': ('all', *(n for n in settings.labels_per_class if n <= smallest)),
        'draws': settings.draws,
        'seed': config.seed,
        'mesh': subject.mesh,
    }
    return {
        name: function(values, labels, test.features.values[name], test.features.labels, **options)
        for name, values in train.features.values.items()
    }


def check_protocol(
    config: ConfigDict, train: Source, architecture: str, mesh: Mesh
) -> Protocol | None:
    """Returns the paper's protocol that `linear_eval` names; None for the fast probe.

    Args:
      config: its section `linear_eval`, and whether the views of `augment` are flipped.
      train: what the probe is trained on.
      architecture: of the encoder, a name of `models.factory.ENCODERS`.
      mesh: the devices.

    Raises:
      ConfigError: its batch does not divide over the devices, or there are fewer examples.
    """
    settings = config.linear_eval
    if settings.protocol == 'fast':
        return None
    protocol = published_protocol(
        settings.protocol,
        architecture,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rates=settings.learning_rates,
    )
    # If pretraining uses no flips (digits, letters), the linear probe must not either.
    flip = min(protocol.view.flip_probability, config.augment.view1.flip_probability)
    view = dataclasses.replace(protocol.view, flip_probability=flip)
    parallel.check_batch_size('linear_eval.batch_size', protocol.batch_size, mesh)
    if protocol.batch_size > (1 - HELD_OUT_FRACTION) * train.num_examples:
        raise ConfigError(
            f'linear_eval.batch_size={settings.batch_size}: is {protocol.batch_size} in the '
            f'protocol, but the probe has {train.num_examples} training examples, of which a fifth '
            'may be held out; give fewer'
        )
    return dataclasses.replace(protocol, view=view)


def _published(
    subject: Subject, config: ConfigDict, workdir: str, train: Split, test: Split
) -> dict[str, Any]:
    from simclr_jax.data import pipeline  # imports TensorFlow

    protocol = check_protocol(config, train.source, subject.architecture, subject.mesh)

    def batches(examples, start_step, total_steps):
        return pipeline.train_batches(
            subset(train.source, examples),
            (protocol.view,),
            seed=stream_seed(config.seed),
            batch_size=protocol.batch_size,
            image_size=subject.preprocess.size,
            start_step=start_step,
            total_steps=total_steps,
            rows=parallel.local_rows(protocol.batch_size, subject.mesh),
            workers=config.data.workers,
            drop_remainder=False,  # as every original reads them
        )

    trainer = LinearTrainer(
        subject.encoder.module,
        subject.encoder.variables,
        protocol,
        subject.mesh,
        train.source.num_classes,
        mean=subject.preprocess.mean,
        std=subject.preprocess.std,
        seed=config.seed,
        folder=f'{workdir}/linear_eval',
        save_every=config.checkpoint.every_steps,
    )
    return published_linear_eval(trainer, batches, train.features, test.features)
