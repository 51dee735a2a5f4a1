"""Metrics while a run goes: JSON lines, TensorBoard summaries and one line on the terminal."""

import contextlib
import json
import logging
import math
import os
import shutil
import socket
import sys
import time
from typing import Any, TextIO

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
    writes them again. TensorBoard's files are only appended to. `workdir` may be a `gs://` address.
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
        self._summaries = _open_summaries(workdir / 'tensorboard') if tensorboard else None

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
            _logger.warning('%s, line %d is damaged and left out: %.80r', path, number, line)
    return rows


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
        temporary = workdir / f'{_FILE}.tmp'
        temporary.write_text(kept)
        temporary.replace(path)


class _Summaries:
    """TensorBoard's event file, by TensorBoard's own means: TensorFlow takes seconds to import."""

    def __init__(self, folder: epath.Path):
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = event_pb2.Event
        folder.mkdir(parents=True, exist_ok=True)
        name = f'events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}'
        self._records = RecordWriter((folder / name).open('wb'))
        self._add(self._event(wall_time=time.time(), file_version='brain.Event:2'))

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


def _open_summaries(folder: epath.Path) -> _Summaries | None:
    try:
        return _Summaries(folder)
    except Exception as error:  # a broken installation raises anything, metrics.jsonl is enough
        _logger.warning('No TensorBoard summaries: %s', error)
        return None


class Progress:
    """Where a run stands: one redrawn line with a bar on a terminal, plain lines elsewhere.

    The time left comes from the steps since the first `update`, so compilation does not count.
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None):
        self._total = total_steps
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._fields: dict[str, float] = {}
        self._start: tuple[int, float] | None = None

    def update(self, step: int, fields: dict[str, float]) -> None:
        """Shows `step` and those of `epoch`, `loss`, `images_per_second`, `input_wait` and
        `probe_accuracy` (both in [0, 1]) that were in `fields` now or before."""
        self._fields |= fields
        self._start = self._start or (step, time.monotonic())
        if self._terminal:
            self._write('\r' + self._fit(step) + '\x1b[K')
        else:
            self._write('  '.join(self._texts(step)) + '\n')

    def finish(self) -> None:
        """Leaves the last line standing."""
        if self._terminal and self._start:
            self._write('\n')

    def _texts(self, step: int) -> list[str]:
        """What to show, the most important first."""
        first_step, first_time = self._start
        seconds_a_step = (time.monotonic() - first_time) / max(1, step - first_step)
        left = format_duration((self._total - step) * seconds_a_step) if step > first_step else None
        shown = [
            ('loss {:.4f}', self._fields.get('loss')),
            ('probe {:.1%}', self._fields.get('probe_accuracy')),
            ('{} left', left),
            ('epoch {:.1f}', self._fields.get('epoch')),
            ('{:,.0f} images/s', self._fields.get('images_per_second')),
            ('input wait {:.0%}', self._fields.get('input_wait')),
        ]
        return [f'{step}/{self._total}', *(text.format(v) for text, v in shown if v is not None)]

    def _fit(self, step: int) -> str:
        """As many texts as the terminal has room for, behind a bar of 10 to 30 characters."""
        # A full last column would wrap, and the next redraw would start one line too low.
        width = _terminal_width(self._stream) - 1
        texts = self._texts(step)
        while len(texts) > 1 and len('  '.join(texts)) + 14 > width:
            texts.pop()
        line = '  '.join(texts)
        bar = min(30, width - len(line) - 4)
        if bar < 10:
            return line[: max(0, width)]
        done = int(bar * min(1, step / max(1, self._total)))
        return f'[{"=" * done}{" " * (bar - done)}]  {line}'

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a closed terminal must not end the run
            self._stream.write(text)
            self._stream.flush()


def _terminal_width(stream: TextIO) -> int:
    # shutil asks about stdout, which may be a file while stderr is the terminal.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        if columns := os.get_terminal_size(stream.fileno()).columns:
            return columns
    return shutil.get_terminal_size().columns


def format_duration(seconds: float) -> str:
    """The two leading units of a duration: `42s`, `3m05s`, `2h07m`, `3d04h`."""
    minutes, seconds = divmod(round(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f'{days}d{hours:02}h'
    if hours:
        return f'{hours}h{minutes:02}m'
    return f'{minutes}m{seconds:02}s' if minutes else f'{seconds}s'
