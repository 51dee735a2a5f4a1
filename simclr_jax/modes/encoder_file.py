"""A run's encoder or classifier as a file: when it ends, and of any checkpoint without its data."""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

import simclr_jax
from simclr_jax import parallel
from simclr_jax.config import CLASSIFIERS, SEGMENT, ConfigError, RunError, to_json
from simclr_jax.config_loading import load_saved
from simclr_jax.data import deep, folder_cache
from simclr_jax.methods.base import Representation, Tree
from simclr_jax.methods.factory import create_method
from simclr_jax.models.factory import VITS
from simclr_jax.train.setup import Run
from simclr_jax.train.state import TrainState
from simclr_jax.weights import native
from simclr_jax.weights.description import (
    Architecture,
    Classifier,
    Head,
    Preprocess,
    Weights,
)
from simclr_jax.workdir.claim import Held, check_claim
from simclr_jax.workdir.reader import find_step, restore_some

_FIRST_LAYERS = ('stem_conv', 'stem_conv1', 'patch_projection')  # which see the picture


def write_encoder(run: Run, workdir: str, state: TrainState) -> None:
    """Writes `encoder.safetensors` in the workdir; of several processes, the first one does.

    Raises:
      OSError: the disk is full, or failed; a file of before is as it was.
    """
    if parallel.is_main_process():
        path = epath.Path(workdir) / native.NAME
        native.save(path, weights_of(run, state))
        print(f'encoder   {path}', flush=True)


def write_classifier(
    run: Run, workdir: str, variables: Tree, names: Sequence[str], temperature: float = 1.0
) -> None:
    """Writes `classifier.safetensors` in the workdir; of several processes, the first one does.

    The same training gives the same bytes.

    Args:
      run: the parts of the run that trained it.
      workdir: where the file is to be.
      variables: what `run.method.network` is applied with, on the devices.
      names: of the labels.
      temperature: divides the logits, for probabilities that are calibrated.

    Raises:
      OSError: the disk is full, or failed; a file of before is as it was.
    """
    if parallel.is_main_process():
        path = epath.Path(workdir) / native.CLASSIFIER_NAME
        native.save(path, classifier_weights(run, variables, names, temperature))
        print(f'classifier {path}', flush=True)


def classifier_weights(
    run: Run, variables: Tree, names: Sequence[str], temperature: float = 1.0
) -> Weights:
    """Returns the classifier of a run that has trained one; the arguments as `write_classifier`."""
    variables = jax.device_get(parallel.own_copy(variables))
    variables = {collection: tree for collection, tree in variables.items() if tree}
    labels = Classifier(tuple(names), temperature=temperature)
    return _of_run(run, variables, run.length.total_steps, labels)


def weights_of(run: Run, state: TrainState) -> Weights:
    """Returns the encoder that evaluation of `state` sees, and its projection head, if it has one.

    No process has to wait for another, since each holds the whole state.
    """
    variables = jax.device_get(parallel.own_copy(_kept(run.config, state.all_variables())))
    return _of_run(run, variables, int(state.step))


def _of_run(run: Run, variables: Tree, step: int, classifier: Classifier | None = None) -> Weights:
    source = run.source
    return _weights(
        run.config,
        run.method.representation(),
        variables,
        step,
        preprocess_of(run.config, source.image_shape[-1], source.intensity),
        source.num_examples,
        classifier,
    )


def preprocess_of(config: ConfigDict, channels: int, intensity: deep.Range) -> Preprocess:
    """Returns how evaluation of a run sees pictures."""
    data = config.data
    return Preprocess(
        size=data.image_size,
        crop=data.eval_crop,
        interpolation=data.eval_interpolation,
        antialias=data.eval_antialias,
        mean=tuple(data.mean),
        std=tuple(data.std),
        channels=channels,
        intensity=tuple(intensity),
    )


