"""Evaluation of an encoder on labelled pictures, whether a run or a file holds it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.data import splits
from simclr_jax.data.factory import reader
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.features import Features, extract_features
from simclr_jax.modes import results
from simclr_jax.modes.eval_data import EvalData
from simclr_jax.modes.probes import PROBES, Split, check_protocol, needs_baselines
from simclr_jax.modes.subject import Subject

_SAMPLE = 2000  # pictures of each split for the report, where no probe needs all of them


def check_evaluation(
    config: ConfigDict, data: EvalData, probes: Sequence[str], architecture: str, mesh: Mesh
) -> None:
    """Checks what `evaluate` will need, and says what a user should know.

    Raises:
      ConfigError: as `check_protocol`.
    """
    if data.labelled and 'linear_eval' in probes:
        check_protocol(config, data.train, architecture, mesh)
    if probes and parallel.is_main_process():
        for note in data.notes:
            print(note, flush=True)


def evaluate(
    subject: Subject, config: ConfigDict, workdir: str, data: EvalData, probes: Sequence[str]
) -> tuple[Split, Split]:
    """Runs the probes, writes `result.json` after each, and prints the figures.

    Args:
      subject: the encoder.
      config: the sections `eval`, `linear_eval` and `knn`, the seed, and how data are read.
      workdir: where the results go; figures of other probes that are there already are kept.
      data: what is trained and tested on.
      probes: names of `PROBES`; where there is none, or no label, a part of the data is looked at
        for the report.

    Returns:
      The training and the test pictures, with their features, for a report.
    """
    probes = [probe for probe in PROBES if probe in probes and data.labelled]
    if probes and parallel.is_main_process():
        counts = f'{data.train.num_examples:,} training and {data.test.num_examples:,} test'
        print(f'evaluating by {", ".join(probes)}: {counts} pictures', flush=True)
    baselines = any(needs_baselines(config, probe) for probe in probes)
    train, test = (
        split_of(subject, config, source if probes else splits.spread(source, _SAMPLE), baselines)
        for source in (data.train, data.test)
    )
    for probe in probes:
        accuracies = PROBES[probe](subject, config, workdir, train, test)
        about = _about(subject, config, data, train.features, test.features, probe)
        results.write(workdir, probe, accuracies | about)
    if probes and parallel.is_main_process():
        print(f'\n{results.format_results(results.read(workdir))}\n', flush=True)
        print(f'figures   {epath.Path(workdir) / "result.json"}')
    return train, test


def _about(
    subject: Subject,
    config: ConfigDict,
    data: EvalData,
    train: Features,
    test: Features,
    probe: str,
) -> dict[str, Any]:
    """What a probe's figures are of."""
    settings = config[probe].to_dict() | {'seed': config.seed} | subject.settings
    return {
        **subject.about,
        'data': about_data(data, int(np.sum(train.labels >= 0)), test.labels),
        'settings': settings,
    }


def about_data(data: EvalData, train_pictures: int, labels: np.ndarray) -> dict[str, Any]:
    """Returns what figures are of, for `result.json`.

    Args:
      data: what is trained and tested on.
      train_pictures: how many of the training pictures have labels.
      labels: of the test pictures, `[n]`, -1 where there is none.
    """
    _, counts = np.unique(labels[labels >= 0], return_counts=True)
    return {
        'name': data.name,
        'train_split': data.train_split,
        'test_split': data.test_split,
        'train_pictures': train_pictures,
        'test_pictures': int(counts.sum()),
        'largest_class': float(counts.max() / counts.sum()),  # what always guessing it gives
        'pretrained_on': data.seen,
    }


def split_of(subject: Subject, config: ConfigDict, source: Source, baselines: bool) -> Split:
    """Extracts features of every picture of a source; of the `baselines` too, where asked for."""
    networks = {'encoder': subject.encoder}
    if baselines:
        networks |= subject.others()
    batches = reader(config).eval_batches(
        source,
        batch_size=config.eval.batch_size,
        rows=parallel.local_rows(config.eval.batch_size, subject.mesh),
        workers=config.data.workers,
        **subject.central_view(),
    )
    features = extract_features(
        {name: network.module for name, network in networks.items()},
        {name: network.variables for name, network in networks.items()},
        batches,
        subject.mesh,
        num_examples=source.num_examples,
        mean=subject.preprocess.mean,
        std=subject.preprocess.std,
        raw_pixels=baselines,
    )
    return Split(source, features)
