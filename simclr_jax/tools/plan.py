"""What a run would take on chips that are not there.

The real train step is compiled for the topology and asked what it does; nothing is run.
"""

import contextlib
import dataclasses
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.config import DISTILL, FINETUNE, ConfigError, as_flags, canvas_side
from simclr_jax.config_auto import GIB, Hardware
from simclr_jax.config_smaller import changed, changes
from simclr_jax.data.sources import Source
from simclr_jax.methods.factory import create_method
from simclr_jax.tools.chips import CHIPS, Chip, devices_of
from simclr_jax.tools.known import known_source, with_few_labels
from simclr_jax.tools.program import cost
from simclr_jax.train.out_of_memory import is_out_of_memory, refused
from simclr_jax.train.setup import Run, assemble
from simclr_jax.train.teacher import read_teacher
from simclr_jax.weights.description import Architecture, Head, Preprocess, Weights

EXAMPLES = '--topology=v5e:16x16, --topology=v4:4x4x4 or --topology=cpu:8'
_ASSUMED, _CLASSES = 1_000_000, 1000  # images and classes, where their number is not known
_LIMITS = {  # what the slowest of the three rates is, in words
    'flops': 'arithmetic',
    'memory': 'memory bandwidth',
    'links': 'the links between chips',
}
_MAX_CPU_DEVICES = 512  # thousands take minutes to make


def make_mesh(topology: str | None) -> tuple[Mesh, Chip]:
    """Returns a mesh of the topology's devices, which need not be there, and what one can do.

    Raises:
      ConfigError: there is no such topology, or no compiler for it.
    """
    if (topology or '').startswith('gpu'):
        raise ConfigError(
            f'--topology={topology}: programs for GPUs are compiled on GPUs only; there, '
            '--mode=pretrain says within a minute whether the run fits, and what would'
        )
    match = re.fullmatch(r'(cpu|v\w+):(\d+(?:x\d+)*)', topology or '')
    if not match:
        given = '--topology: missing' if topology is None else f'--topology={topology}: is not one'
        raise ConfigError(f'{given}; it looks like {EXAMPLES}')
    if match[1] == 'cpu':
        return _cpu_mesh(topology, math.prod(map(int, match[2].split('x'))))
    jax.config.update('jax_platforms', 'cpu')
    try:
        devices = devices_of(topology)
    except Exception as error:  # what libtpu and its absence raise is of several kinds
        first = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ConfigError(
            f'--topology={topology}: the TPU compiler does not know it or is missing ({first}); '
            f"`pip install 'jax[tpu]'` installs it; names look like {EXAMPLES}"
        ) from error
    kind = devices[0].device_kind
    if kind not in CHIPS:
        raise ConfigError(f'--topology={topology}: no published rates of {kind!r} are known')
    return parallel.make_mesh(devices), CHIPS[kind]


def _cpu_mesh(topology: str, count: int) -> tuple[Mesh, Chip]:
    if count > _MAX_CPU_DEVICES:
        raise ConfigError(f'--topology={topology}: at most {_MAX_CPU_DEVICES} CPU devices are made')
    with contextlib.suppress(RuntimeError):  # the number can be set before the first use only
        jax.config.update('jax_num_cpu_devices', count)
    devices = jax.devices('cpu')
    if len(devices) < count:
        raise ConfigError(f'--topology={topology}: this process has {len(devices)} CPU devices')
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / count
    # A core: 32 fused multiply-adds a cycle at 2.5 GHz; the memory of the whole machine: 40 GB/s.
    flops = 160e9 * os.cpu_count() / count
    return parallel.make_mesh(devices[:count]), Chip(
        flops, memory, 40e9 / count, 40e9 / count, count
    )


def hardware_of(mesh: Mesh, chip: Chip) -> Hardware:
    """Returns what a run on these devices would find."""
    device = mesh.devices.flat[0]
    on_cpu = device.platform == 'cpu'
    return Hardware(device.platform, device.device_kind, mesh.devices.size, chip.memory, not on_cpu)


def estimate(config: ConfigDict, mesh: Mesh, chip: Chip, topology: str) -> dict[str, Any]:
    """Compiles the train step and returns what `plan.json` holds."""
    run = assemble_without_data(config, mesh)
    chips, length = mesh.devices.size, run.length
    result = {
        'topology': topology,
        'chips': chips,
        'batch_size': config.batch_size,
        'remat': config.model.remat,
        'accumulation_steps': config.optimizer.accumulation_steps,
        'parameters': sum(math.prod(x.shape) for x in jax.tree.leaves(run.abstract_state().params)),
        'images': run.source.num_examples,
        'images_known': known_source(config) is not None,
        'total_steps': length.total_steps,
        'memory_available': chip.memory,
    }
    start = time.monotonic()
    try:
        with progress(f'compiling {config.model.encoder} for {topology}'):
            program = run.lower_step().compile()
    except jax.errors.JaxRuntimeError as error:  # the TPU compiler refuses what does not fit
        if not is_out_of_memory(error):
            raise
        return result | {'memory': refused(str(error)), 'fits': False}
    counted = cost(program)
    result |= {'compile_seconds': time.monotonic() - start, **counted}
    result['fits'] = counted['memory'] <= chip.memory
    seconds = {
        'flops': counted['flops'] / chip.flops,
        'memory': counted['bytes'] / chip.memory_rate,
        # A ring sends what is reduced twice: once to add up, once to hand round.
        'links': (
            sum(counted['collective_bytes'].values()) + counted['collective_bytes']['all-reduce']
        )
        / chip.link_rate,
    }
    step = max(seconds.values())
    images = config.batch_size / step
    return result | {
        'seconds': seconds,
        'bound': max(seconds, key=seconds.get),
        'step_seconds': step,
        'mfu': seconds['flops'] / step,
        'images_per_second': images,
        'hours': length.total_steps * step / 3600,
        'images_per_second_a_host': images * min(1, chip.per_host / chips),
    }


