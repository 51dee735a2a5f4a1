"""Will it fit? What a train step needs, what there is, and which settings need less.

The compiler knows what a program takes before it runs. A run that would not fit stops here, before
its first step, rather than in a traceback after minutes, or by the kernel's hand.
"""

import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np

from simclr_jax import parallel
from simclr_jax.config import ConfigError, as_flags, canvas_side
from simclr_jax.config_auto import GIB, choose
from simclr_jax.config_smaller import changed, changes, down_to
from simclr_jax.methods.base import is_dense
from simclr_jax.train import hardware
from simclr_jax.train.out_of_memory import is_out_of_memory, refused
from simclr_jax.train.setup import Run, assemble

IN_FLIGHT = 2  # steps that are on their way on the devices beside the one that is being made
_TRIES = 3  # settings of a kind; each is compiled
# A program's memory does not depend on how well its loops are compiled; this takes half the time.
_QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


class DoesNotFit(ConfigError):
    """A train step needs more memory than there is; with settings that need less."""


def available(mesh: jax.sharding.Mesh) -> float | None:
    """Returns the bytes that a device has for a run, the same in every process; None if unknown.

    CPU devices share what the machine has left now.
    """
    device = mesh.local_devices[0]
    memory = hardware.device_memory(device)
    if device.platform == 'cpu':
        memory = hardware.host_memory()
        memory = memory and memory / len(mesh.local_devices)
    least = parallel.least(-1 if memory is None else memory / GIB)
    return None if least < 0 else least * GIB


def program_bytes(program: jax.stages.Compiled) -> int:
    """Returns the bytes of a program's arguments, results and temporaries on one device."""
    memory = program.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def needed(run: Run, program_bytes: float) -> float:
    """Returns the bytes a device: the step's program, batches in flight, a cached data set.

    On a CPU also the copy of the state that a checkpoint is written from.
    """
    devices = run.mesh.devices.size
    batch = sum(
        math.prod(array.shape) * array.dtype.itemsize for array in run.abstract_batch().values()
    )
    total = program_bytes + IN_FLIGHT * batch / devices
    if run.config.data.cache == 'device':
        total += run.source.num_examples * math.prod(run.source.canvas_shape)
    if run.mesh.devices.flat[0].platform == 'cpu':
        state = jax.tree.leaves(run.abstract_state())
        copies = sum(math.prod(x.shape) * x.dtype.itemsize for x in state if _is_plain(x))
        total += copies / len(run.mesh.local_devices)
    return total


def compile_step(run: Run, memory: float | None) -> jax.stages.Compiled:
    """Compiles the train step, and compares what it needs with the memory there is.

    Args:
      run: the parts of the run.
      memory: bytes a device has, as `available` returns them before anything was allocated.

    Raises:
      DoesNotFit: with settings that do, found by compiling them.
    """
    traced = run.trace_step()
    lowered = traced.lower()
    on_cpu = run.mesh.devices.flat[0].platform == 'cpu'
    checked = on_cpu and memory is not None and _made(traced.jaxpr) > memory
    if checked:
        # It may be too much: the answer comes sooner than a program that is good to run.
        _check(run, needed(run, program_bytes(lowered.compile(compiler_options=_QUICK))), memory)
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:  # the TPU compiler refuses what does not fit
        if not is_out_of_memory(error) or memory is None:
            raise
        _check(run, refused(str(error)) or math.inf, memory)
        raise
    if memory is not None and not checked:  # the quick program takes as much
        _check(run, needed(run, program_bytes(program)), memory)
    return program


