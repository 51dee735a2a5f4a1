"""`--mode=preview`: a sheet of the views that the first step trains on, with what was drawn."""

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax import parallel
from simclr_jax.data import sources
from simclr_jax.data.factory import open_split
from simclr_jax.report.sheet import describe, draw_sheet
from simclr_jax.tools.first_views import first_views


def main(config: ConfigDict, workdir: str) -> None:
    """Writes `workdir/preview.png`; nothing is trained, and the workdir is not claimed.

    Raises:
      ConfigError: the data set is not there, a batch is larger than it, or workdir is a file.
    """
    path = epath.Path(workdir)
    if path.exists() and not path.is_dir():
        raise config_lib.ConfigError(f'--workdir={workdir}: is a file; name a directory')
    data = config.data
    sources.check_prepared(data.dataset, data.data_dir, data.path, data.labels)
    source = open_split(config, data.train_split)
    config_lib.resolve_length(config, source.num_examples)
    indices, originals, views, drawn = first_views(config, source)
    recipes = config_lib.view_recipes(config)
    texts = [
        [
            describe(recipe, of_view, row, image.shape, data.image_size)
            for recipe, of_view in zip(recipes, drawn, strict=True)
        ]
        for row, image in enumerate(originals)
    ]
    boxes = np.stack([of_view['box'] for of_view in drawn], axis=1)
    names = [source.name(i) if source.name else f'{data.train_split} {i}' for i in indices]
    title = (
        f'{data.path or data.dataset}, {source.num_examples:,} pictures of {data.train_split!r}, '
        f'at {data.image_size} pixels, seed {config.seed}, step 0'
    )
    if parallel.is_main_process():
        path.mkdir(parents=True, exist_ok=True)
        sheet = draw_sheet(title, originals, boxes, views, texts, names)
        with (path / 'preview.png').open('wb') as file:
            sheet.save(file, 'png')
        print(f'preview   {path / "preview.png"}', flush=True)
