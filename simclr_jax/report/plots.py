"""Pictures for the report: SVG for what has lines and words, PNG for what has pixels."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from simclr_jax.report import svg

_PANELS = (
    ('loss', 'Loss', '{:.4g}'),
    ('learning_rate', 'Learning rate', '{:.3g}'),
    ('probe_accuracy', 'Probe accuracy', '{:.1%}'),
    ('embedding_std', 'Embedding spread', '{:.3g}'),
    ('effective_rank', 'Effective rank', '{:.3g}'),
    ('alignment', 'Alignment', '{:.3g}'),
    ('uniformity', 'Uniformity', '{:.3g}'),
)
_MAX_NAMES = 30


def curves(metrics: Sequence[dict[str, Any]], chance: dict[str, float] | None = None) -> list[str]:
    """One SVG each for the metrics of `_PANELS` over the steps; `probe_accuracy` is in [0, 1].

    What no row has is left out. A value that is not finite leaves a gap, and the title counts it.
    `chance` gives some metrics a dashed line: the value of an encoder that tells nothing apart.
    """
    panels = []
    for key, title, number in _PANELS:
        points = [(row['step'], row[key]) for row in metrics if row.get(key) is not None]
        if points:
            level = (chance or {}).get(key)
            panels.append(_curve(title, np.array(points, np.float64), number, level))
    return panels


def _curve(title: str, points: np.ndarray, number: str, chance: float | None) -> str:
    """Draws `points` [n, (step, value)]."""
    finite = points[np.isfinite(points[:, 1])]
    if len(finite) < len(points):
        title += f' ({len(points) - len(finite)} not finite)'
    if not len(finite):
        return svg.drawing(320, 216, title, svg.text(8, 16, title, weight='bold'))
    left, top, right, bottom = 52, 28, 300, 172
    shown = finite[:, 1] if chance is None else np.append(finite[:, 1], chance)
    low, high = np.transpose([svg.range_of(points[:, 0]), svg.range_of(shown)])

    def place(xy: np.ndarray) -> np.ndarray:
        return (xy - low) / (high - low) * (right - left, top - bottom) + (left, bottom)

    marks = [svg.text(8, 16, title, weight='bold')]
    for value in svg.ticks(low[1], high[1]):
        y = place(np.array([low[0], value]))[1]
        marks.append(f'<path d="M{left} {y:.1f}H{right}" stroke="currentColor" opacity=".15"/>')
        marks.append(svg.text(left - 6, y + 4, number.format(value), anchor='end'))
    for value in svg.ticks(low[0], high[0]):
        x = place(np.array([value, low[1]]))[0]
        words = f'{value:g}' if value < 10_000 else f'{value / 1000:g}k'
        marks.append(svg.text(x, bottom + 18, words, anchor='middle'))
    marks.append(svg.text((left + right) / 2, bottom + 36, 'step', anchor='middle'))
    if chance is not None:
        y = place(np.array([low[0], chance]))[1]
        dashes = 'stroke="currentColor" stroke-dasharray="4 4" opacity=".6"'
        marks.append(f'<path d="M{left} {y:.1f}H{right}" {dashes}/>')
        marks.append(svg.text(right, y - 5 if y > top + 14 else y + 14, 'chance', anchor='end'))
    line, dots = _polyline(place(_thin(points)))
    style = f'fill="none" stroke="{svg.PALETTE[0]}" stroke-linecap="round" stroke-linejoin="round"'
    marks.append(f'<path d="{line}" {style} stroke-width="2"/>')
    marks.append(f'<path d="{dots}" {style} stroke-width="6"/>')
    (x0, y0), (x1, y1) = finite[0], finite[-1]
    story = f'{number} at step {{:,.0f}}'
    label = f'{title}: {story.format(y0, x0)}, {story.format(y1, x1)}'
    if chance is not None:
        label += f'; chance is {number.format(chance)}'
    return svg.drawing(320, 216, label, ''.join(marks))


def _polyline(points: np.ndarray) -> tuple[str, str]:
    """Two paths: through the finite of `points` [n, 2], and dots for those that stand alone."""
    line, dots, pen = '', '', 'M'
    finite = np.pad(np.isfinite(points[:, 1]), 1)
    for (x, y), before, here, after in zip(points, finite, finite[1:], finite[2:], strict=False):
        if here and not before and not after:
            dots += f'M{x:.1f} {y:.1f}h0'  # an empty line of which the round caps are drawn
        elif here:
            line += f'{pen}{x:.1f} {y:.1f}'
        pen = 'L' if here else 'M'
    return line, dots


def _thin(points: np.ndarray, buckets: int = 400) -> np.ndarray:
    """At most three of each bucket's points: the lowest, the highest and one that is not finite."""
    if len(points) <= 3 * buckets:
        return points
    keep = set()
    for bucket in np.array_split(np.arange(len(points)), buckets):
        values = points[bucket, 1]
        finite = bucket[np.isfinite(values)]
        if len(finite):
            keep |= {finite[points[finite, 1].argmin()], finite[points[finite, 1].argmax()]}
        keep |= set(bucket[~np.isfinite(values)][:1])
    return points[sorted(keep)]


