"""`--bench=loss`: time and memory of the tiled NT-Xent beside the dense one."""

import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax.config import CLASSIFIERS, ConfigError
from simclr_jax.losses import nt_xent, tiled_nt_xent

_LOSSES = {'dense': nt_xent, 'tiled': tiled_nt_xent}
_PAIRS = (512, 2048, 8192)
_COMPILED_PAIRS = 131_072  # too slow to run on a laptop; what it would take is known all the same
_DIM = 128
_DENSE_LIMIT = 6e9  # bytes
_REPEATS = 5


def main(config: ConfigDict, workdir: str) -> None:
    """Prints the table and writes `bench_loss.json`, at the config's temperature.

    Raises:
      ConfigError: the config trains a classifier.
    """
    if config.method in CLASSIFIERS:
        raise ConfigError(
            f'--bench=loss: measures the loss of pairs, NT-Xent, which method={config.method!r} '
            'does not have; --bench=step measures its whole step'
        )
    temperature = config.simclr.temperature
    rows = measure(_PAIRS, temperature)
    large = temporary_bytes(compile_loss('tiled', _COMPILED_PAIRS, temperature))
    print(f'NT-Xent and its gradient, {_DIM} dimensions, on {_device()}')
    print(format_rows(rows))
    print(f'{_COMPILED_PAIRS:,} pairs, tiled, compiled only: {large / 2**20:,.0f} MiB')
    result = {
        'device': _device(),
        'jax': jax.__version__,
        'dim': _DIM,
        'temperature': temperature,
        'rows': rows,
        'compiled_only': {'pairs': _COMPILED_PAIRS, 'tiled_bytes': large},
    }
    path = epath.Path(workdir)
    path.mkdir(parents=True, exist_ok=True)
    (path / 'bench_loss.json').write_text(json.dumps(result, indent=2) + '\n')


def measure(
    pairs: Sequence[int], temperature: float, dense_limit: float = _DENSE_LIMIT
) -> list[dict[str, Any]]:
    """Returns a row for each batch size: seconds and temporary bytes of both, and tiled / dense.

    The dense loss is left out (None) where its temporary memory would exceed `dense_limit` bytes.
    """
    rows = []
    for count in pairs:
        programs = {name: compile_loss(name, count, temperature) for name in _LOSSES}
        memory = {name: temporary_bytes(program) for name, program in programs.items()}
        if memory['dense'] > dense_limit:
            del programs['dense']
        seconds = least_seconds(programs, count)
        rows.append(
            {
                'pairs': count,
                'dense_seconds': seconds.get('dense'),
                'tiled_seconds': seconds['tiled'],
                'seconds_ratio': seconds['tiled'] / seconds['dense']
                if 'dense' in seconds
                else None,
                'dense_bytes': memory['dense'],
                'tiled_bytes': memory['tiled'],
                'bytes_ratio': memory['tiled'] / memory['dense'],
            }
        )
    return rows


def compile_loss(name: str, pairs: int, temperature: float) -> jax.stages.Compiled:
    """Compiles the loss and its gradient of `[pairs, 2, 128]`; nothing is allocated."""
    function = jax.jit(jax.value_and_grad(lambda x: _LOSSES[name](x, temperature)))
    return function.lower(jax.ShapeDtypeStruct((pairs, 2, _DIM), np.float32)).compile()


def temporary_bytes(program: jax.stages.Compiled) -> int:
    """Returns what a program allocates beyond its arguments and its results."""
    return program.memory_analysis().temp_size_in_bytes


def least_seconds(programs: dict[str, jax.stages.Compiled], pairs: int) -> dict[str, float]:
    """Returns each program's shortest time; they take turns, so that a busy machine harms all."""
    projections = np.random.default_rng(0).normal(size=(pairs, 2, _DIM)).astype(np.float32)
    projections = jax.device_put(projections)
    least = dict.fromkeys(programs, float('inf'))
    for repeat in range(1 + _REPEATS):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(projections))
            if repeat:  # the first warms up
                least[name] = min(least[name], time.perf_counter() - start)
    return least


def format_rows(rows: list[dict[str, Any]]) -> str:
    """The rows of `measure` as aligned plain text."""
    lines = [f'{"pairs":>8}{"dense s":>10}{"tiled s":>10}{"ratio":>8}{"dense MiB":>12}'
             f'{"tiled MiB":>12}{"ratio":>8}']  # fmt: skip
    for row in rows:
        dense = '-' if row['dense_seconds'] is None else f'{row["dense_seconds"]:.4f}'
        ratio = '-' if row['seconds_ratio'] is None else f'{row["seconds_ratio"]:.3f}'
        lines.append(
            f'{row["pairs"]:>8}{dense:>10}{row["tiled_seconds"]:>10.4f}{ratio:>8}'
            f'{row["dense_bytes"] / 2**20:>12.1f}{row["tiled_bytes"] / 2**20:>12.1f}'
            f'{row["bytes_ratio"]:>8.4f}'
        )
    return '\n'.join(lines)


def _device() -> str:
    return f'{jax.device_count()} x {jax.devices()[0].device_kind}'
