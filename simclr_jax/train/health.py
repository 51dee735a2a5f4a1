"""Is the run still learning? Divergence, and the collapse of the embedding."""

import collections
import dataclasses
import math

import numpy as np

from simclr_jax.config import RunError

_BAND_ROWS = 10  # the first rows, whose mean loss later ones are compared with
_MIN_ROWS = 3  # in a row, before collapse is believed
# The metric that is 1 in rows written because time had passed: others are a function of the step.
BY_TIME = 'by_time'
COLLAPSED = 'collapsed'  # the metric that is 1 while the alarm is up


def embedding_metrics(embeddings: np.ndarray) -> dict[str, float]:
    """Measures collapse on paired embeddings `[n, view, dim]`, normalized here.

    Returns:
      `effective_rank`, in [1, dim]: exp of the entropy of the singular values (RankMe: Garrido et
      al. 2023, equation 1). `alignment`, in [0, 4]: mean squared distance of two views of an image.
      `uniformity`, in [-8, 0]: log of the mean of exp(-2 d^2) over pairs of images (Wang and Isola
      2020, section 4); 0 is collapse. None of them where an embedding is not finite.
    """
    embeddings = np.asarray(embeddings, np.float64)
    if not np.isfinite(embeddings).all() or len(embeddings) < 2:
        return {}
    norms = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    embeddings = embeddings / np.maximum(norms, 1e-12)
    rows = embeddings.reshape(-1, embeddings.shape[-1])
    # The singular values of the rows are the roots of the eigenvalues of the smaller Gram matrix.
    gram = rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0))
    shares = values / max(values.sum(), 1e-12) + 1e-7
    rank = math.exp(-(shares * np.log(shares)).sum())
    first = embeddings[:, 0]
    squared = np.maximum(2.0 - 2.0 * first @ first.T, 0.0)[np.triu_indices(len(first), 1)]
    distance = ((embeddings[:, 0] - embeddings[:, 1]) ** 2).sum(-1)
    return {
        'effective_rank': rank,
        'alignment': float(distance.mean()),
        'uniformity': math.log(np.exp(-2.0 * squared).mean()),
    }


def alarms(rows: list[dict[str, float]]) -> dict[str, str]:
    """Returns what the rows of a run tell of its health, for its report; nothing if all is well."""
    collapsed = [row['step'] for row in rows if row.get(COLLAPSED)]
    skipped = int(max((row.get('skipped_updates', 0) for row in rows), default=0))
    found = {}
    if collapsed:
        found['collapsed'] = f'{len(collapsed)} rows, steps {collapsed[0]} to {collapsed[-1]}'
    if skipped:
        found['updates_left_out'] = f'{skipped}: loss or gradient was not finite'
    return found


class NotFinite(RunError):
    """The run stops at an update that was left out; the state is still the one before it."""


@dataclasses.dataclass
class Monitor:
    """Watches the rows of `metrics.jsonl`: its state is a function of the rows alone.

    Attributes:
      on_nonfinite: 'stop' at the first update that was left out, or 'skip'.
      max_skips: updates left out before 'skip' stops too.
      loss_band: stop where the loss is above this many times that of the first rows, or, of a loss
        that begins below 0, as far above it; 0: never.
      min_std: alarm where `embedding_std` is below.
      min_rank: alarm where `effective_rank` is below.
      patience: steps below a threshold before the alarm.
      on_collapse: 'warn' or 'stop'.
    """

    on_nonfinite: str
    max_skips: int
    loss_band: float
    min_std: float
    min_rank: float
    patience: int
    on_collapse: str

    def __post_init__(self):
        self._losses: list[float] = []
        self._low: collections.deque[int] = collections.deque(maxlen=_MIN_ROWS)
        self._low_since: int | None = None
        self._skipped = 0
        self._alarm = False

    def check(self, step: int, row: dict[str, float]) -> str | None:
        """Takes the next row, and adds whether the embedding is `collapsed` to it.

        Returns:
          A warning, once each time that something begins.

        Raises:
          RunError: the run has to stop.
        """
        warning = self._check_skips(step, row) or self._check_collapse(step, row)
        self._check_band(step, row)
        return warning

    def replay(self, rows: list[dict[str, float]]) -> None:
        """Takes the rows that an earlier process of this run has written."""
        for row in rows:
            if row.get(BY_TIME):
                continue
            self._skipped = max(self._skipped, int(row.get('skipped_updates', 0)))
            self._check_collapse(row['step'], dict(row), quiet=True)
            if len(self._losses) < _BAND_ROWS and math.isfinite(row.get('loss', math.nan)):
                self._losses.append(row['loss'])

    def _check_skips(self, step: int, row: dict[str, float]) -> str | None:
        skipped, before = int(row['skipped_updates']), self._skipped
        self._skipped = skipped
        if skipped <= before:
            return None
        text = (
            f'loss {row["loss"]:.4g}, gradient norm {row["gradient_norm"]:.4g} at step {step}, '
            f'with learning rate {row["learning_rate"]:.3g}: not finite, so the update was left out'
        )
        if self.on_nonfinite == 'stop':
            raise NotFinite(
                f'{text}. The state before that step is on disk. Give another --workdir and a '
                'lower optimizer.learning_rate or more optimizer.warmup_epochs, or go on here with '
                '--config.health.on_nonfinite=skip'
            )
        if skipped > self.max_skips:
            raise RunError(
                f'{text}, the last of {skipped}; health.max_skips={self.max_skips}. Give another '
                '--workdir and a lower optimizer.learning_rate or more optimizer.warmup_epochs'
            )
        return f'{text} ({skipped} of at most health.max_skips={self.max_skips})'

    def _check_band(self, step: int, row: dict[str, float]) -> None:
        loss = row['loss']
        if len(self._losses) < _BAND_ROWS:
            if math.isfinite(loss):
                self._losses.append(loss)
            return
        first = sum(self._losses) / len(self._losses)
        # Of a loss below 0, as minus a cosine is, the same distance from where it began.
        limit = first + (self.loss_band - 1) * abs(first)
        if self.loss_band and math.isfinite(loss) and loss > limit:
            raise RunError(
                f'training diverged: the loss ({loss:.4g} at step {step}) is above {limit:.4g}, '
                f'which is health.loss_band={self.loss_band:g} times its first value '
                f'({first:.4g}). The last checkpoint is intact. Give another --workdir and a lower '
                'optimizer.learning_rate or more optimizer.warmup_epochs, or a wider band'
            )

    def _check_collapse(self, step: int, row: dict[str, float], quiet: bool = False) -> str | None:
        low = [
            f'{name} {row[name]:.3g} below health.{field}={limit:g}'
            for name, field, limit in (
                ('embedding_std', 'min_std', self.min_std),
                ('effective_rank', 'min_rank', self.min_rank),
            )
            if row.get(name, math.inf) < limit
        ]
        if not low:
            self._low.clear()
            self._alarm, self._low_since = False, None
            row[COLLAPSED] = 0.0
            return None
        self._low.append(step)
        self._low_since = step if self._low_since is None else self._low_since
        before = self._alarm
        self._alarm = len(self._low) == _MIN_ROWS and step - self._low_since >= self.patience
        row[COLLAPSED] = float(self._alarm)
        if not self._alarm or before or quiet:
            return None
        text = (
            f'the embedding has collapsed: {", ".join(low)}, since step {self._low_since} until '
            f'step {step}. Further training is unlikely to help: lower '
            'optimizer.learning_rate, or look at the augmentation with --mode=preview'
        )
        if self.on_collapse == 'stop':
            raise RunError(text)
        return text
