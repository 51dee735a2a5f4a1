"""How sure a classifier may be: its temperature, by labels of the run that another one did not see.

The classifier of the run learns from all its labels, so none is left to tell how sure it is. So the
same training is done once more before, on most of the labels; what that classifier says of the
others gives the temperature, as in scikit-learn's `CalibratedClassifierCV(ensemble=False)`. No test
picture is opened for it. A sweep has done that training already: its winner.
"""

import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import files, parallel
from simclr_jax.data import splits
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.calibration import fit_temperature
from simclr_jax.methods.base import Tree
from simclr_jax.modes import sweep
from simclr_jax.modes.outputs import with_head
from simclr_jax.train import memory
from simclr_jax.train.out_of_memory import TRAINING, explained
from simclr_jax.train.quiet import train_quietly
from simclr_jax.train.setup import Run, prepare
from simclr_jax.weights.description import Weights
from simclr_jax.workdir.claim import CALIBRATION

_FORMAT = 1  # of that file

# Returns logits `[example, class]` of the pictures of a source, by the variables of a run that is
# over, and labels.
Logits = Callable[[Run, Tree, Source], tuple[np.ndarray, np.ndarray]]


class Temperature(NamedTuple):
    """What divides the logits.

    Attributes:
      value: above 0; 1 where nothing was held out.
      held_out: how many pictures it was chosen by.
    """

    value: float = 1.0
    held_out: int = 0


def find_temperature(
    config: ConfigDict,
    workdir: str,
    source: Source,
    weights: Weights | None,
    logits_of: Logits,
    known: float | None = None,
) -> Temperature:
    """Returns the temperature of the classifier that `source` gives.

    What was found is a file in the workdir: a command that was killed does not train for it again.

    Args:
      config: of the run, with the learning rate that it trains with.
      workdir: of the run.
      source: the labelled pictures of the run, none of which it is tested on.
      weights: what the encoder starts from; None for a random one.
      logits_of: what a classifier says of pictures.
      known: the temperature, where the training was done already: by a sweep (`sweep.Chosen`).

    Raises:
      RunError: the training diverged.
    """
    parts = sweep.held_out(config, source) if config.finetune.calibrate else None
    if parts is None:
        return Temperature()
    kept, rest = parts
    about, path = _about(config, source, rest), epath.Path(workdir) / CALIBRATION
    found = _read(path, about)
    parallel.wait_for_all()  # all have read it before the first one writes
    if found is None:
        if known is None and parallel.is_main_process():
            print(
                f'\ncalibration: learning from {kept.num_examples:,} of the '
                f'{source.num_examples:,} labelled pictures, to see how sure it may be of the '
                f'{rest.num_examples:,} others (finetune.calibrate)',
                flush=True,
            )
        if known is None:
            known = _fit(config, kept, rest, weights, logits_of)
        found = Temperature(known, rest.num_examples)
        if parallel.is_main_process():
            content = {'about': about, **found._asdict()}
            files.write_text(path, json.dumps(content, indent=1) + '\n')
            print(f'logits are divided by {found.value:.2f}\n', flush=True)
    return found


@explained('training', TRAINING)
def _fit(
    config: ConfigDict, kept: Source, rest: Source, weights: Weights | None, logits_of: Logits
) -> float:
    run = with_head(prepare(config, None, weights, kept))
    program = memory.compile_step(run, memory.available(run.mesh))
    state = train_quietly(run, program, run.init())
    return fit_temperature(*logits_of(run, state.all_variables(), rest))


def _about(config: ConfigDict, source: Source, rest: Source) -> dict[str, Any]:
    """Returns what it depends on that may change within a workdir."""
    labels = splits.read_labels(source).values
    return {
        'format': _FORMAT,
        'pictures': [source.num_examples, rest.num_examples],
        'labels': zlib.crc32(np.asarray(labels, np.int64).tobytes()),
        'encoder': config.start.checksum,
        'rates': [config.optimizer.learning_rate, config.finetune.head_learning_rate],
        'seen': [config.data.eval_interpolation, config.data.eval_antialias],
    }


def _read(path: epath.Path, about: dict[str, Any]) -> Temperature | None:
    try:
        found = json.loads(path.read_text())
        same = found['about'] == about
        return Temperature(found['value'], found['held_out']) if same else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
