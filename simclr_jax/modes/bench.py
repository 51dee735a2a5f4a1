"""`--mode=bench`: the benchmark that `--bench` names."""

import importlib

from ml_collections import ConfigDict

from simclr_jax.config import ConfigError, did_you_mean

BENCHES = {
    'input': 'simclr_jax.tools.bench_input',
    'loss': 'simclr_jax.tools.bench_loss',
    'step': 'simclr_jax.tools.bench_step',
}


def main(config: ConfigDict, workdir: str, bench: str | None) -> None:
    """Runs one benchmark, which prints a table and writes `workdir/bench_<bench>.json`."""
    if bench not in BENCHES:
        flag = '--bench: missing' if bench is None else f'--bench={bench}: no such benchmark'
        hint = did_you_mean(bench or '', BENCHES)
        raise ConfigError(f'{flag}; it must be one of {", ".join(BENCHES)}{hint}')
    importlib.import_module(BENCHES[bench]).main(config, workdir)
