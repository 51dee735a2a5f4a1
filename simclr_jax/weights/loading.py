"""From a path to weights, whatever lies there."""

import json
import os
import shlex

from etils import epath

from simclr_jax.command import program
from simclr_jax.config import ConfigError
from simclr_jax.weights import layouts, native
from simclr_jax.weights.description import Weights
from simclr_jax.workdir.claim import START, TEACHER

_MOST_HEADER = 8 << 20  # bytes; that of a ViT-L has 40,000


def read_weights(path: str | os.PathLike, classifier: bool = False) -> Weights:
    """Reads the encoder that is at `path`, here or in a bucket, and the classifier of our own file.

    Args:
      path: a workdir of this library, an encoder file, or another library's weights, as
        `layouts.read` takes them. Nothing in them is executed.
      classifier: whether there has to be a classifier: another library's is read then, too.

    Raises:
      ConfigError: there is nothing, or nothing that is known, or it is damaged, or an encoder alone
        where a classifier is asked for.
    """
    weights = _read(path, classifier)
    if classifier and weights.classifier is None:
        raise ConfigError(
            f'{path}: is an encoder without a classifier, so it knows no labels; --mode=finetune '
            f'makes a {native.CLASSIFIER_NAME} from pictures with labels'
        )
    return weights


def _read(path: str | os.PathLike, classifier: bool) -> Weights:
    place = epath.Path(path).expanduser()
    if place.is_dir():
        for name in (native.CLASSIFIER_NAME, native.NAME):
            if (place / name).exists():
                return native.read(place / name)
        if (place / 'config.json').exists() and (place / 'checkpoints').exists():
            workdir = shlex.quote(os.fspath(path))
            raise ConfigError(
                f'{path}: this workdir has no {native.NAME} yet, which the end of pretraining '
                'writes; its last checkpoint is made one by\n'
                f'  {program()} --mode=export --format=native --workdir={workdir}'
            )
        if own := _own_file(place):
            return native.read(own)
    elif _is_native(place):
        return native.read(place)
    elif not place.exists() and not place.with_name(f'{place.name}.index').exists():
        # With that beside it, it is the name of a TensorFlow checkpoint.
        raise ConfigError(f'{path}: there is no such file or folder')
    return layouts.read(place, classifier)


def _own_file(folder: epath.Path) -> epath.Path | None:
    """Returns the file in a folder that this library wrote, whatever it is called, if there is one.

    Raises:
      ConfigError: there are several.
    """
    # Of these two, which a run keeps, none is what the run makes.
    names = sorted(path.name for path in folder.iterdir() if path.suffix == '.safetensors')
    found = [name for name in names if name not in (START, TEACHER) and _is_native(folder / name)]
    if len(found) > 1:
        raise ConfigError(
            f'{folder}: holds {len(found)} files of encoders, {", ".join(found[:3])}'
            f'{" ..." if len(found) > 3 else ""}; name one of them'
        )
    return folder / found[0] if found else None


def _is_native(place: epath.Path) -> bool:
    """Whether a file is a safetensors file that this library wrote."""
    try:
        with place.open('rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            header = json.loads(file.read(length)) if 2 <= length <= _MOST_HEADER else {}
        return native.is_native(header.get('__metadata__', {}))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
