"""Two real processes: the first one looks at the masks, and each makes its rows of a batch."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from simclr_jax.data import mask_batches, masks

ROOT = pathlib.Path(__file__).parents[2]
HOW = {'seed': 5, 'batch_size': 4, 'start_step': 1, 'total_steps': 3, 'size': 8}
PROGRAM = f"""
import sys
import jax
import numpy as np
rank, port, root, kept, made = int(sys.argv[1]), *sys.argv[2:]
jax.distributed.initialize(f'127.0.0.1:{{port}}', 2, rank)
from simclr_jax.config import ConfigError
from simclr_jax.data import mask_batches, mask_decode, masks
values, looked = mask_decode.values, []
mask_decode.values = lambda *a: looked.append(1) or values(*a)
try:  # each process has a folder of its own for what is kept, as on a disk of its own
    source = masks.open_masks(root, splits=('train',), data_dir=kept + str(rank))['train']
    print('found', len(looked), source.description)
    rows = slice(2 * rank, 2 * rank + 2)
    batches = list(mask_batches.train_batches(source, rows=rows, **{HOW!r}))
    for name in ('image', 'label'):
        np.save(f'{{made}}/{{name}}{{rank}}.npy', [batch[name] for batch in batches])
except ConfigError as error:
    print('error', error)
"""


def run(roots, *rest):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM, *map(str, (rank, port, root, *rest))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, root in enumerate(roots)
    ]
    try:
        return [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_one_of_two_processes_looks_and_both_make_the_same_batches(tmp_path):
    root, kept = tmp_path / 'there', tmp_path / 'kept'
    for kind in ('images', 'masks'):
        (root / kind).mkdir(parents=True)
    for i in range(6):
        rng = np.random.default_rng(i)
        picture = rng.integers(0, 256, (12, 10, 3), np.uint8)
        Image.fromarray(picture).save(root / f'images/{i}.png')
        Image.fromarray(picture[..., 0] % 3).save(root / f'masks/{i}.png')
    first, second = run((root, root), kept, tmp_path)
    assert 'found 6 train: ' in first and '3 classes' in first
    assert second.split('found 0 ')[1] == first.split('found 6 ')[1]
    source = masks.open_masks(str(root), splits=('train',), data_dir=f'{kept}0')['train']
    alone = list(mask_batches.train_batches(source, **HOW))
    for name in ('image', 'label'):
        halves = [np.load(tmp_path / f'{name}{rank}.npy') for rank in range(2)]
        np.testing.assert_array_equal(
            np.concatenate(halves, axis=1), [batch[name] for batch in alone]
        )
    (root / 'masks/5.png').write_bytes(b'')
    first, second = run((root, root), kept, tmp_path)
    assert '5.png: its mask: empty' in first and second.split('error')[1] == first.split('error')[1]
