"""The pictures that a classifier learns from, and those that it is tested on."""

import dataclasses

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax.config import ConfigError, labels_wanted
from simclr_jax.data import sources, splits
from simclr_jax.data.factory import open_split
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.subsets import draw_share, draw_subset
from simclr_jax.modes.eval_data import EvalData, open_eval_data
from simclr_jax.workdir.claim import Held

_SHOWN = 3  # names of pictures in a message


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Pictures with labels; no test picture is among the training pictures.

    Attributes:
      train: the training pictures: those of `data.train_split` that have a label.
      labels: theirs, `[example]`; None where there are too many to read.
      split: what was opened as `data.train_split`.
      test: the test pictures, and what is to be said of them.
    """

    train: Source
    labels: np.ndarray | None
    split: Source
    test: EvalData


def open_labelled(config: ConfigDict, held: Held | None = None) -> Labelled:
    """Opens and checks what a classifier is trained and tested on.

    Args:
      config: of the run.
      held: what its data held when it began; None for one that begins.

    Raises:
      ConfigError: the data are not there, have no labels, or several a picture, or have other
        classes to be tested on.
    """
    data = config.data
    sources.check_prepared(data.dataset, data.data_dir, data.path, data.labels)
    split = open_split(config, data.train_split, held)
    if split.several is not None:
        raise ConfigError(
            'data.several_labels=True: a classifier is trained on one label a picture; give '
            '--config.data.several_labels=False and a table with one. What an encoder is worth '
            'where a picture has several, --mode=transfer says'
        )
    test = open_eval_data(config, split, needed=True)
    labels = splits.read_labels(split)
    if not labels.counts():
        raise ConfigError(
            f'data.train_split={data.train_split!r}: this split of {data.dataset} has no labels to '
            'learn from; name one that has'
        )
    if test.test.label_names != split.label_names:
        raise ConfigError(
            f'eval.test_split={test.test_split!r}: its classes, '
            f'{_some(test.test.label_names)}, are not those of the training pictures, '
            f'{_some(split.label_names)}'
        )
    kept = ~splits.shared(split, test.test)
    if labels.exact:
        kept &= labels.values >= 0
    kept = np.flatnonzero(kept)
    train = split if len(kept) == split.num_examples else splits.subset(split, kept)
    return Labelled(train, labels.values[kept] if labels.exact else None, split, test)


def choose(config: ConfigDict, labelled: Labelled) -> Source:
    """Returns those of the training pictures whose labels `finetune.labels` lets be seen.

    Raises:
      ConfigError: there are too few, or the labels cannot be known beforehand.
    """
    field = f'finetune.labels={config.finetune.labels!r}'
    wanted, train = labels_wanted(config.finetune.labels), labelled.train
    if wanted == 'all':
        return train
    if isinstance(wanted, str):
        return splits.subset(train, _listed(wanted, train, field))
    if labelled.labels is None:
        raise ConfigError(
            f'{field}: the {train.num_examples:,} records of {config.data.dataset} would all have '
            "to be read for their labels; take a data set that holds these few, as TFDS's "
            'imagenet2012_subset/10pct, and all its labels'
        )
    draw = config.seed, config.finetune.draw
    if isinstance(wanted, float):
        return splits.subset(train, draw_share(labelled.labels, wanted, *draw))
    classes, counts = np.unique(labelled.labels, return_counts=True)
    if wanted > counts.min():
        raise ConfigError(
            f'{field}: the class {train.label_names[classes[counts.argmin()]]!r} has only '
            f'{counts.min()} training pictures; give at most that many'
        )
    return splits.subset(train, draw_subset(labelled.labels, wanted, *draw))


def _listed(path: str, train: Source, field: str) -> np.ndarray:
    """Returns the places of the pictures that a file lists, by their name with or without folder.

    Raises:
      ConfigError: it cannot be read, or names a picture that is not there.
    """
    if train.name is None:
        raise ConfigError(
            f"{field}: only a folder's pictures have names; TFDS has SimCLR's lists of ImageNet as "
            'data.dataset=imagenet2012_subset/1pct and imagenet2012_subset/10pct'
        )
    try:
        lines = epath.Path(path).read_text().split('\n')
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'{field}: cannot be read: {error}') from error
    names = [line.strip() for line in lines if line.strip()]
    places: dict[str, int] = {}
    for place in range(train.num_examples):
        name = train.name(place)
        places[name] = places[name.rpartition('/')[2]] = place
    missing = [name for name in names if name not in places]
    if missing or not names:
        raise ConfigError(
            f'{field}: {len(missing):,} of the {len(names):,} pictures that it lists are not among '
            f'the training pictures{": " if missing else ""}{", ".join(missing[:_SHOWN])}'
        )
    return np.array(sorted({places[name] for name in names}))


def _some(names: tuple[str, ...] | None) -> str:
    names = names or ()
    return f'{", ".join(map(repr, names[:_SHOWN]))}{" ..." if len(names) > _SHOWN else ""}'
