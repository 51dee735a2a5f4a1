"""Which learning rate suits: each one is tried on most of a run's labels and tested on the rest.

No test picture is opened for it. What was tried is a file in the workdir: a command that was killed
goes on with the next rate. The rate that was chosen is in it, too, before the run trains with it.

Calibration would train once more as the winner was trained, on the same labels. So each trial is
asked for its temperature, too.
"""

import itertools
import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import files, parallel
from simclr_jax.config import ConfigError, RunError
from simclr_jax.data import splits
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.calibration import fit_temperature
from simclr_jax.evaluate.predictions import of_logits, top_accuracy
from simclr_jax.evaluate.subsets import holdout_split
from simclr_jax.methods.base import Tree
from simclr_jax.modes import results
from simclr_jax.modes.outputs import with_head
from simclr_jax.train import memory
from simclr_jax.train.health import NotFinite
from simclr_jax.train.out_of_memory import TRAINING, explained
from simclr_jax.train.quiet import train_quietly
from simclr_jax.train.setup import Run, prepare
from simclr_jax.weights.description import Weights
from simclr_jax.workdir.claim import SWEEP

_FORMAT = 2  # of that file

# Returns logits `[example, class]` of the pictures of a source, by the variables of a run that is
# over, and labels.
Predict = Callable[[Run, Tree, Source], tuple[np.ndarray, np.ndarray]]


class Candidate(NamedTuple):
    """A learning rate of the encoder, and of the classifier; of the latter, 0 is the same.

    Both are before scaling, as `optimizer.learning_rate` is.
    """

    learning_rate: float
    head_learning_rate: float = 0.0

    def __str__(self) -> str:
        head = f', head_learning_rate={self.head_learning_rate}' if self.head_learning_rate else ''
        return f'learning_rate={self.learning_rate}{head}'

    def of(self, config: ConfigDict) -> ConfigDict:
        """Returns a copy of the config with these rates."""
        config = config.copy_and_resolve_references()
        config.optimizer.learning_rate = self.learning_rate
        config.finetune.head_learning_rate = self.head_learning_rate
        return config


class Tried(NamedTuple):
    """What a training came to on the pictures held out.

    Attributes:
      right: how many of them.
      temperature: of its logits, as calibration has it.
    """

    right: int
    temperature: float


class Chosen(NamedTuple):
    """What the run trains with.

    Attributes:
      config: of the run, with the rate.
      temperature: that calibration would find; None where nothing was tried.
    """

    config: ConfigDict
    temperature: float | None = None


def candidates(config: ConfigDict) -> list[Candidate]:
    """Returns what `finetune` wants to be tried, rising; nothing where there is no choice."""
    finetune = config.finetune
    rates = finetune.learning_rates or (config.optimizer.learning_rate,)
    heads = finetune.head_learning_rates or (finetune.head_learning_rate,)
    tried = sorted({Candidate(*map(float, pair)) for pair in itertools.product(rates, heads)})
    return tried if len(tried) > 1 else []


def choose_rate(
    config: ConfigDict, workdir: str, source: Source, weights: Weights | None, predict: Predict
) -> Chosen:
    """Chooses the rate that is best on labels held out of `source`.

    Of rates that are equally good it is the smallest. Where so few labels leave none to hold out,
    or there is nothing to choose from, the config stays as it was.

    Args:
      config: of the run, which the workdir belongs to.
      workdir: of the run; the sweep goes on where an earlier command stopped.
      source: the labelled pictures of the run, none of which it is tested on.
      weights: what the encoder starts from; None for a random one.
      predict: what a classifier says of pictures.

    Raises:
      RunError: the training diverged with every rate.
      ConfigError: the run trains already, and what says with which rate is gone, or of other
        labels.
    """
    tried = candidates(config)
    if not tried:
        return Chosen(config)
    parts = held_out(config, source)
    if parts is None:
        _say(
            f'finetune.held_out={config.finetune.held_out:g}: so few labels leave none to choose a '
            f'learning rate by; it is {config.optimizer.learning_rate:g}, the recipe has it'
        )
        return Chosen(config)
    kept, rest = parts
    about = {
        'format': _FORMAT,
        'pictures': [part.num_examples for part in parts],
        'labels': zlib.crc32(np.asarray(splits.read_labels(source).values, np.int64).tobytes()),
        'encoder': config.start.checksum,
    }
    seen = [config.data.eval_interpolation, config.data.eval_antialias]
    record = _Record(workdir, about, seen, tried)
    parallel.wait_for_all()  # all have read it before the first one writes
    if record.chosen is None:
        _say(
            f'\n{len(tried)} learning rates are tried: each learns from {kept.num_examples:,} of '
            f'{source.num_examples:,} labelled pictures, and is tested on the '
            f'{rest.num_examples:,} others'
        )
        for candidate in tried:
            if candidate not in record.found:
                record.add(candidate, _try(candidate.of(config), kept, rest, weights, predict))
                _say(f'  {candidate}: {_share(record.found[candidate], rest.num_examples)}')
        record.choose()
    chosen = record.chosen
    results.write(workdir, results.SWEEP, record.entry(kept, rest))
    _say(f'{chosen} is the best of {len(tried)} on the pictures held out')
    return Chosen(chosen.of(config), record.temperature())


