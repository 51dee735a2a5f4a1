"""Losses: pure functions of arrays."""

from simclr_jax.losses.nt_xent import nt_xent
from simclr_jax.losses.regression import regression_loss

__all__ = ['nt_xent', 'regression_loss']
