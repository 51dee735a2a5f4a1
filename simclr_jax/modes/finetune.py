"""`--mode=finetune`: trains an encoder and a classifier on labels, and tests them."""

import dataclasses
import functools

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.config import SCRATCH, ConfigError
from simclr_jax.data.folder_index import describe_bad
from simclr_jax.data.sources import Source
from simclr_jax.evaluate import calibration
from simclr_jax.evaluate.predictions import of_logits
from simclr_jax.methods.base import Tree
from simclr_jax.modes import calibrate, comparison, results, start, sweep
from simclr_jax.modes import labelled as labelled_lib
from simclr_jax.modes.calibrate import Temperature
from simclr_jax.modes.classifier_report import write_classifier_report
from simclr_jax.modes.encoder_evaluation import subject_of
from simclr_jax.modes.encoder_file import preprocess_of, write_classifier
from simclr_jax.modes.fits import Fits
from simclr_jax.modes.labelled import Labelled
from simclr_jax.modes.outputs import logits_of, with_head
from simclr_jax.modes.reporting import save_views
from simclr_jax.modes.subject import Subject
from simclr_jax.train.loop import train
from simclr_jax.train.memory import DoesNotFit
from simclr_jax.train.setup import Run, prepare
from simclr_jax.weights.description import Weights
from simclr_jax.workdir.agreement import check_same_data, check_shared
from simclr_jax.workdir.claim import check_claim, claim_workdir, release_workdir
from simclr_jax.workdir.lock import hold
from simclr_jax.workdir.programs import keep_programs

_TRAINING = 'training'  # of result.json: what the training took


@dataclasses.dataclass(frozen=True)
class Trained:
    """A classifier that is trained.

    Attributes:
      run: the parts of its run.
      variables: what `run.method.network` is applied with, on the devices.
      figures: `seconds`, `steps`, `images_per_second` and `input_wait` of the training.
      views: the first augmented pictures `[picture, 1, height, width, channel]` uint8; None where
        the run was complete before.
    """

    run: Run
    variables: Tree
    figures: dict[str, float]
    views: np.ndarray | None


def main(config: ConfigDict, workdir: str) -> None:
    """Trains, or goes on where the workdir's last checkpoint is, then tests."""
    if not config.start.encoder:
        raise ConfigError(
            f'start.encoder: name what is fine-tuned with --encoder=PATH, a workdir or a file of '
            f'weights; --encoder={SCRATCH} trains a random one'
        )
    with hold(workdir):
        check_shared(workdir)
        keep_programs(workdir)
        held, weights = check_claim(config, workdir), start.read(config, workdir)
        labelled = labelled_lib.open_labelled(config, held)
        source = labelled_lib.choose(config, labelled)
        prepare(config, held, weights, source)  # which checks, before anything is written
        sweep.check(config, source)
        pictures = source, labelled.test.test
        for field, part in zip(('data.train', 'eval.test'), pictures, strict=True):
            check_same_data(f'{field}_split', part.num_examples, part.label_names)
        start.keep(workdir, weights)
        claim_workdir(config, workdir, labelled.split.held)
        _say(_describe(config, workdir, source, labelled))
        if labelled.split.description:
            _say(labelled.split.description)
        if source.bad:
            _say(describe_bad(source.bad))
        try:
            tried = workdir, source, weights, _logits_of_run
            config, known = sweep.choose_rate(config, *tried)
            temperature = calibrate.find_temperature(config, *tried, known)
            trained = train_classifier(config, workdir, source, weights)
        except DoesNotFit:
            release_workdir(workdir)
            raise
        if trained.views is not None and parallel.is_main_process():
            save_views(workdir, trained.views)
        if trained.views is not None or _TRAINING not in results.read(workdir):
            results.write(workdir, _TRAINING, trained.figures)
        # Before the test, and a comparison that may take longer than the training did.
        names = source.label_names
        write_classifier(trained.run, workdir, trained.variables, names, temperature.value)
        _test(trained, workdir, labelled, temperature)


def train_classifier(
    config: ConfigDict,
    workdir: str,
    source: Source,
    weights: Weights | None,
    *,
    scratch: bool = False,
) -> Trained:
    """Trains a classifier to the end, going on from the last checkpoint in `workdir`, if any.

    Args:
      config: of the run; what is trained and how. Its `finetune.labels` are not looked at.
      workdir: of its checkpoints and metrics; it need not be that of the command.
      source: what it learns from, as `splits.subset` makes it.
      weights: what the encoder starts from; None for a random one.
      scratch: whether it starts at random all the same, with the layers that `weights` have.

    Raises:
      ConfigError: a batch does not divide, or the weights have no such layers.
    """
    run = prepare(config, None, weights, source)
    if scratch or weights is None:
        config = config.copy_and_resolve_references()
        config.start.encoder = SCRATCH
        run = dataclasses.replace(run, config=config, start=None)
    run = with_head(run)
    state, training, views = train(run, workdir)
    return Trained(run, state.all_variables(), training, views)


def _logits_of_run(run: Run, variables: Tree, source: Source) -> tuple[np.ndarray, np.ndarray]:
    return logits_of(run.method.network, variables, source, run.config, run.mesh)


def _test(trained: Trained, workdir: str, labelled: Labelled, temperature: Temperature) -> None:
    """Compares the classifier with other ways to use the labels; writes figures and a report."""
    run = trained.run
    data = dataclasses.replace(
        labelled.test, train=run.source, train_split=run.config.data.train_split
    )
    predict = functools.partial(
        logits_of, run.method.network, source=data.test, config=run.config, mesh=run.mesh
    )
    logits, labels = predict(trained.variables)
    sureness = calibration.figures(logits, labels, temperature.value)
    sureness['held_out_pictures'] = temperature.held_out
    results.write(workdir, results.CALIBRATION, sureness)
    own = of_logits(logits / temperature.value)
    fits = Fits(run, lambda variables: of_logits(predict(variables)[0]))
    subject = _frozen(run) if run.start else None
    found = comparison.compare(subject, run.config, workdir, data, own, fits)
    if parallel.is_main_process():
        print(f'\n{results.format_results(results.read(workdir))}\n', flush=True)
        print(f'figures   {epath.Path(workdir) / "result.json"}', flush=True)
        report = epath.Path(workdir) / 'report.html'
        write_classifier_report(report, run, workdir, data, found, sureness)
        print(f'report    {report}', flush=True)


def _frozen(run: Run) -> Subject:
    """Returns the encoder as it was before, which sees pictures as the classifier does."""
    subject = subject_of(run.start, run.config.start.encoder, run.mesh, run.config)
    source = run.source
    preprocess = preprocess_of(run.config, source.image_shape[-1], source.intensity)
    return dataclasses.replace(subject, preprocess=preprocess)


def _describe(config: ConfigDict, workdir: str, source: Source, labelled: Labelled) -> str:
    return (
        f'fine-tuning {config.model.encoder} on {config.data.dataset}: '
        f'{source.num_examples:,} of {labelled.train.num_examples:,} labelled pictures in '
        f'{source.num_classes} classes, tested on {labelled.test.test.num_examples:,} pictures of '
        f'{labelled.test.test_split}; trained: {config.finetune.trained}; workdir {workdir}'
    )


def _say(text: str) -> None:
    if parallel.is_main_process():
        print(text, flush=True)
