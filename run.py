"""Pretrains and evaluates image encoders: flags, processes and dispatch.

python run.py --config=configs/simclr_digits.py
python run.py --config=configs/simclr_imagenet.py --workdir=gs://bucket/run1
python run.py --config=configs/simclr_digits.py --config.optimizer.learning_rate=0.2
python run.py --mode=linear_eval --workdir=runs/simclr_digits
"""

import argparse
import ctypes
import importlib
import os
import pathlib
import platform
import sys
import traceback

MODES = (
    'pretrain',
    'linear_eval',
    'knn',
    'preview',
    'plan',
    'bench',
)  # modules of simclr_jax.modes
EVALUATIONS = ('linear_eval', 'knn')

_HEARTBEAT = 30  # seconds without a sign of life, after which a process is taken for dead

HELP = """\
Pretrains an image encoder without labels and shows how good it is.

  python run.py --config=configs/simclr_digits.py    a minute or two, no download

  --config=FILE[:PRESET]   a recipe; those that ship are in configs/
  --config.FIELD=VALUE     changes one field of it, as --config.batch_size=512
  --workdir=DIR            where checkpoints, metrics and the report go (runs/<config name>);
                           of a run that is there it is enough: its config need not be named
  --mode=MODE              {modes}
  --step=N                 which checkpoint --mode=linear_eval and knn evaluate (the last one)
  --bench=NAME             what --mode=bench measures: input, loss, step
  --topology=CHIPS         what --mode=plan compiles for: v5e:16x16, v4:4x4x4, cpu:8
  --coordinator=HOST:PORT --num_processes=N --process_id=I
                           several processes, where neither a TPU pod nor SLURM says so by itself
"""


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Returns the flags and the `--config.field=value` overrides, in the order given."""
    from simclr_jax.config import ConfigError, did_you_mean

    flags = ('config', 'workdir', 'mode', 'step', 'bench', 'topology')
    flags += ('coordinator', 'num_processes', 'process_id')
    values, overrides = {}, {}
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition('=')
        if not name.startswith('--'):
            raise ConfigError(f'{argument!r}: not a flag; flags look like --config=FILE')
        name = name[2:]
        if name not in flags and not name.startswith('config.'):
            raise ConfigError(f'--{name}: no such flag{did_you_mean(name, flags)}; see --help')
        if not equals:
            value = next(arguments, None)
            if value is None or value.startswith('--'):
                raise ConfigError(f'--{name}: needs a value, as --{name}=VALUE')
        if name.startswith('config.'):
            overrides[name.removeprefix('config.')] = value
        else:
            values[name] = value
    if 'config' not in values and 'workdir' not in values:
        raise ConfigError(
            '--config: missing; start with  python run.py --config=configs/simclr_digits.py  or '
            'name the --workdir of a run'
        )
    mode = values.setdefault('mode', 'pretrain')
    if mode not in MODES:
        hint = did_you_mean(mode, MODES)
        raise ConfigError(f'--mode={mode}: must be one of {", ".join(MODES)}{hint}')
    if 'bench' in values and mode != 'bench':
        raise ConfigError(f'--bench={values["bench"]}: needs --mode=bench')
    if 'topology' in values and mode != 'plan':
        raise ConfigError(f'--topology={values["topology"]}: needs --mode=plan')
    if 'step' in values and mode not in EVALUATIONS:
        raise ConfigError(f'--step={values["step"]}: needs --mode={" or ".join(EVALUATIONS)}')
    for name in ('num_processes', 'process_id', 'step'):
        if name in values and not values[name].isdigit():
            raise ConfigError(f'--{name}={values[name]}: must be a whole number')
    if 'coordinator' in values and not {'num_processes', 'process_id'} <= values.keys():
        raise ConfigError('--coordinator: needs --num_processes and --process_id beside it')
    if 'config' in values:
        default_workdir = f'runs/{pathlib.Path(values["config"].partition(":")[0]).stem}'
        values.setdefault('workdir', default_workdir)
    return argparse.Namespace(**{f: values.get(f) for f in flags}), overrides


def start_processes(flags: argparse.Namespace) -> None:
    """Calls `jax.distributed.initialize` where this is one process of several."""
    import jax

    if flags.coordinator:
        jax.distributed.initialize(
            flags.coordinator,
            int(flags.num_processes),
            int(flags.process_id),
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    elif (
        int(os.environ.get('SLURM_NTASKS', 1)) > 1
        or ',' in os.environ.get('TPU_WORKER_HOSTNAMES', '')
        or 'MEGASCALE_COORDINATOR_ADDRESS' in os.environ
    ):
        jax.distributed.initialize(heartbeat_timeout_seconds=_HEARTBEAT)


def settle(config, flags: argparse.Namespace, notes: list[str]):
    """Returns the config with what the machine decides, after printing what was decided and why."""
    from simclr_jax import parallel
    from simclr_jax.train.hardware import settle_config, unused_gpu

    if flags.mode != 'plan':  # which is about other hardware
        config, line = settle_config(config, flags.workdir)
        notes += [line] if line else []
    if parallel.is_main_process():
        print('\n'.join(notes), end='\n' if notes else '', flush=True)
        if warning := unused_gpu():
            print(f'warning: {warning}', file=sys.stderr, flush=True)
    return config


def frees_much(config, mode: str) -> bool:
    """Whether each step frees large buffers; elsewhere evaluation is slower for keeping them."""
    import jax

    canvases = config.augment.backend == 'jax' and config.data.cache != 'device'
    trains_on_cpu = mode == 'pretrain' and jax.default_backend() == 'cpu'
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


def main(argv: list[str]) -> int:
    if not argv or {'-h', '--help', 'help'} & set(argv):
        print(HELP.format(modes=', '.join(MODES)), end='')
        return 0 if argv else 2
    from simclr_jax import interruption

    interruption.install()
    from simclr_jax.config import ConfigError, RunError
    from simclr_jax.config_loading import load, load_saved

    try:
        flags, overrides = parse(argv)
        if flags.mode != 'pretrain':
            interruption.uninstall()
        notes = []
        if flags.config:
            config = load(flags.config, overrides, notes.append)
        else:
            config = load_saved(flags.workdir, overrides)
        start_processes(flags)
        config = settle(config, flags, notes)
        if frees_much(config, flags.mode):
            keep_freed_memory()
        mode = importlib.import_module(f'simclr_jax.modes.{flags.mode}')
        extra = {'bench': [flags.bench], 'plan': [flags.topology]}.get(flags.mode, [])
        if flags.mode in EVALUATIONS:
            extra = [None if flags.step is None else int(flags.step)]
        return mode.main(config, flags.workdir, *extra) or 0  # a plan that does not fit is 3
    except (ConfigError, RunError) as error:
        for line in str(error).splitlines():
            print(f'error: {line}' if not line.startswith(' ') else line, file=sys.stderr)
        return _leave(2 if isinstance(error, ConfigError) else 1)
    except Exception:
        if not _several_processes():
            raise
        traceback.print_exc()
        print(
            'error: another process of this run has died or cannot be reached, or this one failed '
            'as above; start all of them again, and they go on from the last checkpoint',
            file=sys.stderr,
        )
        return _leave(1)


def _several_processes() -> bool:
    return 'jax' in sys.modules and sys.modules['jax'].distributed.is_initialized()


def _leave(status: int) -> int:
    if _several_processes():  # an orderly end would wait for processes that wait for this one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
