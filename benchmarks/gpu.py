"""Everything that is to be known of one GPU, in one command of minutes.

    python benchmarks/gpu.py --out=DIR --data=CIFAR --tests=110 --smoke=120 --step=200 --cifar=400

Needs no TensorFlow. Each part has the seconds that its flag gives it, and is left out at 0; what
fails, or runs out of time, is written down and ends no other part:

* `tests`: the tests that need no TensorFlow, on the GPU (`gpu_tests.py`): `tests.txt`.
* `smoke`: two epochs of CIFAR-10 through `run.py`, at the same time.
* `step`: the train step beside PyTorch's (`gpu_step.py`): `gpu_step.csv`, and the kernels by time.
  PyTorch compiles while this library's step is measured; one of them measures at a time.
* `cifar`: SimCLR and BYOL on CIFAR-10 (`gpu_cifar.py`): `gpu_cifar.csv` and the curves.

`--data` is a folder with `train/<class>` and `test/<class>`, or one of `*.tar.xz` that hold parts
of such a folder. `DIR/gpu.tar.gz` has all that was written, after each part anew.
"""

import argparse
import csv
import os
import pathlib
import platform
import subprocess
import sys
import tarfile
import time
import traceback

from gpu_cifar import stop

ROOT = pathlib.Path(__file__).parents[1]
HERE = pathlib.Path(__file__).parent
# The most telling first: they may run out of time.
TESTS = ('losses', 'augment/test_jax_ops.py', 'augment/test_jax_draws.py', 'optim', 'methods')
TESTS += ('models', 'evaluate', 'train/test_health.py', 'tools/test_bench_step.py')
TESTS += ('workdir/test_checkpoint.py', 'workdir/test_reader.py')
CASES = 'resnet50_256,resnet18_512,vit_s16_256,resnet18_512_views,resnet50_256_folded,'
CASES += 'resnet50_512,resnet18_1024'
LARGEST = 15 * 2**20  # bytes of a file of a trace that is kept

started: list[subprocess.Popen] = []


