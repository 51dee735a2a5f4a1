"""The regressions of the transfer protocol: scikit-learn's optimum at every strength."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from simclr_jax.evaluate import newton
from simclr_jax.evaluate.logistic import chunks
from simclr_jax.evaluate.rows import Rows
from simclr_jax.evaluate.transfer import STRENGTHS
from simclr_jax.parallel import make_mesh

CLASSES = 4
ONE = Mesh(np.array(jax.devices()[:1]), ('data',))
FALLING = sorted(STRENGTHS, reverse=True)


@pytest.fixture(scope='module')
def data():
    """Features as encoders make them: not normalized, of a mean far from 0 and unequal scales."""
    rng = np.random.RandomState(0)
    features = 30 * rng.rand(12) + rng.randn(150, 12) @ np.diag(10.0 ** rng.uniform(-2, 1, 12))
    features = features.astype(np.float32)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    noise = 2 * rng.gumbel(size=(150, CLASSES))
    return features, (2 * standard @ rng.randn(12, CLASSES) + noise).argmax(axis=1)


def objective(features, labels, kernel, bias, l2):
    """In long double, and by differences to the own class's logit, so that no loss is rounded."""
    rows = np.arange(len(labels))
    kernel = kernel.astype(np.longdouble)
    logits = features.astype(np.longdouble) @ kernel + bias
    others = logits - logits[rows, labels][:, None]
    others[rows, labels] = -np.inf
    top = np.maximum(others.max(axis=1), 0)
    rest = np.exp(others - top[:, None]).sum(axis=1)
    loss = np.sum(top + np.log1p(rest + np.expm1(-top)))
    return float(loss + 0.5 * l2 * np.sum(kernel**2))


def sklearns(features, labels, l2):
    """Converged: its L-BFGS stops where a step gains 1e-14, which is much of a small mean loss."""
    other = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=10_000, solver='newton-cholesky')
    other.fit(features.astype(np.float64), labels)
    kernel, bias = other.coef_.T, other.intercept_
    if len(other.classes_) == 2:  # one logit, of the second class
        kernel, bias = np.hstack([0 * kernel, kernel]), np.append(0.0, bias)
    return objective(features, labels, kernel, bias, l2)


def check(features, labels, strengths, classes):
    fits = newton.fit_path(features, labels, strengths, num_classes=classes, mesh=ONE)
    for l2, fit in zip(strengths, fits, strict=True):
        best = sklearns(features, labels, l2)
        assert fit.converged, l2
        assert abs(fit.objective / best - 1) < 1e-6, l2
        assert abs(objective(features, labels, fit.kernel, fit.bias, l2) / best - 1) < 1e-6, l2


def test_equals_scikit_learn_at_all_45_strengths(data):
    check(*data, FALLING, CLASSES)


@pytest.mark.slow
def test_equals_scikit_learn_on_digits():
    """Their classes can be told apart: the weaker the penalty, the smaller the losses, to 1e-7."""
    features, labels = load_digits(return_X_y=True)
    chosen = labels < 5
    check(features[chosen].astype(np.float32), labels[chosen], FALLING[::11], 5)


@pytest.mark.parametrize('scale', [2.0**-10, 2.0**10])
def test_the_scale_of_features_does_not_matter(data, scale):
    features, labels = data
    strengths = np.array([1e2, 1e-3])
    fits = newton.fit_path(
        scale * features, labels, scale**2 * strengths, num_classes=CLASSES, mesh=ONE
    )
    for l2, fit in zip(strengths, fits, strict=True):  # scikit-learn's solver minds the scale
        assert fit.converged
        assert abs(fit.objective / sklearns(features, labels, l2) - 1) < 1e-6


@pytest.mark.slow
def test_fewer_examples_than_features(data):
    features, labels = data
    wide = np.tile(features[:40], 5) + np.random.RandomState(1).randn(40, 60).astype(np.float32)
    check(wide, labels[:40], [1e3, 1.0, 1e-3], CLASSES)


def test_several_labels_are_a_regression_of_two_classes_each(data):
    features, _ = data
    targets = np.random.RandomState(2).rand(len(features), 3) < 0.3
    targets |= (features[:, :3] - features[:, :3].mean(axis=0)) > 3
    strengths = [1e4, 1.0, 1e-4]
    fits = newton.fit_path(features, targets.astype(int), strengths, num_classes=3, mesh=ONE)
    for l2, fit in zip(strengths, fits, strict=True):
        assert fit.converged and fit.objective.shape == (3,)
        for number in range(3):
            labels = targets[:, number].astype(int)
            best = sklearns(features, labels, l2)
            kernel = np.stack([0 * fit.kernel[:, number], fit.kernel[:, number]], axis=1)
            bias = np.array([0.0, fit.bias[number]])
            assert abs(fit.objective[number] / best - 1) < 1e-6
            assert abs(objective(features, labels, kernel, bias, l2) / best - 1) < 1e-6


@pytest.mark.slow
def test_devices_and_chunks_do_not_matter(data, monkeypatch):
    features, labels = data
    (alone,) = newton.fit_path(features, labels, [0.1], num_classes=CLASSES, mesh=ONE)
    monkeypatch.setattr('simclr_jax.evaluate.logistic.MAX_LOGITS', 7 * (12 + CLASSES))
    rows = Rows(np.repeat(features, 2, axis=0), np.arange(0, 300, 2))
    (spread,) = newton.fit_path(rows, labels, [0.1], num_classes=CLASSES, mesh=make_mesh())
    np.testing.assert_allclose(spread.objective, alone.objective, rtol=1e-9)
    np.testing.assert_allclose(
        newton.scores(rows, spread), newton.scores(features, alone), atol=1e-3
    )


def test_the_callers_types_are_left_alone(data):
    fits = newton.fit_path(*data, [10.0, 1.0], num_classes=CLASSES, mesh=ONE)
    next(fits)
    assert not jax.config.jax_enable_x64 and (jax.numpy.ones(1) / 3).dtype == np.float32


@pytest.mark.slow
def test_a_class_without_examples_is_never_chosen(data):
    features, labels = data
    (fit,) = newton.fit_path(features, labels, [1.0], num_classes=CLASSES + 1, mesh=ONE)
    assert fit.converged
    assert (newton.scores(features, fit).argmax(axis=1) < CLASSES).all()


@pytest.mark.slow
def test_no_device_holds_the_features_of_imagenet():
    """The program of a step, compiled for 8 devices and not run: 2,048 features, 1,000 classes."""
    examples, dim, classes, mesh = 1_281_167, 2048, 1000, make_mesh()
    chunk, padded = chunks(examples, dim + classes, mesh)

    def of(spec, shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    with jax.enable_x64(True):
        data = newton.Data(
            of(P('data'), (padded, dim), np.float32),
            of(P('data'), (padded,), np.int32),
            of(P('data'), (padded,), np.float32),
        )
        params = of(P(), (dim + 1, 1, classes), np.float64)
        point = newton.Point(params, params, of(P(), (1,), np.float64))
        factor = of(P(), (dim + 1, dim + 1), np.float64)
        how = {'chunk': chunk, 'several': False, 'mesh': mesh}
        memory = newton._step.lower(data, point, factor, 1.0, **how).compile().memory_analysis()
    share = 4 * examples * (dim + 2) / 8
    assert share < memory.argument_size_in_bytes < share + 2**27  # parameters and their factor
    assert (
        memory.temp_size_in_bytes < 2**30
    )  # a chunk of examples at a time, however many there are
