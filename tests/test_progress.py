import contextlib
import math
import os
import pty
import re
import termios
import time

import pytest

from simclr_jax import progress
from simclr_jax.progress import Progress, format_duration

FIELDS = {
    'epoch': 3.25,
    'loss': 4.125,
    'images_per_second': 1234.4,
    'input_wait': 0.031,
    'probe_accuracy': 0.7125,
}


def _clock(monkeypatch, seconds):
    times = iter(seconds)
    monkeypatch.setattr(progress.time, 'monotonic', lambda: next(times))


def test_a_pipe_gets_plain_lines(monkeypatch):
    reader, stream = os.pipe()
    _clock(monkeypatch, [0, 0, 20])
    with os.fdopen(stream, 'w') as pipe:
        line = Progress(1000, pipe)
        line.update(100, FIELDS)
        line.update(200, {'loss': math.nan})
        line.finish()
    with os.fdopen(reader) as pipe:
        lines = pipe.read().split('\n')
    rest = 'epoch 3.2  1,234 images/s  input wait 3%'
    assert lines == [
        f'100/1000  loss 4.1250  probe 71.2%  {rest}',
        # 100 steps took 20 s, and 800 are left.
        f'200/1000  loss nan  probe 71.2%  2m40s left  {rest}',
        '',
    ]


def test_a_classifier_shows_how_many_of_its_training_pictures_are_right():
    reader, stream = os.pipe()
    with os.fdopen(stream, 'w') as pipe:
        Progress(1000, pipe).update(100, {'loss': 0.5, 'accuracy': 0.9125})
    with os.fdopen(reader) as pipe:
        assert pipe.read() == '100/1000  loss 0.5000  training accuracy 91.2%\n'


def _on_terminal(columns, show):
    """What `show(stream)` writes to a pseudo-terminal of that width."""
    main, terminal = pty.openpty()
    try:
        termios.tcsetwinsize(terminal, (24, columns))
        with os.fdopen(terminal, 'w') as stream:
            show(stream)
        # One read may return only a part; once the other side is closed, Linux ends with an error.
        received = b''
        with contextlib.suppress(OSError):
            while part := os.read(main, 1 << 16):
                received += part
        return received.decode()
    finally:
        os.close(main)


def _show(stream):
    line = Progress(1000, stream)
    line.update(250, FIELDS)
    line.update(500, FIELDS)
    line.finish()


def _frames(text):
    assert text.endswith('\r\n') and text.count('\n') == 1
    return [frame.removesuffix('\x1b[K') for frame in text.removesuffix('\r\n').split('\r')[1:]]


def test_a_terminal_gets_one_line_with_a_bar():
    frames = _frames(_on_terminal(160, _show))
    assert len(frames) == 2
    assert re.match(r'\[={7} {23}\]  250/1000  loss 4\.1250  probe', frames[0])
    assert re.match(r'\[={15} {15}\]  500/1000  .* left  epoch .*input wait 3%$', frames[1])


@pytest.mark.parametrize('columns', [1, 2, 9, 20, 25, 40, 60, 80, 100, 200])
def test_a_line_never_fills_the_terminal(columns):
    for frame in _frames(_on_terminal(columns, _show)):
        assert len(frame) < columns
        assert '250/1000  loss 4.1250'.startswith(frame[:8]) or frame[0] in '[5'
        assert columns < 40 or frame.startswith('[')


def test_a_terminal_that_goes_away_does_not_end_the_run():
    main, terminal = pty.openpty()
    with os.fdopen(terminal, 'w') as stream:
        line = Progress(10, stream)
        os.close(main)
        with pytest.raises(OSError):
            os.write(terminal, b'the terminal is gone')
        line.update(1, FIELDS)
        line.finish()
        os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)  # for the flush when it is closed


@pytest.mark.parametrize('total', [0, 5])
def test_a_step_beyond_the_total_is_shown(total):
    [frame] = _frames(
        _on_terminal(80, lambda s: (p := Progress(total, s), p.update(9, {}), p.finish()))
    )
    assert frame == f'[{"=" * 30}]  9/{total}'


def test_a_pipe_may_get_a_line_now_and_then_and_the_last_one(monkeypatch, capsys):
    line = Progress(4, seconds=30)
    _clock(monkeypatch, [0, 0, 0, 10, 40, 40, 41, 41])
    for step in range(1, 5):
        line.update(step, {'bad': 2} if step > 1 else {})
    assert capsys.readouterr().err.splitlines() == [
        '1/4',
        '3/4  20s left  2 bad',
        '4/4  0s left  2 bad',
    ]


def test_time_left_does_not_count_what_came_before_the_first_update(monkeypatch, capsys):
    line = Progress(30)
    time.sleep(0.01)
    _clock(monkeypatch, [1000, 1000, 1010])
    line.update(10, {})
    line.update(20, {})
    assert capsys.readouterr().err == '10/30\n20/30  10s left\n'


@pytest.mark.parametrize(
    'seconds, text',
    [(0, '0s'), (-3, '0s'), (59.6, '1m00s'), (185, '3m05s'), (7620, '2h07m'), (273600, '3d04h')],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text
