"""The report of an evaluation: what is gathered from the workdir, features and pictures."""

import datetime
import importlib.metadata
import io
import json
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

import simclr_jax
from simclr_jax import config as config_lib
from simclr_jax import files
from simclr_jax.command import command
from simclr_jax.data.factory import reader
from simclr_jax.evaluate.knn import nearest_neighbours
from simclr_jax.evaluate.projection import project_2d
from simclr_jax.modes import results
from simclr_jax.modes.probes import PROBES, Split
from simclr_jax.modes.subject import Subject
from simclr_jax.report.html import write_report
from simclr_jax.train.advice import input_advice
from simclr_jax.train.health import alarms
from simclr_jax.train.setup import Run
from simclr_jax.weights.description import Weights, to_json
from simclr_jax.workdir.metrics import read_metrics

_QUERIES, _NEIGHBOURS = 6, 8  # rows and columns of the report's sheet
_PROJECTED = 2000  # test examples in the report's projection
_VIEWS = 'views.npy'


def save_views(workdir: str, views: np.ndarray) -> None:
    """Keeps augmented views `[n, view, height, width, channel]` uint8 for later reports."""
    file = io.BytesIO()
    np.save(file, views, allow_pickle=False)
    files.write_bytes(epath.Path(workdir) / _VIEWS, file.getvalue())


def load_views(workdir: str) -> np.ndarray | None:
    """Returns the views that `save_views` kept; None where there are none."""
    path = epath.Path(workdir) / _VIEWS
    if not path.exists():
        return None
    with path.open('rb') as file:
        return np.load(file, allow_pickle=False)


def write_run_report(
    path: epath.Path, run: Run, workdir: str, subject: Subject, train: Split, test: Split
) -> None:
    """Writes `report.html` of a run: its figures, curves, views, neighbours and projection.

    Args:
      path: of the page.
      run: the parts of the run.
      workdir: where its metrics, figures and views are.
      subject: its encoder.
      train: pictures to find neighbours among.
      test: pictures to show.
    """
    config, result = run.config, results.read(workdir)
    chance = run.method.chance_loss(config.batch_size)
    pretrain = result.get('pretrain', {})
    share = pretrain.get('input_wait', 0.0)
    advice = input_advice(
        share,
        backend=config.augment.backend,
        cache=config.data.cache,
        canvas=run.source.canvas_side,
        workers=config.data.workers,
        on_cpu=run.mesh.devices.flat[0].platform == 'cpu',
    )
    metrics = read_metrics(workdir)
    start = config.start.encoder and f'{config.start.encoder}, checksum {config.start.checksum}'
    write_report(
        path,
        title=f'{config.method} on {config.data.dataset}',
        summary={
            'command': command(),
            'method': config.method,
            'encoder': config.model.encoder,
            'started_from': start or None,
            'data': f'{config.data.dataset}, {run.source.num_examples:,} training images',
            'workdir': str(epath.Path(workdir)),
            'seed': config.seed,
            'steps': subject.about['step'],
            **{k: v for k, v in pretrain.items() if k not in ('steps', 'input_wait')},
            'input_wait': f'{share:.1%} of the time' + (f': {advice}' if advice else ''),
            'bad_pictures': len(run.source.bad) or None,
            **alarms(metrics),
            **circumstances(subject.mesh),
        },
        metrics=metrics,
        chance={} if chance is None else {'loss': chance},
        views=load_views(workdir),
        config_text=config_lib.to_json(config),
        **_found(subject, config, result, train, test),
    )


