"""Two real processes: the first one makes the index, the other waits for it, hours if need be."""

import io
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]

PROGRAM = """
import pathlib, sys, time
import jax
rank, port, root, cache = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
jax.distributed.initialize(f'127.0.0.1:{port}', 2, rank)
from simclr_jax.config import ConfigError
from simclr_jax.data import example, folder_index, pictures, sources
check = pictures.check
looked = []
def slow(encoded):
    looked.append(encoded)
    time.sleep(float(sys.argv[5]) / 40)
    return check(encoded)
pictures.check = slow
try:  # each process has a cache of its own, as on a disk of its own
    if sys.argv[6]:
        options = {'path': root, 'labels': sys.argv[6], 'max_bad_fraction': 0.5}
        source = sources.open_source('folder', cache + str(rank), 'train', **options)
        records = [example.parse(record).label for record in source.read(range(8))]
        print('found', len(looked), records, source.description)
    else:
        index = folder_index.read_index(root, pathlib.Path(cache) / str(rank))
        print('found', len(index.names), len(looked), list(index.names)[:2], index.bad)
except ConfigError as error:
    print('error', error)
"""


def run(root, cache, seconds=0.0, roots=None, labels=''):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM, *map(str, (rank, port, place, cache, seconds, labels))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, place in enumerate(roots or (root, root))
    ]
    try:
        return [process.communicate(timeout=240)[0].splitlines()[-1] for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture
def root(tmp_path):
    for i in range(40):
        path = tmp_path / 'pictures' / 'ab'[i % 2] / f'{i:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(stream, 'PNG')
        path.write_bytes(stream.getvalue())
    (tmp_path / 'pictures/a/bad.png').write_bytes(b'')
    return tmp_path / 'pictures'


@pytest.mark.long
def test_one_of_two_processes_makes_the_index(root, tmp_path):
    # Longer than the half minute after which a collective gives up.
    first, second = run(root, tmp_path / 'cache', seconds=40 * (os.cpu_count() or 1))
    assert first.startswith("found 40 41 ['a/00.png', 'a/02.png'] {'a/bad.png': 'empty'}")
    assert second == first.replace('found 40 41', 'found 40 0')


@pytest.mark.slow
def test_what_stops_the_first_process_stops_the_other_one(root, tmp_path):
    first, second = run(root, tmp_path / 'cache', roots=[tmp_path / 'nowhere', root])
    assert first == second and 'nowhere' in first and 'is not there' in first


@pytest.mark.slow
def test_a_folder_may_lie_elsewhere_on_another_machine(root, tmp_path):
    (tmp_path / 'mine').symlink_to(root)
    first, second = run(root, tmp_path / 'cache', roots=[root, tmp_path / 'mine'])
    assert first.startswith('found 40 41') and second == first.replace('40 41', '40 0')


@pytest.mark.slow
def test_one_of_two_processes_reads_the_table_of_labels(root, tmp_path):
    table = tmp_path / 'labels.csv'
    rows = ['ab'[i % 2] + f'/{i:02},{i % 3},train' for i in range(20)]
    table.write_text('\n'.join(['file,label,split', *rows]))
    first, second = run(root, tmp_path / 'cache', labels=str(table))
    labels = [i % 3 for i in (0, 2, 4, 6, 8, 10, 12, 14)]
    assert first.startswith(f'found 41 {labels} 40 pictures: 40 train; 20 with labels of 3 classes')
    assert second == first.replace('found 41', 'found 0')
    table.write_text('file,label\nnone.png,x')
    first, second = run(root, tmp_path / 'cache', labels=str(table))
    assert first == second and f"error data.labels='{table}': none of the files" in first