def _check(run: Run, need: float, memory: float) -> None:
    if need <= memory:
        return
    config, here = run.config, 1
    a_device = 'a device' if len(run.mesh.local_devices) > 1 else 'the device'
    if run.mesh.devices.flat[0].platform == 'cpu':
        a_device = 'this machine'
        here = len(run.mesh.local_devices)
    amount = (
        f'more than {here * memory / GIB:.1f}' if math.isinf(need) else f'{here * need / GIB:.1f}'
    )
    rows = 'pairs' if run.views_shape[1] == 2 else 'pictures'
    text = (
        f'a step of {config.batch_size} {rows} at {config.data.image_size} pixels with '
        f'{config.model.encoder} needs {amount} GiB of memory, and {a_device} has '
        f'{here * memory / GIB:.1f} GiB'
    )
    if config.health.on_memory == 'warn':
        _say(f'warning: {text}; it is tried all the same (health.on_memory=warn)')
        return
    _say(f'{text}. Looking for settings that fit, by compiling them:')
    found = suggest(run, need, memory)
    if not found:
        raise DoesNotFit(
            f'{text}; nothing that was tried fits. Take a smaller model.encoder, data.image_size '
            'or batch_size, or more devices'
        )
    listed = '\n'.join(
        f'  {as_flags(fields)}    ({here * size / GIB:.1f} GiB)' for fields, size in found
    )
    raise DoesNotFit(f'{text}. Add one of these, which fit:\n{listed}')


def suggest(run: Run, need: float, memory: float) -> list[tuple[dict[str, Any], float]]:
    """Returns changes that fit and the bytes that they need, found by compiling.

    At most two: the mildest that keeps encoder, pictures and batch, and the mildest other one.

    Args:
      run: what does not fit.
      need: bytes a device that it needs.
      memory: bytes that a device has.
    """
    found = []
    first = down_to(run.config, choose(hardware.find())[0])
    if run.start:  # whose file decides on the encoder
        first.pop('model.encoder', None)
    on_cpu = run.mesh.devices.flat[0].platform == 'cpu'  # whose compiler undoes recomputation
    over = need / memory
    for group in changes(run.config, run.mesh.devices.size, over, first, recompute=not on_cpu):
        possible = [fields for fields in group if not (run.start and 'model.encoder' in fields)]
        for fields in possible[:_TRIES]:
            size = _bytes_with(run, fields)
            if size is not None and size <= memory:
                found.append((fields, size))
                break
    return found


def _bytes_with(run: Run, fields: dict[str, Any]) -> float | None:
    """What the run would need with other fields; None where the compiler refuses them."""
    start = time.monotonic()
    _say(f'  trying {as_flags(fields)}', end='')
    on_cpu = run.mesh.devices.flat[0].platform == 'cpu'
    try:
        config = changed(run.config, fields)
        source = run.source
        if not is_dense(run.method):
            source = dataclasses.replace(source, canvas=canvas_side(config))
        other = assemble(config, run.mesh, source, run.start, run.teacher)
        other = dataclasses.replace(other, frozen=run.frozen)
        program = other.lower_step().compile(compiler_options=_QUICK if on_cpu else None)
        size = needed(other, program_bytes(program))
    except ConfigError:  # micro-batches do not divide over the devices, the split is too small
        size = None
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        size = None
    amount = 'not possible' if size is None else f'{size / GIB:.1f} GiB'
    _say(f': {amount} ({time.monotonic() - start:.0f} s)')
    return size


def _made(jaxpr: Any) -> int:
    """Returns the bytes of everything that a program makes: an upper bound of what it holds."""
    total = 0
    for equation in getattr(jaxpr, 'jaxpr', jaxpr).eqns:
        total += sum(
            math.prod(variable.aval.shape) * variable.aval.dtype.itemsize
            for variable in equation.outvars
            if isinstance(getattr(variable.aval, 'dtype', None), np.dtype)
        )
        for value in equation.params.values():
            parts = value if isinstance(value, (tuple, list)) else (value,)
            total += sum(_made(part) for part in parts if hasattr(part, 'jaxpr') or _is_jaxpr(part))
    return total


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, 'eqns')


def _is_plain(array: Any) -> bool:
    return isinstance(array.dtype, np.dtype)  # no key of random numbers


def _say(text: str, end: str = '\n') -> None:
    if parallel.is_main_process():
        print(text, end=end, flush=True)
