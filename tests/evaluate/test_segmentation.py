"""Agreement of masks, beside scikit-learn's and torchmetrics' figures of the same pixels."""

import json
import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from simclr_jax.evaluate.segmentation import confusion, figures

CLASSES = 6  # class 3 is neither there nor predicted; class 5 is predicted alone
NAMES = ['sky', 'road', 'car', 'tram', 'tree', 'sign']


def masks():
    """Four pictures of other sizes with ignored pixels; the last has no other ones."""
    random = np.random.RandomState(0)
    pairs = []
    for shape in [(13, 17), (20, 9), (8, 8)]:
        labels = random.choice([-1, 0, 1, 2, 4], shape, p=[0.1, 0.4, 0.3, 0.15, 0.05])
        wrong = random.choice([0, 1, 2, 4, 5], shape)
        pairs.append((labels, np.where(random.rand(*shape) < 0.6, np.maximum(labels, 0), wrong)))
    return [*pairs, (np.full((5, 4), -1), np.full((5, 4), 2))]


def counted():
    labels, predictions = (np.concatenate([pair[i].ravel() for pair in masks()]) for i in range(2))
    return labels[labels >= 0], predictions[labels >= 0]


def test_the_sum_over_pictures_equals_scikit_learn():
    total = sum(confusion(*pair, CLASSES) for pair in masks())
    labels, predictions = counted()
    np.testing.assert_array_equal(
        total, confusion_matrix(labels, predictions, labels=range(CLASSES))
    )
    assert total.dtype == np.int64
    found = figures(total, NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the class that is nowhere
        expected = jaccard_score(labels, predictions, labels=range(CLASSES), average=None)
    there = [0, 1, 2, 4, 5]
    assert found['per_class']['tram'] is None
    assert found['per_class']['sign'] == 0.0
    np.testing.assert_allclose(
        [found['per_class'][NAMES[i]] for i in there], expected[there], rtol=1e-12
    )
    np.testing.assert_allclose(
        found['miou'],
        jaccard_score(labels, predictions, labels=there, average='macro'),
        rtol=1e-12,
    )
    np.testing.assert_allclose(found['pixel_accuracy'], accuracy_score(labels, predictions))
    assert json.loads(json.dumps(found)) == found


def test_it_equals_torchmetrics():
    torch = pytest.importorskip('torch', reason='torchmetrics runs on PyTorch')
    torchmetrics = pytest.importorskip('torchmetrics', reason='the other library is not installed')
    options = {'num_classes': CLASSES, 'ignore_index': 255}
    each, mean, counts = (
        torchmetrics.classification.MulticlassJaccardIndex(average=None, **options),
        torchmetrics.classification.MulticlassJaccardIndex(average='macro', **options),
        torchmetrics.classification.MulticlassConfusionMatrix(**options),
    )
    for labels, predictions in masks():
        for metric in (each, mean, counts):
            metric.update(
                torch.tensor(predictions), torch.tensor(np.where(labels < 0, 255, labels))
            )
    total = sum(confusion(*pair, CLASSES) for pair in masks())
    np.testing.assert_array_equal(total, counts.compute().numpy())
    found = figures(total, NAMES)
    # It has 0 for the class that is nowhere, which has no part in its mean either.
    np.testing.assert_allclose(
        [iou or 0.0 for iou in found['per_class'].values()], each.compute().numpy(), rtol=1e-6
    )
    np.testing.assert_allclose(found['miou'], float(mean.compute()), rtol=1e-6)


def test_masks_without_a_counted_pixel_have_no_figures():
    total = confusion(np.full((3, 4), -1), np.full((3, 4), 9), 2)
    np.testing.assert_array_equal(total, np.zeros((2, 2)))
    assert figures(total, ['a', 'b']) == {
        'miou': None,
        'pixel_accuracy': None,
        'per_class': {'a': None, 'b': None},
    }
    assert confusion(np.zeros((0, 4), int), np.zeros((0, 4), int), 2).sum() == 0


def test_a_label_of_a_byte_is_not_wrapped():
    labels = np.full(3, 200, np.uint8)
    assert confusion(labels, labels, 201)[200, 200] == 3


@pytest.mark.parametrize(
    ('labels', 'predictions', 'message'),
    [
        ([0, 2], [0, 1], 'labels runs from 0 to 2'),
        ([0, -2], [0, 1], 'labels runs from -2 to 0'),
        ([0, 1], [0, 2], 'predictions runs from 0 to 2'),
        ([0, 1], [0, -1], 'predictions runs from -1 to 0'),
        ([0, 1], [0], r'labels is \(2,\), predictions \(1,\)'),
    ],
)
def test_what_is_no_class_is_an_error(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        confusion(np.array(labels), np.array(predictions), 2)


@pytest.mark.parametrize('names', [['a'], ['a', 'a']])
def test_names_must_tell_the_classes_apart(names):
    with pytest.raises(ValueError, match='name each of the classes once'):
        figures(np.eye(2, dtype=int), names)
