"""The report of a run: what is gathered from the workdir, the features and the pictures."""

import sys

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data.factory import reader
from simclr_jax.evaluate.knn import nearest_neighbours
from simclr_jax.evaluate.projection import project_2d
from simclr_jax.report.html import write_report
from simclr_jax.train.advice import input_advice
from simclr_jax.train.health import alarms
from simclr_jax.train.setup import Run
from simclr_jax.train.state import TrainState
from simclr_jax.workdir.metrics import read_metrics

_QUERIES, _NEIGHBOURS = 6, 8  # rows and columns of the report's sheet
_PROJECTED = 2000  # test examples in the report's projection


def write_run_report(
    path, run: Run, workdir, state: TrainState, result, table, train_split, test_split, views
) -> None:
    """Writes `report.html` of a run: its figures, curves, views, neighbours and projection."""
    config = run.config
    (train_source, train), (test_source, test) = train_split, test_split
    pretrain = result.get('pretrain', {})
    share = pretrain.get('input_wait', 0.0)
    advice = input_advice(share, backend=config.augment.backend, cache=config.data.cache)
    features, labels = test.values['encoder'], test.labels
    # Spread over the split, since data sets are often sorted by class.
    queries = np.linspace(0, len(features) - 1, _QUERIES).astype(int)
    nearest, similarity = nearest_neighbours(
        features[queries], train.values['encoder'], min(_NEIGHBOURS, len(train.labels))
    )

    def images(source, index):
        return reader(config).read_images(
            source, index, image_size=config.data.image_size, crop=config.data.eval_crop
        )

    metrics = read_metrics(workdir)
    names = train_source.label_names
    shown = np.linspace(0, len(features) - 1, min(_PROJECTED, len(features))).astype(int)
    neighbour_images = images(train_source, train.index[nearest.ravel()])
    write_report(
        path,
        title=f'{config.method} on {config.data.dataset}',
        summary={
            'command': ' '.join(sys.argv),
            'method': config.method,
            'encoder': config.model.encoder,
            'data': f'{config.data.dataset}, {run.source.num_examples} training images',
            'steps': int(state.step),
            **{k: v for k, v in pretrain.items() if k not in ('steps', 'input_wait')},
            'input_wait': f'{share:.1%} of the time' + (f': {advice}' if advice else ''),
            'bad_pictures': len(run.source.bad) or None,
            **alarms(metrics),
        },
        table=table,
        metrics=metrics,
        views=views,
        neighbours={
            'queries': images(test_source, test.index[queries]),
            'neighbours': neighbour_images.reshape(*nearest.shape, *neighbour_images.shape[1:]),
            'similarities': similarity,
            'query_labels': labels[queries] if names else None,
            'neighbour_labels': train.labels[nearest] if names else None,
            'label_names': names,
        },
        projection={
            'points': project_2d(features[shown]),
            'labels': labels[shown] if names else None,
            'label_names': names,
        },
        config_text=config_lib.to_json(config),
    )
