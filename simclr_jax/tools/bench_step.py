"""`--bench=step`: speed of the train step on synthetic data, on the devices there are."""

import json
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.tools.chips import CHIPS
from simclr_jax.tools.plan import assemble_without_data
from simclr_jax.tools.program import cost
from simclr_jax.train.setup import Run

_SECONDS = 5.0  # of measurement, at least
_MIN_STEPS = 5
_NAMES = {1: 'pictures', 2: 'pairs'}  # by the views of a picture


def main(config: ConfigDict, workdir: str) -> None:
    """Prints the table and writes `bench_step.json`."""
    mesh = parallel.make_mesh()
    parallel.check_batch_size('batch_size', config.batch_size, mesh)
    result = measure(config, mesh)
    print(format_result(result))
    path = epath.Path(workdir)
    path.mkdir(parents=True, exist_ok=True)
    (path / 'bench_step.json').write_text(json.dumps(result, indent=2) + '\n')


def measure(config: ConfigDict, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Runs the step on one random batch, again and again; the input costs nothing.

    Returns:
      Median and shortest `seconds` a step, `images_per_second`, what the compiler counts for a
      device, and `mfu` where the chip's peak is known.
    """
    run = assemble_without_data(config, mesh)
    program = run.lower_step().compile()
    state, random = run.init_at_random(), np.random.default_rng(0)
    rows = config.batch_size // jax.process_count()
    batch = random_batch(run, rows, random)
    batch = parallel.put_batch(batch, mesh)
    times, start = [], time.perf_counter()
    while len(times) <= _MIN_STEPS or time.perf_counter() - start < _SECONDS:
        before = time.perf_counter()
        state, metrics = program(state, batch, *run.fixed)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - before)
    seconds = float(np.median(times[1:]))  # the first warms up
    counted = cost(program)
    kind = mesh.devices.flat[0].device_kind
    chip = CHIPS.get(kind)
    return {
        'device': kind,
        'devices': mesh.devices.size,
        'jax': jax.__version__,
        'method': config.method,
        'encoder': config.model.encoder,
        'dtype': config.model.dtype,
        'batch_size': config.batch_size,
        'image_size': config.data.image_size,
        'views': run.views_shape[1],
        'steps': len(times) - 1,
        'seconds': seconds,
        'least_seconds': min(times[1:]),
        'images_per_second': config.batch_size / seconds,
        'flops_per_second': counted['flops'] / seconds,
        'mfu': counted['flops'] / seconds / chip.flops if chip else None,
        **counted,
    }


def random_batch(run: Run, rows: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns noise of the batch's shapes: pictures that fill their canvas, labels that there are.

    A picture of no size would make views that are not numbers.
    """
    shapes = run.abstract_batch()
    batch = {'image': random.integers(0, 256, (rows, *shapes['image'].shape[1:]), np.uint8)}
    if 'size' in shapes:
        batch['size'] = np.tile(np.array(run.source.canvas_shape[:2], np.int32), (rows, 1))
    if 'index' in shapes:
        batch['index'] = np.arange(rows, dtype=np.int32)
    if 'label' in shapes:
        batch['label'] = random.integers(0, run.source.num_classes, rows, np.int32)
    return batch


def format_result(result: dict[str, Any]) -> str:
    """The result as aligned plain text."""
    mfu = 'unknown chip' if result['mfu'] is None else f'{100 * result["mfu"]:.1f} %'
    rows = [
        ('step', f'{result["method"]}, {result["encoder"]}, {result["dtype"]}'),
        ('devices', f'{result["devices"]} x {result["device"]}'),
        (
            'batch',
            f'{result["batch_size"]} {_NAMES[result["views"]]} at {result["image_size"]} pixels',
        ),
        ('ms a step', f'{1e3 * result["seconds"]:.2f} (least {1e3 * result["least_seconds"]:.2f})'),
        ('images/s', f'{result["images_per_second"]:,.0f}'),
        ('GFLOP a device', f'{result["flops"] / 1e9:,.2f}'),
        ('GFLOP/s a device', f'{result["flops_per_second"] / 1e9:,.1f}'),
        ('MFU', mfu),
    ]
    return '\n'.join(f'{name:<18}{value}' for name, value in rows)
