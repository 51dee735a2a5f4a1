"""Random access to TFRecord against TensorFlow's own reader."""

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.config import ConfigError
from simclr_jax.data import tfrecord


@pytest.fixture
def files(tmp_path):
    random, records = np.random.default_rng(0), []
    for shard in range(3):
        records.append([random.bytes(int(n)) for n in random.integers(0, 3000, 20 + shard)])
        with tf.io.TFRecordWriter(str(tmp_path / f'{shard}')) as writer:
            for record in records[-1]:
                writer.write(record)
    return tmp_path, records


def test_any_record_of_any_part(files):
    root, records = files
    parts = [(str(root / '0'), 5, 15), (str(root / '1'), 0, 21), (str(root / '2'), 0, 3)]
    want = records[0][5:] + records[1] + records[2][:3]
    for _ in range(2):  # the second time from the cached places
        read, count = tfrecord.open_records(parts, root / 'cache')
        assert count == len(want)
        order = np.random.default_rng(1).permutation(count)
        assert read(order) == [want[i] for i in order]
    assert want[:15] == list(tf.data.TFRecordDataset(str(root / '0')).skip(5).as_numpy_iterator())


def test_a_file_cut_short_is_found(files):
    root, _ = files
    whole = (root / '0').read_bytes()
    (root / '0').write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match='cut short after 19 records'):
        tfrecord.open_records([(str(root / '0'), 0, 20)], root / 'cache')
    (root / '0').write_bytes(b'')
    with pytest.raises(ConfigError, match='has 0 of 20 records'):
        tfrecord.open_records([(str(root / '0'), 0, 20)], root / 'cache')
