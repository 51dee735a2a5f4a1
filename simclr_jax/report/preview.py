"""`--mode=preview`: a sheet of the views that the first step trains on, with what was drawn."""

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax import parallel
from simclr_jax.augment import jax_draws, jax_ops
from simclr_jax.augment.recipe import ViewRecipe, kernel_size
from simclr_jax.data import sources
from simclr_jax.train.setup import open_split

_IMAGES = 8  # rows of the sheet
_TILE = 224  # pixels that an image of the sheet fits in
_TEXT_WIDTH, _LINE, _MARGIN = 150, 16, 12  # pixels
_COLOURS = ('#0072b2', '#d55e00')  # of the two views' boxes: Okabe and Ito's blue and vermilion
_JITTER = ('brightness', 'contrast', 'saturation', 'hue')  # as `order` counts them


def preview(config: ConfigDict, workdir: str) -> None:
    """Writes `workdir/preview.png`; nothing is trained, and the workdir is not claimed.

    Raises:
      ConfigError: the data set is not there, a batch is larger than it, or workdir is a file.
    """
    path = epath.Path(workdir)
    if path.exists() and not path.is_dir():
        raise config_lib.ConfigError(f'--workdir={workdir}: is a file; name a directory')
    data = config.data
    sources.check_prepared(data.dataset, data.data_dir, data.path)
    source = open_split(config, data.train_split)
    config_lib.resolve_length(config, source.num_examples)
    originals, views, drawn = first_views(config, source)
    recipes = config_lib.view_recipes(config)
    texts = [
        [
            describe(recipe, of_view, row, image.shape, data.image_size)
            for recipe, of_view in zip(recipes, drawn, strict=True)
        ]
        for row, image in enumerate(originals)
    ]
    boxes = np.stack([of_view['box'] for of_view in drawn], axis=1)
    title = f'{data.dataset} at {data.image_size} pixels, seed {config.seed}, step 0'
    if parallel.is_main_process():
        path.mkdir(parents=True, exist_ok=True)
        sheet = draw_sheet(title, originals, boxes, views, texts)
        with (path / 'preview.png').open('wb') as file:
            sheet.save(file, 'png')
        print(f'preview   {path / "preview.png"}', flush=True)


def first_views(
    config: ConfigDict, source: sources.Source
) -> tuple[list[np.ndarray], np.ndarray, list[dict[str, np.ndarray]]]:
    """The first examples of the run's first batch.

    Returns:
      The images `[height, width, channel]` uint8, as stored or, with the 'jax' backend, as they lie
      in their canvas; their views `[n, view, size, size, channel]` uint8; for each view the
      parameters drawn `[n, ...]`, with the crop's `box` `[n, 4]` (y, x, height, width) in pixels of
      the image.
    """
    make = _made_on_device if config.augment.backend == 'jax' else _made_on_host
    return make(config, source, config_lib.view_recipes(config), min(_IMAGES, config.batch_size))


def _made_on_host(config, source, recipes, count):
    from simclr_jax.augment import tf_draws  # these import TensorFlow
    from simclr_jax.data import pipeline

    batch = next(
        pipeline.train_batches(
            source,
            recipes,
            seed=config.seed,
            batch_size=config.batch_size,
            image_size=config.data.image_size,
            start_step=0,
            total_steps=1,
            rows=slice(0, count),
        )
    )
    originals = pipeline.read_whole_images(source, batch['index'])
    heights, widths = np.transpose([image.shape[:2] for image in originals])
    drawn = []
    for recipe, parameters in zip(
        recipes,
        pipeline.draw_parameters(recipes, config.seed, 0, config.batch_size),
        strict=True,
    ):
        parameters = {name: values[:count] for name, values in parameters.items()}
        parameters['box'] = tf_draws.crop_boxes(recipe, parameters, heights, widths)
        drawn.append({name: np.asarray(values) for name, values in parameters.items()})
    return originals, batch['image'], drawn


def _made_on_device(config, source, recipes, count):
    from simclr_jax.data import pipeline  # imports TensorFlow

    batch = next(
        pipeline.canvas_batches(
            source,
            seed=config.seed,
            batch_size=config.batch_size,
            start_step=0,
            total_steps=1,
            rows=slice(0, count),
        )
    )

    @jax.jit
    def made(batch):
        views = jax_ops.make_views(
            batch,
            recipes,
            seed=config.seed,
            step=0,
            image_size=config.data.image_size,
            dtype=config.augment.dtype,
        )
        drawn = []
        for view, recipe in enumerate(recipes):
            keys = jax_draws.view_keys(config.seed, 0, view, batch['index'])
            parameters = jax_draws.sample_parameters(recipe, keys)
            heights, widths = batch['size'].astype(jnp.float32).T
            parameters['box'] = jax_draws.crop_boxes(recipe, parameters, heights, widths)
            drawn.append(parameters)
        return jnp.round(views * 255).astype(jnp.uint8), drawn

    views, drawn = jax.device_get(made({name: batch[name] for name in ('image', 'size', 'index')}))
    originals = [image[:h, :w] for image, (h, w) in zip(batch['image'], batch['size'], strict=True)]
    return originals, views, drawn


