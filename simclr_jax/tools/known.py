"""How large a data set is, without reading it."""

import dataclasses

from etils import epath
from ml_collections import ConfigDict

from simclr_jax.config import ConfigError, canvas_side, labels_wanted
from simclr_jax.data import sources
from simclr_jax.data.factory import open_split

# TFDS builder -> images in its training split, the size of each, classes.
_KNOWN = {
    'imagenet2012': (1_281_167, (None, None, 3), 1000),
    # SimCLR's lists, as TFDS has them.
    'imagenet2012_subset/1pct': (12_811, (None, None, 3), 1000),
    'imagenet2012_subset/10pct': (128_116, (None, None, 3), 1000),
    'imagenet100': (126_689, (None, None, 3), 100),
    'imagenette': (9_469, (None, None, 3), 10),
    'cifar10': (50_000, (32, 32, 3), 10),
    'cifar100': (50_000, (32, 32, 3), 100),
    'digits': (1_297, (8, 8, 1), 10),
}


def known_source(config: ConfigDict) -> sources.Source | None:
    """Returns what the config's training split holds: not to be read; None where it is not known.

    That of a data set in the table above, or of one that is here: a folder's index is made, or a
    prepared data set opened.

    Raises:
      ConfigError: the folder that `data.path` names is not there, or holds no pictures.
    """
    data = config.data
    name = data.dataset.partition(':')[0]
    name = name if name in _KNOWN else name.partition('/')[0]
    if name in _KNOWN and data.train_split == 'train':
        examples, shape, classes = _KNOWN[name]
        labels = tuple(map(str, range(classes)))
        return sources.Source(lambda _: [], examples, shape, labels, canvas_side(config))
    if data.dataset == sources.FOLDER:
        return open_split(config, data.train_split) if data.path else None
    try:
        sources.check_prepared(data.dataset, data.data_dir)
        return open_split(config, data.train_split)
    except ConfigError:  # it is elsewhere
        return None


def with_few_labels(source: sources.Source, config: ConfigDict) -> sources.Source:
    """Returns `source` with about as many pictures as `finetune.labels` lets fine-tuning see.

    Raises:
      ConfigError: it has no labels, or the list of pictures cannot be read.
    """
    if not source.num_classes:
        raise ConfigError(
            f'data.train_split={config.data.train_split!r}: this split of {config.data.dataset} '
            'has no labels to learn from; name one that has'
        )
    wanted, count = labels_wanted(config.finetune.labels), source.num_examples
    if isinstance(wanted, float):
        count = max(source.num_classes, round(wanted * count))
    elif isinstance(wanted, int):
        count = min(count, wanted * source.num_classes)
    elif wanted != 'all':
        try:
            count = len(epath.Path(wanted).read_text().split())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f'finetune.labels={wanted!r}: cannot be read: {error}') from error
    return dataclasses.replace(source, num_examples=count)
