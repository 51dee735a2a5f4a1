"""The page beside a table of vectors, for those who would rather look than read.

One file with no script and nothing from elsewhere. It holds thumbnails of what it shows alone:
`MOST_THUMBNAILS` at most, of `MOST_BYTES` at most each, so it stays below 5 MB and opens at once
however many pictures there are.
"""

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from simclr_jax.report.html import summary_list, write_page

GROUPS, OF_GROUP = 40, 6  # near-duplicates: groups shown, and pictures of each
CENTRAL = 8  # pictures of each cluster
ODD = 24  # odd ones out
MOST_BYTES = 6000  # of a thumbnail
MOST_THUMBNAILS = GROUPS * OF_GROUP + 30 * CENTRAL + ODD
_SIDE = 96  # pixels, of the longer side
_LABELS = 3  # named of a cluster
_CHARACTERS = 200  # shown of a name

# Near-duplicates: their rows, and how similar the others are to the first one.
Group = tuple[Sequence[int], Sequence[float]]
# How many pictures, rows of the most central ones, and label to the number of its pictures.
Cluster = tuple[int, Sequence[int], Mapping[int, int]]

_STYLE = """
nav { margin: 1.5rem 0; display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; }
a { color: inherit; }
a:focus-visible, .scroll:focus-visible { outline: 2px solid; outline-offset: 2px; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
.group { border-top: 1px solid var(--line); padding-bottom: 1.25rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr));
  gap: 1rem .75rem; margin: 0; padding: 0; list-style: none; }
figure { margin: 0; }
.frame { display: flex; align-items: center; justify-content: center; height: 6rem; }
.frame img { max-width: 100%; max-height: 6rem; }
.frame img.small { width: 6rem; height: 6rem; object-fit: contain; image-rendering: pixelated; }
figcaption { margin-top: .25rem; font-size: .75rem; line-height: 1.35; overflow-wrap: anywhere; }
figcaption span { color: var(--quiet); }
"""


