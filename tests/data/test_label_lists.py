"""Several labels a picture, in the records that TFDS writes of PASCAL VOC."""

import numpy as np
import pytest

from simclr_jax.data import example
from simclr_jax.data.label_lists import read_label_lists

LABELS = [([3, 0], [3]), ([], []), ([200], [200]), ([1, 2], [])]  # all objects, and not difficult


@pytest.fixture(scope='module')
def records():
    tfds = pytest.importorskip('tensorflow_datasets', reason='writes the records')
    classes = tfds.features.Sequence(tfds.features.ClassLabel(num_classes=300))
    features = tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(shape=(4, 4, 3)),
            'labels': classes,
            'labels_no_difficult': classes,
            'objects': tfds.features.Sequence({'is_difficult': np.bool_}),
        }
    )
    image = np.zeros((4, 4, 3), np.uint8)
    return [
        features.serialize_example(
            {
                'image': image,
                'labels': everything,
                'labels_no_difficult': easy,
                'objects': {'is_difficult': [False] * len(everything)},
            }
        )
        for everything, easy in LABELS
    ]


def test_lists_of_numbers_are_read(records):
    for record, (everything, easy) in zip(records, LABELS, strict=True):
        assert example.integers(record, 'labels') == everything
        assert example.integers(record, 'labels_no_difficult') == easy
        assert example.integers(record, 'nothing') == []
    numbers = [-1, 2**40, 0]
    assert example.integers(example.serialize(b'', numbers[0]), 'label') == numbers[:1]


def test_what_is_only_difficult_is_neither_there_nor_absent(records):
    found = read_label_lists(lambda numbers: [records[i] for i in numbers], len(records), 300)
    assert [np.flatnonzero(row).tolist() for row in found.targets] == [[3], [], [200], []]
    assert [np.flatnonzero(~row).tolist() for row in found.counted] == [[0], [], [], [1, 2]]