def describe(
    recipe: ViewRecipe,
    drawn: dict[str, np.ndarray],
    row: int,
    image_shape: tuple[int, int, int],
    image_size: int,
) -> list[str]:
    """What was drawn for example `row`, a line an operation; what a recipe never does is left out.

    Args:
      recipe: of the view.
      drawn: parameters `[n, ...]`, with `box`.
      row: which of them.
      image_shape: of the stored image.
      image_size: of the view, in pixels.
    """
    value = {name: values[row] for name, values in drawn.items()}
    colour = image_shape[-1] == 3
    y, x, height, width = (round(float(edge), 1) for edge in value['box'])
    share = height * width / (image_shape[0] * image_shape[1])
    lines = [f'crop {height:g} x {width:g}, {share:.0%}', f'  from ({y:g}, {x:g})']

    def optional(name: str, probability: float, words: str) -> None:
        if probability > 0:
            lines.append(words if value[name] else f'no {name}')

    optional('flip', recipe.flip_probability, 'flip')
    if recipe.rotation > 0:
        lines.append(f'rotation {value["rotation"]:+.1f} degrees')
    optional('jitter', recipe.jitter_probability, 'jitter')
    if value['jitter']:
        names = [_JITTER[i] for i in value['order']]
        names = [n for n in names if getattr(recipe, n) > 0 and (colour or n in _JITTER[:2])]
        for name in names:
            added = name == 'hue' or (name, recipe.brightness_mode) == ('brightness', 'additive')
            number = f'{value[name]:+.2f}' if added else f'x {value[name]:.2f}'
            lines.append(f'  {name} {number}')
    if colour:
        optional('grayscale', recipe.grayscale_probability, 'grayscale')
    if kernel_size(recipe, image_size) > 1:
        optional('blur', recipe.blur_probability, f'blur, sigma {value["sigma"]:.2f}')
    optional('solarize', recipe.solarize_probability, 'solarize')
    return lines


def draw_sheet(
    title: str,
    originals: list[np.ndarray],
    boxes: np.ndarray,
    views: np.ndarray,
    texts: list[list[list[str]]],
):
    """A picture with a row an image: the image with its crops, then each view and its text.

    Args:
      title: stands above.
      originals: `[height, width, channel]` uint8 each.
      boxes: `[n, view, 4]` (y, x, height, width) in pixels of the original.
      views: `[n, view, size, size, channel]` uint8.
      texts: lines for each image and view.

    Returns:
      A `PIL.Image.Image`.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    tile = _fit(views.shape[2:4])[0]
    pitch_x = tile + _TEXT_WIDTH + 2 * _MARGIN
    lines = max(len(text) for row in texts for text in row)
    pitch_y = max(tile, lines * _LINE) + _MARGIN
    top = 2 * _LINE + 2 * _MARGIN
    left = _TILE + 2 * _MARGIN
    size = (left + views.shape[1] * pitch_x, top + len(originals) * pitch_y)
    sheet = Image.new('RGB', size, 'white')
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, 'black', font)
    pen.text((_MARGIN, _MARGIN + _LINE), 'image and its crops', 'black', font)
    for view, colour in zip(range(views.shape[1]), _COLOURS, strict=True):
        x = left + view * pitch_x
        pen.text((x, _MARGIN + _LINE), f'view {view + 1}', colour, font)
        for row, image in enumerate(views[:, view]):
            y = top + row * pitch_y
            sheet.paste(_image(image), (x, y))
            for number, line in enumerate(texts[row][view]):
                pen.text((x + tile + _MARGIN, y + number * _LINE), line, 'black', font)
    for row, image in enumerate(originals):
        y, (height, width) = top + row * pitch_y, _fit(image.shape[:2])
        sheet.paste(_image(image), (_MARGIN, y))
        scale = np.array([height, width] * 2) / np.array(image.shape[:2] * 2)
        for box, colour in zip(boxes[row] * scale, _COLOURS, strict=True):
            corner = _MARGIN + box[1], y + box[0]
            pen.rectangle(
                (*corner, corner[0] + box[3] - 1, corner[1] + box[2] - 1), None, colour, 2
            )
    return sheet


def _fit(shape: tuple[int, int]) -> tuple[int, int]:
    """The height and width that an image of this shape has on the sheet."""
    scale = _TILE / max(shape)
    if scale >= 1:
        scale = int(scale)  # whole pixels, all of one size
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _image(pixels: np.ndarray):
    from PIL import Image

    height, width = _fit(pixels.shape[:2])
    resampling = Image.Resampling.NEAREST if height >= pixels.shape[0] else Image.Resampling.BOX
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return image.convert('RGB').resize((width, height), resampling)
