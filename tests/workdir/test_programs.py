"""Where compiled programs are kept; that they give the same bits is in train/test_train.py."""

import os
import subprocess
import sys

import jax
import pytest

from simclr_jax.workdir import programs


@pytest.fixture
def update(monkeypatch):
    updates = {}
    monkeypatch.setattr(jax.config, 'update', updates.__setitem__)
    for name in ('JAX_COMPILATION_CACHE_DIR', 'SIMCLR_JAX_CACHE'):
        monkeypatch.delenv(name, raising=False)
    return updates


@pytest.mark.parametrize(
    ('backend', 'processes', 'environment', 'folder'),
    [
        ('cpu', 1, {}, ''),
        ('cpu', 1, {'SIMCLR_JAX_CACHE': '/x'}, '/x'),
        ('gpu', 1, {}, os.path.expanduser('~/.cache/simclr_jax')),
        ('gpu', 1, {'SIMCLR_JAX_CACHE': '~/x'}, os.path.expanduser('~/x')),
        ('gpu', 1, {'SIMCLR_JAX_CACHE': ''}, ''),
        # The first process alone writes, so the others have to see it.
        ('tpu', 4, {}, 'gs://bucket/run1/compilation_cache'),
        ('tpu', 4, {'SIMCLR_JAX_CACHE': '/shared'}, '/shared'),
    ],
)
def test_where_programs_are_kept(update, monkeypatch, backend, processes, environment, folder):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    monkeypatch.setattr(jax, 'process_count', lambda: processes)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert programs.keep_programs('gs://bucket/run1/') == folder
    assert update == ({'jax_compilation_cache_dir': folder} if folder else {})


def test_jax_own_variable_wins(update, monkeypatch):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '/theirs')
    monkeypatch.setenv('SIMCLR_JAX_CACHE', '/ours')
    assert programs.keep_programs('runs/a') == '/theirs' and not update


@pytest.mark.slow
def test_a_kept_program_is_loaded_and_gives_the_same_bits(tmp_path):
    script = """
import sys
import jax, jax.numpy as jnp, numpy as np
from simclr_jax.workdir.programs import keep_programs

keep_programs('unused')
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event.endswith('/cache_hits') else None)
x = jax.random.normal(jax.random.key(0), (64, 64))
y = jax.jit(jax.grad(lambda x: jnp.tanh(x @ jnp.sin(x)).sum()))(x)
print(len(hits), np.asarray(y).tobytes().hex())
"""
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'SIMCLR_JAX_CACHE': str(tmp_path / 'new')}
    environment.pop('JAX_COMPILATION_CACHE_DIR', None)
    command = [sys.executable, '-c', script]
    first, again = (
        subprocess.check_output(command, text=True, env=environment).split() for _ in range(2)
    )
    assert first[0] == '0' and int(again[0]) > 0
    assert first[1] == again[1]
    assert list((tmp_path / 'new').iterdir())
