import numpy as np
import pytest
from sklearn.decomposition import PCA

from simclr_jax.evaluate.projection import maps_as_colours, project_2d


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


def test_colours_of_maps_are_their_principal_components():
    random = np.random.default_rng(0)
    maps = [random.normal(size=(*s, 6)) * (9, 5, 3, 1, 1, 1) for s in ((4, 5), (4, 5), (7, 2))]
    found = maps_as_colours(maps)
    assert [x.shape for x in found] == [(4, 5, 3), (4, 5, 3), (7, 2, 3)]
    assert all(x.dtype == np.uint8 for x in found)
    rows, colours = (np.concatenate([x.reshape(-1, x.shape[-1]) for x in y]) for y in (maps, found))
    expected = PCA(3, svd_solver='full').fit(rows)
    signs = [np.sign(c[np.argmax(np.abs(c))]) for c in expected.components_]
    places = expected.transform(rows) * np.array(signs)[None]
    low, high = np.percentile(places, [1, 99], axis=0)[:, None]
    shares = 255 * np.clip((places - low) / (high - low), 0, 1)
    np.testing.assert_allclose(colours, shares, atol=0.51)


def test_a_direction_that_is_not_there_has_no_colour():
    maps = np.zeros((3, 4, 5))
    maps[..., 1] = np.arange(12).reshape(3, 4)
    (colours,) = maps_as_colours([maps])
    assert not colours[..., 1:].any()
    # The largest loading is positive: what grows along it becomes redder.
    assert (np.diff(colours[..., 0].ravel().astype(int)) >= 0).all()
    assert colours[..., 0].max() == 255
    assert not maps_as_colours([np.ones((2, 2, 3))])[0].any()
    assert maps_as_colours([np.eye(2)[None]])[0].shape == (1, 2, 3)
