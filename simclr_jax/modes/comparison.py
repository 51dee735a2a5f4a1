"""What fine-tuning ends with: the same labels, and fewer, used in this way and in others."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.data import splits
from simclr_jax.data.sources import Source
from simclr_jax.evaluate import comparison
from simclr_jax.evaluate.comparison import ALL, FINE_TUNED, KNN, LINEAR, SCRATCH, Trial, Trials
from simclr_jax.evaluate.knn import knn_predictions
from simclr_jax.evaluate.linear import linear_predictions
from simclr_jax.evaluate.predictions import Predictions, top_accuracy
from simclr_jax.modes import results
from simclr_jax.modes.eval_data import EvalData, too_few_labels
from simclr_jax.modes.evaluation import about_data, split_of
from simclr_jax.modes.subject import Subject

_FOLDER = 'comparison'  # in the workdir: a file for each trial that is finished
_FORMAT = 1  # of those files
_FROZEN = (LINEAR, KNN)

# Trains on a source and predicts the test pictures: from the encoder, or from scratch.
Fit = Callable[[Trial, Source], Predictions]


class Compared(NamedTuple):
    """What a comparison found.

    Attributes:
      entry: of `result.json`.
      labels: of the test pictures, `[n]`, -1 where there is none.
      own: what the run's own classifier says of them.
    """

    entry: dict[str, Any]
    labels: np.ndarray
    own: Predictions


def compare(
    subject: Subject | None,
    config: ConfigDict,
    workdir: str,
    data: EvalData,
    own: Predictions,
    fit: Fit,
) -> Compared:
    """Compares ways to use labels, writes `result.json` and prints the figures.

    Every finished trial is kept in the workdir: who starts again goes on with the next one, and
    ends with the same bits.

    Args:
      subject: the encoder as it was before it was fine-tuned; None where the run started from
        scratch: then there is nothing to compare, and its figures are those of 'scratch'.
      config: the sections `finetune`, `knn` and `eval`, the seed, and how data are read.
      workdir: of the run.
      data: what is trained and tested on.
      own: what the run's own classifier says of all test pictures.
      fit: trains on the pictures of one draw; of the ways 'fine_tuned' and 'scratch'.

    Raises:
      RunError: a training diverged; what was finished before is kept.
    """
    settings, names = config.finetune, data.train.label_names
    labels, train_labels = splits.all_labels(data.test), _labels(data.train)
    itself = Trial(FINE_TUNED if subject else SCRATCH, ALL)
    ways = (itself.way, *(settings.compare if subject else ()))
    counts = _counts(config, train_labels, names) if subject else []
    trials = comparison.plan(ways, counts, settings.draws)
    kept = Trials(
        epath.Path(workdir) / _FOLDER,
        _about(config, data, train_labels, labels),
        {KNN: _voting(config), SCRATCH: _rate_from_scratch(config)},
    )
    missing = kept.missing([trial for trial in trials if trial != itself])
    parallel.wait_for_all()  # before the first one writes what the others have not looked for yet

    def keep(trial: Trial, predictions: Predictions) -> None:
        if parallel.is_main_process():
            kept.save(trial, predictions)
            of = '' if trial.labels == ALL else f', draw {trial.draw + 1} of {settings.draws}'
            accuracy = 100 * top_accuracy(predictions, labels, 1)
            count = settings.labels if trial.labels == ALL else trial.labels
            print(f'  {trial.way}, labels: {count}{of}: {accuracy:.1f} %', flush=True)

    if missing and parallel.is_main_process():
        print(f'\ncomparing {", ".join(ways)}: {len(missing)} more trials', flush=True)
    keep(itself, own)
    drawn = {trial: _drawn(trial, train_labels, config.seed) for trial in missing}
    frozen = {trial: chosen for trial, chosen in drawn.items() if trial.way in _FROZEN}
    _predict_frozen(frozen, subject, config, data, keep)
    for trial, chosen in drawn.items():
        if trial not in frozen:
            keep(trial, fit(trial, _source(data.train, chosen)))
    parallel.wait_for_all()  # until the last one is there
    entry = _named(kept.figures(trials, labels, len(names)), settings.labels) | {
        **(subject.about if subject else {}),
        'data': about_data(data, data.train.num_examples, labels),
        'settings': settings.to_dict() | {'seed': config.seed},
    }
    results.write(workdir, results.FINETUNE, entry)
    return Compared(entry, labels, own)


def _labels(source: Source) -> np.ndarray | None:
    """The labels of all records; None where there are too many to read."""
    found = splits.read_labels(source)
    return found.values if found.exact else None


def _counts(config: ConfigDict, labels: np.ndarray | None, names: Sequence[str]) -> list[int]:
    """How many labels a class there can be: fewer than there are, and as many as each class has."""
    wanted = config.finetune.labels_per_class if config.finetune.compare else ()
    note = None
    if labels is None:
        note = wanted and 'all labels alone, since all records would be read for them'
    else:
        note = too_few_labels(labels, wanted, names)
        smallest = np.unique(labels[labels >= 0], return_counts=True)[1].min()
        fewer = np.sum(labels >= 0) / len(names)
        wanted = [count for count in wanted if count <= smallest and count < fewer]
    if note and parallel.is_main_process():
        print(f'comparison: {note}', flush=True)
    return [] if labels is None else wanted


def _drawn(trial: Trial, labels: np.ndarray | None, seed: int) -> np.ndarray | None:
    return None if trial.labels == ALL else comparison.drawn(labels, trial, seed)


def _source(source: Source, chosen: np.ndarray | None) -> Source:
    return source if chosen is None else splits.subset(source, chosen)


def _named(figures: dict[str, dict[str, Any]], everything: str) -> dict[str, dict[str, Any]]:
    """Calls 'all' what the run's labels are: 'all', or '0.1' or '1percent'."""
    name = epath.Path(everything).name.removesuffix('.txt')
    return {
        way: {name if labels == ALL else labels: value for labels, value in of_way.items()}
        for way, of_way in figures.items()
    }


