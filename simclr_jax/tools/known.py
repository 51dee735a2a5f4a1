"""How large a data set is, without reading it."""

from ml_collections import ConfigDict

from simclr_jax.config import ConfigError, canvas_side
from simclr_jax.data import sources
from simclr_jax.data.factory import open_split

# TFDS builder -> images in its training split, the size of each, classes.
_KNOWN = {
    'imagenet2012': (1_281_167, (None, None, 3), 1000),
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
    name = data.dataset.partition(':')[0].partition('/')[0]
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
