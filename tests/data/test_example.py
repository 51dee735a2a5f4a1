"""Records against TensorFlow's own protocol buffers."""

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.data import example


def made_by_tensorflow(image, label=None, **others):
    features = {'image': tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))}
    if label is not None:
        features['label'] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    for name, value in others.items():
        features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=value))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.mark.parametrize('label', [None, 0, 7, 127, 128, 99_999, 2**40, -1, -5])
@pytest.mark.parametrize('length', [0, 1, 127, 128, 70_000])
def test_both_ways(label, length):
    image = np.random.default_rng(0).bytes(length)
    record = made_by_tensorflow(image, label, box=[0.5, 1.0], file=[2.0])
    assert example.parse(record) == (image, -1 if label is None else label, 1)
    features = tf.train.Example.FromString(example.serialize(image, label)).features.feature
    assert features['image'].bytes_list.value == [image]
    assert list(features['label'].int64_list.value) == ([] if label is None else [label])


def test_a_record_without_an_image_says_so():
    with pytest.raises(ValueError, match='without an image'):
        example.parse(tf.train.Example().SerializeToString())


@pytest.mark.parametrize('orientation', [example.PILLOW, 1, 6])
def test_an_orientation_is_written_where_it_is_not_that_of_any_record(orientation):
    record = example.serialize(b'image', 3, orientation)
    assert example.parse(record) == (b'image', 3, orientation)
    features = tf.train.Example.FromString(record).features.feature
    found = list(features['orientation'].int64_list.value)
    assert found == ([] if orientation == 1 else [orientation])


@pytest.mark.parametrize('orientation', [example.PILLOW, 1, 6])
def test_a_label_is_taken_out(orientation):
    hidden = example.without_label(example.serialize(b'image', 3, orientation))
    assert example.parse(hidden) == (b'image', -1, orientation)
    how = {'label': tf.io.FixedLenFeature([], tf.int64)}  # as the pipeline reads it
    assert tf.io.parse_single_example(hidden, how)['label'] == -1
