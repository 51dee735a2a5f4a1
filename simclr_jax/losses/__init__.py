"""Losses: pure functions of arrays."""

from simclr_jax.losses.info_nce import info_nce
from simclr_jax.losses.nt_xent import nt_xent
from simclr_jax.losses.regression import regression_loss
from simclr_jax.losses.tiled import tiled_nt_xent

__all__ = ['info_nce', 'nt_xent', 'regression_loss', 'tiled_nt_xent']
