"""The page of a classifier: how many labels it needs, what it confuses, and where it is sure and
wrong. One file with no script and nothing from elsewhere, as all pages.
"""

import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from simclr_jax.report import svg
from simclr_jax.report.classifier_plots import (
    Point,
    confusion_matrix,
    learning_curve,
    reliability_diagram,
)
from simclr_jax.report.html import (
    config_box,
    metric_curves,
    results_table,
    scroll_box,
    section_list,
    summary_list,
    view_images,
    write_page,
)

_PAIRS = 12  # of classes that are confused most often
_SHOWN = {  # a way to use labels to its name
    'fine_tuned': 'fine-tuned',
    'linear': 'linear',
    'knn': 'k-NN',
    'scratch': 'from scratch',
    'teacher': 'teacher',
    'student': 'student',
    'labels_alone': 'labels alone',
}
_WORDS = {
    'fine_tuned': 'Fine-tuned: the encoder and a classifier on it, trained on the labels.',
    'linear': 'Linear: logistic regression on the features of the encoder, which stays as it is.',
    'knn': 'k-NN: a vote of the nearest labelled pictures by these features.',
    'scratch': 'From scratch: the same training, of an encoder that begins at random.',
    'teacher': 'Teacher: the classifier that was learned from, by its file.',
    'student': 'Student: what this run trained on what the teacher says of pictures.',
    'labels_alone': 'Labels alone: the same student, trained as long without the teacher.',
}
_STYLE = """
.curve svg { width: 100%; height: auto; min-width: 34rem; }
.matrix svg { max-width: none; min-width: 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr));
  gap: 1.25rem 1rem; margin: 0; padding: 0; list-style: none; }
figure { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; }
figcaption { margin-top: .4rem; font-size: .8rem; line-height: 1.4; overflow-wrap: anywhere; }
figcaption span { color: var(--quiet); }
"""


class Mistakes(NamedTuple):
    """Pictures that a classifier took for another class, the surest first.

    Attributes:
      images: `[n, height, width, channel]` uint8.
      labels: what they are, `[n]`.
      predicted: what they were taken for, `[n]`.
      probabilities: how sure it was, in [0, 1], `[n]`.
      of: how many pictures of the test set are taken for another class, with these.
    """

    images: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    of: int


