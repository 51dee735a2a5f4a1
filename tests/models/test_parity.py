"""Encoders against those of PyTorch's `transformers` with the same weights, at 224 pixels."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import torch_encoders

GOLDENS = np.load(torch_encoders.GOLDENS)
HAS_TORCH = all(importlib.util.find_spec(name) for name in ('torch', 'transformers'))


@pytest.mark.parametrize('name', torch_encoders.NAMES)
def test_features_are_those_that_pytorch_returned(name):
    """What it returned is in `tests/goldens`, so that this needs no PyTorch."""
    np.testing.assert_allclose(torch_encoders.our_features(name), GOLDENS[name], rtol=0, atol=1e-4)


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: pip install -e '.[export]'")
@pytest.mark.parametrize('name', torch_encoders.NAMES)
def test_pytorch_returns_it_still(name):
    features = torch_encoders.torch_features(name, torch_encoders.make(name)[1])
    np.testing.assert_allclose(features, GOLDENS[name], rtol=0, atol=1e-5)