def _about(
    config: ConfigDict, data: EvalData, train_labels: np.ndarray | None, labels: np.ndarray
) -> dict[str, Any]:
    """What a trial depends on and the workdir's config does not fix."""
    known = [labels] if train_labels is None else [labels, train_labels]
    return {
        'format': _FORMAT,
        'data': [data.name, data.train_split, data.test_split, data.train.num_examples],
        'labels': [zlib.crc32(np.asarray(x, np.int64).tobytes()) for x in known],
        'seen': [config.data.eval_interpolation, config.data.eval_antialias],
        'encoder': config.start.checksum,
        'seed': config.seed,
    }


def _predict_frozen(
    trials: Mapping[Trial, np.ndarray | None],
    subject: Subject,
    config: ConfigDict,
    data: EvalData,
    keep: Callable[[Trial, Predictions], None],
) -> None:
    """The trials that leave the encoder as it is: its features are extracted once."""
    if not trials:
        return
    train, test = (
        split_of(subject, config, source, False).features for source in (data.train, data.test)
    )
    features = train.values['encoder'], train.labels, test.values['encoder']
    options = {'num_classes': len(data.train.label_names), 'mesh': subject.mesh}
    for trial, chosen in trials.items():
        if trial.way == LINEAR:
            keep(trial, linear_predictions(*features, chosen, seed=config.seed, **options))
        else:
            keep(trial, knn_predictions(*features, chosen, **_voting(config), **options))


def _rate_from_scratch(config: ConfigDict) -> dict[str, Any]:
    rate = config.finetune.scratch_learning_rate
    return {'learning_rate': rate} if rate else {}


def _voting(config: ConfigDict) -> dict[str, Any]:
    return {'k': config.knn.k, 'temperature': config.knn.temperature}
