"""Time and memory of a start on a folder of a million pictures whose index is kept.

    python benchmarks/folder_index.py

makes a folder with the names of ImageNet (hard links to a few small JPEGs), an index of it as a
first start would keep it (which decodes every picture: that is not measured here), and writes
`results/folder_index.csv`. A row is one process: it looks at each file's size and time, reads the
index, and opens the training split. `peak_mb` is how far the most memory of the process is above
what it had after its imports. On a machine that others use the time that counts is `cpu_seconds`;
`walk_seconds` of them are the file system's, for listing the folders and looking at the files.
"""

import argparse
import csv
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from simclr_jax.data import (
    folder_cache,
    folder_files,
    folder_index,
    folder_layout,
    pictures,
    sources,
)
from simclr_jax.workdir.claim import Held

FILES = 1_000_000
A_FOLDER = 1_300
MOST_LINKS = 30_000  # ext4 lets a file have 65,000
TURNS = 3
RESULTS = pathlib.Path(__file__).parent / 'results' / 'folder_index.csv'
CASES = {
    'begins': 'a run that begins, with the list of pictures that its workdir keeps',
    'goes on': 'a run that goes on, compared with the list in its workdir',
}


def make(root: pathlib.Path, count: int) -> None:
    """Writes the pictures."""
    for i in range(count):
        folder = root / f'n{i // A_FOLDER:08}'
        if i % A_FOLDER == 0:
            folder.mkdir(parents=True)
        path = folder / f'{folder.name}_{i % A_FOLDER:05}.JPEG'
        if i % MOST_LINKS == 0:
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(path)
            first = path
        else:
            os.link(first, path)


def keep_index(root: pathlib.Path, cache: pathlib.Path) -> None:
    """Keeps the index that a first start would have made, without decoding a million pictures."""
    found = folder_files.walk(folder_files.open_folder(str(root)), pictures.SUFFIXES)
    table = np.zeros(len(found.names), folder_cache.TABLE)
    table['size'], table['time'], table['length'] = found.sizes, found.times, found.names.lengths()
    table['height'] = table['width'] = 16
    table['kind'], table['orientation'] = pictures.KINDS.index(pictures.PLAIN), 1
    table['test'] = [folder_layout.is_test(found.names.raw(i)) for i in range(len(found.names))]
    file = folder_index.cache_file(folder_files.open_folder(str(root)), cache / 'folder_index')
    folder_cache.save(file, folder_cache.Known(found.names, table, {}))


def memory(name: str) -> int:
    """Returns a line of /proc/self/status, in bytes."""
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    status = dict(line.split(':') for line in lines)
    return int(status[name].split()[0]) * 1024


def start(root: str, data_dir: str, case: str, held: pathlib.Path) -> tuple[float, ...]:
    """Starts as a run does; returns the time, the CPU time, that of the walk, and the memory."""
    walk, walked = folder_files.walk, []

    def timed_walk(*arguments):
        began = time.process_time()
        found = walk(*arguments)
        walked.append(time.process_time() - began)
        return found

    folder_files.walk = timed_walk
    before, wall, cpu = memory('VmRSS'), time.perf_counter(), time.process_time()
    had = Held(0, None, held.read_bytes) if case == 'goes on' else None
    source = sources.open_source('folder', data_dir, 'train', path=root, held=had)
    packed = source.held().pictures() if case == 'begins' else b''
    figures = time.perf_counter() - wall, time.process_time() - cpu, *walked
    peak = memory('VmHWM') - before
    assert 0.85 < source.num_examples / source.num_files < 0.95 and source.num_classes
    if packed:
        held.write_bytes(packed)
    return *figures, peak / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--files', type=int, default=FILES)
    parser.add_argument('--turns', type=int, default=TURNS)
    parser.add_argument('--results', type=pathlib.Path, default=RESULTS)
    parser.add_argument('--start', nargs=4, help=argparse.SUPPRESS)  # one start, in its own process
    options = parser.parse_args()
    if options.start:
        root, data_dir, case, held = options.start
        print(*start(root, data_dir, case, pathlib.Path(held)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as place:
        root, data_dir = pathlib.Path(place, 'pictures'), pathlib.Path(place, 'data')
        make(root, options.files)
        keep_index(root, data_dir)
        (index,) = (data_dir / 'folder_index').iterdir()
        for case in CASES:
            arguments = map(str, (root, data_dir, case, pathlib.Path(place, 'held')))
            command = [sys.executable, __file__, '--start', *arguments]
            turns = [
                [float(x) for x in subprocess.check_output(command, text=True).split()[-4:]]
                for _ in range(options.turns)
            ]
            wall, cpu, walk, peak = np.median(turns, axis=0)
            rows.append(
                {
                    'case': case,
                    'files': options.files,
                    'seconds': f'{wall:.2f}',
                    'cpu_seconds': f'{cpu:.2f}',
                    'walk_seconds': f'{walk:.2f}',
                    'peak_mb': f'{peak:.0f}',
                    'index_mb': f'{index.stat().st_size / 1e6:.1f}',
                    'turns': options.turns,
                    'load': f'{os.getloadavg()[0]:.0f}',
                    'machine': f'{os.cpu_count()} cores, {platform.machine()}',
                }
            )
            print(rows[-1], flush=True)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with options.results.open('w', newline='') as file:
        writer = csv.DictWriter(file, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


if __name__ == '__main__':
    main()
