"""A picture of the feature space: features in two dimensions."""

import numpy as np


def project_2d(features: np.ndarray) -> np.ndarray:
    """The two principal components of `features` `[example, dim]`, as `[example, 2]` float32.

    The sign of a component makes its largest loading positive. Where there are fewer than two
    directions, the rest is zero.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f'features is {features.shape}: it must be [example, dim], not empty.')
    centred = features - features.mean(axis=0, keepdims=True)
    components = np.linalg.svd(centred, full_matrices=False)[2][:2].T
    largest = np.argmax(np.abs(components), axis=0)
    signs = np.sign(components[largest, range(components.shape[1])])
    projection = centred @ (components * signs[None, :])
    return np.pad(projection, ((0, 0), (0, 2 - projection.shape[1]))).astype(np.float32)
