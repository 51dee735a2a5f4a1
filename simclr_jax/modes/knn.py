"""`--mode=knn`: evaluates a workdir by weighted nearest neighbours."""

from ml_collections import ConfigDict

from simclr_jax.modes.run_evaluation import evaluate_workdir


def main(config: ConfigDict, workdir: str, step: int | None = None) -> None:
    """Evaluates the checkpoint of `step`, or the last one; writes `result.json`, `report.html`."""
    evaluate_workdir(config, workdir, 'knn', step)
