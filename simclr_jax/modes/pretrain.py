"""`--mode=pretrain`: trains an encoder without labels, then evaluates it and reports."""

from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.data.folder_index import describe_bad
from simclr_jax.modes.evaluation import check_protocol, evaluate
from simclr_jax.train.loop import train
from simclr_jax.train.setup import Run, prepare
from simclr_jax.workdir.claim import claim_workdir
from simclr_jax.workdir.lock import hold


def main(config: ConfigDict, workdir: str) -> None:
    """Pretrains, or goes on where the workdir's last checkpoint is, then evaluates and reports."""
    with hold(workdir):
        claim_workdir(config, workdir)
        run = prepare(config)
        check_protocol(run)
        _say(_describe(run, workdir))
        if run.source.bad:
            _say(describe_bad(run.source.bad))
        state, pretrain, views = train(run, workdir)
        evaluate(run, workdir, state, config.eval.after_pretrain, pretrain, views)


def _describe(run: Run, workdir: str) -> str:
    config, length = run.config, run.length
    return (
        f'{config.method} with {config.model.encoder} on {config.data.dataset}: '
        f'{run.source.num_examples} images, {length.total_steps} steps of {config.batch_size} '
        f'pairs at {config.data.image_size} pixels, {run.mesh.devices.size} device(s); '
        f'workdir {workdir}'
    )


def _say(text: str) -> None:
    if parallel.is_main_process():
        print(text, flush=True)
