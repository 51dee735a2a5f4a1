"""Metrics while a run goes: JSON lines, and TensorBoard summaries."""

import contextlib
import functools
import json
import logging
import math
import os
import socket
import time
from typing import Any

from etils import epath

from simclr_jax import files

_FILE = 'metrics.jsonl'
_logger = logging.getLogger(__name__)


class MetricWriter:
    """Appends scalars to `workdir/metrics.jsonl` and to `workdir/tensorboard`.

    One line is one JSON object, `{"step": 100, "loss": 4.25}`, written out when `write` returns,
    with every digit of the float. What a full disk refuses is kept and written with a later line;
    `sync` tells. JSON has no NaN: like protobuf's JSON, the file has the strings
    "NaN", "Infinity" and "-Infinity", which `read_metrics`, `float` and JavaScript's `Number` read.

    With `resume_step=s` the lines of steps after `s` are dropped first, because the resumed run
    writes them again. TensorBoard's files are only appended to; it is told that a session starts at
    `s + 1`, and drops what it has from there on. `workdir` may be a `gs://` address.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        tensorboard: bool = True,
        *,
        resume_step: int | None = None,
    ):
        workdir = epath.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        _repair(workdir, math.inf if resume_step is None else resume_step)
        path = workdir / _FILE
        if '://' in str(path):
            self._file = path.open('ab')
        else:  # unbuffered: what a write has not taken is still ours
            self._file = open(path, 'ab', buffering=0)  # noqa: SIM115 - close() closes it
        self._unwritten = b''
        self._summaries = None
        if tensorboard:
            self._summaries = _open_summaries(workdir / 'tensorboard', resume_step)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes the scalars of one step. Raises `ValueError` for a scalar named `step`."""
        if 'step' in scalars:
            raise ValueError("a scalar is named 'step', the key of the line itself: rename it")
        row = {'step': int(step)} | {name: float(value) for name, value in scalars.items()}
        self._unwritten += _to_line(row).encode()
        with contextlib.suppress(OSError):
            self._write_out()
        if self._summaries:
            try:
                self._summaries.write({name: row[name] for name in scalars}, int(step))
            except OSError as error:  # a full disk mostly
                _logger.warning('No more TensorBoard summaries: %s', error)
                self._summaries = None

    def sync(self) -> None:
        """Returns when every line would survive a power cut. Raises `OSError` where it cannot."""
        self._write_out()
        files.flush_to_disk(self._file)

    def close(self) -> None:
        """Flushes and closes both files."""
        with contextlib.suppress(OSError):
            self._write_out()
        self._file.close()
        if self._summaries:
            with contextlib.suppress(OSError):
                self._summaries.close()

    def _write_out(self) -> None:
        while self._unwritten:
            written = self._file.write(self._unwritten)  # a part of it on a disk about to be full
            self._unwritten = self._unwritten[written or len(self._unwritten) :]
        self._file.flush()

    def __enter__(self) -> 'MetricWriter':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of `workdir/metrics.jsonl` in the order written; none if there is no such file.

    A killed process or a full disk can leave a damaged line: it is left out, with a warning.
    """
    path = epath.Path(workdir) / _FILE
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().decode(errors='replace').split('\n'), 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            scalars = {name: float(value) for name, value in row.items() if name != 'step'}
            rows.append({'step': int(row['step']), **scalars})
        except (ValueError, TypeError, KeyError, AttributeError):
            _tell_damage(str(path), number, line)
    return rows


@functools.cache  # once: a run reads the file several times
def _tell_damage(path: str, number: int, line: str) -> None:
    _logger.warning('%s, line %d is damaged and left out: %.80r', path, number, line)


def _to_line(row: dict[str, Any]) -> str:
    def encode(value: float) -> float | str:
        return value if math.isfinite(value) else json.dumps(value)

    return json.dumps({name: encode(value) for name, value in row.items()}) + '\n'


def _repair(workdir: epath.Path, last_step: float) -> None:
    """Leaves only whole lines of steps up to `last_step`; a kill in between changes nothing."""
    path = workdir / _FILE
    if not path.exists():
        return
    kept = ''.join(_to_line(row) for row in read_metrics(workdir) if row['step'] <= last_step)
    if kept.encode() != path.read_bytes():
        files.write_text(path, kept)


class _Summaries:
    """TensorBoard's event file, by TensorBoard's own means: TensorFlow takes seconds to import."""

    def __init__(self, folder: epath.Path, resume_step: int | None):
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = event_pb2.Event
        folder.mkdir(parents=True, exist_ok=True)
        name = f'events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}'
        self._records = RecordWriter((folder / name).open('wb'))
        self._add(self._event(wall_time=time.time(), file_version='brain.Event:2'))
        if resume_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(self._event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def write(self, scalars: dict[str, float], step: int) -> None:
        event = self._event(wall_time=time.time(), step=step)
        for name, scalar in scalars.items():
            value = event.summary.value.add(tag=name)
            value.metadata.plugin_data.plugin_name = 'scalars'
            value.tensor.dtype = 1  # DT_FLOAT
            value.tensor.float_val.append(scalar)
        self._add(event)

    def _add(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        self._records.close()


def _open_summaries(folder: epath.Path, resume_step: int | None) -> _Summaries | None:
    try:
        return _Summaries(folder, resume_step)
    except Exception as error:  # a broken installation raises anything, metrics.jsonl is enough
        _logger.warning('No TensorBoard summaries: %s', error)
        return None