def accuracy_table(comparison: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what `html.format_table` takes: a row a number of labels, a column a way.

    Args:
      comparison: `{way: {labels: figures}}`, as `evaluate.comparison` has them.
    """
    table = {'top-1': {_SHOWN[way]: figures for way, figures in comparison.items()}}
    top_5 = {
        _SHOWN[way]: {labels: value['top_5'] for labels, value in figures.items()}
        for way, figures in comparison.items()
        if all('top_5' in value for value in figures.values())
    }
    return table | ({'top-5': top_5} if top_5 else {})


def write_classifier(
    path: str | os.PathLike,
    *,
    title: str,
    summary: dict[str, Any],
    comparison: Mapping[str, Mapping[str, Any]],
    labels_of_all: float,
    notes: Sequence[str],
    test_size: int,
    confusion: np.ndarray,
    label_names: Sequence[str],
    mistakes: Mistakes,
    calibration: Mapping[str, Any] | None,
    metrics: Sequence[dict[str, Any]],
    views: np.ndarray | None,
    config_text: str,
    sweep: Mapping[str, Any] | None = None,
) -> None:
    """Writes the page of a fine-tuned classifier.

    Args:
      path: the HTML file.
      title: the heading.
      summary: what was run: names and values.
      comparison: `{way: {labels: {'mean', 'std', ...}}}`, as `evaluate.comparison` has them; empty
        where the test pictures have no labels.
      labels_of_all: labels a class that the run has, on the average.
      notes: sentences below the table.
      test_size: how many pictures the accuracies are of.
      confusion: of the classifier that was trained on all labels of the run, `[class, class]`.
      label_names: of the classes.
      mistakes: of the same classifier.
      calibration: of the same classifier, as `evaluate.calibration.figures` has it; None where
        no label is known.
      metrics: of its training, rows as `read_metrics` returns them.
      views: what it was trained on, `[n, view, height, width, channel]` uint8.
      config_text: the whole config.
      sweep: the learning rates that were tried, as `sweep` of `result.json` has them; None where
        there was no choice.

    Raises:
      OSError: the disk is full, or failed; an old page is as it was.
    """
    words = [_WORDS[way] for way in comparison]
    several = any(len(figures) > 1 for figures in comparison.values())
    if several:
        words.append(
            'Labels: how many of each class were given; with fewer than all, the mean ± the '
            'standard deviation over several random draws of them. All ways are given the same '
            'draws.'
        )
    table = results_table(accuracy_table(comparison), test_size, 'accuracy')
    lines = ''.join(f'<p>{escape(text)}</p>' for text in (' '.join(words), *notes))
    sections = [('Results', table + lines)]
    if several:
        sections.append(('How many labels', _curve(comparison, labels_of_all)))
    if comparison:
        sections += [
            ('What is taken for what', _confusion(confusion, label_names)),
            ('Surest mistakes', _mistakes(mistakes, label_names)),
        ]
    if calibration:
        sections.append(('How sure it is', _sureness(calibration)))
    if sweep:
        sections.append(('Learning rates', _rates(sweep)))
    sections += [
        ('Curves', metric_curves(metrics)),
        ('Augmented views', view_images(views)),
        ('Config', config_box(config_text)),
    ]
    write_page(path, title, f'{summary_list(summary)}\n{section_list(sections)}', _STYLE)


def _curve(comparison: Mapping[str, Mapping[str, Any]], labels_of_all: float) -> str:
    ways = {
        _SHOWN[way]: [
            Point(
                float(labels) if labels.isdecimal() else labels_of_all, value['mean'], value['std']
            )
            for labels, value in figures.items()
        ]
        for way, figures in comparison.items()
    }
    everything = labels_of_all if any('all' in figures for figures in comparison.values()) else None
    picture = scroll_box('How many labels', learning_curve(ways, everything))
    return (
        f'<div class="curve">{picture}</div><p>A dot is the mean over the draws, a band one '
        'standard deviation to either side.</p>'
    )


def _confusion(counts: np.ndarray, names: Sequence[str]) -> str:
    picture = scroll_box('Confusion matrix', confusion_matrix(counts, names))
    text = (
        'Of the classifier that this run trained. A row is a class, a column what its '
        'pictures were taken for; at the right the share of its pictures that are right.'
    )
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind='stable')[:_PAIRS]
    pairs = [(i // len(counts), i % len(counts)) for i in order if wrong.flat[i]]
    rows = ''.join(
        f'<tr><th scope="row">{escape(str(names[i]))}</th>'
        f'<th scope="row">{escape(str(names[j]))}</th>'
        f'<td>{counts[i, j]:,} of {counts[i].sum():,}</td></tr>'
        for i, j in pairs
    )
    often = (
        scroll_box(
            'Most frequent mistakes',
            '<table><thead><tr><th scope="col">class</th><th scope="col">taken for</th>'
            f'<th scope="col">pictures</th></tr></thead><tbody>{rows}</tbody></table>',
        )
        if rows
        else '<p>No picture was taken for another class.</p>'
    )
    return f'<p>{text}</p><div class="matrix">{picture}</div><p>Most often:</p>{often}'


def _sureness(found: Mapping[str, Any]) -> str:
    before, after = (found[name]['expected_calibration_error'] for name in ('before', 'after'))
    bins = found['after']
    picture = reliability_diagram(bins['counts'], bins['confidence'], bins['accuracy'])
    text = (
        'The probability of the likeliest class beside the share of test pictures that are right, '
        'in 15 bins: on the diagonal it can be trusted, below it the classifier is too sure. '
    )
    if not found.get('held_out_pictures'):
        text += (
            f'The expected calibration error is {100 * after:.1f} %. No labels were held out to '
            'choose a temperature by.'
        )
    elif found['temperature'] == 1:
        text += (
            f'The expected calibration error is {100 * after:.1f} %. The '
            f'{found["held_out_pictures"]:,} labels held out of the training pictures ask for no '
            'temperature.'
        )
    else:
        text += (
            f'The expected calibration error is {100 * after:.1f} %. Without the temperature of '
            f'{found["temperature"]:.2f} it is {100 * before:.1f} %; that was chosen on '
            f'{found["held_out_pictures"]:,} labels held out of the training pictures.'
        )
    return f'<p>{text}</p><div class="matrix">{scroll_box("How sure it is", picture)}</div>'


def _rates(found: Mapping[str, Any]) -> str:
    pair = 'learning_rate', 'head_learning_rate'
    names = pair if any(tried[pair[1]] for tried in found['candidates']) else pair[:1]
    rows = []
    for tried in found['candidates']:
        accuracy = tried['accuracy']
        text = 'diverged' if accuracy is None else f'{100 * accuracy:.1f}'
        if all(tried[name] == found[name] for name in pair):
            text = f'<strong>{text}</strong>'
        rates = ''.join(f'<th scope="row">{tried[name]:g}</th>' for name in names)
        rows.append(f'<tr>{rates}<td>{text}</td></tr>')
    heads = ('of the encoder', 'of the classifier') if len(names) == 2 else ('learning rate',)
    head = ''.join(f'<th scope="col">{text}</th>' for text in (*heads, 'accuracy'))
    return (
        f'<p>Each was tried on {found["train_pictures"]:,} of the labelled training pictures; the '
        f'accuracy, in percent, is on the {found["held_out_pictures"]:,} others. The one in bold '
        'then trained on all of them.</p>'
        + scroll_box(
            'Learning rates',
            f'<table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>',
        )
    )


def _mistakes(mistakes: Mistakes, names: Sequence[str]) -> str:
    if not mistakes.of:
        return '<p>All test pictures are right.</p>'
    figures = []
    for image, label, predicted, probability in zip(
        svg.tiles(mistakes.images),
        mistakes.labels,
        mistakes.predicted,
        mistakes.probabilities,
        strict=True,
    ):
        true, taken = (escape(str(names[i])) for i in (label, predicted))
        figures.append(
            f'<li><figure><img src="{svg.data_url(svg.png(image))}" '
            f'alt="a picture of {true}, taken for {taken}"><figcaption>{true}<br>'
            f'<span>taken for</span> {taken}<span>, {100 * probability:.1f} %</span>'
            '</figcaption></figure></li>'
        )
    shown = 'all of them' if len(figures) == mistakes.of else f'the {len(figures)} surest'
    return (
        f'<p>{mistakes.of:,} test pictures are taken for another class; here are {shown}, with the '
        'class, what it was taken for, and with which probability. Some of them may have the wrong '
        f'label.</p><ul class="pictures">{"".join(figures)}</ul>'
    )
