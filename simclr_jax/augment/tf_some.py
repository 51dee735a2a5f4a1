"""An operation of tf.data on some pictures of a batch."""

from collections.abc import Callable

import tensorflow as tf


def apply_to_some(
    function: Callable, planes: tf.Tensor, probability: float, selected: tf.Tensor, *parameters
) -> tf.Tensor:
    """Planes with `function` applied to the selected ones; nothing is computed for the others."""
    if probability == 0:
        return planes
    if probability == 1:
        return function(planes, *parameters)
    if planes.shape[0] == 1:
        return tf.cond(selected[0], lambda: function(planes, *parameters), lambda: planes)
    indices = tf.where(selected)
    chosen = (tf.gather(values, indices[:, 0]) for values in (planes, *parameters))
    return tf.tensor_scatter_nd_update(planes, indices, function(*chosen))
