"""The report of a segmentation: what is gathered from the workdir, figures and pictures."""

from typing import Any

from etils import epath

from simclr_jax import config as config_lib
from simclr_jax.command import command
from simclr_jax.data.masks import MaskSource
from simclr_jax.evaluate.projection import maps_as_colours
from simclr_jax.methods.segment import ENCODER
from simclr_jax.modes import results
from simclr_jax.modes.reporting import circumstances, load_views
from simclr_jax.modes.segment_evaluation import Found
from simclr_jax.report.segmentation import Sample, write_segmentation
from simclr_jax.train.setup import Run
from simclr_jax.workdir.metrics import read_metrics


def write_segment_report(
    path: epath.Path,
    run: Run,
    workdir: str,
    entry: dict[str, Any],
    found: Found,
    source: MaskSource,
) -> None:
    """Writes `report.html`.

    Args:
      path: of the page.
      run: the parts of the run.
      workdir: where its metrics, figures and views are.
      entry: of `result.json`.
      found: what the test has found.
      source: the test pictures.

    Raises:
      OSError: the disk is full, or failed.
    """
    config, about = run.config, entry['data']
    training = results.read(workdir).get('training', {})
    counted = source.pixels[:-1]
    colours = maps_as_colours([shown.maps for shown in found.shown])
    samples = [
        Sample(
            shown.name,
            shown.picture,
            shown.mask,
            {way: by_maps[ENCODER] for way, by_maps in shown.predictions.items()},
            colour,
            shown.attention,
        )
        for shown, colour in zip(found.shown, colours, strict=True)
    ]
    write_segmentation(
        path,
        title=f'Segmentation by {config.model.encoder}',
        summary={
            'command': command(),
            'encoder': config.model.encoder,
            'started_from': (
                config.start.checksum
                and f'{config.start.encoder}, checksum {config.start.checksum}'
            )
            or None,
            'data': f'{about["name"]}, {about["train_pictures"]:,} training pictures with masks',
            'workdir': str(epath.Path(workdir)),
            'seed': config.seed,
            **{name: value for name, value in training.items() if name != 'input_wait'},
            'bad_pictures': len(source.bad) or None,
            **circumstances(run.mesh),
        },
        figures=results.figures(entry),
        label_names=source.names,
        shares=(counted / max(counted.sum(), 1)).tolist(),
        notes=[f'On {results.subject(entry)}.'],
        samples=samples,
        metrics=read_metrics(workdir),
        views=load_views(workdir),
        config_text=config_lib.to_json(config),
    )
