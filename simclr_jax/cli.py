"""The command line: processes, dispatch to a mode, and what its errors look like.

`run.py`, `python -m simclr_jax` and the command `simclr-jax` all call `main`.
"""

import argparse
import ctypes
import errno
import importlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config_auto, interruption, packages
from simclr_jax.cli_flags import help_text, parse
from simclr_jax.config import (
    DISTILL,
    FINETUNE,
    ONE_VIEW,
    PROBES,
    SEGMENT,
    ConfigError,
    RunError,
    to_json,
)
from simclr_jax.config_loading import load, load_saved
from simclr_jax.modes import MODES

# What a disk or a mount answers: the place and the reason say more than a traceback.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_DISK += (errno.EIO, errno.ESTALE, errno.EISDIR, errno.ENOTDIR)
_DISK_FIX = 'mend that and give the same command again: what was saved before is whole'

_HEARTBEAT = 30  # seconds without a sign of life, after which a process is taken for dead


def start_processes(flags: argparse.Namespace) -> None:
    """Calls `jax.distributed.initialize` where this is one process of several."""
    import jax

    if flags.coordinator:
        jax.distributed.initialize(
            flags.coordinator,
            flags.num_processes,
            flags.process_id,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    elif _in_a_cluster():
        jax.distributed.initialize(heartbeat_timeout_seconds=_HEARTBEAT)


def _in_a_cluster() -> bool:
    """Whether a cluster says that this process is one of several, and JAX can ask it which."""
    return (
        # Of the step that srun started: a batch script has the job's SLURM_NTASKS, and is alone.
        int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1
        or ',' in os.environ.get('TPU_WORKER_HOSTNAMES', '')
        or 'MEGASCALE_COORDINATOR_ADDRESS' in os.environ
    )


def settle(config: ConfigDict, workdir: str) -> tuple[ConfigDict, str | None]:
    """Returns the config with what the machine decides, and a line that says what and why."""
    from simclr_jax.train import hardware

    if not config.auto:
        return config, None
    saved = epath.Path(workdir) / 'config.json'
    began_with = saved.read_text() if saved.is_file() else None
    return config_auto.settle(config, hardware.find(), began_with)


def warn_of_unused_gpu() -> None:
    """Says so where there is a GPU that JAX does not use."""
    from simclr_jax.train.hardware import unused_gpu

    if _is_main_process() and (warning := unused_gpu()):
        print(f'warning: {warning}', file=sys.stderr, flush=True)


def frees_much(config, mode: str) -> bool:
    """Whether each step frees large buffers; elsewhere evaluation is slower for keeping them."""
    import jax

    canvases = config.augment.backend == 'jax' and config.data.cache != 'device'
    trains_on_cpu = MODES[mode].trains and jax.default_backend() == 'cpu'
    return canvases or trains_on_cpu or mode == 'bench'


def keep_freed_memory() -> None:
    """Tells glibc not to give freed buffers back to the kernel.

    Batches are freed and asked for anew every step, and the kernel would clear their pages each
    time: decoding into canvases takes 1.4 times as long that way, and so does a step on a CPU,
    whose activations are such buffers. The process stays as large as it ever was.
    """
    if platform.libc_ver()[0] == 'glibc' and not any(
        key.startswith('MALLOC_') for key in os.environ
    ):
        trim_threshold, mmap_threshold = -1, -3  # of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the flags say; returns the exit status.

    Args:
      argv: the flags, by default those of this process.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {'-h', '--help', 'help'} & set(argv):
        print(help_text(), end='')
        return 0 if argv else 2
    interruption.install()
    try:
        flags, overrides = parse(argv)
        if not MODES[flags.mode].trains:
            interruption.uninstall()
        return _dispatch(flags, overrides) or 0  # a plan that does not fit is 3
    except (ConfigError, RunError) as error:
        for line in str(error).splitlines():
            print(f'error: {line}' if not line.startswith(' ') else line, file=sys.stderr)
        if _several_processes():
            from simclr_jax import parallel

            parallel.tell_others(str(error))
        return _leave(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        line = _in_a_line(error)
        if line:
            print(f'error: {line}', file=sys.stderr)
        elif _several_processes():
            _explain_with_others(error)
        else:
            raise
        return _leave(1)


def _dispatch(flags: argparse.Namespace, overrides: dict[str, str]) -> int | None:
    mode, config, notes = MODES[flags.mode], None, []
    given = {name: getattr(flags, name) for name in mode.flags}
    if mode.config and flags.config:
        config = load(flags.config, overrides, notes.append)
    elif mode.config:
        config = load_saved(flags.workdir, overrides)
    if mode.config:
        _check_method(flags, config.method)
    start_processes(flags)
    of_run = mode.config and not given.get('encoder')  # else the data alone are the config's
    if of_run:
        from simclr_jax.modes import start, teacher

        config, lines = start.settle(config, flags.workdir, trains=mode.trains)
        notes += lines
        config, lines = teacher.settle(config, flags.workdir)
        notes += lines
    if _several_processes():
        from simclr_jax.workdir.agreement import check_same_command

        fields = json.loads(to_json(config)) if mode.config else {}
        named = {f'--{name}': value for name, value in ({'mode': flags.mode} | given).items()}
        check_same_command(named | fields)
    if of_run and flags.mode != 'plan':  # is about other hardware, and makes the devices itself
        config, line = settle(config, flags.workdir)
        notes += [line] if line else []
    if notes and (flags.mode == 'plan' or _is_main_process()):
        print(*notes, sep='\n', flush=True)
    if flags.mode != 'plan':
        warn_of_unused_gpu()
    if mode.config and frees_much(config, flags.mode):
        keep_freed_memory()
    module = importlib.import_module(f'simclr_jax.modes.{flags.mode}')
    return module.main(*((config, flags.workdir) if mode.config else ()), **given)


def _check_method(flags: argparse.Namespace, method: str) -> None:
    """Raises ConfigError where the mode is not one for runs of this method."""
    mode, has_labels = flags.mode, method in ONE_VIEW
    right = method if has_labels else 'pretrain'  # the mode that trains by this method
    if MODES[mode].trains and mode != right:
        learns = {
            FINETUNE: 'from labels',
            DISTILL: 'from a classifier',
            SEGMENT: 'from masks',
        }.get(method, 'without labels')
        fixes = ['leave --mode out' if right == 'pretrain' else f'give --mode={right}']
        if mode in ONE_VIEW:
            example = {SEGMENT: 'segment_folder'}.get(mode, f'{mode}_digits')
            fixes.insert(0, f'name a recipe for it, as --config={example}')
        raise ConfigError(
            f'--mode={mode}: method={method!r} learns {learns}; {", or ".join(fixes)}'
        )
    if mode in ('plan', 'bench', 'preview') and method == SEGMENT:
        raise ConfigError(
            f'--mode={mode}: is not for segmentation. Before its first step, a run says what it '
            'needs, if that is too much; its report shows the crops that it was trained on'
        )
    if mode in PROBES and has_labels and not flags.encoder:
        raise ConfigError(
            f'--mode={mode}: evaluates encoders of pretraining, and method={method!r} trains a '
            'classifier, whose figures are in its result.json; name an encoder with --encoder'
        )


def _in_a_line(error: Exception) -> str | None:
    """Returns what says more than a traceback: of a disk, or of a package that is missing."""
    if isinstance(error, OSError) and error.errno in _DISK:
        place = error.filename2 or error.filename or 'a file of the workdir'
        return f'{place}: {error.strerror}; {_DISK_FIX}'
    return packages.explain(error) if isinstance(error, ModuleNotFoundError) else None


def _explain_with_others(error: Exception) -> None:
    """Prints what the other processes told, after which this one may have failed."""
    from simclr_jax import parallel

    if told := parallel.told_by_all():
        own = f'{type(error).__name__}: {error}'.splitlines()[0]
        told = [line for text in told for line in text.splitlines()]
        print('error: another process of this run has ended', *told, sep='\n  ', file=sys.stderr)
        print(f'  after which this one failed: {own:.200}', file=sys.stderr)
        return
    traceback.print_exc()
    print(
        'error: another process of this run has died or cannot be reached, or this one failed as '
        'above; start all of them again, and they go on from the last checkpoint',
        file=sys.stderr,
    )


def _is_main_process() -> bool:
    from simclr_jax import parallel

    return parallel.is_main_process()


def _several_processes() -> bool:
    return 'jax' in sys.modules and sys.modules['jax'].distributed.is_initialized()


def _leave(status: int) -> int:
    if _several_processes():  # an orderly end would wait for processes that wait for this one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
