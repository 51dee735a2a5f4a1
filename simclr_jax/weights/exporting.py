"""Writing an encoder for another library: the folder, its README.md, and the proof."""

import os
import pathlib
import shutil

import numpy as np

from simclr_jax.config import ConfigError, RunError
from simclr_jax.weights import detectron2_configs, formats, heads, native, parity, readme
from simclr_jax.weights.description import Weights, without_classifier

# What an export consists of, and nothing else: --overwrite deletes no other folder.
_OWN = {
    'README.md',
    'config.json',
    'encoder.onnx',
    'encoder.pkl',
    'encoder.stablehlo',
    'model.safetensors',
    'preprocessor_config.json',
    *detectron2_configs.NAMES,
    native.CLASSIFIER_NAME,
    native.NAME,
}


def checked_place(output: str, overwrite: bool) -> pathlib.Path:
    """Returns the folder that `output` names, which may be written.

    Raises:
      ConfigError: it may not: it is there already, or holds what no export is made of.
    """
    if '://' in output:
        raise ConfigError(
            f'--output={output}: an export is written to a disk, where the library that it is for '
            'can load it; copy it from there'
        )
    place = pathlib.Path(output).expanduser().absolute()
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise ConfigError(f'--output={output}: is a file or a link; an export is a folder')
    names = {path.name for path in place.iterdir()} if place.exists() else set()
    others = sorted(names - _OWN)
    if others:
        raise ConfigError(
            f'--output={output}: holds {", ".join(others[:3])}, which no export is made of; name '
            'another folder'
        )
    if names and not overwrite:
        raise ConfigError(f'--output={output}: is there already; --overwrite replaces it')
    return place


def export(
    weights: Weights, name: str, place: pathlib.Path, pictures: np.ndarray, told: str
) -> str:
    """Writes the folder in one move, once the library has been seen to compute the same.

    Args:
      weights: the encoder, or classifier, whose probabilities are then the plain softmax (or
        sigmoid) of what the library computes: its temperature is written into the weights.
      name: of the format.
      place: the folder; an older export there is replaced.
      pictures: uint8 `[n, size, size, channel]`, to compare features of.
      told: what pictures they are, in words.

    Returns:
      What the comparison found, in words.

    Raises:
      ConfigError: the format cannot express the encoder.
      RunError: the library computes something else, or cannot load it. Nothing is left, and what
        was there before stays.
    """
    module = formats.module_of(name)
    if not getattr(module, 'CLASSIFIES', True):
        weights = without_classifier(weights)
    elif name != 'native':
        weights = heads.with_temperature_inside(weights)
    module.check(weights)
    aside = place.with_name(f'.{place.name}.{os.getpid()}.tmp')
    made = aside / place.name
    try:
        made.mkdir(parents=True)
        module.write(weights, made)
        proof = _proof(weights, name, made, pictures, told)
        (made / 'README.md').write_text(readme.readme(weights, name, place.name, proof))
        if place.exists():
            place.rename(aside / 'old')
        made.rename(place)
    finally:
        if not place.exists() and (aside / 'old').exists():
            (aside / 'old').rename(place)
        shutil.rmtree(aside, ignore_errors=True)
    return proof


def _proof(
    weights: Weights, name: str, folder: pathlib.Path, pictures: np.ndarray, told: str
) -> str:
    """Returns what the comparison found, in words.

    Raises:
      RunError: it found another encoder.
    """
    missing = formats.not_installed(formats.module_of(name).PACKAGES)
    if missing:
        return (
            f'No proof was made: {", ".join(missing)} is not installed here. Where it is, the '
            'same command compares features.'
        )
    difference, versions = parity.prove(weights, name, folder, pictures)
    found = (
        f'largest relative difference {difference:.1e} (max |theirs - ours| / max |ours| of each '
        f'picture), over {len(pictures)} {told}; {versions}'
    )
    if not difference <= parity.TOLERANCE:
        raise RunError(
            f'--format={name}: the {readme.result_of(weights)} are not the same: {found}. At most '
            f'{parity.TOLERANCE:.0e} is allowed; nothing was written'
        )
    return f'Compared with simclr_jax: {found}.'