def check(config: ConfigDict, source: Source) -> None:
    """Checks that the pictures that are not held out make a batch, where some are held out.

    Raises:
      ConfigError: they do not, and batches end with an epoch.
    """
    if not (candidates(config) or config.finetune.calibrate):
        return
    parts, batch = held_out(config, source), config.batch_size
    count = parts[0].num_examples if parts else batch
    if config.data.drop_remainder and count < batch:
        raise ConfigError(
            f'batch_size={batch}: finetune.held_out={config.finetune.held_out:g} of the '
            f'{source.num_examples:,} labelled pictures are held out, for the temperature and the '
            f'choice of rates, and the {count:,} others make no batch; give --config.batch_size='
            f'{count} or less, or --config.data.drop_remainder=False'
        )


def held_out(config: ConfigDict, source: Source) -> tuple[Source, Source] | None:
    """Returns the pictures to train on and those held out; None where so few leave none.

    Every class keeps its share, unless the labels are not known before all records are read.
    """
    share, labels = config.finetune.held_out, splits.read_labels(source)
    if not labels.exact:
        return splits.hold_out(source, share)
    try:
        kept, rest = holdout_split(labels.values, share, config.seed)
    except ValueError:
        return None
    return splits.subset(source, kept), splits.subset(source, rest)


@explained('training', TRAINING)
def _try(
    config: ConfigDict, kept: Source, held_out: Source, weights: Weights | None, predict: Predict
) -> Tried | None:
    """Returns what one training came to on the pictures held out; None where it diverged."""
    run = with_head(prepare(config, None, weights, kept))
    program = memory.compile_step(run, memory.available(run.mesh))
    try:
        state = train_quietly(run, program, run.init())
    except NotFinite:
        return None
    logits, labels = predict(run, state.all_variables(), held_out)
    if not np.isfinite(logits).all():  # the last update may have been finite all the same
        return None
    right = round(top_accuracy(of_logits(logits), labels, 1) * np.sum(labels >= 0))
    return Tried(right, fit_temperature(logits, labels))


class _Record:
    """`sweep.json`: what was tried so far, and what was chosen.

    Attributes:
      found: of each candidate that was tried, what it came to; None where it diverged.
      chosen: None before all were tried.
    """

    def __init__(
        self, workdir: str, about: dict[str, Any], seen: list[Any], tried: list[Candidate]
    ):
        """Reads it, if it is there and of the same labels.

        How pictures are seen may change: then all are tried again, unless one was chosen.
        """
        self._path, self._about, self._seen = epath.Path(workdir) / SWEEP, about, seen
        self.found: dict[Candidate, Tried | None] = {}
        self.chosen: Candidate | None = None
        self._seen_alike = True
        content = self._read()
        if content and content['about'] == about and (content['chosen'] or content['seen'] == seen):
            names, tries = {str(candidate): candidate for candidate in tried}, content['tried']
            self.found = {
                names[name]: tries[name] and Tried(*tries[name]) for name in names if name in tries
            }
            self.chosen = names.get(content['chosen'])
            self._seen_alike = content['seen'] == seen
        if self.chosen is None and _trains(workdir):
            raise ConfigError(
                f'--workdir={workdir}: {SWEEP}, which says with which learning rate its run '
                'trains, is not there or not as it was; bring it back, or give another --workdir'
            )

    def add(self, candidate: Candidate, found: Tried | None) -> None:
        self.found[candidate] = found
        self._write()

    def temperature(self) -> float | None:
        """Returns that of the candidate that was chosen; None where pictures are seen otherwise."""
        return self.found[self.chosen].temperature if self._seen_alike else None

    def choose(self) -> None:
        """Chooses the best one, and of equals the smallest.

        Raises:
          RunError: all diverged.
        """
        converged = {c: found.right for c, found in self.found.items() if found}
        if not converged:
            rates = ', '.join(f'{c.learning_rate}' for c in self.found)
            raise RunError(
                f'finetune.learning_rates: the training diverged with each of {rates}; give lower '
                'ones'
            )
        self.chosen = min(converged, key=lambda c: (-converged[c], c))
        self._write()

    def entry(self, kept: Source, held_out: Source) -> dict[str, Any]:
        """Returns the entry of `result.json`."""
        count = held_out.num_examples
        return {
            'learning_rate': self.chosen.learning_rate,
            'head_learning_rate': self.chosen.head_learning_rate,
            'candidates': [
                {**c._asdict(), 'accuracy': found.right / count if found else None}
                for c, found in self.found.items()
            ],
            'train_pictures': kept.num_examples,
            'held_out_pictures': count,
        }

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        whole = isinstance(found, dict) and {'about', 'seen', 'tried', 'chosen'} <= found.keys()
        return found if whole else None

    def _write(self) -> None:
        if parallel.is_main_process():
            content = {
                'about': self._about,
                'seen': self._seen,
                'tried': {str(candidate): found for candidate, found in self.found.items()},
                'chosen': self.chosen and str(self.chosen),
            }
            files.write_text(self._path, json.dumps(content, indent=1) + '\n')


def _trains(workdir: str) -> bool:
    """Whether there is a checkpoint."""
    folder = epath.Path(workdir) / 'checkpoints'
    return folder.exists() and any(path.name.isdigit() for path in folder.iterdir())


def _share(found: Tried | None, count: int) -> str:
    return f'{100 * found.right / count:.1f} %' if found else 'diverged'


def _say(text: str) -> None:
    if parallel.is_main_process():
        print(text, flush=True)
