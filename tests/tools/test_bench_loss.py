import json

import jax

from simclr_jax import config as config_lib
from simclr_jax.modes import bench
from simclr_jax.tools import bench_loss


def test_prints_a_table_and_writes_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_loss, '_PAIRS', (600,))
    monkeypatch.setattr(bench_loss, '_COMPILED_PAIRS', 1200)
    monkeypatch.setattr(bench_loss, '_REPEATS', 1)
    bench.main(config_lib.default(), str(tmp_path / 'new'), 'loss')

    result = json.loads((tmp_path / 'new' / 'bench_loss.json').read_text())
    assert result['temperature'] == config_lib.default().simclr.temperature
    (row,) = result['rows']
    assert row['pairs'] == 600
    assert row['seconds_ratio'] == row['tiled_seconds'] / row['dense_seconds'] > 0
    assert row['bytes_ratio'] == row['tiled_bytes'] / row['dense_bytes'] > 0
    # The dense one holds at least one float32 matrix of logits, the tiled one less than one.
    assert row['dense_bytes'] >= 4 * 1200**2 > row['tiled_bytes']
    assert result['compiled_only']['tiled_bytes'] < 4 * 2400**2

    printed = capsys.readouterr().out
    assert 'dense s' in printed
    assert '1,200 pairs' in printed
    assert f'{row["seconds_ratio"]:.3f}' in printed


def test_leaves_the_dense_loss_out_where_it_would_take_too_much_memory(monkeypatch):
    monkeypatch.setattr(bench_loss, '_REPEATS', 1)
    (row,) = bench_loss.measure([32], 0.1, dense_limit=1000)
    assert row['dense_bytes'] > 1000
    assert row['dense_seconds'] is None
    assert row['seconds_ratio'] is None
    assert row['tiled_seconds'] > 0
    assert bench_loss.format_rows([row]).splitlines()[1].split()[1] == '-'


def test_temporary_bytes_are_the_compilers():
    program = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((4,), 'float32')).compile()
    assert bench_loss.temporary_bytes(program) == 0
