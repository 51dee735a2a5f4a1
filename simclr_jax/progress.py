"""Where a long piece of work stands, on the terminal."""

import contextlib
import os
import shutil
import sys
import time
from typing import TextIO


class Progress:
    """Where a run stands: one redrawn line with a bar on a terminal, plain lines elsewhere.

    The time left comes from the steps since the first `update`, so compilation does not count.

    Args:
      total_steps: how many there are: of training, or pictures, or whatever is counted.
      stream: where it is shown, by default stderr.
      seconds: between two lines where there is no terminal; 0 for a line at every update.
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None, seconds: float = 0.0):
        self._total, self._seconds = total_steps, seconds
        self._due = 0.0
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._fields: dict[str, float] = {}
        self._start: tuple[int, float] | None = None

    def update(self, step: int, fields: dict[str, float]) -> None:
        """Shows `step` and those of `epoch`, `loss`, `images_per_second`, `bad` (pictures),
        `input_wait`, `accuracy` and `probe_accuracy` (all in [0, 1]) that were in `fields` now or
        before."""
        self._fields |= fields
        self._start = self._start or (step, time.monotonic())
        if self._terminal:
            self._write('\r' + self._fit(step) + '\x1b[K')
        elif not self._seconds or self._is_due(step):
            self._write('  '.join(self._texts(step)) + '\n')

    def _is_due(self, step: int) -> bool:
        now = time.monotonic()
        if now < self._due and step < self._total:
            return False
        self._due = now + self._seconds
        return True

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
            # Of the batches that a classifier learns from, as they are augmented.
            ('training accuracy {:.1%}', self._fields.get('accuracy')),
            ('probe {:.1%}', self._fields.get('probe_accuracy')),
            ('{} left', left),
            ('epoch {:.1f}', self._fields.get('epoch')),
            ('{:,.0f} images/s', self._fields.get('images_per_second')),
            ('input wait {:.0%}', self._fields.get('input_wait')),
            ('{:,} bad', self._fields.get('bad')),
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