def start(out: pathlib.Path, name: str, line: list[str], **environment: str) -> subprocess.Popen:
    """Starts a command of this repository, whose output goes to `<name>.log`."""
    paths = [str(ROOT), str(HERE), os.environ.get('PYTHONPATH', '')]
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, paths))} | environment
    with (out / f'{name}.log').open('a') as log:
        log.write(f'$ {" ".join(line)}\n')
        log.flush()
        process = subprocess.Popen(
            line,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process.name = name
    started.append(process)
    return process


def finish(processes: list[subprocess.Popen], seconds: float, out: pathlib.Path) -> None:
    """Waits for processes at most so long, and writes down how each has ended."""
    begin = time.monotonic()
    for process in processes:
        try:
            process.wait(max(0.1, seconds - (time.monotonic() - begin)))
            how = f'exit status {process.returncode}'
        except subprocess.TimeoutExpired:
            stop(process)
            how = 'out of time'
        say(out, f'{process.name}: {how} after {time.monotonic() - begin:.0f} s')


def say(out: pathlib.Path, text: str) -> None:
    """Prints a line and keeps it in `parts.txt`."""
    text = f'[{time.monotonic() - BEGIN:5.0f} s] {text}'
    print(text, flush=True)
    with (out / 'parts.txt').open('a') as file:
        file.write(text + '\n')


def pack(out: pathlib.Path, to: pathlib.Path) -> None:
    """Writes all files of `out` to one archive, but for a trace that is large."""

    def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        large = info.size > LARGEST or '/runs/' in info.name or info.name.endswith('.json.gz')
        return None if large else info

    with tarfile.open(to.with_suffix('.part'), 'w:gz', compresslevel=6) as archive:
        archive.add(out, arcname='gpu', filter=kept)
    to.with_suffix('.part').replace(to)


def unpack(data: pathlib.Path, scratch: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Returns the folder of pictures: `data`, or what its archives hold."""
    archives = sorted(data.glob('*.tar.xz'))
    if not archives:
        return data
    scratch.mkdir(parents=True, exist_ok=True)
    line = ['tar', '--no-same-owner', '-xJf']
    finish(
        [start(out, f'unpack_{a.name}', [*line, str(a), '-C', str(scratch)]) for a in archives],
        120,
        out,
    )
    return next(path.parent for path in sorted(scratch.rglob('train')) if path.is_dir())


def describe(out: pathlib.Path) -> str:
    """Writes what the machine and its packages are, and returns the GPU's name."""
    names = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'torch', 'torchvision')
    code = (
        'import importlib.metadata as m\n'
        f'for n in {(*names, "timm", "scikit-learn", "etils", "ml_collections")!r}:\n'
        '    try: print(n, m.version(n))\n'
        '    except m.PackageNotFoundError: print(n, "is not installed")\n'
    )
    lines = [f'Python {platform.python_version()}, {os.cpu_count()} cores']
    for line in ([sys.executable, '-c', code], ['nvidia-smi'], ['nvidia-smi', '-L']):
        try:
            lines.append(subprocess.run(line, capture_output=True, text=True, timeout=30).stdout)
        except (OSError, subprocess.TimeoutExpired) as error:
            lines.append(f'{line[0]}: {error}')
    (out / 'machine.txt').write_text('\n'.join(lines))
    name = [line for line in lines[-1].splitlines() if line.startswith('GPU 0: ')]
    return name[0].removeprefix('GPU 0: ').partition(' (')[0] if name else platform.processor()


def ratios(out: pathlib.Path) -> str:
    """Says how fast this library's steps were beside PyTorch's."""
    path = out / 'gpu_step.csv'
    if not path.exists():
        return 'no step was measured'
    rates = {(r['case'], r['framework']): r for r in csv.DictReader(path.open())}
    lines = [f'{"case":<24}{"pairs/s":>10}{"MFU":>7}{"PyTorch":>10}{"MFU":>7}{"ratio":>7}']
    for case in dict.fromkeys(case for case, _ in rates):
        ours, theirs = rates.get((case, 'jax')), rates.get((case, 'torch'))
        cells = [row[k] if row else '-' for row in (ours, theirs) for k in _SHOWN]
        ratio = '-'
        if ours and theirs:
            ratio = f'{float(ours["pairs_per_second"]) / float(theirs["pairs_per_second"]):.2f}'
        lines.append(f'{case:<24}{cells[0]:>10}{cells[1]:>7}{cells[2]:>10}{cells[3]:>7}{ratio:>7}')
    return '\n'.join(lines)


_SHOWN = ('pairs_per_second', 'mfu')


def test_command(workers: int) -> list[str]:
    options = ['-p', 'gpu_tests', '-o', 'addopts=', '-o', 'filterwarnings=', '-q', '--tb=short']
    options += ['--import-mode=importlib', '-m', 'not slow and not long', '-n', str(workers)]
    options += ['--dist', 'load', '-p', 'no:cacheprovider', '--continue-on-collection-errors']
    return [sys.executable, '-m', 'pytest', *options, *(f'tests/{name}' for name in TESTS)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', required=True)
    parser.add_argument('--data', default='', help='CIFAR-10 as a folder, or its archives')
    parser.add_argument('--scratch', default='/tmp/simclr_jax_gpu')
    for part in ('tests', 'smoke', 'step', 'cifar'):
        parser.add_argument(f'--{part}', type=float, default=0, help='seconds')
    parser.add_argument('--cases', default=CASES)
    parser.add_argument('--workers', type=int, default=8, help='processes of the tests')
    parser.add_argument('--cifar_options', default='', help='further flags of gpu_cifar.py')
    arguments = parser.parse_args()
    target = pathlib.Path(arguments.out).absolute()
    scratch = pathlib.Path(arguments.scratch).absolute()
    out = scratch / 'out'
    for folder in (target, out):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        _run(arguments, scratch, out, target)
    finally:
        for process in started:
            stop(process, 1.0)
        pack(out, target / 'gpu.tar.gz')
    return 0


def _run(arguments, scratch: pathlib.Path, out: pathlib.Path, target: pathlib.Path) -> None:
    device = describe(out)
    say(out, f'device {device}')
    data = ''
    if arguments.data:
        data = str(unpack(pathlib.Path(arguments.data).absolute(), scratch / 'data', out))
        say(out, f'pictures in {data}')
    cifar = [sys.executable, str(HERE / 'gpu_cifar.py'), f'--data={data}', f'--device={device}']
    cifar += [f'--runs={scratch / "runs"}', *arguments.cifar_options.split()]
    step = [sys.executable, str(HERE / 'gpu_step.py')]
    measured = ['--cases', arguments.cases, f'--out={out}', f'--lock={scratch / "lock"}']

    def part(seconds: float, *processes: subprocess.Popen) -> None:
        try:
            finish(list(processes), seconds, out)
            pack(out, target / 'gpu.tar.gz')
        except Exception:  # the other parts go on
            say(out, traceback.format_exc())

    together = []
    if arguments.tests:
        line = test_command(arguments.workers)
        environment = {
            'SIMCLR_JAX_TEST_RESULTS': str(out / 'tests.txt'),
            'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
            # Thousands of small programs: to try kernels for each would take most of the time.
            'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_autotune_level=0',
        }
        together.append((arguments.tests, start(out, 'tests', line, **environment)))
    if arguments.smoke:
        line = [*cifar, f'--out={out / "smoke"}', '--methods=simclr', '--epochs=2']
        line += [f'--seconds={arguments.smoke}']
        process = start(out, 'smoke', line, XLA_PYTHON_CLIENT_MEM_FRACTION='.3')
        together.append((arguments.smoke, process))
    begin = time.monotonic()
    for seconds, process in together:
        part(seconds + 5 - (time.monotonic() - begin), process)
    if arguments.step:
        memory = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '.45'}  # PyTorch has the rest
        theirs = start(out, 'step_torch', [*step, 'torch', *measured])
        ours = start(out, 'step_jax', [*step, 'jax', *measured], **memory)
        part(arguments.step, ours, theirs)
        say(out, 'the step\n' + ratios(out))
    if arguments.cifar:
        line = [*cifar, f'--out={out}', f'--seconds={arguments.cifar}']
        part(arguments.cifar + 15, start(out, 'cifar', line))
        say(out, (out / 'cifar.log').read_text()[-2500:])
    for name in ('tests', 'smoke'):
        if (out / f'{name}.log').exists():
            say(out, f'{name}:\n' + (out / f'{name}.log').read_text()[-1500:])


BEGIN = time.monotonic()

if __name__ == '__main__':
    sys.exit(main())
