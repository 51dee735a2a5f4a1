"""The report of a fine-tuning: what is gathered from the workdir, the comparison and pictures."""

from typing import Any

import numpy as np
from etils import epath

from simclr_jax import config as config_lib
from simclr_jax.command import command
from simclr_jax.data.factory import reader
from simclr_jax.evaluate.predictions import confident_mistakes, confusion
from simclr_jax.modes import results
from simclr_jax.modes.comparison import Compared
from simclr_jax.modes.eval_data import EvalData
from simclr_jax.modes.reporting import circumstances, load_views
from simclr_jax.report.classifier import Mistakes, write_classifier
from simclr_jax.train.health import alarms
from simclr_jax.train.setup import Run
from simclr_jax.workdir.metrics import read_metrics

_MISTAKES = 24  # pictures


def write_classifier_report(
    path: epath.Path,
    run: Run,
    workdir: str,
    data: EvalData,
    found: Compared,
    sureness: dict[str, Any],
) -> None:
    """Writes `report.html` of a fine-tuning.

    Args:
      path: of the page.
      run: the parts of the run.
      workdir: where its metrics, figures and views are.
      data: what it was trained and tested on.
      found: the comparison.
      sureness: `calibration.figures` of the classifier.

    Raises:
      OSError: the disk is full, or failed.
    """
    config, about, names = run.config, found.entry['data'], data.train.label_names
    result = results.read(workdir)
    training = result.get('training', {})
    metrics = read_metrics(workdir)
    write_classifier(
        path,
        title=f'{config.model.encoder}, fine-tuned on {about["name"]}',
        summary={
            'command': command(),
            'encoder': config.model.encoder,
            'started_from': (
                config.start.checksum
                and f'{config.start.encoder}, checksum {config.start.checksum}'
            )
            or None,
            'data': f'{about["name"]}, {about["train_pictures"]:,} labelled training images',
            'workdir': str(epath.Path(workdir)),
            'seed': config.seed,
            **{name: value for name, value in training.items() if name != 'input_wait'},
            'bad_pictures': len(run.source.bad) or None,
            **alarms(metrics),
            **circumstances(run.mesh),
        },
        comparison=results.figures(found.entry),
        labels_of_all=about['train_pictures'] / len(names),
        notes=[
            f'On {results.subject(found.entry)}.',
            f'Always guessing the largest class would give {100 * about["largest_class"]:.1f}.',
        ],
        test_size=about['test_pictures'],
        confusion=confusion(found.own, found.labels, len(names)),
        label_names=names,
        mistakes=mistakes(run, data, found),
        calibration=sureness,
        metrics=metrics,
        views=load_views(workdir),
        config_text=config_lib.to_json(config),
        sweep=result.get(results.SWEEP),
    )


def mistakes(run: Run, data: EvalData, found: Compared) -> Mistakes:
    """Returns the surest mistakes of a run's own classifier, with their pictures."""
    wrong = confident_mistakes(found.own, found.labels, len(found.labels))
    places, how = wrong[:_MISTAKES], run.config.data
    images = np.zeros((0, how.image_size, how.image_size, run.source.image_shape[-1]), np.uint8)
    if len(places):
        images = reader(run.config).read_images(
            data.test,
            places,
            image_size=how.image_size,
            crop=how.eval_crop,
            interpolation=how.eval_interpolation,
            antialias=how.eval_antialias,
        )
    return Mistakes(
        images,
        found.labels[places],
        found.own.classes[places, 0],
        found.own.probabilities[places, 0],
        len(wrong),
    )
