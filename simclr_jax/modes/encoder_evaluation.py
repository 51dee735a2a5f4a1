"""Evaluation of an encoder that a file holds, whoever trained it: there is no run."""

import dataclasses

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.data.sources import Source
from simclr_jax.modes.eval_data import EvalData, open_eval_data
from simclr_jax.modes.evaluation import check_evaluation, evaluate
from simclr_jax.modes.reporting import write_encoder_report
from simclr_jax.modes.subject import Network, Subject, network_of
from simclr_jax.train.out_of_memory import EVALUATION, explained
from simclr_jax.weights.description import Preprocess, Weights, checksum, to_json
from simclr_jax.weights.loading import read_weights
from simclr_jax.workdir.agreement import check_same_command, check_same_data
from simclr_jax.workdir.programs import keep_programs


@explained('evaluation', EVALUATION)
def evaluate_encoder(
    config: ConfigDict, workdir: str, probe: str, path: str, step: int | None = None
) -> None:
    """Evaluates an encoder by one probe; writes `result.json` and `report.html`.

    It sees pictures as its file says: size, crop, interpolation, mean and std are not the config's.

    Args:
      config: what it is evaluated on and how: the sections `data`, `eval` and of the probe.
      workdir: where the results go.
      probe: a name of `PROBES`.
      path: an encoder file, a workdir, or another library's weights.
      step: of a checkpoint, which a file has none of.

    Raises:
      ConfigError: there are no such weights, the workdir holds a run, or the data to evaluate on
        are not there or have no labels.
    """
    if step is not None:
        raise ConfigError(
            f'--step={step}: names a checkpoint of the run in --workdir; --encoder={path} has none'
        )
    if (epath.Path(workdir) / 'config.json').exists():
        raise ConfigError(
            f'--workdir={workdir}: holds a run, whose figures would be taken for those of '
            f'--encoder={path}; name another --workdir for the latter'
        )
    weights = read_weights(path)
    config = _as_it_sees(config, weights.preprocess)
    mesh = parallel.make_mesh()
    parallel.check_batch_size('eval.batch_size', config.eval.batch_size, mesh)
    subject = subject_of(weights, path, mesh, config)
    about = subject.about['weights']
    check_same_command({'checksum of --encoder': about['checksum']})
    data = _with_pictures_for(weights.preprocess, open_eval_data(config, None, needed=True))
    for field, source in (('eval.train', data.train), ('eval.test', data.test)):
        check_same_data(f'{field}_split', source.num_examples, source.label_names)
    check_evaluation(config, data, (probe,), subject.architecture, mesh)
    keep_programs(workdir)
    if parallel.is_main_process():
        epath.Path(workdir).mkdir(parents=True, exist_ok=True)
        see = weights.preprocess
        print(
            f'{path}: {subject.architecture} ({about["layout"]}, checksum {about["checksum"]}); it '
            f'sees {see.crop:g} of the shorter side at {see.size} pixels, {see.interpolation}'
            f'{" with antialiasing" if see.antialias else ""}, mean {see.mean}, std {see.std}',
            flush=True,
        )
    train, test = evaluate(subject, config, workdir, data, (probe,))
    if parallel.is_main_process():
        report = epath.Path(workdir) / 'report.html'
        write_encoder_report(report, subject, weights, config, workdir, train, test)
        print(f'report    {report}', flush=True)


def subject_of(weights: Weights, path: str, mesh: Mesh, config: ConfigDict) -> Subject:
    """Returns the encoder of a file on the devices, and one of its kind that was never trained.

    How the latter begins is the config's to say: the seed and `model.zero_init_last_scale`.
    """
    encoder = network_of(
        weights,
        mesh,
        weights.architecture.dtype,
        zero_init_last_scale=config.model.zero_init_last_scale,
    )

    def untrained() -> dict[str, Network]:
        size, channels = weights.preprocess.size, weights.preprocess.channels
        images = jnp.zeros((2, size, size, channels))
        # The stream of a run's initialization, so that a SimCLR run's is this one.
        key = jax.random.fold_in(jax.random.key(config.seed), 0)
        init = jax.jit(
            lambda: encoder.module.init(key, images, train=False),
            out_shardings=parallel.replicated(mesh),
        )
        return {'untrained': Network(encoder.module, init())}

    layers = weights.architecture.head_layers
    return Subject(
        encoder,
        weights.preprocess,
        mesh,
        weights.architecture.encoder,
        others=untrained,
        about={
            'weights': {
                'path': path,
                'layout': weights.origin.get('layout', 'simclr_jax'),
                'checksum': checksum(weights),
                'architecture': weights.architecture.encoder,
                'preprocess': to_json(weights.preprocess),
            }
        },
        settings={'eval_layer': layers} if layers else {},
    )


def _as_it_sees(config: ConfigDict, preprocess: Preprocess) -> ConfigDict:
    """The config with the encoder's pictures: data are opened for their size."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        data = config.data
        data.image_size, data.eval_crop = preprocess.size, preprocess.crop
        data.eval_interpolation = preprocess.interpolation
        data.eval_antialias = preprocess.antialias
        data.mean, data.std = tuple(preprocess.mean), tuple(preprocess.std)
        if data.canvas < data.image_size:
            data.canvas = 0
    return config


def _with_pictures_for(preprocess: Preprocess, data: EvalData) -> EvalData:
    """Gives the pictures as many channels as the encoder takes, and its range of deep ones."""

    def adapted(source: Source) -> Source:
        range_ = preprocess.intensity
        return dataclasses.replace(
            source,
            image_shape=(*source.image_shape[:2], preprocess.channels),
            intensity=source.intensity if range_ == Preprocess.intensity else range_,
        )

    notes, channels = data.notes, data.train.image_shape[-1]
    if channels != preprocess.channels:
        how = 'grey is repeated' if channels == 1 else 'colours are made grey'
        notes += (
            f'the pictures of {data.name} have {channels} channel(s), the encoder takes '
            f'{preprocess.channels}: {how}',
        )
    return dataclasses.replace(
        data, train=adapted(data.train), test=adapted(data.test), notes=notes
    )