def suggest(
    config: ConfigDict, mesh: Mesh, chip: Chip, topology: str, result: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Returns the mildest change that fits and its own estimate, found by compiling; None for none.

    Recomputation and micro-batches first: they keep the batch; then a smaller batch, smaller
    pictures and a smaller encoder.
    """
    over = (result['memory'] or 2 * chip.memory) / chip.memory
    same, smaller = changes(config, mesh.devices.size, over)
    for fields in [*same, *smaller]:
        print('trying ' + as_flags(fields), flush=True)
        found = estimate(changed(config, fields), mesh, chip, topology)
        if found['fits']:
            return fields, found
    return None


def assemble_without_data(config: ConfigDict, mesh: Mesh) -> Run:
    """Returns the parts of a run of which nothing is read, as large as its data set is.

    Its source has `known` images, or 1,000,000 where nothing says how many: `known_source`.
    Fine-tuning sees those of them whose labels it may, of 1,000 classes where nothing says.

    Raises:
      ConfigError: fine-tuning finds no labels, or a batch does not fit the data or the devices.
    """
    source, supervised = known_source(config), config.method == FINETUNE
    if source is None:
        shape, names = (None, None, 3), tuple(map(str, range(_CLASSES))) if supervised else None
        source = Source(lambda _: [], _ASSUMED, shape, names, canvas_side(config))
    if supervised:
        source = with_few_labels(source, config)
    examples = source.num_examples
    if not supervised or config.data.drop_remainder:  # too large a batch is the run's affair
        examples = max(examples, config.batch_size)
    source = dataclasses.replace(source, read=lambda _: [], num_examples=examples)
    teacher = read_teacher(config.distill.teacher) if config.method == DISTILL else None
    return assemble(config, mesh, source, _head(config) if supervised else None, teacher)


def _head(config: ConfigDict) -> Weights | None:
    """Stands for an encoder file whose projection head fine-tuning keeps layers of.

    The head is as wide as the features, as SimCLR's (`model_util.py`).
    """
    kept, size = config.finetune.head_layers, config.data.image_size
    if not kept:
        return None
    encoder = create_method(config, 1).encoder
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    features, _ = jax.eval_shape(
        lambda x: encoder.init_with_output(jax.random.key(0), x, False), images
    )
    head = Head(features.shape[1], 128, kept + 1, output_norm='scale_only')
    architecture = Architecture(config.model.encoder, head=head)
    return Weights(architecture, Preprocess(size), {}, {})


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Says every few seconds that it still goes on, and how long it took."""
    done, start = threading.Event(), time.monotonic()
    on_terminal = sys.stdout.isatty()

    def report() -> None:
        while not done.wait(1 if on_terminal else 30):
            end = '\r' if on_terminal else '\n'
            print(f'{text}: {time.monotonic() - start:.0f} s', end=end, flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        print(f'{text}: {time.monotonic() - start:.0f} s', flush=True)


def format_plan(result: dict[str, Any]) -> str:
    """The plan as aligned plain text."""
    gib = '?' if result['memory'] is None else f'{result["memory"] / GIB:.2f}'
    fits = 'fits' if result['fits'] else 'does NOT fit'
    images = f'{result["images"]:,}'
    if not result['images_known']:
        images += ', assumed: the data set is not here; the hours grow with it'
    rows = [
        ('topology', f'{result["topology"]}, {result["chips"]} chips'),
        ('parameters', f'{result["parameters"]:,}'),
        ('images', images),
        ('memory a chip', f'{gib} GiB of {result["memory_available"] / GIB:.2f} GiB: {fits}'),
    ]
    if 'seconds' in result:
        moved = {kind: size for kind, size in result['collective_bytes'].items() if size}
        moved = ', '.join(f'{kind} {size / 1e6:,.1f} MB' for kind, size in moved.items())
        seconds = ', '.join(f'{name} {1e3 * s:.1f}' for name, s in result['seconds'].items())
        work = f'{result["flops"] / 1e9:,.1f} GFLOP, {result["bytes"] / 1e9:,.2f} GB'
        per_host = result['images_per_second_a_host']
        rows += [
            ('a chip and step', work),
            ('collectives', moved or 'none'),
            ('ms at peak rates', f'{seconds}: limited by {_LIMITS[result["bound"]]}'),
            ('MFU at most', f'{100 * result["mfu"]:.1f} %'),
            ('images/s at most', f'{result["images_per_second"]:,.0f}; {per_host:,.0f} a host'),
            ('hours, at best', f'{result["hours"]:,.2f} for {result["total_steps"]:,} steps'),
        ]
    return '\n'.join(f'{name:<18}{value}' for name, value in rows)


def format_suggestion(suggestion: tuple[dict[str, Any], dict[str, Any]] | None) -> str:
    """What fits, with its memory and time, in the words of `format_plan`."""
    if suggestion is None:
        return 'nothing that was tried fits; take more chips or a smaller encoder'
    fields, found = suggestion
    return f'this fits: {as_flags(fields)}\n\n{format_plan(found)}'
