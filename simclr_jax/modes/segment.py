"""`--mode=segment`: trains classifiers of pixels on an encoder's maps, and tests them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.config import SCRATCH, ConfigError
from simclr_jax.data import deep, masks
from simclr_jax.data.masks import MaskSource
from simclr_jax.evaluate.windows import Windows
from simclr_jax.methods.base import Tree
from simclr_jax.methods.segment import ENCODER
from simclr_jax.modes import results, segment_evaluation, start
from simclr_jax.modes.reporting import save_views
from simclr_jax.modes.segment_report import write_segment_report
from simclr_jax.train.inputs import average_colour
from simclr_jax.train.loop import train
from simclr_jax.train.memory import DoesNotFit
from simclr_jax.train.setup import Run, prepare
from simclr_jax.train.state import encoder_part
from simclr_jax.weights.description import Weights, checksum
from simclr_jax.workdir.agreement import check_same_data, check_shared
from simclr_jax.workdir.claim import Held, check_claim, claim_workdir, release_workdir
from simclr_jax.workdir.lock import hold
from simclr_jax.workdir.programs import keep_programs

_TRAINING = 'training'  # of result.json: what the training took


def main(config: ConfigDict, workdir: str) -> None:
    """Trains, or goes on where the workdir's last checkpoint is, then tests."""
    if not config.start.encoder:
        raise ConfigError(
            'start.encoder: name the encoder with --encoder=PATH, a workdir or a file of weights'
        )
    scratch = config.start.encoder == SCRATCH
    if scratch and config.segment.trained == 'probes':
        raise ConfigError(
            f'--encoder={SCRATCH}: probes need a trained encoder; give its path. The untrained '
            'encoder is measured beside it (segment.baselines). To train one from scratch, add '
            '--config.segment.trained=all'
        )
    with hold(workdir):
        check_shared(workdir)
        keep_programs(workdir)
        held, weights = check_claim(config, workdir), start.read(config, workdir)
        if weights is None and not scratch:
            raise ConfigError(
                f'start.encoder={config.start.encoder!r}: is not there, nor its copy in the '
                'workdir; bring one of them back'
            )
        train_source, test_source, test_split = _open(config, weights, held)
        run = prepare(config, held, weights, train_source)  # checks, before anything is written
        for field, source in (('data.train', train_source), ('eval.test', test_source)):
            check_same_data(f'{field}_split', source.num_examples, source.names)
        start.keep(workdir, weights)
        claim_workdir(config, workdir, train_source.held)
        if config.segment.trained == 'probes':
            run = dataclasses.replace(run, frozen=_frozen(run, weights))
        for source in (train_source, test_source):
            _say(source.description)
        _say(_describe(run, workdir, test_source, test_split))
        try:
            state, training, views = train(run, workdir)
        except DoesNotFit:
            release_workdir(workdir)
            raise
        if views is not None and parallel.is_main_process():
            save_views(workdir, views)
        if views is not None or _TRAINING not in results.read(workdir):
            results.write(workdir, _TRAINING, training)
        variables = parallel.own_copy(state.all_variables())
        found = segment_evaluation.evaluate(
            run, variables, train_source, test_source, _windows(run)
        )
        entry = found.figures | {
            'data': {
                'name': config.data.path or config.data.dataset,
                'train_split': config.data.train_split,
                'test_split': test_split,
                'train_pictures': train_source.num_examples,
                'test_pictures': test_source.num_examples,
                'pretrained_on': None,
            },
            'settings': _settings(config),
        }
        if weights:
            entry['weights'] = {
                'path': config.start.encoder,
                'layout': weights.origin.get('layout', 'simclr_jax'),
                'checksum': checksum(weights),
                'architecture': weights.architecture.encoder,
            }
        results.write(workdir, results.SEGMENT, entry)
        if parallel.is_main_process():
            print(f'\n{results.format_results(results.read(workdir))}\n', flush=True)
            print(f'figures   {epath.Path(workdir) / "result.json"}', flush=True)
            report = epath.Path(workdir) / 'report.html'
            write_segment_report(report, run, workdir, entry, found, test_source)
            print(f'report    {report}', flush=True)


def _open(
    config: ConfigDict, weights: Weights | None, held: Held | None
) -> tuple[MaskSource, MaskSource, str]:
    """Returns the training pictures, those to test on, and the name of the latter's split.

    Raises:
      ConfigError: they are not there, or something is wrong with them.
    """
    data, test_split = config.data, config.eval.test_split or 'test'
    if data.train_split == test_split:
        raise ConfigError(
            f'eval.test_split={test_split!r}: is what the probes are trained on; name another split'
        )
    intensity = weights.preprocess.intensity if weights else deep.WHOLE
    opened = masks.open_masks(
        data.path,
        splits=(data.train_split, test_split),
        table=data.labels,
        ignore=tuple(config.segment.ignore),
        names=tuple(config.segment.names),
        channels=weights.preprocess.channels if weights else max(len(data.mean), 3),
        intensity=None if intensity == deep.WHOLE else intensity,
        max_bad_fraction=data.max_bad_fraction,
        dataset=data.dataset,
        data_dir=data.data_dir,
        held=held,
    )
    return opened[data.train_split], opened[test_split], test_split


def _windows(run: Run) -> Windows:
    config = run.config
    side = config.data.image_size
    step = config.segment.step or -(-2 * side // 3)
    fill = average_colour(config.data.mean, run.source.image_shape[-1])
    return Windows(side, step, config.segment.resize, fill)


def _frozen(run: Run, weights: Weights) -> Tree:
    """Returns the variables of the encoders that stay as they are, by the name of their maps."""
    variables = {ENCODER: encoder_part(weights.variables)}
    if 'untrained' in run.method.maps:
        size, channels = weights.preprocess.size, weights.preprocess.channels
        images = jnp.zeros((2, size, size, channels))
        # The stream of a run's initialization, so that a SimCLR run's is this one.
        key = jax.random.fold_in(jax.random.key(run.config.seed), 0)
        made = jax.jit(lambda: run.method.encoder.init(key, images, train=False))()
        variables['untrained'] = jax.tree.map(np.asarray, made)
    return variables


def _describe(run: Run, workdir: str, test: MaskSource, test_split: str) -> str:
    config, method = run.config, run.method
    what = 'the encoder and a convolutional head' if method.trained else 'probes'
    strides = sorted({maps.stride for maps in method.maps.values()})
    return (
        f'segmentation by {config.model.encoder}, a place each {strides[0]} pixels: {what} are '
        f'trained for {run.length.total_steps:,} steps on crops of {config.data.image_size} '
        f'pixels, and tested on {test.num_examples:,} pictures of {test_split}; workdir {workdir}'
    )


def _settings(config: ConfigDict) -> dict[str, Any]:
    segment = config.segment
    fields = ('trained', 'layers', 'dilated', 'resize', 'step')
    if segment.memory and segment.trained == 'probes':
        fields += ('memory', 'neighbours', 'temperature')
    return {name: segment[name] for name in fields} | {'image_size': config.data.image_size}


def _say(text: str) -> None:
    if parallel.is_main_process():
        print(text, flush=True)