def write_encoder_report(
    path: epath.Path,
    subject: Subject,
    weights: Weights,
    config: ConfigDict,
    workdir: str,
    train: Split,
    test: Split,
) -> None:
    """Writes `report.html` of an encoder that a file holds: figures, neighbours and projection.

    Args:
      path: of the page.
      subject: the encoder.
      weights: what the file holds.
      config: of the evaluation.
      workdir: where its figures are.
      train: pictures to find neighbours among.
      test: pictures to show.
    """
    about = subject.about['weights']
    described = {
        'architecture': to_json(weights.architecture),
        'preprocess': to_json(weights.preprocess),
        'origin': dict(weights.origin),
        **{section: config[section].to_dict() for section in ('eval', *PROBES)},
    }
    write_report(
        path,
        title=f'{subject.architecture} of {epath.Path(about["path"]).name}',
        summary={
            'command': command(),
            'encoder': subject.architecture,
            'weights': f'{about["path"]}, of the layout {about["layout"]}',
            'checksum': about['checksum'],
            'workdir': str(epath.Path(workdir)),
            'seed': config.seed,
            'bad_pictures': len(train.source.bad) or None,
            **circumstances(subject.mesh),
        },
        config_text=json.dumps(described, indent=1),
        **_found(subject, config, results.read(workdir), train, test),
    )


def _found(
    subject: Subject, config: ConfigDict, result: dict[str, Any], train: Split, test: Split
) -> dict[str, Any]:
    """What `write_report` takes of any evaluation."""
    tables = results.by_subject(result)
    return {
        'table': _table(tables),
        'notes': [note for about in tables for note in _notes(about, result)],
        'test_size': min((e['data']['test_pictures'] for e in _entries(result)), default=None),
        'neighbours': _neighbours(subject, config, train, test),
        'projection': _projection(test),
    }


def circumstances(mesh: Mesh) -> dict[str, str]:
    """Returns what a run's figures were made with, and when."""
    devices = mesh.devices
    return {
        'devices': f'{devices.size} x {devices.flat[0].device_kind}',
        'versions': _versions(),
        'written': datetime.datetime.now().astimezone().isoformat(' ', 'minutes'),
    }


def _versions() -> str:
    names = ('jax', 'flax', 'optax', 'numpy')
    found = (f'{name} {importlib.metadata.version(name)}' for name in names)
    return ', '.join([f'simclr_jax {simclr_jax.__version__}', *found])


def _entries(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What `result.json` holds of each probe, where it says of which data."""
    return [entry for name, entry in result.items() if name in PROBES and 'data' in entry]


def _notes(about: str, result: dict[str, Any]) -> list[str]:
    """Sentences on one thing that was evaluated, as `results.subject` calls it."""
    shares = [
        entry['data']['largest_class']
        for entry in _entries(result)
        if results.subject(entry) == about
    ]
    notes = [f'On {about}.']
    if shares:
        notes.append(f'Always guessing the largest class would give {100 * shares[0]:.1f}.')
    return notes


def _table(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of all probes; where they are not of one thing, each row says of which."""
    if len(tables) == 1:
        return next(iter(tables.values()))
    return {
        f'{row}: {about}': accuracies
        for about, table in tables.items()
        for row, accuracies in table.items()
    }


def _neighbours(subject: Subject, config: ConfigDict, train: Split, test: Split) -> dict[str, Any]:
    features, labels = test.features.values['encoder'], test.features.labels
    # Spread over the split, since data sets are often sorted by class.
    queries = np.linspace(0, len(features) - 1, min(_QUERIES, len(features))).astype(int)
    nearest, similarity = nearest_neighbours(
        features[queries],
        train.features.values['encoder'],
        min(_NEIGHBOURS, len(train.features.labels)),
    )

    def images(split: Split, places: np.ndarray) -> np.ndarray:
        return reader(config).read_images(
            split.source, split.features.index[places], **subject.central_view()
        )

    names = train.source.label_names
    shown = images(train, nearest.ravel())
    return {
        'queries': images(test, queries),
        'neighbours': shown.reshape(*nearest.shape, *shown.shape[1:]),
        'similarities': similarity,
        'query_labels': labels[queries] if names else None,
        'neighbour_labels': train.features.labels[nearest] if names else None,
        'label_names': names,
    }


def _projection(test: Split) -> dict[str, Any]:
    features, names = test.features.values['encoder'], test.source.label_names
    shown = np.linspace(0, len(features) - 1, min(_PROJECTED, len(features))).astype(int)
    return {
        'points': project_2d(features[shown]),
        'labels': test.features.labels[shown] if names else None,
        'label_names': names,
    }
