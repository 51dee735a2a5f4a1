"""`--mode=knn`: evaluates a workdir by weighted nearest neighbours."""

from ml_collections import ConfigDict

from simclr_jax.modes.evaluation import evaluate_workdir


def main(config: ConfigDict, workdir: str) -> None:
    """Evaluates, and writes `result.json` and `report.html`."""
    evaluate_workdir(config, workdir, 'knn')
