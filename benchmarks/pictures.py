"""Speed and memory of reading large photographs: upright and rotated JPEGs, and PNGs.

    python benchmarks/pictures.py --photographs=DIR --made=DIR

makes files of 12 megapixels out of the JPEGs below `--photographs` (enlarged, with a sensor's
grain) and writes `results/pictures.csv`. All cases take turns, since others may use the machine;
the best turn of each counts. `cpu_ms` is processor time a picture, which others disturb less than
`pictures_per_second`; `speed` and `cpu_speed` are shares of the speed of what the row is compared
with. `pillow` is Pillow's plain decoding of the same PNGs in as many threads as there are cores.
`peak_mib` is the most memory of a process that makes one batch of 256, `memory` its share of that
for upright JPEGs.
"""

import argparse
import csv
import dataclasses
import itertools
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

SIZE = (4000, 3000)
KINDS = {'upright': 32, 'rotated': 32, 'png': 16}  # and how many files of each
BACKENDS = ('tf', 'jax')
BATCH = 8
TURNS = 2
WARM = 2  # batches before those that are timed
BATCHES = 4  # that are timed, in a turn
MEMORY_BATCH = 256
IMAGE_SIZE = 224
COLUMNS = ('kind', 'backend', 'pictures_per_second', 'cpu_ms', 'compared_with', 'speed')
COLUMNS += ('cpu_speed', 'peak_mib', 'memory', 'machine', 'command')
RESULTS = pathlib.Path(__file__).parent / 'results' / 'pictures.csv'


def make(photographs: pathlib.Path, root: pathlib.Path) -> None:
    """Writes the files of each kind, where they are not there yet."""
    chosen = sorted(photographs.rglob('*.jpg'))
    chosen = chosen[:: max(1, len(chosen) // 32)][:32]
    rotated = Image.Exif()
    rotated[0x0112] = 6
    for i, path in enumerate(chosen):
        if (root / 'rotated' / f'{i:02}.jpg').exists():
            continue
        image = Image.open(path).convert('RGB').resize(SIZE, Image.Resampling.BICUBIC)
        # An enlarged picture alone would compress far better than a photograph.
        grain = np.random.default_rng(i).normal(0, 3, (*SIZE[::-1], 1)).astype(np.float32)
        image = Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
        for kind in KINDS:
            (root / kind).mkdir(parents=True, exist_ok=True)
        image.save(root / 'upright' / f'{i:02}.jpg', quality=90)
        if i < KINDS['png']:
            image.save(root / 'png' / f'{i:02}.png')
        image.save(root / 'rotated' / f'{i:02}.jpg', quality=90, exif=rotated)


def batches(root: pathlib.Path, kind: str, backend: str, batch_size: int):
    from simclr_jax.augment.recipe import PRESETS
    from simclr_jax.data import pipeline, sources

    source = sources.open_source('folder', str(root / 'index'), 'all', path=str(root / kind))
    if batch_size > source.num_examples:  # the same files again and again
        read, count = source.read, source.num_examples
        source = dataclasses.replace(
            source, read=lambda some: read([i % count for i in some]), num_examples=batch_size
        )
    options = {'seed': 0, 'batch_size': batch_size, 'start_step': 0, 'total_steps': 2**40}
    if backend == 'jax':
        return pipeline.canvas_batches(source, **options)
    return pipeline.train_batches(source, PRESETS['simclr'], image_size=IMAGE_SIZE, **options)


def by_pillow(root: pathlib.Path):
    """Yields after each batch of PNGs that Pillow has decoded."""

    def decode(path):
        with Image.open(path) as image:
            image.load()

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        files = itertools.cycle(sorted((root / 'png').iterdir()))
        waiting = [executor.submit(decode, next(files)) for _ in range(2 * BATCH)]
        while True:
            for future in waiting[:BATCH]:
                future.result()
            waiting = waiting[BATCH:] + [executor.submit(decode, next(files)) for _ in range(BATCH)]
            yield


def seconds(stream) -> np.ndarray:
    """Seconds a picture: of the clock, and of the processor."""
    for _ in range(WARM):
        next(stream)
    start = time.perf_counter(), time.process_time()
    for _ in range(BATCHES):
        next(stream)
    end = time.perf_counter(), time.process_time()
    return np.subtract(end, start) / (BATCHES * BATCH)


def least_seconds(root: pathlib.Path) -> dict[tuple[str, str], np.ndarray]:
    """`seconds` of the best turn of each kind and backend."""
    cases = [(kind, backend) for backend in BACKENDS for kind in KINDS]
    least = {case: np.full(2, np.inf) for case in [*cases, ('png', 'pillow')]}
    for turn in range(TURNS):
        for kind, backend in least:
            stream = by_pillow(root) if backend == 'pillow' else batches(root, kind, backend, BATCH)
            found = seconds(stream)
            print(f'turn {turn}: {kind} {backend} {found}', flush=True)
            least[kind, backend] = np.minimum(least[kind, backend], found)
    return least


def memory(root: pathlib.Path, kind: str, backend: str) -> float:
    """MiB, at most, of a process that makes a batch."""
    command = [sys.executable, __file__, f'--made={root}', f'--batch={kind},{backend}']
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(f'memory: {kind} {backend} {done.stdout}', flush=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--photographs', type=pathlib.Path)
    parser.add_argument('--made', type=pathlib.Path)
    parser.add_argument('--batch', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.batch:
        kind, backend = arguments.batch.split(',')
        next(batches(arguments.made, kind, backend, MEMORY_BATCH))
        print(most_memory())
        return
    root = arguments.made or pathlib.Path(tempfile.mkdtemp())
    if arguments.photographs:
        make(arguments.photographs, root)
    least = least_seconds(root)
    peaks = {case: memory(root, *case) for case in least if case[1] != 'pillow'}
    write(least, peaks)


def write(least: dict[tuple[str, str], np.ndarray], peaks: dict[tuple[str, str], float]) -> None:
    """Writes the table of `least_seconds` and of the `memory` of each kind and backend."""
    rows = []
    for (kind, backend), (clock, cpu) in least.items():
        row = dict.fromkeys(COLUMNS, '') | {'kind': kind, 'backend': backend}
        row |= {'pictures_per_second': f'{1 / clock:.2f}', 'cpu_ms': f'{1000 * cpu:.0f}'}
        if backend != 'pillow':
            compared = ('png', 'pillow') if kind == 'png' else ('upright', backend)
            row['compared_with'] = ' by '.join(compared)
            row['speed'] = f'{least[compared][0] / clock:.2f}'
            row['cpu_speed'] = f'{least[compared][1] / cpu:.2f}'
            row['peak_mib'] = f'{peaks[kind, backend]:.0f}'
            row['memory'] = f'{peaks[kind, backend] / peaks["upright", backend]:.2f}'
        row['machine'] = f'{processor()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.0f}'
        row['command'] = 'python benchmarks/pictures.py --photographs=DIR --made=DIR'
        rows.append(row)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    print(RESULTS.read_text())


def most_memory() -> float:
    """MiB that this process had at most; `ru_maxrss` would count its parent's, too."""
    status = pathlib.Path('/proc/self/status').read_text().splitlines()
    return next(float(line.split()[1]) for line in status if line.startswith('VmHWM')) / 1024


def processor() -> str:
    """The name of the processor."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.partition(': ')[2] for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == '__main__':
    main()
