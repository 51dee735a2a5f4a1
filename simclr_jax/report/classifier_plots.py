"""Pictures of how good a classifier is: by the number of labels, its confusions, how sure it is."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from simclr_jax.report import svg

_DASHES = ('', '7 3', '2 3', '9 3 2 3')  # ways stay apart without colours, too
_NUMBERS, _NAMES = 30, 200  # up to so many classes cells have numbers, rows and columns names
_LONGEST = 20  # characters of a class's name


class Point(NamedTuple):
    """Accuracy of one way at one number of labels.

    Attributes:
      labels: a class, above 0; the mean number where classes have different ones.
      mean: over the draws, in [0, 1].
      std: over the draws.
    """

    labels: float
    mean: float
    std: float


def learning_curve(ways: Mapping[str, Sequence[Point]], everything: float | None = None) -> str:
    """An SVG of accuracy against the labels a class, whose axis is logarithmic; a line a way.

    A band is one standard deviation to either side.

    Args:
      ways: name to its points, in any order; one without points is left out.
      everything: the labels a class where all are used, which the axis then says.

    Returns:
      '' where there is no point.
    """
    ways = {name: sorted(points) for name, points in ways.items() if points}
    if not ways:
        return ''
    left, top, right, bottom, width, height = 64, 34, 590, 336, 760, 392
    counts = sorted({point.labels for points in ways.values() for point in points})
    every = [p for points in ways.values() for p in points]
    low = 100 * max(0.0, min(p.mean - p.std for p in every))
    high = 100 * min(1.0, max(p.mean + p.std for p in every))
    low, high = svg.range_of(np.array([low, high]))
    low, high = max(0.0, low - 0.05 * (high - low)), min(100.0, high + 0.05 * (high - low))
    first, last = svg.range_of(np.log(counts))

    def x(labels: float) -> float:
        return left + (math.log(labels) - first) / (last - first) * (right - left)

    def y(accuracy: float) -> float:
        return bottom + (min(max(100 * accuracy, low), high) - low) / (high - low) * (top - bottom)

    marks = [svg.text(8, 16, 'Test accuracy in percent', weight='bold')]
    for value in svg.ticks(low, high):
        at = y(value / 100)
        marks.append(f'<path d="M{left} {at:.1f}H{right}" stroke="currentColor" opacity=".15"/>')
        marks.append(svg.text(left - 8, at + 4, f'{value:g}', anchor='end'))
    marks += _count_names(counts, everything, x, bottom)
    middle = (left + right) / 2
    marks.append(svg.text(middle, bottom + 44, 'labels a class (logarithmic)', anchor='middle'))
    ends, told = [], []
    for number, (name, points) in enumerate(ways.items()):
        colour = svg.PALETTE[number % len(svg.PALETTE)]
        dash = _DASHES[number % len(_DASHES)]
        places = [(x(p.labels), y(p.mean)) for p in points]
        upper = [f'{x(p.labels):.1f} {y(p.mean + p.std):.1f}' for p in points]
        lower = [f'{x(p.labels):.1f} {y(p.mean - p.std):.1f}' for p in reversed(points)]
        marks.append(
            f'<path d="M{"L".join(upper + lower)}Z" fill="{colour}" opacity=".18" stroke="none"/>'
        )
        line = 'L'.join(f'{a:.1f} {b:.1f}' for a, b in places)
        style = f' stroke-dasharray="{dash}"' if dash else ''
        marks.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"{style}/>')
        dots = ''.join(f'M{a:.1f} {b:.1f}h0' for a, b in places)
        marks.append(
            f'<path d="{dots}" stroke="{colour}" stroke-width="8" stroke-linecap="round"/>'
        )
        ends.append((places[-1][1], name, colour, style))
        values = ', '.join(f'{100 * p.mean:.1f} with {p.labels:g}' for p in points)
        told.append(f'{name}: {values}')
    marks += _legend(ends, right)
    label = f'Accuracy in percent by labels a class. {"; ".join(told)}'
    return svg.drawing(width, height, label, ''.join(marks))


def _count_names(counts, everything, x, bottom) -> list[str]:
    """The axis: how many labels a class; where two names would touch, the left one is left out."""
    marks, limit = [], math.inf
    for count in reversed(counts):
        at, words = x(count), f'{count:,.0f}' if count >= 10 else f'{count:g}'
        if count == everything:
            words = f'all ({words})'
        half = 3.6 * len(words) + 4
        marks.append(
            f'<path d="M{at:.1f} {bottom}v5" stroke="currentColor" opacity=".5" fill="none"/>'
        )
        if at + half <= limit:
            marks.append(svg.text(at, bottom + 20, words, anchor='middle'))
            limit = at - half
    return marks


def _legend(ends: Sequence[tuple[float, str, str, str]], right: float) -> list[str]:
    """The ways' names where their lines end, from the top down, moved apart where they touch."""
    ends, below, marks = sorted(ends), -math.inf, []
    for number, (at, name, colour, style) in enumerate(ends):
        at = max(min(at, 336 - 18 * (len(ends) - 1 - number)), below)
        below = at + 18
        marks.append(
            f'<path d="M{right + 12} {at:.1f}h24" fill="none" stroke="{colour}" '
            f'stroke-width="3"{style}/>'
        )
        marks.append(svg.text(right + 42, at + 4, name))
    return marks


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> str:
    """An SVG of how many pictures of each class, a row, were taken for each class, a column.

    A cell's colour is its share of the row; of mistakes its square root, so that single ones are
    seen. Up to 30 classes have the counts in the cells, up to 200 their names.

    Args:
      counts: `[class, class]`.
      names: of the classes.
    """
    n = len(counts)
    cell = 44 if n <= 12 else 28 if n <= _NUMBERS else 12 if n <= _NAMES else max(1, 1000 // n)
    font = 12 if n <= _NUMBERS else 10
    short = [_shortened(name) for name in names]
    longest = max(map(len, short)) * font * 0.6 + 10 if n <= _NAMES else 24
    turned = longest > cell  # the columns' names do not fit side by side
    left, top = max(longest, 24) + 18, (longest if turned and n <= _NAMES else font + 8) + 24
    side = cell * n
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    marks = [
        svg.text(left + side / 2, 14, 'taken for', anchor='middle', weight='bold'),
        f'<text transform="translate(12 {top + side / 2:g}) rotate(-90)" text-anchor="middle" '
        'font-weight="bold">class</text>',
        f'<image x="{left:g}" y="{top:g}" width="{side}" height="{side}" '
        'style="image-rendering:pixelated" preserveAspectRatio="none" '
        f'href="{svg.data_url(svg.png(_cells(counts / totals)))}"/>',
        f'<rect x="{left:g}" y="{top:g}" width="{side}" height="{side}" fill="none" '
        'stroke="currentColor" stroke-opacity=".4"/>',
    ]
    if n <= _NAMES:
        marks.append(f'<g font-size="{font}">')
        right = 100 * np.diag(counts) / totals[:, 0]
        for i, name in enumerate(short):
            middle = (i + 0.5) * cell + font * 0.35
            marks.append(svg.text(left - 6, top + middle, name, anchor='end'))
            share = f'{right[i]:.0f} %' if counts[i].sum() else '-'
            marks.append(svg.text(left + side + 6, top + middle, share))
            if turned:
                marks.append(
                    f'<text transform="translate({left + middle:.1f} {top - 6:g}) rotate(-90)">'
                    f'{html.escape(name)}</text>'
                )
            else:
                marks.append(svg.text(left + (i + 0.5) * cell, top - 6, name, anchor='middle'))
        marks.append('</g>')
    if n <= _NUMBERS:
        for i, j in np.argwhere(counts):
            at = left + (j + 0.5) * cell, top + (i + 0.5) * cell + 4
            weight = 'bold' if i == j else 'normal'
            marks.append(svg.text(*at, f'{counts[i, j]}', anchor='middle', weight=weight))
    label = f'Confusion matrix of {n} classes: {np.trace(counts)} of {counts.sum()} pictures right'
    return svg.drawing(left + side + 56, top + side + 10, label, ''.join(marks))


def reliability_diagram(
    counts: Sequence[int], confidence: Sequence[float | None], accuracy: Sequence[float | None]
) -> str:
    """An SVG of how often predictions are right, by how sure they are; a dot a bin.

    Args:
      counts: predictions in each bin; a dot's area is their share.
      confidence: their mean probability, None of an empty bin.
      accuracy: the share of them that is right, None of an empty bin.
    """
    left, top, side = 64, 34, 300
    bottom, right, total = top + side, left + side, max(sum(counts), 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + side * x, bottom - side * y

    marks = [svg.text(8, 16, 'Right, in percent', weight='bold')]
    for value in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x, y = place(value, value)
        marks.append(f'<path d="M{left} {y:.1f}H{right}" stroke="currentColor" opacity=".15"/>')
        marks.append(svg.text(left - 8, y + 4, f'{100 * value:g}', anchor='end'))
        marks.append(svg.text(x, bottom + 20, f'{100 * value:g}', anchor='middle'))
    middle = left + side / 2
    marks.append(svg.text(middle, bottom + 42, 'probability in percent', anchor='middle'))
    marks.append(
        f'<path d="M{left} {bottom}L{right} {top}" stroke="currentColor" opacity=".5" '
        'stroke-dasharray="4 4" fill="none"/>'
    )
    told = []
    for count, sure, share in zip(counts, confidence, accuracy, strict=True):
        if count:
            x, y = place(sure, share)
            radius = 3 + 15 * math.sqrt(count / total)
            told.append(f'{count} of {100 * sure:.0f} %: {100 * share:.0f} % right')
            marks.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{svg.PALETTE[0]}" '
                f'fill-opacity=".6"><title>{told[-1]}</title></circle>'
            )
    label = f'How often predictions are right, by their probability. {"; ".join(told)}'
    return svg.drawing(right + 24, bottom + 52, label, ''.join(marks))


def _cells(share: np.ndarray) -> np.ndarray:
    """A pixel a cell, RGBA: the page shows through where a share `[class, class]` is small."""
    pixels = np.zeros((*share.shape, 4), np.uint8)
    pixels[..., :3] = _rgb(svg.WRONG)
    pixels[np.arange(len(share)), np.arange(len(share)), :3] = _rgb(svg.RIGHT)
    alpha = np.sqrt(share)
    np.fill_diagonal(alpha, np.diag(share) * 0.8)
    pixels[..., 3] = np.rint(255 * alpha)
    return pixels


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f'{name[: _LONGEST - 1]}…'
