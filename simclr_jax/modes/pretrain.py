"""`--mode=pretrain`: trains an encoder without labels, then evaluates it and reports."""

import numpy as np
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.config_checks import warn_of_small_pictures
from simclr_jax.data.folder_index import describe_bad
from simclr_jax.modes import results, start
from simclr_jax.modes.encoder_file import write_encoder
from simclr_jax.modes.reporting import save_views
from simclr_jax.modes.run_evaluation import evaluate_run, prepare_evaluation
from simclr_jax.train.loop import train
from simclr_jax.train.memory import DoesNotFit
from simclr_jax.train.setup import Run, prepare
from simclr_jax.workdir.agreement import check_same_data, check_shared
from simclr_jax.workdir.claim import check_claim, claim_workdir, release_workdir
from simclr_jax.workdir.lock import hold
from simclr_jax.workdir.programs import keep_programs


def main(config: ConfigDict, workdir: str) -> None:
    """Pretrains, or goes on where the workdir's last checkpoint is, then evaluates and reports."""
    with hold(workdir):
        check_shared(workdir)
        keep_programs(workdir)
        run = prepare(config, check_claim(config, workdir), start.read(config, workdir))
        data = prepare_evaluation(run, config.eval.after_pretrain)
        sources = run.source, data.train, data.test
        for field, source in zip(('data.train', 'eval.train', 'eval.test'), sources, strict=True):
            check_same_data(f'{field}_split', source.num_examples, source.label_names)
        start.keep(workdir, run.start)
        claim_workdir(config, workdir, run.source.held)
        _say(_describe(run, workdir))
        if warning := warn_of_small_pictures(config):
            _say(warning)
        if run.source.description:
            _say(run.source.description)
        if run.source.bad:
            _say(describe_bad(run.source.bad))
        try:
            state, pretrain, views = train(run, workdir)
        except DoesNotFit:
            release_workdir(workdir)
            raise
        _keep(workdir, pretrain, views)
        write_encoder(run, workdir, state)  # before the evaluation, which may fail
        evaluate_run(run, workdir, state, data, config.eval.after_pretrain)


def _keep(workdir: str, pretrain: dict[str, float], views: np.ndarray | None) -> None:
    """Writes what the training told, unless it was complete before and this start told nothing."""
    if views is not None and parallel.is_main_process():
        save_views(workdir, views)
    if views is not None or 'pretrain' not in results.read(workdir):
        results.write(workdir, 'pretrain', pretrain)


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
