"""What a run would take on chips that are not there.

The real train step is compiled for the topology and asked what it does; nothing is run.
"""

import contextlib
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.data.sources import Source
from simclr_jax.tools.chips import CHIPS, GIB, Chip, devices_of
from simclr_jax.tools.program import cost
from simclr_jax.train.setup import Run, assemble

EXAMPLES = '--topology=v5e:16x16, --topology=v4:4x4x4 or --topology=cpu:8'
_DATASETS = {  # name -> images to train on, classes, channels: a plan needs no data
    'imagenet2012': (1_281_167, 1000, 3),
    'cifar10': (50_000, 10, 3),
    'digits': (1_297, 10, 1),
}
_UNKNOWN_DATASET = (1_000_000, 0, 3)
_MAX_ACCUMULATION = 64
_MAX_CPU_DEVICES = 512  # thousands take minutes to make


def make_mesh(topology: str | None) -> tuple[Mesh, Chip]:
    """Returns a mesh of the topology's devices, which need not be there, and what one can do.

    Raises:
      ConfigError: there is no such topology, or no compiler for it.
    """
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
            f"`pip install 'simclr_jax[tpu]'` installs it, and names look like {EXAMPLES}"
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
        'total_steps': length.total_steps,
        'memory_available': chip.memory,
    }
    start = time.monotonic()
    try:
        with _progress(f'compiling {config.model.encoder} for {topology}'):
            program = run.lower_step().compile()
    except jax.errors.JaxRuntimeError as error:  # the TPU compiler refuses what does not fit
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        return result | {'memory': memory_refused(str(error)), 'fits': False}
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


def memory_refused(message: str) -> float | None:
    """Returns the bytes that a compiler's refusal says are needed, None where it does not."""
    used = re.search(r'Used ([\d.]+)([KMGT]) of|\(([\d.]+)([KMGT])\) exceeds', message)
    if not used:
        return None
    number, unit = used.group(1, 2) if used[1] else used.group(3, 4)
    return float(number) * 1024 ** ('KMGT'.index(unit) + 1)


def suggest(
    config: ConfigDict, mesh: Mesh, chip: Chip, topology: str, result: dict[str, Any]
) -> dict[str, Any] | None:
    """Returns the fields of the mildest change that fits, found by compiling it; None for none.

    Micro-batches first: they keep the batch and the curve; then recomputation; then the batch.
    """
    chips, batch = mesh.devices.size, config.batch_size
    over = (result['memory'] or 2 * chip.memory) / chip.memory
    steps = config.optimizer.accumulation_steps
    wanted = steps * 2 ** max(1, math.ceil(math.log2(over)))
    candidates = []
    if config.model.remat == 'none':
        candidates.append({'model.remat': 'blocks'} if over < 2 else {})
    while wanted <= _MAX_ACCUMULATION and batch % (wanted * chips) == 0 and batch // wanted >= 2:
        candidates.append({'optimizer.accumulation_steps': wanted})
        candidates.append({'optimizer.accumulation_steps': wanted, 'model.remat': 'full'})
        wanted *= 2
    smaller = batch // 2
    while smaller >= 2 and smaller % chips == 0:
        candidates.append({'batch_size': smaller, 'model.remat': 'full'})
        smaller //= 2
    for fields in filter(None, candidates):
        changed = config.copy_and_resolve_references()
        with changed.unlocked():
            changed.update_from_flattened_dict(fields)
        if changed.method == 'moco' and changed.moco.queue_size % changed.batch_size:
            continue
        print('trying ' + _flags(fields), flush=True)
        found = estimate(changed, mesh, chip, topology)
        if found['fits']:
            return fields
    return None


def assemble_without_data(config: ConfigDict, mesh: Mesh) -> Run:
    """Returns the parts of a run of which nothing is read: sizes of known data sets, or guesses."""
    name = config.data.dataset.partition(':')[0].partition('/')[0]
    examples, classes, channels = _DATASETS.get(name, _UNKNOWN_DATASET)
    examples = max(examples, config.batch_size)  # too large a batch is the run's affair
    labels = tuple(map(str, range(classes))) or None
    return assemble(config, mesh, Source(lambda _: [], examples, (None, None, channels), labels))


@contextlib.contextmanager
def _progress(text: str) -> Iterator[None]:
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
    rows = [
        ('topology', f'{result["topology"]}, {result["chips"]} chips'),
        ('parameters', f'{result["parameters"]:,}'),
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
            ('ms at peak rates', f'{seconds}: {result["bound"]} binds'),
            ('MFU at most', f'{100 * result["mfu"]:.1f} %'),
            ('images/s at most', f'{result["images_per_second"]:,.0f}; {per_host:,.0f} a host'),
            ('hours at least', f'{result["hours"]:,.2f} for {result["total_steps"]:,} steps'),
        ]
    return '\n'.join(f'{name:<18}{value}' for name, value in rows)


def format_suggestion(fields: dict[str, Any] | None) -> str:
    if fields is None:
        return 'nothing that was tried fits; take more chips or a smaller encoder'
    return f'this fits: {_flags(fields)}'


def _flags(fields: dict[str, Any]) -> str:
    return ' '.join(f'--config.{name}={value}' for name, value in fields.items())
