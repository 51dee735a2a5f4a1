"""Which run a workdir belongs to: its config, and what its data held when it began."""

import dataclasses
import json
from collections.abc import Callable

from etils import epath
from ml_collections import ConfigDict

from simclr_jax import files, parallel
from simclr_jax.config import ConfigError, to_json
from simclr_jax.config_loading import check_same_run

_CONFIG, _DATA, _PICTURES = 'config.json', 'data.json', 'data.pictures'
_LABELS = 'data.labels'  # of the pictures, where a table gives them
CALIBRATION = 'calibration.json'  # of a run of a classifier: its temperature
SWEEP = 'sweep.json'  # of a run that chooses a learning rate first: what was tried
START = 'start.safetensors'  # of a run that goes on from weights: their copy
TEACHER = 'teacher.safetensors'  # of one that learns from a classifier: its copy


@dataclasses.dataclass(frozen=True)
class Held:
    """What a training split holds.

    Attributes:
      num_examples: how many records.
      label_names: the classes; None where there are no labels.
      pictures: of a folder: returns which pictures are in it, in all splits
        (`data/folder_cache.py`); a million are 60 MB, so they are read where they are needed.
      labels: of a folder with a table of labels: returns what it says of these pictures
        (`data/picture_labels.py`).
    """

    num_examples: int
    label_names: tuple[str, ...] | None
    pictures: Callable[[], bytes] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )
    labels: Callable[[], bytes] | None = dataclasses.field(default=None, repr=False, compare=False)

    def check(self, now: 'Held', data: str) -> None:
        """Checks that `data` hold at a later start what they held at the first.

        Raises:
          ConfigError: they do not.
        """
        if self.num_examples != now.num_examples:
            change = f'{now.num_examples:,} examples now, {self.num_examples:,} then'
        elif self.label_names != now.label_names:
            before, after = (held.label_names or () for held in (self, now))
            gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
            change = ', '.join(
                f'{text} {" ".join(names[:5])}{" ..." if len(names) > 5 else ""}'
                for text, names in (('without the classes', gone), ('with new classes', new))
                if names
            )
            change = change or 'its classes have another order'
        else:
            return
        raise ConfigError(
            f'{data}: is not what it was when this run began ({change}); bring the old data back, '
            'or begin a new run with another --workdir'
        )


def check_claim(config: ConfigDict, workdir: str) -> Held | None:
    """Checks the config against that of the run in the workdir, and returns what its data held.

    Returns:
      None where there is no run yet, or one that is too old to say.

    Raises:
      ConfigError: the workdir holds a run of another config, or is damaged.
    """
    place = epath.Path(workdir)
    if not (place / _CONFIG).exists():
        return None
    check_same_run(config, (place / _CONFIG).read_text(), workdir)
    if not (place / _DATA).exists():
        return None
    try:
        saved = json.loads((place / _DATA).read_text())
        names = saved['label_names']
        names = names if names is None else tuple(names)
        pictures, labels = (
            _reader(place / file, saved.get(part, 0))  # older runs know of no labels
            for file, part in ((_PICTURES, 'pictures'), (_LABELS, 'labels'))
        )
        return Held(int(saved['num_examples']), names, pictures, labels)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f'--workdir={workdir}: {_DATA}, {_PICTURES} or {_LABELS}, which say what the data held '
            f'when the run began, cannot be read ({error}); restore them, or give another --workdir'
        ) from error


def _reader(path: epath.Path, size: int) -> Callable[[], bytes] | None:
    if not size:
        return None
    if (found := path.stat().length) != size:
        raise ValueError(f'{path.name} has {found:,} bytes, not {size:,}')
    return path.read_bytes


def claim_workdir(config: ConfigDict, workdir: str, held: Callable[[], Held]) -> None:
    """Remembers the config, and what the data hold, where the workdir holds no run yet.

    Called when all that can be wrong with a command was looked at: one that fails claims nothing.

    Raises:
      ConfigError: the workdir cannot be written.
    """
    place = epath.Path(workdir)
    if not parallel.is_main_process():
        return
    claimed = (place / _CONFIG).exists()
    try:
        if not (claimed and (place / _DATA).exists()):
            now = held()
            pictures = now.pictures() if now.pictures else b''
            labels = now.labels() if now.labels else b''
            identity = {
                'num_examples': now.num_examples,
                'label_names': now.label_names,
                'pictures': len(pictures),
                'labels': len(labels),
            }
            for name, content in ((_PICTURES, pictures), (_LABELS, labels)):
                if content:
                    files.write_bytes(place / name, content)
            files.write_text(place / _DATA, json.dumps(identity) + '\n')
        if not claimed:  # the last one: with it the workdir holds a run
            files.write_text(place / _CONFIG, to_json(config))
    except OSError as error:
        raise ConfigError(
            f'--workdir={workdir}: cannot be written ({error.strerror}); name another one'
        ) from error


def release_workdir(workdir: str) -> None:
    """Takes a claim back that led to no checkpoint, so that other settings can be given."""
    place = epath.Path(workdir)
    steps = place / 'checkpoints'
    trained = steps.exists() and any(path.name.isdigit() for path in steps.iterdir())
    if parallel.is_main_process() and not trained:
        for name in (_CONFIG, _DATA, _PICTURES, _LABELS, START, TEACHER, SWEEP, CALIBRATION):
            (place / name).unlink(missing_ok=True)
