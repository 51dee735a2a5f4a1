"""The transfer protocol: what is chosen on what, and what is fitted and tested."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from sklearn.linear_model import LogisticRegression

from simclr_jax.evaluate import metrics, transfer, transfer_sets
from simclr_jax.evaluate.rows import Rows
from simclr_jax.evaluate.transfer import Part, transfer_eval

ONE = Mesh(np.array(jax.devices()[:1]), ('data',))
STRENGTHS = (1e-2, 1.0, 1e2, 1e4)


@pytest.fixture(scope='module')
def data():
    rng = np.random.RandomState(0)
    features = (3 + rng.randn(300, 10)).astype(np.float32)
    logits = 2 * (features - 3) @ rng.randn(10, 4) + 4 * rng.gumbel(size=(300, 4))
    return features, logits.argmax(axis=1)


def parts(data):
    features, labels = data
    return [Part(Rows(features, i), labels[i]) for i in np.split(np.arange(300), [60, 140])]


def test_the_grid_is_the_papers():
    assert len(transfer.STRENGTHS) == 45
    assert transfer.STRENGTHS[0] == pytest.approx(1e-6) and transfer.STRENGTHS[-1] == 1e5
    assert np.ptp(np.diff(np.log10(transfer.STRENGTHS))) < 1e-9


@pytest.mark.parametrize('metric', ['top_1', 'mean_per_class'])
def test_the_protocol_is_that_of_scikit_learns_classifier(data, metric):
    train, validation, test = parts(data)
    found = transfer_eval(
        train, validation, test, num_classes=4, metric=metric, strengths=STRENGTHS, mesh=ONE
    )
    measure = metrics.METRICS[metric]

    def fitted(l2, *of):
        classifier = LogisticRegression(C=1 / l2, solver='newton-cholesky', tol=1e-10)
        features = np.concatenate([part.features[:] for part in of]).astype(np.float64)
        return classifier.fit(features, np.concatenate([part.labels for part in of]))

    values = [
        measure(fitted(l2, train).decision_function(validation.features[:]), validation.labels)
        for l2 in STRENGTHS
    ]
    assert [one['l2'] for one in found['validation']] == list(STRENGTHS)
    assert [one['value'] for one in found['validation']] == pytest.approx(values)
    best = max(l2 for l2, value in zip(STRENGTHS, values, strict=True) if value == max(values))
    assert found['l2'] == best and found['converged']
    scores = fitted(best, train, validation).decision_function(test.features[:])
    assert found['value'] == found['test'][metric] == pytest.approx(measure(scores, test.labels))
    assert set(found['test']) == {'top_1', 'mean_per_class'}


def test_test_labels_choose_nothing(data):
    train, validation, test = parts(data)
    options = {'num_classes': 4, 'metric': 'top_1', 'strengths': STRENGTHS, 'mesh': ONE}
    found = transfer_eval(train, validation, test, **options)
    turned = transfer_eval(train, validation, test._replace(labels=3 - test.labels), **options)
    assert turned['validation'] == found['validation'] and turned['l2'] == found['l2']
    assert turned['value'] != found['value']


@pytest.mark.slow
def test_several_labels_an_example(data):
    features, _ = data
    rng = np.random.RandomState(1)
    logits = (features - 3) @ rng.randn(10, 3) - 1
    targets = (rng.logistic(size=logits.shape) < logits).astype(np.int8)
    counted = rng.rand(*logits.shape) < 0.9
    train, validation, test = (
        Part(features[i], targets[i], counted[i]) for i in np.split(np.arange(300), [60, 140])
    )
    found = transfer_eval(
        train,
        validation,
        test,
        num_classes=3,
        metric=metrics.SEVERAL,
        strengths=(1e-1, 1e1, 1e3),
        mesh=ONE,
    )
    both = np.concatenate([train.features, validation.features]).astype(np.float64)
    labels = np.concatenate([train.labels, validation.labels])
    scores = np.stack(
        [
            # One logit in place of two: its l2 is that of one kernel here, too.
            LogisticRegression(C=1 / found['l2'], solver='newton-cholesky', tol=1e-10)
            .fit(both, labels[:, i])
            .decision_function(test.features)
            for i in range(3)
        ],
        axis=1,
    )
    expected = metrics.mean_average_precision_11(scores, test.labels, test.counted)
    assert found['value'] == pytest.approx(expected) and 0.3 < expected < 1
    assert found['test'] == {metrics.SEVERAL: found['value']}


def test_impossible_labels_and_features_are_refused(data):
    train, validation, test = parts(data)
    options = {'num_classes': 4, 'metric': 'top_1', 'mesh': ONE}
    with pytest.raises(ValueError, match='labels of validation run from -1'):
        transfer_eval(train, validation._replace(labels=validation.labels - 1), test, **options)
    with pytest.raises(ValueError, match='train has 60 features and 59 labels'):
        transfer_eval(train._replace(labels=train.labels[1:]), validation, test, **options)
    broken = Part(np.full((3, 10), np.nan, np.float32), np.arange(3))
    with pytest.raises(ValueError, match='test has features that are not finite'):
        transfer_eval(train, validation, broken, **options)
    with pytest.raises(ValueError, match=r'must be \[example, 4\] of 0 and 1'):
        odd = Part(np.ones((3, 10), np.float32), -np.ones((3, 4)))
        transfer_eval(train, validation, odd, **options)


# BYOL, appendix D, table 10: what is known of each set.
TABLE_10 = {
    'food101': (101, 75750, 25250),
    'cifar10': (10, 50000, 10000),
    'cifar100': (100, 50000, 10000),
    'birdsnap': (500, 47386, 2443),
    'sun397': (397, 19850, 19850),
    'cars196': (196, 8144, 8041),
    'aircraft': (100, 6667, 3333),
    'voc2007': (20, 5011, 4952),
    'dtd': (47, 3760, 1880),
    'pets': (37, 3680, 3669),
    'caltech101': (102, 3060, 6084),
    'flowers102': (102, 2040, 6149),
    'imagenet2012': (1000, 1281167, 50000),
    'places365': (365, 1803460, 36500),
}


def test_the_table_of_sets():
    found = {
        name: (one.classes, sum(one.counts[:2]), one.counts[2])
        for name, one in transfer_sets.SETS.items()
    }
    assert found == TABLE_10
    of = {name: one.metric for name, one in transfer_sets.SETS.items()}
    per_class = {'aircraft', 'pets', 'caltech101', 'flowers102'}
    assert {name for name in of if of[name] == 'mean_per_class'} == per_class
    assert [name for name in of if of[name] == metrics.SEVERAL] == ['voc2007']
    validation = {name for name, one in transfer_sets.SETS.items() if one.validation}
    assert validation == {'aircraft', 'voc2007', 'dtd', 'flowers102'}
    assert set(of.values()) <= set(metrics.METRICS)


def test_published_figures():
    assert transfer_sets.published('food101')['BYOL'] == 75.3
    assert transfer_sets.published('flowers102')['supervised'] == 94.7
    assert transfer_sets.published('voc2007')['SimCLR'] == 80.5
    assert transfer_sets.published('imagenet2012') == {}
    assert {len(row) for row in transfer_sets.PUBLISHED.values()} == {12}
    assert set(transfer_sets.PUBLISHED_ON) < set(transfer_sets.SETS)


def test_names_of_tfds_are_known(monkeypatch):
    tfds = pytest.importorskip('tensorflow_datasets', reason='has the names')
    for one in transfer_sets.SETS.values():
        if one.dataset:
            builder, _, variant = one.dataset.partition('/')
            found = tfds.builder_cls(builder)
            assert not variant or variant in {c.name for c in found.BUILDER_CONFIGS}
            assert transfer_sets.find(builder) is transfer_sets.find(one.dataset) is one
    assert transfer_sets.find('eurosat') is None
