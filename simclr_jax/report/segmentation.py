"""The page of a segmentation: how well pixels are told by each way, and pictures to look at."""

import colorsys
import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from simclr_jax.report import svg
from simclr_jax.report.html import (
    config_box,
    metric_curves,
    scroll_box,
    section_list,
    summary_list,
    view_images,
    write_page,
)

_WIDTH = 256  # pixels: the longer side of a picture on the page
_GOLDEN = 0.618034  # of a turn, between the hues of classes beyond the palette
_WORDS = {
    'linear': (
        'Linear: batch normalization and a linear classifier of each place of the maps, as in '
        'DINOv2.'
    ),
    'plain': 'Plain: a linear classifier without the normalization, as in STEGO.',
    'retrieval': (
        'Retrieval: a vote of the most similar places of training pictures, with no training at '
        'all, as in Hummingbird.'
    ),
    'fcn': 'FCN: the encoder, trained with a small convolutional head, as in BYOL.',
    'encoder': 'Encoder: the one that was given.',
    'untrained': 'Untrained: the same encoder before any training.',
    'raw_pixels': 'Raw pixels: no encoder at all.',
}
_STYLE = """
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(13rem, 100%), 1fr));
  gap: 1rem; margin: 0 0 2rem; padding: 0; list-style: none; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: .3rem; font-size: .8rem; line-height: 1.4; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; }
.legend span { display: inline-block; width: 1em; height: 1em; margin-right: .4em;
  vertical-align: -.1em; border: 1px solid var(--line); }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere; }
"""


class Sample(NamedTuple):
    """A test picture and what was said of it.

    Attributes:
      name: of its file.
      picture: uint8 `[height, width, channel]`.
      mask: `[height, width]`, -1 where a pixel does not count.
      predictions: what said it, to classes `[height, width]`.
      colours: of the encoder's maps, uint8 `[rows, columns, 3]`.
      attention: of the class token, `[rows, columns]`; None without one.
    """

    name: str
    picture: np.ndarray
    mask: np.ndarray
    predictions: Mapping[str, np.ndarray]
    colours: np.ndarray
    attention: np.ndarray | None = None


def write_segmentation(
    path: str | os.PathLike,
    *,
    title: str,
    summary: dict[str, Any],
    figures: Mapping[str, Mapping[str, Any]],
    label_names: Sequence[str],
    shares: Sequence[float],
    notes: Sequence[str],
    samples: Sequence[Sample],
    metrics: Sequence[dict[str, Any]],
    views: np.ndarray | None,
    config_text: str,
) -> None:
    """Writes the page.

    Args:
      path: the HTML file.
      title: the heading.
      summary: what was run: names and values.
      figures: `{way: {maps: figures}}`, as `evaluate.segmentation.figures` returns them.
      label_names: of the classes.
      shares: of each class among the labelled pixels of the test pictures, in [0, 1].
      notes: sentences below the table.
      samples: pictures to show.
      metrics: of the training, rows as `read_metrics` returns them.
      views: crops that it was trained on, `[n, view, height, width, channel]` uint8.
      config_text: the whole config.

    Raises:
      OSError: the disk is full, or failed; an old page is as it was.
    """
    names = dict.fromkeys(name for by_maps in figures.values() for name in by_maps)
    words = ' '.join(_WORDS[name] for name in (*figures, *names))
    lines = ''.join(f'<p>{escape(text)}</p>' for text in (words, *notes))
    sections = [
        ('Results', results_table(figures) + lines),
        ('Classes', _classes(figures, label_names, shares)),
        ('Pictures', _pictures(samples, label_names)),
        ('Curves', metric_curves(metrics)),
        ('Crops that were trained on', view_images(views)),
        ('Config', config_box(config_text)),
    ]
    write_page(path, title, f'{summary_list(summary)}\n{section_list(sections)}', _STYLE)


