import builtins
import json
import logging
import math
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from simclr_jax.workdir.metrics import MetricWriter, read_metrics


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


def test_a_damaged_line_is_told_once(tmp_path, caplog):
    _write(tmp_path, [1, 2])
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 3, "lo\n{"step": 4, "loss": 1.0}\n')
    for _ in range(3):
        assert [row['step'] for row in read_metrics(tmp_path)] == [1, 2, 4]
    assert caplog.text.count('is damaged') == 1


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


def test_tensorboard_has_each_step_once_after_a_resume(tmp_path):
    # What TensorBoard itself reads with; event_accumulator forgets to purge tensors.
    name = 'tensorboard.backend.event_processing.plugin_event_accumulator'
    accumulators = pytest.importorskip(name)
    for resume_step, steps in ((0, (1, 2, 3, 4)), (2, (3, 4, 5)), (4, (5,))):
        with MetricWriter(tmp_path, resume_step=resume_step) as metrics:
            for step in steps:
                metrics.write(step, {'loss': 10.0 * resume_step + step})
    events = accumulators.EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    read = [(e.step, float(e.tensor_proto.float_val[0])) for e in events.Tensors('loss')]
    assert read == [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0), (5, 45.0)]


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
        'import sys, simclr_jax.workdir.metrics, simclr_jax.report.html\n'
        "print([m for m in ('jax', 'tensorflow', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


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
