"""A comparison of ways to use labels: what each one learns from, and what is done of it.

A trial is one way, at one number of labels, on one draw of them. All ways are given the same draws.
A finished trial is a file with its predictions: who dies loses at most the one that was running,
and figures are made of the files alone, so they are the same however often that happened.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from simclr_jax import files
from simclr_jax.evaluate import subsets
from simclr_jax.evaluate.predictions import Predictions, figures

ALL = 'all'  # labels
FINE_TUNED, LINEAR, KNN, SCRATCH = WAYS = ('fine_tuned', 'linear', 'knn', 'scratch')


class Trial(NamedTuple):
    """One way to use labels on one draw of them.

    Attributes:
      way: one of `WAYS`.
      labels: 'all', or how many a class.
      draw: which of the random choices of so many; 0 of 'all'.
    """

    way: str
    labels: str | int
    draw: int = 0

    @property
    def name(self) -> str:
        return f'{self.way}-{self.labels}-{self.draw}'


def plan(ways: Sequence[str], labels_per_class: Sequence[int], draws: int) -> list[Trial]:
    """Returns the trials of a comparison: of all labels first, then of ever fewer."""
    counts = sorted(set(labels_per_class), reverse=True)
    return [
        *(Trial(way, ALL) for way in ways),
        *(Trial(way, n, draw) for n in counts for draw in range(draws) for way in ways),
    ]


def drawn(labels: np.ndarray, trial: Trial, seed: int) -> np.ndarray:
    """Returns the places in `labels` `[n]` of what a trial learns from, rising.

    They depend on the labels, the seed, their number and the draw: all ways are given the same, and
    those that `linear_eval` and `knn_eval` draw. Pictures without a label (-1) are left out.

    Raises:
      ValueError: a class has too few labels.
    """
    labelled = np.flatnonzero(np.asarray(labels) != subsets.UNLABELLED)
    if trial.labels == ALL:
        return labelled
    return labelled[subsets.draw_subset(labels[labelled], trial.labels, seed, trial.draw)]


class Trials:
    """The finished trials in a folder.

    Attributes:
      folder: where they are, a file each.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        about: Mapping[str, Any],
        of_way: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        """Names a folder, which need not be there.

        Args:
          folder: where they are.
          about: all that predictions depend on, beside the trial, as JSON; those of anything else
            count as missing.
          of_way: what those of some ways depend on besides.
        """
        self.folder = epath.Path(folder)
        self._of = {
            way: json.dumps([dict(about), dict((of_way or {}).get(way, {}))], sort_keys=True)
            for way in WAYS
        }

    def load(self, trial: Trial) -> Predictions | None:
        """Returns what a finished trial predicted; None where it is missing, or damaged."""
        path = self.folder / f'{trial.name}.npz'
        try:
            with path.open('rb') as file, np.load(file, allow_pickle=False) as found:
                if str(found['about']) != self._of[trial.way]:
                    return None
                return Predictions(found['classes'], found['probabilities'])
        except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, trial: Trial, predictions: Predictions) -> None:
        """Keeps what a trial predicted.

        Raises:
          OSError: the disk is full, or failed; there is no such file then.
        """
        stream = io.BytesIO()
        np.savez(stream, about=np.array(self._of[trial.way]), **predictions._asdict())
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_bytes(self.folder / f'{trial.name}.npz', stream.getvalue())

    def missing(self, trials: Sequence[Trial]) -> list[Trial]:
        """Returns those that are not finished, in their order."""
        return [trial for trial in trials if self.load(trial) is None]

    def figures(
        self, trials: Sequence[Trial], labels: np.ndarray, num_classes: int
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """Returns `{way: {labels: figures}}` of finished trials, as `predictions.figures`.

        Args:
          trials: of which each has to be finished.
          labels: of the test pictures, `[n]`.
          num_classes: of the classifiers.
        """
        groups: dict[tuple[str, str], list[Predictions]] = {}
        for trial in trials:
            groups.setdefault((trial.way, str(trial.labels)), []).append(self.load(trial))
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for (way, count), draws in groups.items():
            found.setdefault(way, {})[count] = figures(draws, labels, num_classes)
        return found
