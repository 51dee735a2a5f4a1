"""`--mode=linear_eval`: evaluates an encoder by logistic regression on frozen features."""

from ml_collections import ConfigDict

from simclr_jax.modes.encoder_evaluation import evaluate_encoder
from simclr_jax.modes.run_evaluation import evaluate_workdir


def main(
    config: ConfigDict, workdir: str, step: int | None = None, encoder: str | None = None
) -> None:
    """Evaluates a run's checkpoint or other weights; writes `result.json` and `report.html`.

    Args:
      config: of the run; where `encoder` is given, what that is evaluated on.
      workdir: of the run, or where the figures of `encoder` go.
      step: of the checkpoint; the last one where None.
      encoder: the path of an encoder file, a workdir, or another library's weights.
    """
    if encoder:
        evaluate_encoder(config, workdir, 'linear_eval', encoder, step)
    else:
        evaluate_workdir(config, workdir, 'linear_eval', step)