def results_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns mean IoU and pixel accuracy as HTML."""
    values = [f for by_maps in figures.values() for f in by_maps.values()]
    best = {key: max((f[key] or 0 for f in values), default=0) for key in _COLUMNS}
    rows = []
    for way, by_maps in figures.items():
        for name, found in by_maps.items():
            cells = ''.join(
                f'<td>{_percent(found[key], found[key] == best[key])}</td>' for key in _COLUMNS
            )
            rows.append(
                f'<tr><th scope="row">{_shown(way)}</th><th scope="row">{_shown(name)}</th>'
                f'{cells}</tr>'
            )
    head = ''.join(f'<th scope="col">{text}</th>' for text in ('way', 'maps', *_COLUMNS.values()))
    table = f'<table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return scroll_box('Results', table) + (
        '<p>In percent, the best in bold. Mean IoU: of each class, the pixels that are of it and '
        'taken for it, divided by those that are either, over all test pictures; then the mean '
        'over classes. Pixel accuracy: the share of the labelled pixels that are right.</p>'
    )


_COLUMNS = {'miou': 'mean IoU', 'pixel_accuracy': 'pixel accuracy'}


def class_colours(count: int) -> np.ndarray:
    """Returns a colour for each class, uint8 `[count, 3]`; ten that stay apart for everybody."""
    colours = [tuple(bytes.fromhex(text[1:])) for text in svg.PALETTE]
    for i in range(count - len(colours)):
        # Around the circle of hues, in three shades one after the other.
        shade = (0.95, 0.55, 0.75)[i % 3]
        rgb = colorsys.hsv_to_rgb(i * _GOLDEN % 1, (0.85, 0.6, 0.35)[i // 3 % 3], shade)
        colours.append(tuple(round(255 * x) for x in rgb))
    return np.array(colours[:count], np.uint8)


def painted(classes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Returns classes `[height, width]` in their colours, uint8; -1 is striped in grey."""
    rows, columns = np.indices(classes.shape)
    stripes = np.where(((rows + columns) // 6 % 2 == 0)[..., None], 205, 165)
    return np.where((classes < 0)[..., None], stripes, colours[classes]).astype(np.uint8)


def _classes(
    figures: Mapping[str, Mapping[str, Any]], names: Sequence[str], shares: Sequence[float]
) -> str:
    columns = [
        (way, maps, found['per_class'])
        for way, by_maps in figures.items()
        for maps, found in by_maps.items()
    ]
    head = ''.join(
        f'<th scope="col">{text}</th>'
        for text in ('class', 'pixels', *(f'{_shown(w)}, {_shown(m)}' for w, m, _ in columns))
    )
    rows = ''.join(
        f'<tr><th scope="row">{escape(name)}</th><td>{100 * share:.1f}</td>'
        + ''.join(f'<td>{_percent(found[name])}</td>' for _, _, found in columns)
        + '</tr>'
        for name, share in zip(names, shares, strict=True)
    )
    table = f'<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return (
        '<p>The intersection over union of each class, in percent, and its share of the labelled '
        'test pixels. A dash: it is neither in a mask nor in a prediction, and is left out of the '
        f'mean.</p>{scroll_box("Classes", table)}'
    )


def _pictures(samples: Sequence[Sample], names: Sequence[str]) -> str:
    if not samples:
        return '<p>There are no pictures to show.</p>'
    colours = class_colours(len(names))
    legend = ''.join(
        f'<li><span style="background:#{bytes(colour).hex()}"></span>{escape(name)}</li>'
        for name, colour in zip(names, colours.tolist(), strict=True)
    )
    parts = [
        '<p>Grey stripes in a mask: pixels that do not count. Maps: the three principal components '
        'of the features as red, green and blue, the same for all pictures here. Attention: what '
        'the class token of a ViT looks at in its last block, the mean over heads.</p>'
        f'<ul class="legend">{legend}</ul>'
    ]
    for sample in samples:
        size = sample.picture.shape[:2]
        shown = [('picture', sample.picture, False), ('mask', painted(sample.mask, colours), True)]
        for way, classes in sample.predictions.items():
            right = (classes == sample.mask)[sample.mask >= 0]
            share = f'{100 * right.mean():.1f} % right' if right.size else 'no pixel counts'
            shown.append((f'{_shown(way)}, {share}', painted(classes, colours), True))
        shown.append(('maps', sample.colours, False))
        if sample.attention is not None:
            heat = sample.attention / max(float(sample.attention.max()), 1e-12)
            grey = np.rint(255 * heat).astype(np.uint8)[..., None].repeat(3, axis=-1)
            shown.append(('attention', grey, False))
        figures = ''.join(_figure(caption, pixels, size, exact) for caption, pixels, exact in shown)
        parts.append(f'<h3>{escape(sample.name)}</h3><ul class="strip">{figures}</ul>')
    return ''.join(parts)


def _figure(caption: str, pixels: np.ndarray, size: tuple[int, int], exact: bool) -> str:
    """A picture with its caption, as large as the others; `exact` mixes no colours."""
    factor = _WIDTH / max(size)
    shape = tuple(max(1, round(side * factor)) for side in size[::-1])
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert('RGBA')
    method = Image.Resampling.NEAREST if exact else Image.Resampling.BILINEAR
    url = svg.data_url(svg.png(np.asarray(image.resize(shape, method))))
    text = escape(caption)
    return (
        f'<li><figure><img src="{url}" alt="{text}" width="{shape[0]}" height="{shape[1]}">'
        f'<figcaption>{text}</figcaption></figure></li>'
    )


def _shown(name: str) -> str:
    return escape({'fcn': 'FCN'}.get(name, name.replace('_', ' ')))


def _percent(share: float | None, best: bool = False) -> str:
    text = '-' if share is None else f'{100 * share:.1f}'
    return f'<strong>{text}</strong>' if best else text
