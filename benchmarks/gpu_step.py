"""Speed of the train step on one accelerator, by this library (`jax`) or by PyTorch (`torch`).

    python benchmarks/gpu_step.py jax --cases=resnet50_256,resnet18_512 --out=DIR

is what `gpu.py` calls. The batch is noise that lies in device memory: views `[pair, 2, height,
width, 3]` uint8. Both normalize it, embed it with the same encoder and head in bfloat16, take
NT-Xent in float32 and update by the same kind of optimizer; neither makes views, except in cases
named `_views`, which exist for `jax` alone. A figure is the median of windows of many steps; one
process of several measures at a time, where they share a `--lock`.

Written to `DIR`: a row a case in `gpu_step.csv`, the kernels of a step by time in
`kernels_<framework>_<case>.csv`, and what XLA made of it in `hlo_<case>.txt.gz`.
"""

import argparse
import contextlib
import csv
import dataclasses
import fcntl
import gzip
import pathlib
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator

WINDOW = 0.6  # seconds of steps between two looks at the clock
WINDOWS = 9
COLUMNS = ('case', 'framework', 'encoder', 'image_size', 'pairs', 'optimizer', 'pairs_per_second')
COLUMNS += ('least', 'most', 'milliseconds', 'mfu', 'compile_seconds', 'memory_gib', 'device')
COLUMNS += ('versions', 'command')
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEMPERATURE = 0.1
# Multiplications and additions of a forward pass over one view, by torch.utils.flop_counter; a
# step has three times as many. What recomputation and normalization add counts as nothing.
FORWARD_FLOP = {
    ('resnet50', 224): 8.174e9,
    ('resnet18', 32): 1.111e9,
    ('vit_s16', 224): 9.197e9,
}
WIDTHS = {'resnet50': 2048, 'resnet18': 512, 'vit_s16': 384}  # of features, and of the head


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured: an encoder, its views and its batch; `variant` is of this library."""

    encoder: str
    image_size: int
    pairs: int
    optimizer: str = 'sgd'
    variant: str = ''  # 'views': made inside the step; 'folded': with `models/folded.py`

    def mfu(self, pairs_per_second: float, peak: float | None) -> float | None:
        """The share of a chip's `peak` FLOP/s that the encoder's products take."""
        forward = FORWARD_FLOP.get((self.encoder, self.image_size))
        if not peak or not forward:
            return None
        return 3 * 2 * forward * pairs_per_second / peak


CASES = {
    'resnet50_256': Case('resnet50', 224, 256),
    'resnet18_512': Case('resnet18', 32, 512),
    'vit_s16_256': Case('vit_s16', 224, 256, 'adamw'),
    'resnet50_512': Case('resnet50', 224, 512),
    'resnet18_1024': Case('resnet18', 32, 1024),
    'resnet18_512_views': Case('resnet18', 32, 512, variant='views'),
    'resnet50_256_folded': Case('resnet50', 224, 256, variant='folded'),
    # For a try on a CPU.
    'tiny': Case('resnet18', 16, 8),
    'tiny_views': Case('resnet18', 16, 8, variant='views'),
    'tiny_vit': Case('vit_s16', 32, 4, 'adamw'),
}


@contextlib.contextmanager
def alone(lock: str) -> Iterator[None]:
    """Waits until no other process is inside with the same file; `''` waits for nobody."""
    if not lock:
        yield
        return
    with open(lock, 'a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
    time.sleep(0.5)  # whoever waits is next


def windows(step: Callable[[], object], wait: Callable[[object], None]) -> list[float]:
    """Returns seconds a step of each window; `step` may return before it is done."""
    for _ in range(3):
        wait(step())
    start = time.perf_counter()
    wait(step())
    count = max(1, round(WINDOW / (time.perf_counter() - start)))
    seconds = []
    for _ in range(WINDOWS):
        start = time.perf_counter()
        for _ in range(count):
            result = step()
        wait(result)
        seconds.append((time.perf_counter() - start) / count)
    return seconds


def write_row(out: pathlib.Path, name: str, case: Case, seconds: list[float], **about) -> None:
    """Appends a row to `gpu_step.csv`."""
    rates = sorted(case.pairs / s for s in seconds)
    rate, peak = statistics.median(rates), about.pop('peak')
    mfu = case.mfu(rate, peak)
    row = {
        'case': name,
        'encoder': case.encoder,
        'image_size': case.image_size,
        'pairs': case.pairs,
        'optimizer': case.optimizer,
        'pairs_per_second': f'{rate:.1f}',
        'least': f'{rates[0]:.1f}',
        'most': f'{rates[-1]:.1f}',
        'milliseconds': f'{1e3 * case.pairs / rate:.2f}',
        'mfu': '' if mfu is None else f'{mfu:.3f}',
        'command': f'python benchmarks/gpu_step.py {about["framework"]} --cases={name}',
        **about,
    }
    path = out / 'gpu_step.csv'
    begins = not path.exists()
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        if begins:
            writer.writeheader()
        writer.writerow(row)
    print(f'{about["framework"]} {name}: {row}', flush=True)


def write_kernels(path: pathlib.Path, kernels: dict[str, tuple[float, int]], steps: int) -> None:
    """Writes names, milliseconds and calls a step of what ran, the longest first."""
    ranked = sorted(kernels.items(), key=lambda item: -item[1][0])
    with path.open('w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(('milliseconds', 'calls', 'kernel'))
        for name, (milliseconds, calls) in ranked[:80]:
            writer.writerow((f'{milliseconds / steps:.4f}', f'{calls / steps:g}', name[:300]))


def make_run(case: Case):
    """The library's own parts of a run of this case: its config, step and state."""
    from simclr_jax import parallel
    from simclr_jax.augment.recipe import PRESETS
    from simclr_jax.config import default, set_views
    from simclr_jax.tools.plan import assemble_without_data

    config = default()
    config.batch_size = case.pairs
    config.data.dataset = 'cifar10' if case.image_size <= 32 else 'imagenet2012'
    config.data.image_size = case.image_size
    config.data.mean, config.data.std = MEAN, STD
    config.model.encoder, config.model.dtype = case.encoder, 'bfloat16'
    config.model.zero_init_last_scale = False  # as torchvision's
    config.model.freeze_patch_projection = False
    config.simclr.temperature = TEMPERATURE
    config.simclr.hidden_dim = WIDTHS[case.encoder]
    config.optimizer.name = case.optimizer
    config.optimizer.learning_rate = 1e-4 if case.optimizer == 'adamw' else 0.1
    config.optimizer.learning_rate_scaling = 'none'
    config.probe.learning_rate = 0.0
    if case.variant == 'views':
        config.augment.backend, config.data.cache = 'jax', 'device'
        set_views(config, *PRESETS['simclr_cifar'])
    run = assemble_without_data(config, parallel.make_mesh())
    if case.variant == 'folded':
        method = dataclasses.replace(run.method, encoder=run.method.encoder.clone(fold_norm=True))
        run = dataclasses.replace(run, method=method)
    return run


