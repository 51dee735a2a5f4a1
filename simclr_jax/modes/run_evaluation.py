"""Evaluation of a run: what pretraining ends with, and `linear_eval` and `knn` do again."""

from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax import parallel
from simclr_jax.modes import start
from simclr_jax.modes.encoder_file import preprocess_of
from simclr_jax.modes.eval_data import EvalData, open_eval_data
from simclr_jax.modes.evaluation import check_evaluation, evaluate
from simclr_jax.modes.reporting import write_run_report
from simclr_jax.modes.subject import Network, Subject, network_of
from simclr_jax.train.out_of_memory import EVALUATION, explained
from simclr_jax.train.setup import Run, prepare
from simclr_jax.train.state import TrainState
from simclr_jax.workdir.claim import check_claim
from simclr_jax.workdir.programs import keep_programs
from simclr_jax.workdir.reader import find_step, restore


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
    run = prepare(config, held, start.read(config, workdir))
    data = prepare_evaluation(run, (probe,), needed=True)
    state = restore(workdir, found, run.abstract_state(), latest=step is None)
    evaluate_run(run, workdir, state, data, (probe,))


def prepare_evaluation(run: Run, probes: Sequence[str], *, needed: bool = False) -> EvalData:
    """Opens and checks everything that `evaluate_run` opens, and says what a user should know.

    Raises:
      ConfigError: as `open_eval_data` and `check_protocol`.
    """
    data = open_eval_data(run.config, run.source, needed=needed)
    check_evaluation(run.config, data, probes, run.config.model.encoder, run.mesh)
    return data


@explained('evaluation', EVALUATION)
def evaluate_run(
    run: Run, workdir: str, state: TrainState, data: EvalData, probes: Sequence[str]
) -> None:
    """Evaluates a run's encoder; writes `result.json` after each probe, and `report.html`.

    Args:
      run: the parts of the run.
      workdir: where the results go; figures of other probes that are there already are kept.
      state: whose encoder is evaluated.
      data: what is trained and tested on.
      probes: as `evaluate` takes them.
    """
    subject = subject_of(run, state)
    train, test = evaluate(subject, run.config, workdir, data, probes)
    if parallel.is_main_process():
        report = epath.Path(workdir) / 'report.html'
        write_run_report(report, run, workdir, subject, train, test)
        print(f'report    {report}', flush=True)


def subject_of(run: Run, state: TrainState) -> Subject:
    """Returns the encoder of a train state, and what it is compared with.

    That is what the run started from, if it did from weights, and an encoder that was never
    trained.
    """
    config = run.config
    module = run.method.representation()
    layer = {'eval_layer': config.simclr.eval_layer} if config.method == 'simclr' else {}

    def others() -> dict[str, Network]:
        found = {}
        if run.start:
            found['start'] = network_of(run.start, run.mesh, config.model.dtype)
        return found | {'untrained': Network(module, run.init_at_random().all_variables())}

    return Subject(
        Network(module, state.all_variables()),
        preprocess_of(config, run.source.image_shape[-1], run.source.intensity),
        run.mesh,
        config.model.encoder,
        others=others,
        about={'step': int(state.step)},
        settings=layer,
    )
