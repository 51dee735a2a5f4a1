"""The page of a segmentation run: how good the masks are, class by class, and some of them beside
their pictures. One file with no script and nothing from elsewhere, as all pages.
"""

import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

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
from simclr_jax.report.mask_pictures import (
    IGNORED,
    class_colours,
    heat,
    paint,
    shrink_picture,
)

MOST_SAMPLES = 8  # test pictures on a page: with those of `SIDE` pixels it stays below about 8 MB
_SHOWN = {'fcn': 'FCN', 'raw_pixels': 'raw pixels'}  # a name in results to that on the page
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
_MEASURES = {'miou': 'mIoU', 'pixel_accuracy': 'pixel accuracy'}
_STYLE = """
:root { --bar: #cfe3f5; }
@media (prefers-color-scheme: dark) { :root { --bar: #1f4562; } }
.classes th { white-space: nowrap; }
.classes thead th { vertical-align: bottom; }
.classes thead th[scope=colgroup] { padding-left: 1rem; text-align: left; }
.classes thead th[scope=col] + th[scope=col], .classes thead tr + tr th {
  padding: .4rem .35rem .4rem 1rem; text-align: right; }
.classes thead tr:first-child th:first-child, .classes tbody th { position: sticky; left: 0;
  background: var(--page); }
.classes td { min-width: 5.5rem; padding: .4rem .35rem .4rem 1rem;
  background: linear-gradient(to right, var(--bar) var(--share, 0%), transparent 0)
  no-repeat 1rem 50% / calc(100% - 1rem) 75%; }
.swatch { display: inline-block; width: .9em; height: .9em; margin-right: .5em;
  border: 1px solid var(--line); vertical-align: -.08em; forced-color-adjust: none; }
.legend { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap;
  gap: .1rem 1.1rem; max-height: 30vh; margin: 0 -.5rem 1.5rem; padding: .5rem; overflow-y: auto;
  background: var(--page); border-bottom: 1px solid var(--line); list-style: none;
  font-size: .85rem; }
h3 { margin: 0 0 .5rem; font-size: 1rem; font-weight: normal; overflow-wrap: anywhere; }
.strip { display: grid; gap: .75rem; margin: 0 0 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(13rem, 45%), 1fr)); }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: .3rem; font-size: .8rem; line-height: 1.35; }
figcaption span { color: var(--quiet); }
"""


class Sample(NamedTuple):
    """A test picture, and what is said of it.

    Attributes:
      name: of the picture.
      picture: `[height, width, channel]` uint8, 1 or 3 channels.
      mask: `[height, width]` integers, the class of each pixel, -1 where it is ignored.
      predictions: name, in the order to show, to the predicted classes, of the mask's shape.
      colours: of the encoder's maps, `[rows, columns, 3]` uint8.
      attention: of a ViT's class token, the mean over the heads, `[rows, columns]`; None where
        there is none.
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
      samples: pictures to show. Of more than `MOST_SAMPLES` the first ones are shown; each is made
        smaller, so that the page stays small.
      metrics: of the training, rows as `read_metrics` returns them.
      views: crops that it was trained on, `[n, view, height, width, channel]` uint8.
      config_text: the whole config.

    Raises:
      ValueError: a mask of a sample has another size than its picture, or no class.
      OSError: the disk is full, or failed; an old page is as it was.
    """
    sections = [
        ('Results', _results(figures, notes)),
        ('Classes', _classes(figures, label_names, shares)),
        ('Pictures', _pictures(samples, label_names)),
        ('Curves', metric_curves(metrics)),
        ('Crops that were trained on', view_images(views)),
        ('Config', config_box(config_text)),
    ]
    write_page(path, title, f'{summary_list(summary)}\n{section_list(sections)}', _STYLE)


def _subjects(figures) -> list[str]:
    return list(dict.fromkeys(subject for of in figures.values() for subject in of))


