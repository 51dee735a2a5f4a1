"""The sheet of `--mode=preview`: images, their crops and views, and what was drawn for each."""

import numpy as np

from simclr_jax.augment.rand_augment import NONE, OPERATIONS
from simclr_jax.augment.recipe import JITTER, ViewRecipe, kernel_size

_TILE = 224  # pixels that an image of the sheet fits in
_TEXT_WIDTH, _LINE, _MARGIN = 150, 16, 12  # pixels
# Of the views' boxes: Okabe and Ito's colours, which stay apart with any colour vision.
_COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')


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
    for place, argument in zip(
        *(value.get(n, ()) for n in ('operations', 'arguments')), strict=True
    ):
        if place != NONE:
            lines.append(f'{OPERATIONS[place]} {argument:+.2f}')
    optional('jitter', recipe.jitter_probability, 'jitter')
    if value['jitter']:
        names = [JITTER[i] for i in value['order']]
        names = [n for n in names if getattr(recipe, n) > 0 and (colour or n in JITTER[:2])]
        for name in names:
            added = name == 'hue' or (name, recipe.brightness_mode) == ('brightness', 'additive')
            number = f'{value[name]:+.2f}' if added else f'x {value[name]:.2f}'
            lines.append(f'  {name} {number}')
    if colour:
        optional('grayscale', recipe.grayscale_probability, 'grayscale')
    if kernel_size(recipe, image_size) > 1:
        optional('blur', recipe.blur_probability, f'blur, sigma {value["sigma"]:.2f}')
    optional('solarize', recipe.solarize_probability, 'solarize')
    if recipe.erase_probability > 0:  # in the train step, after the pixels are normalized
        lines.append(f'erased later: {recipe.erase_probability:.0%} of the views')
    return lines


def draw_sheet(
    title: str,
    originals: list[np.ndarray],
    boxes: np.ndarray,
    views: np.ndarray,
    texts: list[list[list[str]]],
    names: list[str] | None = None,
):
    """A picture with a row an image: the image with its crops, then each view and its text.

    Args:
      title: stands above.
      originals: `[height, width, channel]` uint8 each.
      boxes: `[n, view, 4]` (y, x, height, width) in pixels of the original.
      views: `[n, view, size, size, channel]` uint8.
      texts: lines for each image and view.
      names: of the images, below each.

    Returns:
      A `PIL.Image.Image`.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    tile = _fit(views.shape[2:4])[0]
    pitch_x = tile + _TEXT_WIDTH + 2 * _MARGIN
    lines = max(len(text) for row in texts for text in row)
    tallest = max(_fit(image.shape[:2])[0] for image in originals) + (_LINE if names else 0)
    pitch_y = max(tile, lines * _LINE, tallest) + _MARGIN
    top = 2 * _LINE + 2 * _MARGIN
    left = _TILE + 2 * _MARGIN
    size = (left + views.shape[1] * pitch_x, top + len(originals) * pitch_y)
    sheet = Image.new('RGB', size, 'white')
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, 'black', font)
    pen.text((_MARGIN, _MARGIN + _LINE), 'image and its crops', 'black', font)
    colours = [_COLOURS[view % len(_COLOURS)] for view in range(views.shape[1])]
    for view, colour in enumerate(colours):
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
        if names:
            pen.text((_MARGIN, y + height), _shorten(names[row], font), 'gray', font)
        scale = np.array([height, width] * 2) / np.array(image.shape[:2] * 2)
        for box, colour in zip(boxes[row] * scale, colours, strict=True):
            corner = _MARGIN + box[1], y + box[0]
            pen.rectangle(
                (*corner, corner[0] + box[3] - 1, corner[1] + box[2] - 1), None, colour, 2
            )
    return sheet


def _shorten(name: str, font) -> str:
    """As much of the end of a name as fits below an image: the end tells files apart."""
    shown = name
    while font.getlength(shown) > _TILE:
        name = name[1:]
        shown = f'...{name}'
    return shown


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
