"""`--mode=bench`: the benchmark that `--bench` names."""

import importlib

from ml_collections import ConfigDict

BENCHES = ('input', 'loss', 'step')  # tools/bench_*.py


def main(config: ConfigDict, workdir: str, bench: str) -> None:
    """Runs one of `BENCHES`, which prints a table and writes `workdir/bench_<bench>.json`."""
    importlib.import_module(f'simclr_jax.tools.bench_{bench}').main(config, workdir)
