"""Speed and memory of reading large photographs: upright and rotated JPEGs, and PNGs.

    python benchmarks/pictures.py --photographs=DIR --made=DIR

makes files of 12 megapixels out of the JPEGs below `--photographs` (enlarged, with a sensor's
grain) and writes `results/pictures.csv`. All cases take turns, since others may use the machine;
the best turn of each counts. `pillow` is Pillow's plain decoding of the same PNGs in as many
threads as there are cores. `peak_mib` is the most memory of a process that makes one batch of 256.
"""

import argparse
import csv
import itertools
import os
import pathlib
import platform
import resource
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
TURNS = 3
BATCHES = 6  # that a turn is timed over, after WARM ones
WARM = 3
MEMORY_BATCH = 256
IMAGE_SIZE = 224
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
        source = sources.dataclasses.replace(
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


def rate(stream) -> float:
    """Pictures a second."""
    for _ in range(WARM):
        next(stream)
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(stream)
    return BATCHES * BATCH / (time.perf_counter() - start)


def speeds(root: pathlib.Path) -> dict[tuple[str, str], float]:
    cases = [(kind, backend) for backend in BACKENDS for kind in KINDS]
    best = dict.fromkeys([*cases, ('png', 'pillow')], 0.0)
    for turn in range(TURNS):
        for kind, backend in best:
            stream = by_pillow(root) if backend == 'pillow' else batches(root, kind, backend, BATCH)
            found = rate(stream)
            print(f'turn {turn}: {kind} {backend} {found:.2f}/s', flush=True)
            best[kind, backend] = max(best[kind, backend], found)
    return best


def memory(root: pathlib.Path, kind: str, backend: str) -> float:
    """MiB, at most, of a process that makes a batch."""
    command = [sys.executable, __file__, f'--made={root}', f'--batch={kind},{backend}']
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
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
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    root = arguments.made or pathlib.Path(tempfile.mkdtemp())
    if arguments.photographs:
        make(arguments.photographs, root)
    rates = speeds(root)
    rows = []
    for (kind, backend), found in rates.items():
        row = {'kind': kind, 'backend': backend, 'pictures_per_second': f'{found:.2f}'}
        if backend != 'pillow':
            compared = rates[('png', 'pillow') if kind == 'png' else ('upright', backend)]
            row['share'] = f'{found / compared:.2f}'
            row['of'] = 'png by pillow' if kind == 'png' else f'upright by {backend}'
            row['peak_mib'] = f'{memory(root, kind, backend):.0f}'
            print(row, flush=True)
        rows.append(row)
    for row in rows:
        row['machine'] = f'{processor()}, {os.cpu_count()} cores'
        row['command'] = 'python benchmarks/pictures.py --photographs=DIR --made=DIR'
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]) if 'share' in rows[0] else None)
        writer.writeheader()
        writer.writerows(rows)


def processor() -> str:
    """The name of the processor."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.partition(': ')[2] for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == '__main__':
    main()
