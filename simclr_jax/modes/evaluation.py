"""Probes and the report: what pretraining ends with, and `linear_eval` and `knn` do."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax import files, parallel
from simclr_jax.config_loading import check_same_run
from simclr_jax.data import sources
from simclr_jax.data.factory import open_split, reader
from simclr_jax.evaluate.features import Features, extract_features
from simclr_jax.evaluate.knn import knn_eval
from simclr_jax.evaluate.linear import linear_eval as fit_linear
from simclr_jax.evaluate.published import (
    HELD_OUT_FRACTION,
    LinearTrainer,
    Protocol,
    published_linear_eval,
    published_protocol,
)
from simclr_jax.modes.reporting import write_run_report
from simclr_jax.report.html import format_table
from simclr_jax.train.setup import Run, prepare
from simclr_jax.train.state import TrainState
from simclr_jax.workdir.checkpoint import Checkpoints
from simclr_jax.workdir.lock import hold


def evaluate_workdir(config: ConfigDict, workdir: str, probe: str) -> None:
    """Evaluates the last checkpoint of a workdir by one probe.

    Raises:
      ConfigError: the workdir holds no run, another run, or no checkpoint.
    """
    saved = epath.Path(workdir) / 'config.json'
    if not saved.exists():
        raise config_lib.ConfigError(
            f'--workdir={workdir}: holds no run; pretrain first, or name the workdir of a run'
        )
    check_same_run(config, saved.read_text(), workdir)
    with hold(workdir):
        run = prepare(config)
        check_protocol(run)
        checkpoints = Checkpoints(workdir, config.checkpoint.keep)
        step = checkpoints.latest_step()
        if step is None:
            raise config_lib.ConfigError(
                f'--workdir={workdir}: holds no checkpoint yet; let --mode=pretrain get further'
            )
        state = checkpoints.restore(step, run.abstract_state())
        evaluate(run, workdir, state, (probe,))


def evaluate(
    run: Run,
    workdir: str,
    state: TrainState,
    probes: Sequence[str],
    pretrain: dict[str, float] | None = None,
    views: np.ndarray | None = None,
) -> dict:
    """Runs the probes, and writes `result.json` and `report.html`.

    Args:
      run: the parts of the run.
      workdir: where the results go; figures of other probes that are there already are kept.
      state: whose encoder is evaluated.
      probes: 'linear_eval', 'knn' or both.
      pretrain: seconds, steps and images a second of the training, if it was just now.
      views: augmented pairs for the report `[pair, view, height, width, channel]` uint8.

    Returns:
      What `result.json` holds.
    """
    path = epath.Path(workdir) / 'result.json'
    result = json.loads(path.read_text()) if path.exists() else {}
    if pretrain:
        result['pretrain'] = pretrain
    data = run.config.data
    train_source, test_source = _sources(run)
    train = _features(run, state, train_source)
    test = _features(run, state, test_source)
    if train_source.num_classes and test_source.num_classes:
        for probe in probes:
            result[probe] = _probe(probe, run, state, train_source, train, test)
        if 'linear_eval' in probes:
            result['linear_eval_protocol'] = run.config.linear_eval.protocol
    else:
        print(f'{data.dataset} has no labels: nothing to evaluate against', flush=True)
    if parallel.is_main_process():
        files.write_text(path, json.dumps(result, indent=1) + '\n')
        table = {probe: result[probe] for probe in ('linear_eval', 'knn') if probe in result}
        if table:
            print(f'\nAccuracy on {data.test_split} of {data.dataset}\n\n{format_table(table)}\n')
        report = epath.Path(workdir) / 'report.html'
        splits = (train_source, train), (test_source, test)
        write_run_report(report, run, workdir, state, result, table, *splits, views)
        print(f'figures   {path}\nreport    {report}', flush=True)
    return result


def _sources(run: Run) -> tuple[sources.Source, sources.Source]:
    """Returns what the probes are trained on, and what they are tested on."""
    if path := run.config.eval.path:
        return open_split(run.config, 'train', path), open_split(run.config, 'test', path)
    return run.source, open_split(run.config, run.config.data.test_split)


def _features(run: Run, state: TrainState, source: sources.Source) -> Features:
    config = run.config
    variables = {'encoder': state.all_variables()}
    if config.eval.baselines:
        variables['untrained'] = run.init().all_variables()
    batches = reader(config).eval_batches(
        source,
        batch_size=config.eval.batch_size,
        image_size=config.data.image_size,
        crop=config.data.eval_crop,
        rows=parallel.local_rows(config.eval.batch_size, run.mesh),
        workers=config.data.workers,
    )
    return extract_features(
        run.method.representation(),
        variables,
        batches,
        run.mesh,
        mean=config.data.mean,
        std=config.data.std,
        raw_pixels=config.eval.baselines,
    )


def _probe(
    probe: str, run: Run, state: TrainState, source: sources.Source, train: Features, test: Features
) -> dict[str, dict]:
    """Returns name of the feature to labels a class ('all', '10', ...) to `mean` and `std`."""
    settings = run.config[probe]
    if probe == 'linear_eval' and settings.protocol != 'fast':
        return {'encoder': {'all': _published(run, state, source, train, test)}}
    _, counts = np.unique(train.labels[train.labels >= 0], return_counts=True)
    per_class = [n for n in settings.labels_per_class if n <= counts.min()]  # what a class has
    options = {
        'num_classes': source.num_classes,
        'labels_per_class': ('all', *per_class),
        'draws': settings.draws,
        'seed': run.config.seed,
    }
    function = fit_linear
    if probe == 'knn':
        function = knn_eval
        options |= {'k': settings.k, 'temperature': settings.temperature}
    return {
        name: function(values, train.labels, test.values[name], test.labels, **options)
        for name, values in train.values.items()
    }


def check_protocol(run: Run) -> Protocol | None:
    """Returns the paper's protocol that `linear_eval` names; None for the fast probe.

    Raises:
      ConfigError: its batch does not divide over the devices, or there are fewer examples.
    """
    config, settings = run.config, run.config.linear_eval
    if settings.protocol == 'fast':
        return None
    protocol = published_protocol(
        settings.protocol,
        config.model.encoder,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rates=settings.learning_rates,
    )
    # Where pretraining never mirrors, a mirrored image is another thing.
    flip = min(protocol.view.flip_probability, config.augment.view1.flip_probability)
    view = dataclasses.replace(protocol.view, flip_probability=flip)
    parallel.check_batch_size('linear_eval.batch_size', protocol.batch_size, run.mesh)
    if protocol.batch_size > (1 - HELD_OUT_FRACTION) * run.source.num_examples:
        raise config_lib.ConfigError(
            f'linear_eval.batch_size={settings.batch_size}: is {protocol.batch_size} in the '
            f'protocol, but {config.data.dataset} has {run.source.num_examples} examples, of which '
            'a fifth may be held out; give fewer'
        )
    return dataclasses.replace(protocol, view=view)


def _published(
    run: Run, state: TrainState, source: sources.Source, train: Features, test: Features
) -> dict:
    from simclr_jax.data import pipeline

    config, protocol = run.config, check_protocol(run)

    def batches(examples, total_steps):
        return pipeline.train_batches(
            sources.subset(source, examples),
            (protocol.view,),
            seed=config.seed,
            batch_size=protocol.batch_size,
            image_size=config.data.image_size,
            start_step=0,
            total_steps=total_steps,
            rows=parallel.local_rows(protocol.batch_size, run.mesh),
            workers=config.data.workers,
            drop_remainder=False,  # as every original reads them
        )

    trainer = LinearTrainer(
        run.method.representation(),
        state.all_variables(),
        protocol,
        run.mesh,
        source.num_classes,
        mean=config.data.mean,
        std=config.data.std,
        seed=config.seed,
    )
    features = train.values['encoder'], train.labels, test.values['encoder'], test.labels
    return published_linear_eval(trainer, batches, *features)
