"""From the config to a method."""

import ml_collections
from jax.sharding import Mesh

from simclr_jax.methods.base import Method
from simclr_jax.methods.byol import BYOL
from simclr_jax.methods.moco import MoCo
from simclr_jax.methods.moco_v3 import MoCoV3
from simclr_jax.methods.simclr import SimCLR
from simclr_jax.models.factory import create_encoder

# name -> class; its fields are the config's section
METHODS = {'simclr': SimCLR, 'byol': BYOL, 'moco': MoCo, 'moco_v3': MoCoV3}


def create_method(
    config: ml_collections.ConfigDict, total_steps: int, mesh: Mesh | None = None
) -> Method:
    """Returns the method that `config.method` names, around the encoder of `config.model`.

    `mesh` is what the batch is sharded over, for the losses that spell out their communication.
    """
    encoder = create_encoder(
        config.model.encoder,
        image_size=config.data.image_size,
        stem=config.model.stem,
        padding=config.model.padding,
        zero_init_last_scale=config.model.zero_init_last_scale,
        remat=config.model.remat,
        dtype=config.model.dtype,
    )
    over_mesh = {'mesh': mesh} if config.method == 'simclr' else {}
    return METHODS[config.method](
        encoder=encoder,
        total_steps=total_steps,
        accumulation_steps=config.optimizer.accumulation_steps,
        **over_mesh,
        dtype=config.model.dtype,
        **config[config.method].to_dict(),
    )
