"""Pipelines end before Python does."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.data.iterate import iterate

# Reading takes long, and something that lives until Python's very end keeps the pipeline.
PROGRAM = """
import time
import tensorflow as tf
from simclr_jax.data.iterate import iterate

def read(index):
    if index == {fails}:
        raise ValueError('gone')
    time.sleep(0.5 if index > 8 else 0)
    return index

def record(index):
    return tf.ensure_shape(tf.numpy_function(read, [index], tf.int64), [])

def first_batches():
    batches = iterate(tf.data.Dataset.range(1000).map(record, 4).batch(4), 0)
    for batch in batches:
        print(batch.tolist(), flush=True)
        if batch[0] == 4 and {fails} > 8:
            raise ValueError('a step failed')

try:
    first_batches()
except Exception as error:
    error.itself = error
"""


@pytest.mark.slow
@pytest.mark.parametrize('fails', [999, 6], ids=['a step', 'a read'])
def test_a_program_ends_though_an_error_keeps_a_pipeline_that_is_reading(fails):
    program = PROGRAM.format(fails=fails)
    done = subprocess.run(
        [sys.executable, '-c', program],
        capture_output=True,
        text=True,
        timeout=300,  # for a busy machine: it takes seconds, or hangs
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == '[0, 1, 2, 3]'


def test_batches_come_in_order_until_they_are_closed():
    batches = iterate(tf.data.Dataset.range(10).batch(4), 2)
    np.testing.assert_array_equal(next(batches), [0, 1, 2, 3])
    batches.close()
    assert list(batches) == []
    batches = iterate(tf.data.Dataset.range(3).batch(2), 0)
    assert [batch.tolist() for batch in batches] == [[0, 1], [2]]


def test_an_error_that_the_caller_is_handling_keeps_its_frames():
    def fails():
        kept = 'what a debugger would look at'
        raise ValueError(kept)

    batches = iterate(tf.data.Dataset.range(3).batch(2), 0)
    try:
        fails()
    except ValueError as error:
        assert len(list(batches)) == 2
        assert 'kept' in error.__traceback__.tb_next.tb_frame.f_locals
