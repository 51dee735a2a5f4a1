"""What all processes of a run have to be given alike, compared before the first step."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence

import jax
from etils import epath

from simclr_jax import files, parallel
from simclr_jax.config import ConfigError

# Each machine may have its own folders, and its own number of cores to read them with.
_OWN = ('--data', 'data.data_dir', 'data.path', 'eval.path', 'data.workers', 'start.encoder')
_OWN += ('--labels', 'data.labels', 'eval.labels', 'distill.teacher')
_PATIENCE = 15.0  # seconds for a network file system to show a new file


def check_same_command(given: Mapping[str, object]) -> None:
    """Checks that all processes were given the same flags and fields of a config.

    Args:
      given: the value of each, under its name, as `--mode` or `data.path`.

    Raises:
      ConfigError: in every process, naming those that differ.
    """
    _compare({name: value for name, value in given.items() if name not in _OWN}, 'command')


def check_same_data(field: str, num_examples: int, label_names: Sequence[str] | None) -> None:
    """Checks that all processes have found the same data.

    Args:
      field: what names the data in the config, as 'data.train_split'.
      num_examples: how many there are.
      label_names: the classes; None without labels.

    Raises:
      ConfigError: in every process, naming what differs.
    """
    names = '\n'.join(label_names or ())
    found = {
        'examples': num_examples,
        'classes': len(label_names or ()),
        'hash of the names of the classes': hashlib.sha256(names.encode()).hexdigest()[:12],
    }
    _compare({f'{field}: {name}': value for name, value in found.items()}, 'data')


def check_shared(workdir: str, flag: str = '--workdir') -> None:
    """Checks that all processes see what the first one writes into the workdir, which is there.

    Raises:
      ConfigError: in every process: it is a disk of each machine's own, or another folder.
    """
    if jax.process_count() == 1:
        return
    token = parallel.all_texts(os.urandom(8).hex())[0]
    path = epath.Path(workdir) / f'seen-by-all-{token}'
    problem = ''
    if parallel.is_main_process():
        try:
            files.write_text(path, token)
        except OSError as error:
            problem = f'{error.strerror or error}'
    problems = parallel.all_texts(problem)
    if not problems[0]:
        seen = parallel.is_main_process() or _appears(path)
        problems = parallel.all_texts('' if seen else f'{workdir} on {socket.gethostname()}')
        if parallel.is_main_process():
            path.unlink(missing_ok=True)
        blind = [f'process {i} ({text})' for i, text in enumerate(problems) if text]
        if blind:
            raise ConfigError(
                f'{flag}={workdir}: {", ".join(blind)} does not see what process 0 wrote there. '
                f'Give every process the same {flag}, on a file system or in a bucket that all of '
                'them see'
            )
    else:
        raise ConfigError(f'{flag}={workdir}: cannot be written ({problems[0]}); name another one')


def _appears(path: epath.Path) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _compare(values: dict[str, object], what: str) -> None:
    if jax.process_count() == 1:
        return
    texts = parallel.all_texts(json.dumps(values))
    first, *others = (json.loads(text) for text in texts)
    for number, other in enumerate(others, 1):
        different = [
            f'  {name}: {first.get(name, "(absent)")!r} in process 0, '
            f'{other.get(name, "(absent)")!r} in process {number}'
            for name in dict.fromkeys([*first, *other])
            if first.get(name) != other.get(name)
        ]
        if different:
            raise ConfigError(
                f'process {number} has another {what} than process 0; give every process the same '
                'command and the same data. What differs:\n' + '\n'.join(different)
            )
