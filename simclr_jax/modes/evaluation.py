"""Evaluation of an encoder: what pretraining ends with, and `linear_eval` and `knn` do again."""

from collections.abc import Sequence

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax import parallel
from simclr_jax.data import splits
from simclr_jax.data.factory import central_view, reader
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.features import Features, extract_features
from simclr_jax.modes import results
from simclr_jax.modes.eval_data import EvalData, open_eval_data
from simclr_jax.modes.probes import PROBES, Split, check_protocol, needs_baselines
from simclr_jax.modes.reporting import write_run_report
from simclr_jax.train.out_of_memory import EVALUATION, explained
from simclr_jax.train.setup import Run, prepare
from simclr_jax.train.state import TrainState
from simclr_jax.workdir.claim import check_claim
from simclr_jax.workdir.programs import keep_programs
from simclr_jax.workdir.reader import find_step, restore

_SAMPLE = 2000  # pictures of each split for the report, where no probe needs all of them


def evaluate_workdir(config: ConfigDict, workdir: str, probe: str, step: int | None = None) -> None:
    """Evaluates a checkpoint of a workdir by one probe; a run may be training there.

    Args:
      config: of the run; its free fields may differ.
      workdir: of the run.
      probe: a name of `PROBES`.
      step: of the checkpoint; the last one where None.

    Raises:
      ConfigError: the workdir holds no run, another run, or no such checkpoint; or the data to
        evaluate on are not there or have no labels.
    """
    saved = epath.Path(workdir) / 'config.json'
    if not saved.exists():
        raise config_lib.ConfigError(
            f'--workdir={workdir}: holds no run; pretrain first, or name the workdir of a run'
        )
    held = check_claim(config, workdir)
    keep_programs(workdir)
    found = find_step(workdir, step)
    run = prepare(config, held)
    data = prepare_evaluation(run, (probe,), needed=True)
    state = restore(workdir, found, run.abstract_state(), latest=step is None)
    evaluate(run, workdir, state, data, (probe,))


def prepare_evaluation(run: Run, probes: Sequence[str], *, needed: bool = False) -> EvalData:
    """Opens and checks everything that `evaluate` opens, and says what a user should know.

    Raises:
      ConfigError: as `open_eval_data` and `check_protocol`.
    """
    data = open_eval_data(run.config, run.source, needed=needed)
    if data.labelled and 'linear_eval' in probes:
        check_protocol(run, data.train)
    if probes and parallel.is_main_process():
        for note in data.notes:
            print(note, flush=True)
    return data


@explained('evaluation', EVALUATION)
def evaluate(
    run: Run, workdir: str, state: TrainState, data: EvalData, probes: Sequence[str]
) -> None:
    """Runs the probes, and writes `result.json` after each, and `report.html`.

    Args:
      run: the parts of the run.
      workdir: where the results go; figures of other probes that are there already are kept.
      state: whose encoder is evaluated.
      data: what is trained and tested on.
      probes: names of `PROBES`; where there is none, or no label, a part of the data is looked at
        for the report.
    """
    probes = [probe for probe in PROBES if probe in probes and data.labelled]
    if probes and parallel.is_main_process():
        counts = f'{data.train.num_examples:,} training and {data.test.num_examples:,} test'
        print(f'evaluating by {", ".join(probes)}: {counts} pictures', flush=True)
    baselines = any(needs_baselines(run, probe) for probe in probes)
    train, test = (
        _split(run, state, source if probes else splits.spread(source, _SAMPLE), baselines)
        for source in (data.train, data.test)
    )
    for probe in probes:
        accuracies = PROBES[probe](run, workdir, state, train, test)
        about = _about(run, state, data, train.features, test.features, probe)
        results.write(workdir, probe, accuracies | about)
    if not parallel.is_main_process():
        return
    result = results.read(workdir)
    if probes:
        print(f'\n{results.format_results(result)}\n', flush=True)
    report = epath.Path(workdir) / 'report.html'
    write_run_report(report, run, workdir, state, train, test)
    if probes:
        print(f'figures   {epath.Path(workdir) / "result.json"}')
    print(f'report    {report}', flush=True)


def _about(
    run: Run, state: TrainState, data: EvalData, train: Features, test: Features, probe: str
) -> dict:
    """What a probe's figures are of."""
    settings = run.config[probe].to_dict() | {'seed': run.config.seed}
    if run.config.method == 'simclr':
        settings['eval_layer'] = run.config.simclr.eval_layer
    _, counts = np.unique(test.labels[test.labels >= 0], return_counts=True)
    return {
        'step': int(state.step),
        'data': {
            'name': data.name,
            'train_split': data.train_split,
            'test_split': data.test_split,
            'train_pictures': int(np.sum(train.labels >= 0)),
            'test_pictures': int(counts.sum()),
            'largest_class': float(counts.max() / counts.sum()),  # what always guessing it gives
            'pretrained_on': data.seen,
        },
        'settings': settings,
    }


def _split(run: Run, state: TrainState, source: Source, baselines: bool) -> Split:
    config = run.config
    variables = {'encoder': state.all_variables()}
    if baselines:
        variables['untrained'] = run.init().all_variables()
    batches = reader(config).eval_batches(
        source,
        batch_size=config.eval.batch_size,
        rows=parallel.local_rows(config.eval.batch_size, run.mesh),
        workers=config.data.workers,
        **central_view(config),
    )
    features = extract_features(
        run.method.representation(),
        variables,
        batches,
        run.mesh,
        num_examples=source.num_examples,
        mean=config.data.mean,
        std=config.data.std,
        raw_pixels=baselines,
    )
    return Split(source, features)