def _shown(name: str) -> str:
    return escape(_SHOWN.get(name, name))


def _percent(share: float | None) -> str:
    return '-' if share is None else f'{100 * share:.1f}'


def _results(figures, notes) -> str:
    lines = ''.join(f'<p>{escape(note)}</p>' for note in notes)
    if not figures:
        return f'<p>Nothing was evaluated.</p>{lines}'
    subjects = _subjects(figures)
    header = ('way', 'measure', *map(_shown, subjects))
    head = ''.join(f'<th scope="col">{name}</th>' for name in header)
    rows = [
        [_shown(way), shown, *(_percent(of.get(name, {}).get(key)) for name in subjects)]
        for way, of in figures.items()
        for key, shown in _MEASURES.items()
    ]
    body = []
    for row in rows:
        # Compared as shown: two cells that read the same are both the best.
        best = max((cell for cell in row[2:] if cell != '-'), key=float, default=None)
        cells = (f'<strong>{c}</strong>' if c == best and len(row) > 3 else c for c in row[2:])
        body.append(
            '<tr>'
            + ''.join(f'<th scope="row">{name}</th>' for name in row[:2])
            + ''.join(f'<td>{cell}</td>' for cell in cells)
            + '</tr>'
        )
    table = f'<table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    words = ' '.join(_WORDS[name] for name in (*figures, *subjects) if name in _WORDS)
    return (
        scroll_box('Results', table)
        + '<p>In percent, on all pixels of the test pictures that are not ignored; the best of '
        'each row in bold. IoU of a class: the pixels that were found, over those that are of the '
        'class or were taken for it. mIoU: the mean over the classes; one that no pixel has and '
        f'none was taken for has no part in it.</p><p>{words}</p>{lines}'
    )


def _classes(figures, names, shares) -> str:
    colours = class_colours(len(names))
    columns = [found['per_class'] for of in figures.values() for found in of.values()]
    groups = ''.join(
        f'<th scope="colgroup" colspan="{len(of)}">{_shown(way)}</th>'
        for way, of in figures.items()
        if of
    )
    heads = ''.join(
        f'<th scope="col">{_shown(subject)}</th>' for of in figures.values() for subject in of
    )
    body = ''.join(
        f'<tr><th scope="row">{_swatch(colours[i])}{escape(name)}</th>'
        + ''.join(_bar(value) for value in (shares[i], *(each[name] for each in columns)))
        + '</tr>'
        for i, name in enumerate(names)
    )
    table = (
        '<table><thead><tr><th scope="col" rowspan="2">class</th>'
        f'<th scope="col" rowspan="2">share of pixels</th>{groups}</tr><tr>{heads}</tr></thead>'
        f'<tbody>{body}</tbody></table>'
    )
    return (
        f'<div class="classes">{scroll_box("Classes", table)}</div><p>The IoU of each class, and '
        'its share of the labelled pixels of the test pictures, in percent; - where no pixel is of '
        'it and none was taken for it.</p>'
    )


def _bar(share: float | None) -> str:
    style = '' if share is None else f' style="--share:{100 * share:.1f}%"'
    return f'<td{style}>{_percent(share)}</td>'


def _swatch(colour: np.ndarray) -> str:
    return f'<span class="swatch" style="background:rgb({",".join(map(str, colour))})"></span>'


