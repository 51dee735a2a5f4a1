"""The records of each step in tf.data, read and parsed; nothing is decoded here."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from simclr_jax.data import undecoded
from simclr_jax.data.sources import Source

# From a step to the indices of its examples, `[n]`.
IndicesOf = Callable[[int], np.ndarray]


def together(
    steps: tf.data.Dataset,
    source: Source,
    indices_of: IndicesOf,
    count: int,
    parallel: int,
    beside: Callable[[tf.Tensor], Any] | None = None,
) -> tf.data.Dataset:
    """The `count` records of each step, read together; with what `beside(step)` returns, if any."""

    def read_step(step):
        indices = indices_of(int(step)).astype(np.int64)
        return indices, np.array(read(source, indices), object)

    def records(step):
        index, serialized = tf.numpy_function(read_step, [step], (tf.int64, tf.string))
        index.set_shape([count])
        serialized.set_shape([count])
        batch = {'index': index, **parse(serialized, source)}
        return (batch, beside(step)) if beside else batch

    return steps.map(records, parallel, deterministic=True)


def one_by_one(
    steps: tf.data.Dataset,
    source: Source,
    indices_of: IndicesOf,
    count: int,
    parallel: int,
    beside: Callable[[tf.Tensor], Any] | None = None,
) -> tf.data.Dataset:
    """The records of each step one by one, each with its row of what `beside(step)` returns.

    Files are read one by one too: a batch of them may take gigabytes.
    """
    if not source.from_files:
        return together(steps, source, indices_of, count, parallel, beside).unbatch()

    def rows(step):
        index = tf.numpy_function(lambda s: indices_of(int(s)).astype(np.int64), [step], tf.int64)
        index.set_shape([count])
        return (index, beside(step)) if beside else index

    def record(index, *beside):
        serialized = tf.numpy_function(lambda i: read(source, [i])[0], [index], tf.string)
        serialized.set_shape([])
        return ({'index': index, **parse(serialized, source)}, *beside)

    if beside is None:
        record_alone = lambda index: record(index)[0]  # noqa: E731
    dataset = steps.map(rows, 2, deterministic=True).unbatch()
    return dataset.map(record if beside else record_alone, 2 * os.cpu_count(), deterministic=True)


def read(source: Source, indices: Iterable[int]) -> list[bytes]:
    return undecoded.replace(source, indices, source.read(indices))


def parse(serialized: tf.Tensor, source: Source) -> dict[str, tf.Tensor]:
    features = {'image': tf.io.FixedLenFeature([], tf.string)}
    if source.label_names is not None:
        features['label'] = tf.io.FixedLenFeature([], tf.int64)
    if source.from_files:
        features['orientation'] = tf.io.FixedLenFeature([], tf.int64, default_value=1)
    parse = tf.io.parse_single_example if serialized.shape.rank == 0 else tf.io.parse_example
    parsed = parse(serialized, features)
    if 'label' in parsed:
        parsed['label'] = tf.cast(parsed['label'], tf.int32)
    return parsed
