"""The classifier that a student learns from."""

from simclr_jax.config import ConfigError
from simclr_jax.weights.description import Weights
from simclr_jax.weights.loading import read_weights


def read_teacher(path: str) -> Weights:
    """Reads the classifier at `path`, the value of `distill.teacher`.

    Raises:
      ConfigError: none is named; there is none, or it cannot be read; or a picture may have several
        of its labels.
    """
    if not path:
        raise ConfigError(
            'distill.teacher: name the classifier that is learned from with --teacher=PATH (beside '
            '--mode=distill) or --config.distill.teacher=PATH, a file or a workdir; '
            '--mode=finetune makes one'
        )
    try:
        weights = read_weights(path, classifier=True)
    except ConfigError as error:
        raise ConfigError(f'distill.teacher={path!r}: {error}') from error
    check_one_label(path, weights)
    return weights


def check_one_label(path: str, weights: Weights) -> None:
    """Raises ConfigError where a picture may have several labels of a classifier."""
    if weights.classifier.several:
        raise ConfigError(
            f'distill.teacher={path!r}: a picture may have several of its '
            f'{len(weights.classifier.names)} labels, and a student learns one label a picture; '
            'name a classifier of one label'
        )
