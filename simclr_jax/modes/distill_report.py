"""The report of a distillation: figures of teacher and student, and what the student confuses."""

from typing import Any

from etils import epath

from simclr_jax import config as config_lib
from simclr_jax.command import command
from simclr_jax.evaluate.predictions import confusion
from simclr_jax.modes import results
from simclr_jax.modes.classifier_report import mistakes
from simclr_jax.modes.comparison import Compared
from simclr_jax.modes.eval_data import EvalData
from simclr_jax.modes.reporting import circumstances, load_views
from simclr_jax.report.classifier import write_classifier
from simclr_jax.train.health import alarms
from simclr_jax.train.setup import Run
from simclr_jax.workdir.metrics import read_metrics


def write_distill_report(
    path: epath.Path,
    run: Run,
    workdir: str,
    data: EvalData,
    found: Compared,
    sureness: dict[str, Any] | None,
) -> None:
    """Writes `report.html` of a distillation.

    Args:
      path: of the page.
      run: the parts of the run.
      workdir: where its metrics, figures and views are.
      data: what it was tested on.
      found: the entry of `result.json`, and what the student says of the test pictures.
      sureness: `calibration.figures` of the student; None without labels.

    Raises:
      OSError: the disk is full, or failed.
    """
    config, entry, names = run.config, found.entry, run.teacher.classifier.names
    about, metrics = entry['data'], read_metrics(workdir)
    training = results.read(workdir).get('training', {})
    agreement = (
        f'Teacher and student take {100 * entry["agreement"]:.1f} % of {len(found.labels):,} '
        f'pictures of {about["name"]} ({about["test_split"]}), which the student did not learn '
        'from, for the same class.'
    )
    notes = [agreement]
    if data.labelled:
        notes.insert(0, f'On {results.distilled_on(entry)}.')
    else:
        notes.append('Without labels nothing is known of how often either is right.')
    write_classifier(
        path,
        title=f'{config.model.encoder}, distilled on {config.data.dataset}',
        summary={
            'command': command(),
            'student': f'{config.model.encoder}, {entry["parameters"]["student"]:,} parameters',
            'teacher': f'{run.teacher.architecture.encoder}, '
            f'{entry["parameters"]["teacher"]:,} parameters: {config.distill.teacher}, checksum '
            f'{config.distill.checksum}',
            'started_from': (
                config.start.checksum
                and f'{config.start.encoder}, checksum {config.start.checksum}'
            )
            or None,
            'data': f'{config.data.dataset}, {about["train_pictures"]:,} training images',
            'workdir': str(epath.Path(workdir)),
            'seed': config.seed,
            **{name: value for name, value in training.items() if name != 'input_wait'},
            'bad_pictures': len(run.source.bad) or None,
            **alarms(metrics),
            **circumstances(run.mesh),
        },
        comparison=results.figures(entry),
        labels_of_all=0.0,  # one number of labels alone has no curve
        notes=notes,
        test_size=about['test_pictures'],
        confusion=confusion(found.own, found.labels, len(names)),
        label_names=names,
        mistakes=mistakes(run, data, found),
        calibration=sureness,
        metrics=metrics,
        views=load_views(workdir),
        config_text=config_lib.to_json(config),
    )