def measure_jax(name: str, case: Case, out: pathlib.Path, lock: str) -> None:
    """Compiles the library's step, and measures it."""
    import jax
    import numpy as np

    from simclr_jax import parallel
    from simclr_jax.tools.bench_step import random_batch
    from simclr_jax.tools.chips import CHIPS
    from simclr_jax.train.memory import program_bytes

    run = make_run(case)
    lowered = run.lower_step()
    with alone(lock):  # the compiler tries kernels and times them
        start = time.perf_counter()
        program = lowered.compile()
        compiled = time.perf_counter() - start
        batch = random_batch(run, case.pairs, np.random.default_rng(0))
        batch = parallel.put_batch(batch, run.mesh)
        states = [run.init()]

        def step():
            states[0], metrics = program(states[0], batch)
            return metrics['loss'][0]

        seconds = windows(step, jax.block_until_ready)
        loss = float(step())
        device = jax.devices()[0]
        chip = CHIPS.get(device.device_kind)
        memory = program_bytes(program) / 2**30
        write_row(
            out,
            name,
            case,
            seconds,
            framework='jax',
            peak=chip and chip.flops,
            compile_seconds=f'{compiled:.1f}',
            memory_gib=f'{memory:.1f}',
            device=device.device_kind,
            versions=f'jax {jax.__version__}',
        )
        print(f'jax {name}: loss {loss:.4f}', flush=True)
        with gzip.open(out / f'hlo_{name}.txt.gz', 'wt') as file:
            file.write(program.as_text())
        try:
            folder = out / f'trace_{name}'
            with jax.profiler.trace(str(folder)):
                for _ in range(3):
                    loss = step()
                jax.block_until_ready(loss)
            write_kernels(out / f'kernels_jax_{name}.csv', kernels_of(folder), 3)
        except Exception:  # a profile is not worth a figure
            traceback.print_exc()


def kernels_of(folder: pathlib.Path) -> dict[str, tuple[float, int]]:
    """Milliseconds and calls of each kernel in a trace, with the operation that it belongs to."""
    import jax

    kernels: dict[str, tuple[float, int]] = {}
    path = next(folder.rglob('*.xplane.pb'))
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    on_gpu = [plane for plane in planes if 'GPU' in plane.name]
    for plane in on_gpu or [plane for plane in planes if 'CPU' in plane.name]:
        for line in plane.lines:
            if on_gpu and not line.name.startswith('Stream'):
                continue
            for event in line.events:
                stats = {key: str(value) for key, value in event.stats}
                parts = (stats.get('hlo_op'), stats.get('tf_op') or stats.get('name'))
                name = ' | '.join([event.name, *(part for part in parts if part)])
                milliseconds, calls = kernels.get(name, (0.0, 0))
                kernels[name] = (milliseconds + event.duration_ns / 1e6, calls + 1)
    return kernels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('framework', choices=('jax', 'torch'))
    parser.add_argument('--cases', default='resnet50_256')
    parser.add_argument('--out', default='.', help='folder of what is written')
    parser.add_argument('--lock', default='', help='a file that processes which take turns share')
    arguments = parser.parse_args()
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    measure = measure_jax
    if arguments.framework == 'torch':
        from gpu_torch import measure_torch as measure
    failed = 0
    for name in arguments.cases.split(','):
        if arguments.framework == 'torch' and CASES[name].variant:
            continue
        try:
            measure(name, CASES[name], out, arguments.lock)
        except Exception:  # the next case may do
            failed += 1
            print(f'{arguments.framework} {name}: failed', flush=True)
            traceback.print_exc()
    return failed


if __name__ == '__main__':
    sys.exit(main())
