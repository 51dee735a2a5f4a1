"""Encoders with variables that no initialization gives, all different."""

import numpy as np

from simclr_jax.weights.description import (
    Architecture,
    Classifier,
    Preprocess,
    Weights,
    expected_shapes,
)


def random_weights(architecture: Architecture, size: int = 32, **preprocess) -> Weights:
    preprocess = Preprocess(size, **preprocess)
    variables = _drawn(expected_shapes(architecture, preprocess))
    return Weights(architecture, preprocess, {'method': 'simclr', 'steps': 3}, variables)


def random_classifier(
    architecture: Architecture,
    names: tuple[str, ...],
    size: int = 32,
    *,
    several: bool = False,
    temperature: float = 1.0,
    **preprocess,
) -> Weights:
    preprocess = Preprocess(size, **preprocess)
    variables = _drawn(expected_shapes(architecture, preprocess, len(names)))
    origin = {'method': 'finetune', 'steps': 3}
    classifier = Classifier(names, several, temperature)
    return Weights(architecture, preprocess, origin, variables, classifier)


def _drawn(shapes) -> dict:
    rng, variables = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        *parts, last = name.split('/')
        tree = variables
        for part in parts:
            tree = tree.setdefault(part, {})
        tree[last] = _draw(rng, parts, last, shape)
    return variables


def _draw(rng, parts: list[str], last: str, shape: tuple[int, ...]) -> np.ndarray:
    value = rng.normal(size=shape)
    if last == 'kernel':
        # Those of queries, keys and values are [dim, head, dim of a head].
        mixes = parts[-1] in ('query', 'key', 'value')
        value *= np.prod(shape[:1] if mixes else shape[:-1]) ** -0.5
        value *= 2**0.5 if len(shape) == 4 else 1  # half of what comes in is 0 after a ReLU
    elif last in ('scale', 'var'):
        value = np.abs(value) * 0.1 + 0.5
    elif last in ('bias', 'mean'):
        value *= 0.1
    return value.astype(np.float32)