def _pictures(samples: Sequence[Sample], names: Sequence[str]) -> str:
    if not samples:
        return '<p>There are no pictures to show.</p>'
    shown = samples[:MOST_SAMPLES]
    present = np.unique(np.concatenate([_check(sample, len(names)) for sample in shown]))
    colours = class_colours(len(names))
    entries = [f'{_swatch(colours[i])}{escape(names[i])}' for i in present[present >= 0]]
    if present[0] == IGNORED:
        stripes = svg.data_url(svg.png(paint(np.full((8, 8), IGNORED), 1)))
        entries.append(f'<span class="swatch" style="background:url({stripes})"></span>ignored')
    legend = ''.join(f'<li>{entry}</li>' for entry in entries)
    words = [f'{len(shown)} test pictures.' if len(shown) > 1 else 'A test picture.']
    if len(samples) > len(shown):
        words = [f'The first {len(shown)} of {len(samples)} test pictures that were kept.']
    words.append(
        'Below a prediction: the share of its pixels that are right; those that are ignored do '
        'not count. Maps: the first three principal components of the features as red, green and '
        'blue, the same for all pictures here; places of one colour are alike to the encoder.'
    )
    if any(sample.attention is not None for sample in shown):
        words.append(
            'Attention: what the class token looks at in the last block, the mean over the heads; '
            'light is most.'
        )
    strips = ''.join(_strip(sample, names) for sample in shown)
    return f'<p>{" ".join(words)}</p><ul class="legend">{legend}</ul>{strips}'


def _check(sample: Sample, classes: int) -> np.ndarray:
    """The classes of a sample's mask and predictions, which must fit its picture."""
    masks = {'mask': sample.mask, **sample.predictions}
    for name, mask in masks.items():
        if mask.shape != sample.picture.shape[:2]:
            raise ValueError(
                f'{name} of {sample.name} is {mask.shape}: it must have the size of the picture, '
                f'{sample.picture.shape[:2]}.'
            )
        if mask.min() < IGNORED or mask.max() >= classes:
            raise ValueError(
                f'{name} of {sample.name} runs from {mask.min()} to {mask.max()}: there are the '
                f'classes 0 to {classes - 1}, and {IGNORED} of ignored pixels.'
            )
    return np.concatenate([np.unique(mask) for mask in masks.values()])


def _strip(sample: Sample, names: Sequence[str]) -> str:
    name, classes = escape(sample.name), len(names)
    alt = f'the mask of {name}: {_most(sample.mask, names)}'
    figures = [
        _figure(shrink_picture(sample.picture), f'the picture {name}', 'picture'),
        _figure(paint(sample.mask, classes), alt, 'mask'),
    ]
    counted = sample.mask != IGNORED
    for way, predicted in sample.predictions.items():
        caption = _shown(way)
        if counted.any():
            right = np.mean((predicted == sample.mask)[counted])
            caption += f' <span>{100 * right:.1f} %</span>'
        alt = f'what {_shown(way)} predicts for {name}: {_most(predicted, names)}'
        figures.append(_figure(paint(predicted, classes), alt, caption))
    height, width = sample.picture.shape[:2]
    alt = f'the principal components of the maps of {name} as colours'
    figures.append(_figure(sample.colours, alt, 'maps', f'{width} / {height}'))
    if sample.attention is not None:
        alt = f'where the class token looks in {name}, as heat over the picture in gray'
        figures.append(_figure(heat(sample.picture, sample.attention), alt, 'attention'))
    return f'<article><h3>{name}</h3><div class="strip">{"".join(figures)}</div></article>'


def _most(mask: np.ndarray, names: Sequence[str]) -> str:
    """The three commonest classes of a mask in words, as HTML."""
    counts = np.bincount(mask[mask != IGNORED].ravel(), minlength=len(names))
    order = [i for i in np.argsort(-counts, kind='stable')[:3] if counts[i]]
    words = (f'{escape(names[i])} {100 * counts[i] / counts.sum():.0f} %' for i in order)
    return ', '.join(words) or 'all pixels are ignored'


def _figure(pixels: np.ndarray, alt: str, caption: str, ratio: str = '') -> str:
    height, width = pixels.shape[:2]
    # A map has few pixels, and the patches may not be square.
    style = f' style="aspect-ratio:{ratio};image-rendering:pixelated"' if ratio else ''
    return (
        f'<figure><img src="{svg.data_url(svg.png(pixels))}" width="{width}" height="{height}" '
        f'alt="{alt}"{style}><figcaption>{caption}</figcaption></figure>'
    )
