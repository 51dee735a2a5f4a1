"""How fast a folder is embedded, beside what no program can beat, and what a killed run does.

    unzip cifar10.zip -d DIR      # 60,000 JPEGs of 32 x 32 pixels
    python benchmarks/embed.py --data=DIR

In one process: decoding alone, by as many threads as embedding has; the bare forward pass, on
batches that lie ready; and embedding, which does both and saves parts. `of_the_slower` is its speed
as a share of the slower of the two, measured before and after it. On a CPU both need the same
cores, so the best that can be is `of_both`: the share of what one after the other would take.

Then the whole command in processes of its own: its time, its most memory, and the same killed half
way by SIGKILL and given again, whose table has to be the same to the bit. Writes
`results/embed.csv`. The weights are random: they take as long as any.
"""

import argparse
import csv
import os
import pathlib
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from simclr_jax.data.listing import open_listing
from simclr_jax.evaluate import embedding
from simclr_jax.evaluate.parts import Parts
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture, Preprocess, Weights
from simclr_jax.weights.encoder import Encoder

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results' / 'embed.csv'
SIZE = 32


def make_encoder(name: str) -> Weights:
    """Returns an encoder for pictures of 32 pixels, with the weights that training begins with."""
    architecture = Architecture(name, stem='small')
    preprocess = Preprocess(SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    images = np.zeros((1, SIZE, SIZE, 3), np.float32)
    init = jax.jit(lambda key: architecture.module().init(key, images, train=False))
    return Weights(architecture, preprocess, {}, jax.device_get(init(jax.random.key(0))))


def measure(encoder: Encoder, data: str, folder: pathlib.Path) -> dict[str, float]:
    """Returns pictures a second, all measured in this process."""
    listing = open_listing(data)
    parts = Parts(folder, len(listing))
    numbers, workers = range(len(parts)), os.cpu_count() or 1
    batches = list(embedding._decode(listing, encoder, parts, range(1), workers))
    encoder.forward(batches[0].views).block_until_ready()  # compiles

    def decode() -> None:
        for _ in embedding._decode(listing, encoder, parts, numbers, workers):
            pass

    def forward() -> None:
        in_flight = None
        for i in range(-(-len(listing) // len(batches[0].views))):
            made = encoder.forward(batches[i % len(batches)].views)
            if in_flight is not None:
                np.asarray(in_flight)
            in_flight = made
        np.asarray(in_flight)

    def both() -> None:
        embedding.embed(listing, encoder, parts, numbers)

    def rate(work: Callable[[], None]) -> float:
        began = time.perf_counter()
        work()
        return len(listing) / (time.perf_counter() - began)

    before = rate(decode), rate(forward)
    embedded = rate(both)
    after = rate(decode), rate(forward)
    decoding, bare = ((a + b) / 2 for a, b in zip(before, after, strict=True))
    return {
        'pictures': len(listing),
        'decoding_per_second': round(decoding),
        'forward_per_second': round(bare),
        'embedding_per_second': round(embedded),
        'of_the_slower': round(embedded / min(decoding, bare), 3),
        'of_both': round(embedded * (1 / decoding + 1 / bare), 3),
    }


def command(encoder: pathlib.Path, data: str, output: pathlib.Path) -> list[str]:
    flags = [f'--encoder={encoder}', f'--data={data}', f'--output={output}']
    return [sys.executable, str(ROOT / 'run.py'), '--mode=embed', *flags]


def whole(encoder: pathlib.Path, data: str, folder: pathlib.Path) -> dict[str, object]:
    """Runs the command, and runs it killed half way; the tables have to be equal."""
    began = time.perf_counter()
    once = folder / 'once.parquet'
    subprocess.run(command(encoder, data, once), check=True)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    twice = folder / 'twice.parquet'
    parts = twice.with_name('twice.parquet.parts')
    half = len(Parts(parts, len(open_listing(data)))) // 2
    process = subprocess.Popen(command(encoder, data, twice))
    while len(list(parts.glob('*.npz'))) < half and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = len(list(parts.glob('*.npz')))
    began = time.perf_counter()
    subprocess.run(command(encoder, data, twice), check=True)
    equal = once.read_bytes() == twice.read_bytes()
    if not equal or not done:
        raise SystemExit(
            f'killed after {done} parts; the tables are{"" if equal else " not"} equal'
        )
    return {
        'command_seconds': round(seconds, 1),
        'peak_mib': round(peak),
        'table_mib': round(once.stat().st_size / 2**20, 1),
        'killed_after_parts': done,
        'resumed_seconds': round(time.perf_counter() - began, 1),
        'equal': equal,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--data', required=True, help='a folder of pictures')
    parser.add_argument('--encoder', default='resnet_tiny', help='its name; with the small stem')
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        path = folder / 'encoder.safetensors'
        native.save(path, make_encoder(flags.encoder))
        (folder / 'parts').mkdir()
        row = {'encoder': flags.encoder, 'size': SIZE}
        row |= measure(Encoder(native.read(path)), flags.data, folder / 'parts')
        row |= whole(path, flags.data, folder)
    commit = ['git', 'rev-parse', '--short', 'HEAD']
    device = jax.devices()[0].device_kind
    row |= {
        'load': round(os.getloadavg()[0], 1),
        'machine': f'{os.cpu_count()} cores, {platform.machine()}, {device}',
        'commit': subprocess.check_output(commit, cwd=ROOT, text=True).strip(),
        'command': f'python benchmarks/embed.py --data=DIR --encoder={shlex.quote(flags.encoder)}',
    }
    rows = {}
    if RESULTS.exists():
        with RESULTS.open(newline='') as file:
            rows = {(old['encoder'], old['machine']): old for old in csv.DictReader(file)}
    rows[row['encoder'], row['machine']] = row
    with RESULTS.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(row), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows.values())
    print(*(f'{name}: {value}' for name, value in row.items()), sep='\n')


if __name__ == '__main__':
    main()