def view_sheet(views: np.ndarray) -> bytes:
    """A PNG of augmented `views` [n, view, h, w, c] `uint8`, those of an image side by side.

    Small images are enlarged with nearest pixels, large ones averaged down.
    """
    n, per_image = views.shape[:2]
    tiles = svg.tiles(views.reshape(-1, *views.shape[2:]))
    height, width = tiles.shape[1:3]
    columns = min(n, max(1, 8 // per_image))
    pitch_y, pitch_x = height + 14, (width + 2) * per_image + 12
    sheet = np.zeros((-(-n // columns) * pitch_y - 14, columns * pitch_x - 14, 4), np.uint8)
    for i, tile in enumerate(tiles):
        row, column = divmod(i // per_image, columns)
        y, x = row * pitch_y, column * pitch_x + i % per_image * (width + 2)
        sheet[y : y + height, x : x + width] = tile
    return svg.png(sheet)


def neighbour_sheet(
    queries: np.ndarray,
    neighbours: np.ndarray,
    query_labels: np.ndarray | None = None,
    neighbour_labels: np.ndarray | None = None,
    label_names: Sequence[str] | None = None,
    similarities: np.ndarray | None = None,
) -> str:
    """An SVG of `queries` [n, h, w, c] `uint8`, each with its `neighbours` [n, k, h, w, c].

    With `query_labels` [n] and `neighbour_labels` [n, k] a neighbour has a green frame where its
    label is the query's and a red, dashed one where not. Labels and `similarities` [n, k] stand
    below the images.
    """
    n, k = neighbours.shape[:2]
    tiles = svg.tiles(
        np.concatenate([queries[:, None], neighbours], axis=1).reshape(-1, *queries.shape[1:])
    )
    height, width = tiles.shape[1:3]
    labels = None
    if query_labels is not None and neighbour_labels is not None:
        labels = np.concatenate([np.reshape(query_labels, (n, 1)), neighbour_labels], axis=1)
    # The images are one PNG: one row of tiles a query, with room below each for the words.
    lines = (labels is not None) + (similarities is not None)
    pitch_x, pitch_y = width + 16, height + 16 + 16 * lines
    pixels = np.zeros((n * pitch_y, (k + 1) * pitch_x, 4), np.uint8)
    marks = []
    for i, tile in enumerate(tiles):
        row, column = divmod(i, k + 1)
        x, y = column * pitch_x + 4, row * pitch_y + 4
        pixels[y : y + height, x : x + width] = tile
        words = []
        if labels is not None:
            words.append(_name(labels[row, column], label_names))
            if column:
                marks.append(_frame(x, y, width, height, labels[row, column] == labels[row, 0]))
        if column and similarities is not None:
            words.append(f'{similarities[row, column - 1]:.3f}')
        for j, word in enumerate(words):
            short = word if len(word) * 7 <= width else word[: width // 7 - 1] + '…'
            marks.append(svg.text(x + width / 2, y + height + 17 + 15 * j, short, anchor='middle'))
    image = (
        f'<image width="{pixels.shape[1]}" height="{pixels.shape[0]}" '
        f'href="{svg.data_url(svg.png(pixels))}"/>'
    )
    label = f'{n} images, each with its {k} nearest neighbours to the right'
    return svg.drawing(pixels.shape[1], pixels.shape[0], label, image + ''.join(marks))


def _frame(x: int, y: int, width: int, height: int, same: bool) -> str:
    style = f'stroke="{svg.RIGHT}"' if same else f'stroke="{svg.WRONG}" stroke-dasharray="8 4"'
    return (
        f'<rect x="{x - 2}" y="{y - 2}" width="{width + 4}" height="{height + 4}" fill="none" '
        f'stroke-width="4" {style}/>'
    )


def scatter(
    points: np.ndarray,
    labels: np.ndarray | None = None,
    label_names: Sequence[str] | None = None,
) -> str:
    """An SVG of `points` [n, 2], coloured by `labels` [n], each label's name at its points' median.

    Points that are not finite are left out, and a note counts them. The 30 most frequent labels are
    in the legend, and named at their points where there is room; the others show their name under
    the pointer.
    """
    points = np.asarray(points, np.float64)
    named = labels is not None
    labels = np.asarray(labels) if named else np.zeros(len(points), np.int64)
    finite = np.isfinite(points).all(1)
    points, labels, left_out = points[finite], labels[finite], int((~finite).sum())
    note = svg.text(10, 550, f'Left out, because not finite: {left_out}') if left_out else ''
    title = f'{len(points)} points in two dimensions'
    if not len(points):
        return svg.drawing(720, 560, title, note)
    # One scale for both axes, so that distances stay comparable.
    low, high = points.min(0), points.max(0)
    scale = min(
        (720 - 100) / max(high[0] - low[0], 1e-12), (560 - 60) / max(high[1] - low[1], 1e-12)
    )
    points = (points - (low + high) / 2) * (scale, -scale) + (360, 280)
    radius = 2.5 if len(points) > 1000 else 4
    groups, centres, legend = [], [], []
    classes, counts = np.unique(labels, return_counts=True)
    for i in np.argsort(-counts, kind='stable'):
        members = points[labels == classes[i]]
        name = _name(classes[i], label_names) if named else ''
        groups.append(_marks(members, i, radius, name))
        centres.append((*np.median(members, axis=0), name))
        if named and len(legend) < _MAX_NAMES:
            y = 22 + 18 * len(legend)
            entry = _marks(np.array([[730.0, y - 4]]), i, 5, name)
            legend.append(entry + svg.text(742, y, name if len(name) < 25 else f'{name[:23]}…'))
    centres = centres[:_MAX_NAMES] if named else []
    if named:
        title += ': ' + ', '.join(name for *_, name in centres)
    marks = ''.join(groups) + ''.join(legend) + _spread(centres) + note
    return svg.drawing(920 if named else 720, 560, title, marks)


def _marks(points: np.ndarray, index: int, radius: float, name: str) -> str:
    """One path for one class: empty lines whose caps are the dots, or plus signs.

    Classes after the tenth repeat the colours in another shape.
    """
    colour, shape = svg.PALETTE[index % len(svg.PALETTE)], index // len(svg.PALETTE) % 3
    stroke = f'h{radius * 2}m-{radius} -{radius}v{radius * 2}' if shape == 2 else 'h0'
    offset = radius if shape == 2 else 0
    path = ''.join(f'M{x - offset:.1f} {y:.1f}{stroke}' for x, y in points)
    cap, width = ('round', 'square', 'butt')[shape], (2, 1.7, 0.8)[shape] * radius
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" '
        f'stroke-linecap="{cap}" stroke-opacity=".75"><title>{html.escape(name)}</title></path>'
    )


def _spread(centres: list[tuple[float, float, str]]) -> str:
    """Names at or near their centres, the first first; one that would cover others is left out."""
    placed: list[tuple[float, float, float]] = []
    texts = []
    for x, centre, name in centres:
        half = 4.5 * len(name) + 4
        for y in (centre, centre + 18, centre - 18, centre + 36, centre - 36):
            if all(abs(y - b) >= 18 or abs(x - a) >= half + other for a, b, other in placed):
                placed.append((x, y, half))
                texts.append(svg.text(x, y + 5, name, anchor='middle', weight='bold', halo=True))
                break
    return ''.join(texts)


def _name(label: Any, names: Sequence[str] | None) -> str:
    if names is None:
        return str(label)
    return str(names[int(label)]) if int(label) >= 0 else 'no label'