def architecture_of(
    config: ConfigDict, representation: Representation | None = None
) -> Architecture:
    """Returns the network that evaluation of a run uses, with the head that it may end in.

    Args:
      config: of the run.
      representation: what its method says, where the config alone does not decide it.
    """
    representation = representation or _representation(config)
    model, head = config.model, representation.projector
    if head is not None:
        fields = Head.__dataclass_fields__
        head = Head(**{name: getattr(head, name) for name in fields})
    how: dict[str, Any] = {}
    if model.encoder in VITS:
        how |= {'pooling': representation.encoder.pooling, 'patch_size': model.patch_size}
        how |= {'num_heads': model.num_heads or VITS[model.encoder]['num_heads']}
        how |= {'positions': model.positions, 'epsilon': model.epsilon}
    else:
        how |= {'stem': representation.encoder.stem}  # 'auto' no more
        how |= {'padding': model.padding, 'width': model.width, 'sk_ratio': model.sk_ratio}
    return Architecture(
        model.encoder,
        **how,
        head=head,
        head_layers=representation.head_layers,
        dtype=model.dtype,
    )


def checkpoint_weights(workdir: str, step: int | None = None) -> Weights:
    """Returns the encoder of a checkpoint, without the data; a run may be training there.

    Args:
      workdir: of the run.
      step: of the checkpoint; the last one where None.

    Raises:
      ConfigError: the workdir holds no run, or one of a classifier or a segmentation, or no
        checkpoint of that step.
      RunError: the checkpoint is damaged.
    """
    config = load_saved(workdir)
    if config.method in CLASSIFIERS:
        raise ConfigError(
            f'--workdir={workdir}: is of a classifier, whose checkpoints hold no names of labels; '
            f'the end of its training writes a {native.CLASSIFIER_NAME}: take --encoder={workdir}'
        )
    if config.method == SEGMENT:
        raise ConfigError(
            f'--workdir={workdir}: is of a segmentation, which writes no encoder; take the one '
            f'that it began with, --encoder={config.start.encoder}'
        )
    held = check_claim(config, workdir)
    found = find_step(workdir, step)

    def choose(state: Tree) -> Tree:
        variables = _kept(config, {'params': state['params'], **state['variables']})
        return {'step': state['step'], 'params': variables.pop('params'), 'variables': variables}

    state = restore_some(workdir, found, choose, latest=step is None)
    variables = {'params': state['params'], **state['variables']}
    return _weights(
        config,
        _representation(config),
        variables,
        int(state['step']),
        preprocess_of(config, _channels(variables), _intensity(held, workdir)),
        held.num_examples if held else None,
    )


def _weights(
    config: ConfigDict,
    representation: Representation,
    variables: Tree,
    step: int,
    preprocess: Preprocess,
    num_examples: int | None,
    classifier: Classifier | None = None,
) -> Weights:
    data = {
        'name': config.data.dataset,
        'path': config.data.path,
        'split': config.data.train_split,
        'pictures': num_examples,
    }
    origin = {
        'method': config.method,
        'data': data,
        'steps': step,
        'config': json.loads(to_json(config)),
        'version': simclr_jax.__version__,
    }
    architecture = architecture_of(config, representation)
    return Weights(architecture, preprocess, origin, variables, classifier)


def _representation(config: ConfigDict) -> Representation:
    return create_method(config, total_steps=1).representation()


def _kept(config: ConfigDict, variables: Tree) -> Tree:
    """Returns of all the variables of a method those that evaluation may use."""
    names = ['encoder'] + ['projector'] * (_representation(config).projector is not None)
    kept = {
        collection: {name: tree[name] for name in names if name in tree}
        for collection, tree in variables.items()
    }
    return {collection: tree for collection, tree in kept.items() if tree}


def _channels(variables: Tree) -> int:
    encoder = variables['params']['encoder']
    (kernel,) = (encoder[name]['kernel'] for name in _FIRST_LAYERS if name in encoder)
    return int(np.shape(kernel)[-2])


def _intensity(held: Held | None, workdir: str) -> deep.Range:
    """Returns which values are black and white in pictures of more than 8 bits, as the run has it.

    A folder's is remembered with the list of its pictures.
    """
    if held is None or held.pictures is None:
        return deep.WHOLE
    try:
        peaks = folder_cache.unpack(held.pictures()).table['peak']
    except ValueError as error:
        raise RunError(
            f'--workdir={workdir}: data.pictures, which says what the run was trained on, '
            f'{error}; the command that trained it, given again, writes {native.NAME} too'
        ) from error
    return deep.range_of([float(peaks.max(initial=0))])


def check_output(output: epath.Path, overwrite: bool) -> None:
    """Raises ConfigError where there is something at `output` that must not be replaced."""
    if output.exists() and not overwrite:
        raise ConfigError(f'--output={output}: is there already; name another one, or --overwrite')
