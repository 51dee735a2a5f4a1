"""The table of `--mode=transfer`, as text and as a page."""

import os
from html import escape
from typing import Any

from simclr_jax.report.html import align, summary_list, write_page

_METRICS = {
    'top_1': 'top-1',
    'top_5': 'top-5',
    'mean_per_class': 'mean per class',
    'mean_average_precision_11': '11-point mAP',
}
_WORDS = (
    'In percent on test pictures. Linear: logistic regression on frozen features, the l2 strength '
    'chosen on validation pictures among 45 from 1e-6 to 1e5, then fitted to these and training '
    'pictures (SimCLR, appendix B.8.1; BYOL, appendix D). Few-shot: ridge regression on that many '
    'labels a class, top-1, the mean ± the standard deviation over three draws, as big_vision has '
    'it. Published: linear, of a ResNet-50 that was trained on ImageNet; only where encoder, '
    'pictures and their size are the same.'
)


def transfer_table(entry: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the header and a row for each data set of `result.json`'s `transfer` entry."""
    sets = entry['sets']
    shots = sorted({int(n) for one in sets.values() for n in one.get('few_shot', {})})
    rows = list(dict.fromkeys(row for one in sets.values() for row in _percent(one)))
    header = ['data', 'measure', 'linear', 'l2', *(f'{n}-shot' for n in shots), *rows]
    lines = []
    for name, one in sets.items():
        few = [one.get('few_shot', {}).get(str(n)) for n in shots]
        lines.append(
            [
                name,
                _METRICS[one['metric']],
                f'{100 * one["value"]:.1f}',
                f'{one["l2"]:.3g}',
                *(f'{100 * f["mean"]:.1f} +- {100 * f["std"]:.1f}' if f else '-' for f in few),
                *(f'{_percent(one)[row]:.1f}' if row in _percent(one) else '-' for row in rows),
            ]
        )
    return header, lines


def format_transfer(entry: dict[str, Any]) -> str:
    """Returns the table as aligned plain text, and below it what to know of each row."""
    header, lines = transfer_table(entry)
    return '\n'.join([align([header, *lines]), '', *_notes(entry)])


def write_transfer(
    path: str | os.PathLike, entry: dict[str, Any], encoder: str, command: str
) -> None:
    """Writes the page.

    Args:
      path: the HTML file.
      entry: `transfer` of `result.json`.
      encoder: what it is of, in words.
      command: what was run.
    """
    header, lines = transfer_table(entry)
    head = ''.join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = ''.join(
        '<tr>'
        + ''.join(f'<th scope="row">{escape(cell)}</th>' for cell in line[:2])
        + ''.join(f'<td>{escape(cell).replace("+-", "±")}</td>' for cell in line[2:])
        + '</tr>'
        for line in lines
    )
    weights = entry['weights']
    summary = {
        'command': command,
        'encoder': encoder,
        'weights': f'{weights["path"]}, of the layout {weights["layout"]}',
        'checksum': weights['checksum'],
    }
    content = (
        f'{summary_list(summary)}\n<section><h2>Transfer</h2><div class="scroll" tabindex="0" '
        f'role="region" aria-label="Transfer"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><p>{_WORDS}</p>'
        + ''.join(f'<p>{escape(note)}</p>' for note in _notes(entry))
        + '</section>\n'
    )
    write_page(path, f'Transfer of {weights["path"]}', content)


def _percent(one: dict[str, Any]) -> dict[str, float]:
    return one.get('published', {}).get('percent', {})


def _notes(entry: dict[str, Any]) -> list[str]:
    """A sentence on each row: what it is of, and what is not as it should be."""
    notes = []
    for name, one in entry['sets'].items():
        data = one['data']
        text = (
            f'{name}: {data["classes"]} classes, {data["train_pictures"]:,} training, '
            f'{data["validation_pictures"]:,} validation ({data["validation"]}) and '
            f'{data["test_pictures"]:,} test pictures ({data["test"]})'
        )
        text += f'; {data["bad_pictures"]:,} could not be read' if data['bad_pictures'] else ''
        text += f'; {data["note"]}' if data.get('note') else ''
        if reason := one.get('published', {}).get('left_out'):
            text += f'; no published figures: {reason}'
        if not one['converged']:
            text += '; not every regression has converged'
        tested = [row for row in one['validation'] if row['l2'] == one['l2']]
        edge = one['l2'] in (one['validation'][0]['l2'], one['validation'][-1]['l2'])
        if edge:
            text += '; the strength is at the end of the grid'
        notes.append(f'{text}. Validation {100 * tested[0]["value"]:.1f}.')
    return notes
