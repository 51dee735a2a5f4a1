"""`--mode=plan`: says what a run would take on chips that are not there, and what would fit."""

import json

from etils import epath
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.config import view_recipes
from simclr_jax.config_auto import settle
from simclr_jax.config_smaller import changed
from simclr_jax.tools.plan import (
    assemble_without_data,
    estimate,
    format_plan,
    format_suggestion,
    hardware_of,
    make_mesh,
    progress,
    suggest,
)
from simclr_jax.tools.plan_evaluation import estimate_evaluation, format_evaluation
from simclr_jax.train.out_of_memory import EVALUATION

DOES_NOT_FIT = 3  # exit status


def main(config: ConfigDict, workdir: str, topology: str | None) -> int:
    """Prints what the run takes on `topology`, writes `workdir/plan.json`; returns the exit status.

    Raises:
      ConfigError: the topology is not one, its compiler is missing, or the batch does not divide.
    """
    mesh, chip = make_mesh(topology)
    config, line = settle(config, hardware_of(mesh, chip))
    if line:
        print(line, flush=True)
    parallel.check_batch_size('batch_size', config.batch_size, mesh)
    result = estimate(config, mesh, chip, topology)
    print(format_plan(result), flush=True)
    if not result['fits']:
        suggestion = suggest(config, mesh, chip, topology, result)
        print(format_suggestion(suggestion), flush=True)
        result['suggestion'], result['suggested'] = suggestion or (None, None)
        if suggestion:
            config = changed(config, suggestion[0])
    with progress(f'compiling the probes for {topology}'):
        evaluation = estimate_evaluation(assemble_without_data(config, mesh), chip)
    print(format_evaluation(evaluation, chip.memory), flush=True)
    result['evaluation'] = evaluation
    probes_fit = evaluation is None or evaluation['fits']
    if not probes_fit:
        print(f'for the evaluation one of these helps:\n{EVALUATION}', flush=True)
    path = epath.Path(workdir)
    path.mkdir(parents=True, exist_ok=True)
    measured = _measured_input(path, config)
    if measured and 'seconds' in result:  # the compiler counted
        needed = result['images_per_second_a_host']
        print(
            f'input: {measured:,.0f} images/s a host were measured here, {needed:,.0f} are needed'
        )
        result['input_images_per_second_measured'] = measured
    (path / 'plan.json').write_text(json.dumps(result, indent=2) + '\n')
    return 0 if result['fits'] and probes_fit else DOES_NOT_FIT


def _measured_input(workdir: epath.Path, config: ConfigDict) -> float | None:
    """Pictures a second of this config's backend, where `--bench=input` has measured them."""
    path = workdir / 'bench_input.json'
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    if found.get('views') != len(view_recipes(config)):
        return None
    return found['pictures_per_second'].get(config.augment.backend)
