"""Whole runs over a folder that changes between two starts, or goes away."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from simclr_jax.workdir.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.slow

# run.py, and what happens to it right after the metrics of step 9 were written.
PROGRAM = """
import os, runpy, signal, sys
from simclr_jax.workdir.metrics import MetricWriter
write = MetricWriter.write
def write_and_more(self, step, row):
    write(self, step, row)
    if step == 9:
        {happens}
MetricWriter.write = write_and_more
runpy.run_path('run.py', run_name='__main__')
"""
NOTHING, KILLED = 'pass', 'self.sync(); os.kill(os.getpid(), signal.SIGKILL)'


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('folder_runs')


def fill(root, numbers):
    for i in numbers:
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        (root / 'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / 'ab'[i % 2] / f'{i:03}.png')


def run(place, root, workdir, fields=None, happens=NOTHING, status=0):
    fields = {
        'data.path': root,
        'data.data_dir': place / 'cache',
        'data.image_size': 16,
        'model.encoder': 'resnet_tiny',
        'batch_size': 16,
        'epochs': 4,
        'optimizer.warmup_epochs': 1,
        'checkpoint.every_steps': 4,
        'log.every_steps': 1,
        'log.tensorboard': False,
        'eval.after_pretrain': '()',
    } | (fields or {})
    command = [sys.executable, '-c', PROGRAM.format(happens=happens), f'--workdir={workdir}']
    command.append('--config=configs/simclr_folder.py')
    command += [f'--config.{field}={value}' for field, value in fields.items()]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_COMPILATION_CACHE_DIR': f'{place}/compiled'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,  # for a busy machine: it takes seconds
    )
    assert done.returncode == status and 'Traceback' not in done.stdout, done.stdout
    return done.stdout


def state(workdir, step):
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(workdir / 'checkpoints' / str(step) / 'default')
    return [np.asarray(leaf) for leaf in jax.tree.leaves(restored)]


def errors(said):
    return [line for line in said.splitlines() if 'error' in line or 'left out' in line]


def test_a_run_ends_with_the_same_bits_though_its_folder_grew_and_moved(place):
    root, first, again = place / 'grows', place / 'undisturbed', place / 'again'
    fill(root, range(100))
    said = run(place, root, first)
    assert '\n100 pictures: 90 train, 10 test; 2 classes, by sub-folder\n' in said
    run(place, root, again, happens=KILLED, status=-9)
    fill(root, range(100, 160))
    fill(root / 'c', range(160, 180))  # a new class
    moved = root.rename(place / 'another disk')
    said = run(place, moved, again)
    assert '80 pictures came since this run began' in said and 'going on from' in said
    assert '20 steps of 16 pairs' in said
    for one, other in zip(state(first, 20), state(again, 20), strict=True):
        np.testing.assert_array_equal(one, other)
    (moved / 'a/004.png').unlink()
    (line,) = errors(run(place, moved, again, status=2))
    assert '1 of the 100 pictures' in line and 'a/004.png (gone)' in line


def test_a_run_with_a_table_of_labels_ends_with_the_same_bits_and_refuses_another(place):
    root, first, again = place / 'labelled', place / 'with labels', place / 'with labels, killed'
    fill(root, range(100))
    table = place / 'labels.csv'
    rows = [f'{"ab"[i % 2]}/{i:03}.png,{("x", "y")[i % 4 // 2]},train' for i in range(50)]
    table.write_text('\n'.join(['file,label,split', *rows]))
    fields = {'data.labels': table}
    said = run(place, root, first, fields)
    assert '100 pictures: 100 train; 50 with labels of 2 classes\n' in said
    run(place, root, again, fields, happens=KILLED, status=-9)
    text = table.read_text()
    table.write_text(text.replace('a/002.png,y', 'a/002.png,x'))
    (line,) = errors(run(place, root, again, fields, status=2))
    assert 'a/002.png (y in train then, x in train now)' in line
    fill(root, range(100, 120))
    moved = place / 'moved.csv'
    moved.write_text(f'{text}\na/100.png,new,train\nb/101.png,x,test\n')
    said = run(place, root, again, {'data.labels': moved})
    assert '20 pictures came since this run began' in said and 'going on from' in said
    for one, other in zip(state(first, 24), state(again, 24), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_folder_that_goes_away_during_a_run_ends_it_with_one_line_and_loses_no_step(place):
    root, workdir = place / 'goes', place / 'lost'
    fill(root, range(100))
    lost = f'os.rename({str(root)!r}, {str(place / "gone")!r})'
    fields = {'epochs': 400, 'checkpoint.every_steps': 9999}
    (line,) = errors(run(place, root, workdir, fields, happens=lost, status=1))
    assert line.startswith(f'error: data.path={str(root)!r}: does not answer any more')
    step = read_metrics(workdir)[-1]['step']
    assert 9 <= step < 2000 and (workdir / 'checkpoints' / f'{step:.0f}').is_dir()
    (line,) = errors(run(place, root, workdir, fields, status=2))  # it is still away
    assert 'is not there' in line and 'data.path' in line