def thumbnail(pixels: np.ndarray) -> bytes:
    """Returns uint8 `[height, width, channel]` as a JPEG of 96 pixels and `MOST_BYTES` at most."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    for quality in (80, 60, 40, 20, 5):
        stream = io.BytesIO()
        image.save(stream, 'JPEG', quality=quality)
        if stream.tell() <= MOST_BYTES:
            break
    return stream.getvalue()


def write_neighbours(
    path: str | os.PathLike,
    *,
    title: str,
    summary: dict[str, Any],
    pixels: Callable[[int], np.ndarray | None],
    name: Callable[[int], str],
    label: Callable[[int], str | None] | None,
    groups: Sequence[Group],
    threshold: float,
    how: str,
    clusters: Sequence[Cluster],
    label_names: Sequence[str] | None,
    odd: tuple[Sequence[int], Sequence[float]],
    count: int,
) -> None:
    """Writes the page.

    Args:
      path: the HTML file.
      title: the heading.
      summary: what was embedded with what: names and values.
      pixels: returns a picture by its row, uint8 `[height, width, channel]`; None where it has
        gone.
      name: returns the name of one.
      label: returns the label of one; None where there are no labels.
      groups: near-duplicates, all of them; the first `GROUPS` are shown.
      threshold: the cosine from which pictures are near-duplicates.
      how: a sentence on how it was chosen.
      clusters: all of them.
      label_names: the classes that the clusters' labels are of.
      odd: rows and mean similarities of the odd ones out.
      count: how many pictures there are in all.

    Raises:
      OSError: the disk is full, or failed; an old page is as it was.
    """

    def figure(row: int, note: str = '') -> str:
        return _figure(pixels(row), name(row), note, label(row) if label else None)

    sections = {
        'Near-duplicates': _duplicates(groups, threshold, how, count, figure),
        'Clusters': _clusters(clusters, label_names, figure),
        'Odd ones out': _odd(odd, figure),
    }
    ids = {heading: heading.lower().replace(' ', '-') for heading in sections}
    links = ''.join(f'<a href="#{ids[heading]}">{heading}</a>' for heading in sections)
    content = f'{summary_list(summary)}\n<nav aria-label="On this page">{links}</nav>\n'
    content += ''.join(
        f'<section aria-labelledby="{ids[heading]}"><h2 id="{ids[heading]}">{heading}</h2>\n'
        f'{text}\n</section>\n'
        for heading, text in sections.items()
    )
    write_page(path, title, content, _STYLE)


def _duplicates(
    groups: Sequence[Group], threshold: float, how: str, count: int, figure: Callable[..., str]
) -> str:
    text = (
        f'Pictures whose cosine similarity is {threshold:.4f} or more. {how} Each picture of a '
        'group is at least so similar to the first one of it.'
    )
    if not groups:
        return f'<p>{escape(text)}</p><p>There are none.</p>'
    members = sum(len(rows) for rows, _ in groups)
    found = f'{members:,} of {count:,} pictures, in {_plural(len(groups), "group")}'
    if len(groups) > GROUPS:
        found += f'; the {GROUPS} most similar groups are shown'
    if 5 * members > count and count > 20:
        text += (
            ' So many come of data that repeat themselves, as frames of a film do, or of an '
            'encoder that tells pictures apart badly; the first groups are the most certain ones.'
        )
    parts = [f'<p>{escape(text)}</p><p>{found}.</p>']
    for number, (rows, similarities) in enumerate(groups[:GROUPS], 1):
        shown = [figure(rows[0])]
        for row, similarity in zip(rows[1:OF_GROUP], similarities, strict=False):
            shown.append(figure(row, f'{similarity:.4f}'))
        more = len(rows) - OF_GROUP
        heading = f'Group {number}: {_plural(len(rows), "picture")}'
        heading += f', {OF_GROUP} shown' if more > 0 else ''
        parts.append(_group(heading, shown))
    return ''.join(parts)


def _clusters(
    clusters: Sequence[Cluster], label_names: Sequence[str] | None, figure: Callable[..., str]
) -> str:
    if not clusters:
        return '<p>There are too few pictures for clusters.</p>'
    text = (
        f'{_plural(len(clusters), "cluster")} by k-means, the largest first; each with its most '
        'central pictures.'
    )
    parts = [f'<p>{text}</p>']
    for number, (size, central, labels) in enumerate(clusters, 1):
        heading = f'Cluster {number}: {_plural(size, "picture")}'
        mix = _mix(size, labels, label_names or ())
        parts.append(_group(heading, [figure(row) for row in central], mix))
    return ''.join(parts)


def _mix(size: int, labels: Mapping[int, int], names: Sequence[str]) -> str:
    """The most frequent labels of a cluster, with their shares."""
    first = list(labels.items())[:_LABELS]
    shares = [f'{names[number]} {count / size:.0%}' for number, count in first]
    others = len(labels) - len(first)
    return ', '.join(shares) + (f', and {_plural(others, "other label")}' if others else '')


def _odd(odd: tuple[Sequence[int], Sequence[float]], figure: Callable[..., str]) -> str:
    rows, similarities = odd
    if not len(rows):
        return '<p>There are too few pictures to compare.</p>'
    text = (
        'The pictures that are least similar to their nearest neighbours: often damaged, empty, or '
        'of something else. The number is the mean cosine similarity to these neighbours.'
    )
    shown = [figure(row, f'{value:.3f}') for row, value in zip(rows, similarities, strict=True)]
    return f'<p>{text}</p>{_pictures(shown)}'


def _group(heading: str, figures: Sequence[str], note: str = '') -> str:
    note = f'<p>{escape(note)}</p>' if note else ''
    return f'<div class="group"><h3>{escape(heading)}</h3>{note}{_pictures(figures)}</div>\n'


def _pictures(figures: Sequence[str]) -> str:
    return f'<ul class="pictures">{"".join(f"<li>{figure}</li>" for figure in figures)}</ul>'


def _figure(pixels: np.ndarray | None, name: str, note: str, label: str | None) -> str:
    name = name if len(name) <= _CHARACTERS else f'...{name[-_CHARACTERS:]}'
    image = '<span>cannot be read any more</span>'
    if pixels is not None:
        small = ' class="small"' if max(pixels.shape[:2]) < _SIDE else ''
        data = base64.b64encode(thumbnail(pixels)).decode()
        # The name stands below it, and would be read twice.
        image = f'<img{small} alt="" decoding="async" src="data:image/jpeg;base64,{data}">'
    notes = ', '.join(text for text in (label, note) if text)
    notes = f'<br><span>{escape(notes)}</span>' if notes else ''
    return (
        f'<figure><div class="frame">{image}</div>'
        f'<figcaption>{escape(name)}{notes}</figcaption></figure>'
    )


def _plural(count: int, noun: str) -> str:
    return f'{count:,} {noun}{"s" * (count != 1)}'
