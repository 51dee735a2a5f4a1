"""`result.json`: what the training took, and each probe's figures beside what they are of.

{"pretrain": {"seconds": ..., "steps": ..., ...},
 "knn": {"encoder": {"all": {"mean": 0.98, "std": 0.0}, ...}, "untrained": ..., "raw_pixels": ...,
         "step": 900, "data": {"name": "digits", "test_split": "test", ...}, "settings": {...}},
 "finetune": {"fine_tuned": {"all": {"mean": 0.99, "std": 0.0, "draws": [...], "per_class": [...],
              "top_5": {"mean": ..., "std": ...}}, "10": ..., "1": ...},
              "linear": ..., "knn": ..., "scratch": ..., "weights": {...}, "data": {...}, ...},
 "distill": {"agreement": 0.98, "teacher": {"10": {"mean": 0.9, ...}}, "student": ...,
             "labels_alone": ..., "parameters": {"teacher": 300000, "student": 300000}, ...},
 "calibration": {"temperature": 1.2, "before": {"expected_calibration_error": 0.05, ...},
                 "after": ...}}

The accuracies of `finetune` are test accuracies of the ways to use labels; `per_class` has null for
a class without test pictures, and `top_5` is there with more than ten classes. Those of `distill`
are keyed by the labels that the teacher was fine-tuned on; `agreement` is the share of the test
pictures that teacher and student take for the same class.

Where `finetune.learning_rates` were tried, `sweep` has each one's accuracy on held-out labels of
the run, and the one that was chosen:
{"learning_rate": ..., "head_learning_rate": ..., "candidates": [{"learning_rate": ...,
 "head_learning_rate": ..., "accuracy": ...}, ...], "train_pictures": ..., "held_out_pictures": ...}
`accuracy` is null where the training diverged.

Of an encoder that no run of the workdir made, `weights` stand where the step would: `path`,
`layout`, `checksum`, `architecture` and `preprocess`.
"""

import json
import os
from typing import Any

from etils import epath

from simclr_jax import files, parallel
from simclr_jax.config import PROBES
from simclr_jax.report.classifier import accuracy_table
from simclr_jax.report.html import align, format_table

SWEEP = 'sweep'  # the entry of a choice of learning rates
CALIBRATION = 'calibration'  # that of how far a classifier's probabilities are off
FINETUNE = 'finetune'  # the entry of a comparison of ways to use labels
DISTILL = 'distill'  # that of a student and its teacher
SEGMENT = 'segment'  # that of classifiers of pixels
_NAME = 'result.json'
_ABOUT = (
    'step',
    'weights',
    'data',
    'settings',
    'agreement',
    'parameters',
)  # of an entry; the rest are names of features, or of classifiers

Entry = dict[str, Any]


def read(workdir: str | os.PathLike) -> dict[str, Any]:
    """Returns what `result.json` holds; nothing where there is none."""
    path = epath.Path(workdir) / _NAME
    return json.loads(path.read_text()) if path.exists() else {}


def write(workdir: str | os.PathLike, name: str, entry: Entry) -> None:
    """Replaces one entry, in one move; what other processes have written meanwhile stays."""
    if parallel.is_main_process():
        result = read(workdir) | {name: entry}
        files.write_text(epath.Path(workdir) / _NAME, json.dumps(result, indent=1) + '\n')


def figures(entry: Entry) -> dict[str, Any]:
    """Returns the accuracies of a probe's entry, by the name of the feature."""
    return {name: value for name, value in entry.items() if name not in _ABOUT}


def subject(entry: Entry) -> str:
    """Says what the figures of a probe are of: the data, the pictures, and the encoder."""
    if 'data' not in entry:
        return 'data that an earlier version did not write down'
    data = entry['data']
    text = (
        f'{data["test_pictures"]:,} pictures of {data["name"]} ({data["test_split"]}), '
        f'trained on {data["train_pictures"]:,} ({data["train_split"]}), '
    )
    if weights := entry.get('weights'):
        text += f'{weights["path"]} ({weights["layout"]}, checksum {weights["checksum"][:12]})'
    elif 'step' in entry:
        text += f'step {entry["step"]:,}'
    else:
        text += 'from scratch'
    if layer := entry['settings'].get('eval_layer'):
        text += f', layer {layer} of the head'
    if data['pretrained_on']:
        text += (
            f'; {data["pretrained_on"]:,} of the test pictures were pretrained on, without labels'
        )
    return text


def distilled_on(entry: Entry) -> str:
    """Says what the figures of a student are of."""
    data, weights = entry['data'], entry['weights']
    return (
        f'{data["test_pictures"]:,} pictures of {data["name"]} ({data["test_split"]}), distilled '
        f'on {data["train_pictures"]:,} ({data["train_split"]}), teacher {weights["path"]} '
        f'(checksum {weights["checksum"][:12]})'
    )


def by_subject(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns `{subject: {row: figures}}`: one table for each thing that was evaluated."""
    tables = {}
    for probe in (name for name in PROBES if name in result):
        entry = result[probe]
        protocol = entry.get('settings', {}).get('protocol', 'fast')
        row = PROBES[probe] if protocol == 'fast' else f'{PROBES[probe]}, {protocol}'
        tables.setdefault(subject(entry), {})[row] = figures(entry)
    return tables


def format_results(result: dict[str, Any]) -> str:
    """Returns the accuracies as text, each table below what it is of."""
    tables = [(about, format_table(table)) for about, table in by_subject(result).items()]
    if entry := result.get(FINETUNE):
        tables.append((subject(entry), format_table(accuracy_table(figures(entry)), 'accuracy')))
    if (entry := result.get(DISTILL)) and figures(entry):
        table = accuracy_table(figures(entry))
        tables.append((distilled_on(entry), format_table(table, 'accuracy')))
    texts = [f'Accuracy in percent on {about}\n\n{table}' for about, table in tables]
    if entry := result.get(SEGMENT):
        about, table = subject(entry), format_segmentation(figures(entry))
        texts.append(f'Segmentation of {about}\nin percent\n\n{table}')
    return '\n\n'.join(texts)


def format_segmentation(entry: Entry) -> str:
    """Returns mean IoU and pixel accuracy of each head and each encoder as aligned text."""
    rows = [('', '', 'mIoU', 'pixel accuracy')]
    for head, found in entry.items():
        for name, figures_ in found.items():
            values = (figures_['miou'], figures_['pixel_accuracy'])
            rows.append((head, name, *(f'{100 * value:.1f}' for value in values)))
    return align(rows)
