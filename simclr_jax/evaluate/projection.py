"""A picture of the feature space: features in two dimensions, and maps as colours."""

from collections.abc import Sequence

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


def maps_as_colours(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the three principal components of several maps' features as red, green and blue.

    Components are those of all places of all maps together, so that colours mean the same in each.
    Each goes from black to full between the first and the last percent of its values. Signs are
    those of `project_2d`; where there are fewer than three directions, the rest is black.

    Args:
      maps: float `[rows, columns, dim]` each.

    Returns:
      uint8 `[rows, columns, 3]` each.
    """
    dim = maps[0].shape[-1]
    rows = np.concatenate([np.asarray(m, np.float64).reshape(-1, dim) for m in maps])
    rows -= rows.mean(axis=0, keepdims=True)
    values, vectors = np.linalg.eigh(rows.T @ rows)  # rising
    chosen = vectors[:, ::-1][:, :3]
    largest = np.argmax(np.abs(chosen), axis=0)
    chosen = chosen * np.sign(chosen[largest, range(chosen.shape[1])])[None]
    projected = rows @ chosen
    low, high = np.percentile(projected, [1, 99], axis=0)[:, None]
    real = (values[::-1][:3] > 1e-9 * max(values[-1], 1e-30)) & (high > low)[0]
    shares = np.where(real, (projected - low) / np.where(high > low, high - low, 1), 0)
    colours = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)
    colours = np.pad(colours, ((0, 0), (0, 3 - colours.shape[1])))
    ends = np.cumsum([m.shape[0] * m.shape[1] for m in maps])[:-1]
    parts = np.split(colours, ends)
    return [part.reshape(*m.shape[:2], 3) for part, m in zip(parts, maps, strict=True)]
