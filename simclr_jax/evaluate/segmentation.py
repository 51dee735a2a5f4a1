"""How well predicted masks agree with true ones: one confusion matrix of all pixels of a data set.

A mean of the figures of pictures would be another figure: a class that is in few pictures, or in
few pixels of each, would count more or less than it does in what is published.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

IGNORED = -1  # the label of a pixel that is not counted


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Returns how many pixels of each class, a row, were taken for each class, a column.

    The matrices of several pictures are added, and `figures` reads their sum.

    Args:
      labels: `[...]` integers from 0, or -1 of a pixel that is ignored.
      predictions: integers from 0, of the same shape; what is said of ignored pixels is not read.
      classes: how many there are.

    Returns:
      `[class, class]` int64; all 0 where every pixel is ignored.

    Raises:
      ValueError: the shapes differ, or a label or a prediction is no class.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(
            f'labels is {labels.shape}, predictions {predictions.shape}: enlarge what was '
            'predicted to the size of the mask.'
        )
    counted = labels != IGNORED
    labels, predictions = labels[counted].astype(np.int64), predictions[counted].astype(np.int64)
    for name, values in (('labels', labels), ('predictions', predictions)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f'{name} runs from {values.min()} to {values.max()}: there are the classes 0 to '
                f'{classes - 1}, and the label {IGNORED} of ignored pixels.'
            )
    pairs = np.bincount(labels * classes + predictions, minlength=classes**2)
    return pairs.reshape(classes, classes)


def figures(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Returns mean intersection over union, pixel accuracy and each class's IoU, ready for JSON.

    A class's IoU is the number of its pixels that were found, over the number of pixels that are of
    the class, or were taken for it, or both. As in mmsegmentation (`intersect_and_union` and
    `nanmean` in `mmseg/evaluation/metrics/iou_metric.py`), a class that no pixel has and none was
    taken for has no IoU: it is None, and has no part in the mean. A class that no pixel has, but
    some were taken for, has the IoU 0, and that counts.

    Args:
      confusion: `[class, class]`, what `confusion` returned, summed over the pictures.
      names: of the classes, all different.

    Returns:
      `miou` and `pixel_accuracy` in [0, 1], None where no pixel was counted, and `per_class`: name
      to IoU or None.
    """
    confusion = np.asarray(confusion)
    if confusion.shape != (len(names), len(names)) or len(set(names)) != len(names):
        raise ValueError(
            f'confusion is {confusion.shape}, names {tuple(names)}: name each of the classes once.'
        )
    found = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - found
    each = [float(f / u) if u else None for f, u in zip(found, union, strict=True)]
    present = [iou for iou in each if iou is not None]
    pixels = confusion.sum()
    return {
        'miou': float(np.mean(present)) if present else None,
        'pixel_accuracy': float(found.sum() / pixels) if pixels else None,
        'per_class': dict(zip(names, each, strict=True)),
    }
