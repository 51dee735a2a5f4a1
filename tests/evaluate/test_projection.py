import numpy as np
import pytest
from sklearn.decomposition import PCA

from simclr_jax.evaluate.projection import project_2d


@pytest.mark.parametrize('shape', [(50, 8), (8, 50)])
def test_equals_sklearn_up_to_sign(shape):
    features = np.random.RandomState(0).randn(*shape) * np.geomspace(1, 5, shape[1])
    projection = project_2d(features)
    expected = PCA(2, svd_solver='full').fit_transform(features)
    assert projection.shape == (shape[0], 2) and projection.dtype == np.float32
    np.testing.assert_allclose(np.abs(projection), np.abs(expected), rtol=1e-4, atol=1e-5)


def test_sign_does_not_depend_on_the_order_of_examples():
    features = np.random.RandomState(0).randn(30, 5) * np.arange(1, 6)
    order = np.random.RandomState(1).permutation(30)
    np.testing.assert_allclose(project_2d(features[order]), project_2d(features)[order], atol=1e-5)


def test_fewer_than_two_directions():
    np.testing.assert_array_equal(project_2d(np.array([[3.0], [1.0]])), [[1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_array_equal(project_2d(np.array([[3.0, 4.0]])), [[0.0, 0.0]])


def test_errors():
    with pytest.raises(ValueError, match=r'features is \(0, 3\)'):
        project_2d(np.zeros((0, 3)))
