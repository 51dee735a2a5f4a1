"""The measures: scikit-learn's, and the VOC development kit's, on given scores."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    precision_recall_curve,
    top_k_accuracy_score,
)

from simclr_jax.evaluate import metrics


@pytest.fixture(params=range(3))
def rng(request):
    return np.random.RandomState(request.param)


def test_top_1_top_5_and_mean_per_class_are_scikit_learns(rng):
    scores, labels = rng.randn(200, 12), rng.randint(12, size=200)
    scores[np.arange(200), labels] += 1
    chosen = scores.argmax(axis=1)
    assert metrics.top_1(scores, labels) == pytest.approx(accuracy_score(labels, chosen))
    assert metrics.top_k(scores, labels) == pytest.approx(top_k_accuracy_score(labels, scores, k=5))
    found = metrics.mean_per_class(scores, labels)
    assert found == pytest.approx(balanced_accuracy_score(labels, chosen))


def test_a_class_without_examples_has_no_part_in_the_mean(rng):
    scores, labels = rng.randn(50, 4), rng.randint(3, size=50)
    with np.errstate(all='raise'):
        found = metrics.mean_per_class(scores, labels)
    chosen = scores.argmax(axis=1)
    expected = np.mean([np.mean(chosen[labels == c] == c) for c in range(3)])
    assert found == pytest.approx(expected)


def test_equal_scores_are_not_all_right():
    scores, labels = np.zeros((4, 4)), np.arange(4)
    assert metrics.top_1(scores, labels) == metrics.top_k(scores, labels, 1) == 0.25
    assert metrics.top_k(scores, labels, 3) == 0.75


def voc_eval_cls(out, gt):
    """`VOCevalcls.m` of the VOC 2007 development kit, line by line: gt is 1, 0 (difficult), -1."""
    si = np.argsort(-out, kind='stable')
    tp, fp = np.cumsum(gt[si] > 0), np.cumsum(gt[si] < 0)
    rec = [Fraction(int(n), int(np.sum(gt > 0))) for n in tp]
    prec = tp / np.maximum(fp + tp, 1)
    ap = 0.0
    for t in [Fraction(k, 10) for k in range(11)]:
        p = prec[[r >= t for r in rec]]
        ap += (p.max() if len(p) else 0.0) / 11
    return ap


def test_average_precision_is_the_development_kits(rng):
    scores, gt = rng.randn(90), rng.choice([1, 0, -1], p=[0.2, 0.1, 0.7], size=90)
    scores[gt > 0] += 1
    scores[gt == 0] += 2  # easy to find, and of no consequence
    found = metrics.average_precision_11(scores, (gt > 0).astype(int), gt != 0)
    assert found == pytest.approx(voc_eval_cls(scores, gt), abs=1e-12)
    assert found != pytest.approx(voc_eval_cls(scores, np.where(gt > 0, 1, -1)), abs=1e-3)


def test_average_precision_is_that_of_scikit_learns_curve(rng):
    """Where nothing is difficult, no scores are equal, and without the point that it appends.

    That one, of precision 1 at recall 0, ssl-transfer's figures have; the development kit's do not.
    """
    scores, targets = rng.randn(70), np.zeros(70, int)
    targets[rng.permutation(70)[:23]] = 1  # no recall is a tenth, which floats would miss
    precision, recall, _ = precision_recall_curve(targets, scores)
    precision, recall = precision[:-1], recall[:-1]
    expected = np.mean([precision[recall >= t].max() for t in np.linspace(0, 1, 11)])
    assert metrics.average_precision_11(scores, targets) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ('targets', 'expected'),
    [
        ([1, 1, 0, 0], 1.0),
        ([0, 0, 0, 1], 1 / 4),
        # Recall 1/2 at precision 1, recall 1 at 2/3: six points of 1, five of 2/3.
        ([1, 0, 1, 0], (6 + 5 * 2 / 3) / 11),
    ],
)
def test_average_precision_by_hand(targets, expected):
    found = metrics.average_precision_11(np.array([4.0, 3.0, 2.0, 1.0]), np.array(targets))
    assert found == pytest.approx(expected)


def test_recalls_that_are_tenths_count_as_reached():
    targets = np.tile([1, 0], 10)
    scores = np.arange(20.0)[::-1]
    gt = np.where(targets, 1, -1)
    assert metrics.average_precision_11(scores, targets) == pytest.approx(voc_eval_cls(scores, gt))


def test_the_mean_is_over_the_classes_that_are_there(rng):
    scores, targets = rng.randn(60, 4), (rng.rand(60, 4) < 0.4).astype(int)
    targets[:, 2] = 0
    each = [metrics.average_precision_11(scores[:, i], targets[:, i]) for i in (0, 1, 3)]
    assert metrics.mean_average_precision_11(scores, targets) == pytest.approx(np.mean(each))
    assert set(metrics.measure(scores, targets)) == {metrics.SEVERAL}


def test_many_classes_have_a_top_5(rng):
    names = {'top_1', 'mean_per_class'}
    assert set(metrics.measure(rng.randn(5, 10), rng.randint(10, size=5))) == names
    assert set(metrics.measure(rng.randn(5, 11), rng.randint(11, size=5))) == names | {'top_5'}


def test_what_cannot_be_measured_is_refused(rng):
    scores, labels = rng.randn(5, 3), np.array([0, 1, 2, 0, 1])
    with pytest.raises(ValueError, match='runs from -1 to 2'):
        metrics.top_1(scores, np.array([0, 1, 2, 0, -1]))
    with pytest.raises(ValueError, match='not finite'):
        metrics.mean_per_class(np.full((5, 3), np.nan), labels)
    with pytest.raises(ValueError, match=r'scores is \(5, 3\)'):
        metrics.top_k(scores, labels[:4])
    with pytest.raises(ValueError, match='nothing to measure'):
        metrics.top_1(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(ValueError, match='no 1 that counts'):
        metrics.mean_average_precision_11(scores, np.zeros((5, 3)))
    with pytest.raises(ValueError, match='other than 0 and 1'):
        metrics.average_precision_11(scores[:, 0], np.array([0, 1, -1, 0, 1]))
