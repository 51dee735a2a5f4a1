"""Pretrains and evaluates image encoders: flags, processes and dispatch.

python run.py --config=configs/simclr_digits.py
python run.py --config=configs/simclr_imagenet.py --workdir=gs://bucket/run1
python run.py --config=configs/simclr_digits.py --config.optimizer.learning_rate=0.2
python run.py --mode=linear_eval --workdir=runs/simclr_digits
"""

import argparse
import ctypes
import errno
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

# What a disk or a mount answers: the place and the reason say more than a traceback.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_DISK += (errno.EIO, errno.ESTALE, errno.EISDIR, errno.ENOTDIR)
_DISK_FIX = 'mend that and give the same command again: what was saved before is whole'

_HEARTBEAT = 30  # seconds without a sign of life, after which a process is taken for dead

HELP = """\
Pretrains an image encoder without labels and shows how good it is.

  python run.py --config=configs/simclr_digits.py    a minute or two, no download

  --config=FILE[:PRESET]   a recipe; those that ship are in configs/
  --config.FIELD=VALUE     changes one field of it, as --config.batch_size=512
  --workdir=DIR            where checkpoints, metrics and the report go (runs/<config>_<preset>);
                           of a run that is there it is enough: its config need not be named
  --mode=MODE              {modes}
  --step=N                 which checkpoint --mode=linear_eval and knn evaluate (the last one)
  --bench=NAME             what --mode=bench measures: input, loss, step
  --topology=CHIPS         what --mode=plan compiles for: v5e:16x16, v4:4x4x4, cpu:8
  --coordinator=HOST:PORT --num_processes=N --process_id=I
                           several processes, where neither a TPU pod nor SLURM says so by itself

Exit status: 0 finished, 1 failed, 2 the command or its data are wrong, 3 a plan does not fit;
143 (SIGTERM) and 130 (Ctrl-C): not finished, the same command goes on from the last checkpoint.
"""


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Returns the flags and the `--config.field=value` overrides, in the order given."""
    from simclr_jax.config import ConfigError, default, did_you_mean, flatten
    from simclr_jax.config_loading import split_preset

    flags = ('config', 'workdir', 'mode', 'step', 'bench', 'topology')
    flags += ('coordinator', 'num_processes', 'process_id')
    values, overrides = {}, {}
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition('=')
        field = name.removeprefix('--').removeprefix('config.')
        if equals and not name.startswith('--config.') and field in flatten(default()):
            raise ConfigError(f'{argument}: a field is set as --config.{field}={value}')
        if not name.startswith('--'):
            flag = f'--config={argument}' if argument.endswith('.py') else '--config=FILE'
            raise ConfigError(f'{argument!r}: not a flag; flags look like {flag}')
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
    _check_processes(values)
    if 'config' in values:
        path, preset = split_preset(values['config'])
        name = pathlib.Path(path).stem
        values.setdefault('workdir', f'runs/{name}_{preset}' if preset else f'runs/{name}')
    return argparse.Namespace(**{f: values.get(f) for f in flags}), overrides


def _check_processes(values: dict[str, str]) -> None:
    from simclr_jax.config import ConfigError

    names = ('coordinator', 'num_processes', 'process_id')
    missing = [name for name in names if name not in values]
    if len(missing) == len(names):
        return
    if missing:
        given = next(name for name in names if name in values)
        raise ConfigError(
            f'--{given}={values[given]}: needs --{" and --".join(missing)} beside it; alone it '
            'would start a run of one process'
        )
    if int(values['process_id']) >= int(values['num_processes']):
        raise ConfigError(
            f'--process_id={values["process_id"]}: must be below '
            f'--num_processes={values["num_processes"]}; the first process is 0'
        )


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


def settle(config, flags: argparse.Namespace, notes: list[str]):
    """Returns the config with what the machine decides, after printing what was decided and why."""
    from simclr_jax import parallel
    from simclr_jax.train.hardware import settle_config, unused_gpu

    if _several_processes():
        from simclr_jax.workdir.agreement import check_same_config

        check_same_config(config, flags.mode)
    if flags.mode == 'plan':  # is about other hardware, and makes the devices itself
        print('\n'.join(notes), end='\n' if notes else '', flush=True)
        return config
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
        if _several_processes():
            from simclr_jax import parallel

            parallel.tell_others(str(error))
        return _leave(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            print(f'error: {_place(error)}: {error.strerror}; {_DISK_FIX}', file=sys.stderr)
            return _leave(1)
        if not _several_processes():
            raise
        from simclr_jax import parallel

        if told := parallel.told_by_all():
            own = f'{type(error).__name__}: {error}'.splitlines()[0]
            told = [line for text in told for line in text.splitlines()]
            print(
                'error: another process of this run has ended', *told, sep='\n  ', file=sys.stderr
            )
            print(f'  after which this one failed: {own:.200}', file=sys.stderr)
            return _leave(1)
        traceback.print_exc()
        print(
            'error: another process of this run has died or cannot be reached, or this one failed '
            'as above; start all of them again, and they go on from the last checkpoint',
            file=sys.stderr,
        )
        return _leave(1)


def _place(error: OSError) -> str:
    return str(error.filename2 or error.filename or 'a file of the workdir')


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
