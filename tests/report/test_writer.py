import builtins
import contextlib
import json
import logging
import math
import os
import pty
import re
import resource
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

from simclr_jax.report import writer
from simclr_jax.report.writer import MetricWriter, Progress, format_duration, read_metrics


def _write(workdir, steps, **arguments):
    with MetricWriter(workdir, tensorboard=False, **arguments) as metrics:
        for step in steps:
            metrics.write(step, {'loss': step / 10})


def test_every_value_is_read_back_as_it_was(tmp_path):
    scalars = {
        'third': 1 / 3,
        'tiny': 5e-324,
        'numpy': np.float32(0.1),
        'nan': math.nan,
        'up': math.inf,
        'down': -math.inf,
    }
    with MetricWriter(tmp_path / 'new' / 'run', tensorboard=False) as metrics:
        metrics.write(np.int64(7), scalars)
        # Still open: a reader sees the line at once.
        [row] = read_metrics(tmp_path / 'new' / 'run')
    np.testing.assert_equal(row, {'step': 7, **{k: float(v) for k, v in scalars.items()}})


def test_lines_are_strict_json_that_names_what_is_not_finite(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as metrics:
        metrics.write(1, {'a': math.nan, 'b': math.inf, 'c': -math.inf, 'd': 2})
    text = (tmp_path / 'metrics.jsonl').read_text()
    row = json.loads(text, parse_constant=lambda name: pytest.fail(f'{name} is not JSON'))
    assert row == {'step': 1, 'a': 'NaN', 'b': 'Infinity', 'c': '-Infinity', 'd': 2.0}
    assert text.endswith('}\n')


def test_a_scalar_must_not_be_named_step(tmp_path):
    with (
        MetricWriter(tmp_path, tensorboard=False) as metrics,
        pytest.raises(ValueError, match="named 'step'"),
    ):
        metrics.write(1, {'step': 2})


def test_no_file_has_no_rows(tmp_path):
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize('resume_step, kept', [(0, []), (3, [1, 2, 3]), (9, [1, 2, 3, 4, 5])])
def test_after_resuming_each_step_stands_there_once(tmp_path, resume_step, kept):
    _write(tmp_path, [1, 2, 3, 4, 5])
    _write(tmp_path, [resume_step + 1], resume_step=resume_step)
    assert [row['step'] for row in read_metrics(tmp_path)] == [*kept, resume_step + 1]
    assert os.listdir(tmp_path) == ['metrics.jsonl']


@pytest.mark.parametrize(
    'damage',
    [b'{"step": 3, "lo', b'{"step": 3, "loss": "x"}', b'\0\0\0', b'\xff\xfe', b'[3]', b'3'],
)
@pytest.mark.parametrize('resume_step', [None, 2])
def test_a_damaged_last_line_is_dropped(tmp_path, caplog, damage, resume_step):
    _write(tmp_path, [1, 2])
    path = tmp_path / 'metrics.jsonl'
    whole = path.read_bytes()
    path.write_bytes(whole + damage)
    _write(tmp_path, [3], resume_step=resume_step)
    assert path.read_bytes() == whole + b'{"step": 3, "loss": 0.3}\n'
    assert 'line 3 is damaged' in caplog.text


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
    _write(tmp_path, [1, 2])
    path = tmp_path / 'metrics.jsonl'
    path.write_bytes(path.read_bytes()[:-1])
    _write(tmp_path, [3])
    assert [row['step'] for row in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_kill_while_the_file_is_rewritten_changes_nothing(tmp_path, monkeypatch):
    _write(tmp_path, [1, 2, 3])
    before = (tmp_path / 'metrics.jsonl').read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', killed)
        with pytest.raises(KeyboardInterrupt):
            _write(tmp_path, [], resume_step=1)
    assert (tmp_path / 'metrics.jsonl').read_bytes() == before
    _write(tmp_path, [], resume_step=1)
    assert [row['step'] for row in read_metrics(tmp_path)] == [1]


def test_tensorboard_reads_the_summaries(tmp_path):
    tensors = pytest.importorskip('tensorboard.util.tensor_util')
    accumulators = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    with MetricWriter(tmp_path) as metrics:
        for step in (10, 20):
            metrics.write(step, {'loss': step / 8, 'learning_rate': math.inf})
    events = accumulators.EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert sorted(events.Tags()['tensors']) == ['learning_rate', 'loss']
    read = [(e.step, tensors.make_ndarray(e.tensor_proto)) for e in events.Tensors('loss')]
    assert read == [(10, 1.25), (20, 2.5)]
    assert len(read_metrics(tmp_path)) == 2


@pytest.mark.parametrize('error', [ImportError('no such module'), TypeError('mixed versions')])
def test_without_the_package_only_tensorboard_is_missing(tmp_path, monkeypatch, caplog, error):
    real_import = builtins.__import__

    def without_tensorboard(name, *args, **kwargs):
        if name.startswith('tensorboard'):
            raise error
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without_tensorboard)
    with MetricWriter(tmp_path) as metrics:
        metrics.write(1, {'loss': 2.0})
    assert read_metrics(tmp_path) == [{'step': 1, 'loss': 2.0}]
    assert os.listdir(tmp_path) == ['metrics.jsonl']
    [record] = caplog.records
    assert record.levelno == logging.WARNING and str(error) in record.getMessage()


def test_importing_the_writer_imports_neither_tensorflow_nor_jax():
    code = (
        'import sys, simclr_jax.report.writer, simclr_jax.report.html\n'
        "print([m for m in ('jax', 'tensorflow', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


FIELDS = {
    'epoch': 3.25,
    'loss': 4.125,
    'images_per_second': 1234.4,
    'input_wait': 0.031,
    'probe_accuracy': 0.7125,
}


def _clock(monkeypatch, seconds):
    times = iter(seconds)
    monkeypatch.setattr(writer.time, 'monotonic', lambda: next(times))


def test_a_pipe_gets_plain_lines(monkeypatch):
    reader, stream = os.pipe()
    _clock(monkeypatch, [0, 0, 20])
    with os.fdopen(stream, 'w') as pipe:
        progress = Progress(1000, pipe)
        progress.update(100, FIELDS)
        progress.update(200, {'loss': math.nan})
        progress.finish()
    with os.fdopen(reader) as pipe:
        lines = pipe.read().split('\n')
    rest = 'epoch 3.2  1,234 images/s  input wait 3%'
    assert lines == [
        f'100/1000  loss 4.1250  probe 71.2%  {rest}',
        # 100 steps took 20 s, and 800 are left.
        f'200/1000  loss nan  probe 71.2%  2m40s left  {rest}',
        '',
    ]


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
    progress = Progress(1000, stream)
    progress.update(250, FIELDS)
    progress.update(500, FIELDS)
    progress.finish()


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
        progress = Progress(10, stream)
        os.close(main)
        with pytest.raises(OSError):
            os.write(terminal, b'the terminal is gone')
        progress.update(1, FIELDS)
        progress.finish()
        os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)  # for the flush when it is closed


@pytest.mark.parametrize('total', [0, 5])
def test_a_step_beyond_the_total_is_shown(total):
    [frame] = _frames(
        _on_terminal(80, lambda s: (p := Progress(total, s), p.update(9, {}), p.finish()))
    )
    assert frame == f'[{"=" * 30}]  9/{total}'


def test_time_left_does_not_count_what_came_before_the_first_update(monkeypatch, capsys):
    progress = Progress(30)
    time.sleep(0.01)
    _clock(monkeypatch, [1000, 1000, 1010])
    progress.update(10, {})
    progress.update(20, {})
    assert capsys.readouterr().err == '10/30\n20/30  10s left\n'


@pytest.mark.parametrize(
    'seconds, text',
    [(0, '0s'), (-3, '0s'), (59.6, '1m00s'), (185, '3m05s'), (7620, '2h07m'), (273600, '3d04h')],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_what_a_full_disk_refuses_is_written_later(tmp_path):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {'loss': 4.0})
    size = (tmp_path / 'metrics.jsonl').stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 7, unlimited[1]))  # ends within a line
        writer.write(2, {'loss': 3.0})
        writer.write(3, {'loss': 2.0})
        with pytest.raises(OSError, match='File too large'):
            writer.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    writer.write(4, {'loss': 1.0})
    writer.sync()
    writer.close()
    assert [(row['step'], row['loss']) for row in read_metrics(tmp_path)] == [
        (1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0),
    ]  # fmt: skip
