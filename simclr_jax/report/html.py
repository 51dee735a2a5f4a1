"""The page that a run leaves behind: one file, with no script and nothing from elsewhere."""

import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from etils import epath

from simclr_jax import files
from simclr_jax.config import PROBES
from simclr_jax.progress import format_duration
from simclr_jax.report import plots, svg

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --quiet: #57606a; --line: #d5dae0; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181d; --ink: #e4e8ec; --quiet: #9aa5b1; --line: #38414b; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { margin: 0 0 1rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.25rem; }
p { color: var(--quiet); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; margin: 0; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem 1rem .4rem 0; border-bottom: 1px solid var(--line); text-align: left; }
td, thead th:nth-child(n + 3) { padding: .4rem 0 .4rem 1.5rem; text-align: right; }
th { font-weight: normal; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
.curves svg, .projection svg { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
.scroll img, .scroll svg { display: block; max-width: 100%; min-width: 40rem; height: auto; }
pre { max-height: 30rem; margin: 0; padding: 1rem; overflow: auto; border: 1px solid var(--line);
  font: .85rem/1.5 ui-monospace, monospace; }
"""


def write_report(
    path: str | os.PathLike,
    *,
    title: str,
    summary: dict[str, Any] | None = None,
    table: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
    test_size: int | None = None,
    metrics: Sequence[dict[str, Any]] | None = None,
    chance: dict[str, float] | None = None,
    views: np.ndarray | None = None,
    neighbours: dict[str, Any] | None = None,
    projection: dict[str, Any] | None = None,
    config_text: str | None = None,
) -> None:
    """Writes one run's page to `path`; what is None or empty leaves a line that says so.

    Args:
        path: The HTML file. Folders on the way are made.
        title: The heading.
        summary: What was run: `command`, `method`, `encoder`, `data`, `steps`, `seconds`,
            `images_per_second`, or other names, in the order to show.
        table: Accuracies, as `format_table` takes them.
        notes: Sentences below the table: on what the accuracies are, and what to compare with.
        test_size: How many images the accuracies are of.
        metrics: Rows as `read_metrics` returns them, for `plots.curves`.
        chance: As `plots.curves` takes it.
        views: Augmented views [n, view, height, width, channel] `uint8`.
        neighbours: The arguments of `plots.neighbour_sheet`.
        projection: The arguments of `plots.scatter`.
        config_text: The whole config, as text.
    """
    sections = [
        ('Results', _results(table, notes, test_size)),
        ('Curves', metric_curves(metrics or (), chance)),
        ('Augmented views', view_images(views)),
        ('Nearest neighbours', _neighbours(neighbours)),
        ('Projection', _projection(projection)),
        ('Config', config_box(config_text)),
    ]
    write_page(path, title, f'{summary_list(summary)}\n{section_list(sections)}')


def section_list(sections: Iterable[tuple[str, str]]) -> str:
    """Returns sections as HTML, of headings as text and contents as HTML."""
    return ''.join(
        f'<section aria-labelledby="section-{i}"><h2 id="section-{i}">{escape(name)}</h2>\n'
        f'{content}\n</section>\n'
        for i, (name, content) in enumerate(sections)
    )


def write_page(path: str | os.PathLike, title: str, content: str, style: str = '') -> None:
    """Writes a page in one move; folders on the way are made.

    Args:
      path: the file.
      title: the heading, as text.
      content: what stands below it, as HTML.
      style: CSS beside that of all pages.
    """
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>\n'
        f'<body><main>\n<h1>{escape(title)}</h1>\n{content}</main></body></html>\n'
    )
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, page)


def format_table(table: dict[str, Any], first: str = 'probe') -> str:
    """The results as aligned plain text, in percent; `first` is the first column's heading.

    `table` is {probe: {features: {labels: {'mean': fraction, 'std': fraction or None}}}}: probes
    such as `linear_eval` and `knn`, features such as `encoder`, `untrained` and `raw_pixels`, and
    labels `all` or how many a class, such as `10`.
    """
    header, rows = _cells(table, None, first)
    return align([header, *([*names, *(text for text, _ in cells)] for names, cells in rows)])


def align(lines: Sequence[Sequence[str]]) -> str:
    """Returns the cells of lines as a table of plain text, all but the first two to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        '  '.join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(
    table: dict[str, Any], test_size: int | None, first: str = 'probe'
) -> tuple[list[str], list[tuple[tuple[str, str], list[tuple[str, bool]]]]]:
    """The header, and each row's two names and its cells: the text, and whether it is best.

    So are those that are worse by less than the standard error that `test_size` images have.
    """
    features = list(dict.fromkeys(name for probe in table.values() for name in probe or {}))
    rows = []
    for probe, results in table.items():
        results = results or {}
        for labels in dict.fromkeys(key for result in results.values() for key in result or {}):
            values = [(results.get(name) or {}).get(labels) for name in features]
            # Compared as shown: two cells that read the same are both the best.
            means = [
                None if v is None or v['mean'] is None else round(v['mean'], 3) for v in values
            ]
            best = max((m for m in means if m is not None and math.isfinite(m)), default=None)
            names = (PROBES.get(probe, probe), labels)
            close = best - _standard_error(best, test_size) if best is not None else 0.0
            cells = [
                (_percent(v), m is not None and m >= close)
                for v, m in zip(values, means, strict=True)
            ]
            rows.append((names, cells))
    return [first, 'labels', *(name.replace('_', ' ') for name in features)], rows


def _standard_error(accuracy: float, test_size: int | None) -> float:
    """Of a share of `test_size` images (binomial); 0 where the number is not known."""
    return math.sqrt(accuracy * (1 - accuracy) / test_size) if test_size else 0.0


def _percent(value: dict[str, float | None] | None) -> str:
    if value is None or value['mean'] is None:
        return '-'
    text = f'{100 * value["mean"]:.1f}'
    return text + (f' +- {100 * value["std"]:.1f}' if value.get('std') else '')


def summary_list(summary: dict[str, Any] | None) -> str:
    """Returns names and values as HTML: what was run."""
    shown = {name: value for name, value in (summary or {}).items() if value is not None}
    if not shown:
        return '<p>What was run was not recorded.</p>'
    items = []
    for name, value in shown.items():
        if name == 'seconds':
            name, value = 'time', format_duration(value)
        elif name == 'images_per_second':
            name, value = 'images/s', f'{value:,.0f}'
        number = isinstance(value, int) and name != 'seed'
        text = escape(f'{value:,}' if number else str(value))
        text = f'<code>{text}</code>' if name == 'command' else text
        items.append(f'<dt>{escape(name.replace("_", " "))}</dt><dd>{text}</dd>')
    return f'<dl>{"".join(items)}</dl>'


def _results(table: dict[str, Any] | None, notes: Sequence[str], test_size: int | None) -> str:
    lines = ''.join(f'<p>{escape(note)}</p>' for note in notes)
    if not (shown := results_table(table or {}, test_size)):
        return lines or '<p>The run ended without an evaluation.</p>'
    return (
        f'{shown}<p>Linear: logistic regression on frozen features. k-NN: a vote of the nearest '
        'training images. Labels: how many of each class the probe was given; with fewer than all, '
        'the mean ± the standard deviation over several random draws of them. Encoder: this run. '
        'Untrained: the same encoder before training. Raw pixels: no encoder at all.</p>' + lines
    )


def results_table(table: dict[str, Any], test_size: int | None, first: str = 'probe') -> str:
    """Returns the accuracies as HTML, with a sentence on their error; '' where there is none.

    Args:
      table: as `format_table` takes it.
      test_size: how many images the accuracies are of, if that is known.
      first: the heading of the first column.
    """
    header, rows = _cells(table, test_size, first)
    if not rows:
        return ''
    head = ''.join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = []
    for names, cells in rows:
        line = ''.join(f'<th scope="row">{escape(name)}</th>' for name in names)
        for text, best in cells:
            text = escape(text).replace('+-', '±')
            line += f'<td>{f"<strong>{text}</strong>" if best else text}</td>'
        body.append(f'<tr>{line}</tr>')
    error = ''
    if test_size:
        largest = max(_standard_error(p, test_size) for p in _means(table))
        error = (
            f' One of the {test_size:,} test images is {100 / test_size:.2g} points; the standard '
            f'error of an accuracy is up to {100 * largest:.1f} points, and what is worse than the '
            'best by less is bold, too.'
        )
    content = f'<table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return (
        scroll_box('Results', content)
        + f'<p>Accuracy in percent on test images, the best of each row in bold.{error}</p>'
    )


def _means(table: dict[str, Any]) -> list[float]:
    found = [
        value['mean']
        for results in table.values()
        for result in (results or {}).values()
        for value in (result or {}).values()
    ]
    return [mean for mean in found if mean is not None and 0 <= mean <= 1] or [0.0]


def metric_curves(metrics: Sequence[dict[str, Any]], chance: dict[str, float] | None = None) -> str:
    """Returns the curves of `plots.curves` as HTML."""
    panels = plots.curves(metrics, chance)
    if not panels:
        return '<p>No metrics were recorded.</p>'
    words = ''
    if chance:
        words = '<p>Dashed: the loss of an encoder that tells no two images apart.</p>'
    return f'<div class="curves">{"".join(panels)}</div>{words}'


def view_images(views: np.ndarray | None) -> str:
    """Returns augmented views `[n, view, height, width, channel]` uint8 as HTML."""
    if views is None or not len(views):
        return '<p>No augmented views were recorded.</p>'
    if (of_each := views.shape[1]) > 1:
        alt = f'{len(views)} images, {of_each} augmented views of each side by side'
        words = 'Views side by side are of the same image.'
    else:
        alt = words = f'{len(views)} images as they were trained on, augmented.'
    image = f'<img src="{svg.data_url(plots.view_sheet(views))}" alt="{alt}">'
    return f'<p>{words}</p>{scroll_box("Augmented views", image)}'


def _neighbours(neighbours: dict[str, Any] | None) -> str:
    if neighbours is None or not len(neighbours['queries']):
        return '<p>No nearest neighbours were computed.</p>'
    text = 'Left: the image. Right: the images whose features are most similar.'
    if neighbours.get('query_labels') is not None:
        text += ' Solid green frame: the same label; dashed red frame: another one.'
    if neighbours.get('similarities') is not None:
        text += ' The number is the cosine similarity.'
    return f'<p>{text}</p>' + scroll_box('Nearest neighbours', plots.neighbour_sheet(**neighbours))


def _projection(projection: dict[str, Any] | None) -> str:
    if projection is None or not len(projection['points']):
        return '<p>No projection was computed.</p>'
    return (
        '<p>Each dot is a test image, placed by the two principal components of its features '
        '(PCA): the directions in which they vary most.</p>'
        f'<div class="projection">{plots.scatter(**projection)}</div>'
    )


def config_box(config_text: str | None) -> str:
    """Returns the text of a config as HTML."""
    if not config_text:
        return '<p>The config was not recorded.</p>'
    return f'<pre tabindex="0" role="region" aria-label="Config">{escape(config_text)}</pre>'


def scroll_box(label: str, content: str) -> str:
    """Returns a box that scrolls sideways on a narrow screen, with the keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{content}</div>'
