"""From the config to a method."""

import dataclasses
import functools

import ml_collections
from flax import linen as nn
from jax.sharding import Mesh

from simclr_jax.config import (
    CLASSIFIERS,
    DISTILL,
    SEGMENT,
    first_trained,
    mixing_recipe,
    pooling,
)
from simclr_jax.config_checks import blocks
from simclr_jax.methods.base import Method
from simclr_jax.methods.byol import BYOL
from simclr_jax.methods.distill import Distill, Teacher
from simclr_jax.methods.finetune import FineTune
from simclr_jax.methods.moco import MoCo
from simclr_jax.methods.moco_v3 import MoCoV3
from simclr_jax.methods.segment import ENCODER, Maps, Segment
from simclr_jax.methods.simclr import SimCLR
from simclr_jax.models.factory import create_encoder
from simclr_jax.models.heads import MLPHead
from simclr_jax.models.normalization import NormScope
from simclr_jax.models.segmentation_heads import FCNHead, LinearHead

# name -> class; its fields are the config's section
METHODS = {'simclr': SimCLR, 'byol': BYOL, 'moco': MoCo, 'moco_v3': MoCoV3}


def create_method(
    config: ml_collections.ConfigDict,
    total_steps: int,
    mesh: Mesh | None = None,
    *,
    classes: int = 0,
    projector: MLPHead | None = None,
    teacher: Teacher | None = None,
    start_size: int = 0,
) -> Method:
    """Returns the method that `config.method` names, around the encoder of `config.model`.

    Args:
      config: of the run.
      total_steps: of the run.
      mesh: what the batch is sharded over, for the losses that spell out their communication and
        for batch normalization of the 'device' scope; None is one device.
      classes: of the labels, where a classifier is trained.
      projector: the head of which it may keep some layers.
      teacher: what a student learns from.
      start_size: pixels of a side that the encoder it starts from was trained on, if any.
    """
    model, finetune = config.model, config.finetune
    classifies = config.method in CLASSIFIERS
    trained = {}
    if config.method == SEGMENT:
        trained = {'dilated': config.segment.dilated, 'grid': start_size // model.patch_size}
    if classifies:
        trained = {
            'first_trained': first_trained(finetune.trained),
            'frozen_norm': finetune.frozen_norm,
            'drop_path': finetune.drop_path,
        }
    devices = 1 if mesh is None else mesh.devices.size
    sizes = {'global': 0, 'groups': model.norm_group_size, 'device': devices}
    norm_scope = NormScope(model.norm_scope, sizes[model.norm_scope])
    platform = mesh.devices.flat[0].platform if mesh is not None else None
    encoder = create_encoder(
        model.encoder,
        image_size=config.data.image_size,
        stem=model.stem,
        padding=model.padding,
        zero_init_last_scale=model.zero_init_last_scale,
        width=model.width,
        sk_ratio=model.sk_ratio,
        norm_scope=norm_scope,
        pooling=pooling(config),
        num_heads=model.num_heads,
        patch_size=model.patch_size,
        positions=model.positions,
        epsilon=model.epsilon,
        freeze_patch_projection=model.freeze_patch_projection
        and not (classifies or config.method == SEGMENT),
        remat=model.remat,
        dot_1x1=platform == 'cpu',
        fold_norm=platform != 'gpu',
        dtype=model.dtype,
        **trained,
    )
    if classifies:
        kind = FineTune
        if config.method == DISTILL:
            kind = functools.partial(
                Distill,
                teacher=teacher,
                temperature=config.distill.temperature,
                alpha=config.distill.alpha,
            )
        return kind(
            encoder,
            classes,
            projector,
            head_layers=finetune.head_layers,
            # The run solves a linear one, where it has an encoder to start from.
            head_init='zero' if finetune.head_init == 'linear' else finetune.head_init,
            frozen_encoder=finetune.trained == 'head',
            label_smoothing=finetune.label_smoothing,
            mixing=mixing_recipe(config),
            accumulation_steps=config.optimizer.accumulation_steps,
        )
    if config.method == SEGMENT:
        return _segment(config, encoder, classes)
    over_mesh = {'mesh': mesh} if config.method == 'simclr' else {}
    return METHODS[config.method](
        encoder=encoder,
        total_steps=total_steps,
        accumulation_steps=config.optimizer.accumulation_steps,
        norm_scope=norm_scope,
        **over_mesh,
        dtype=model.dtype,
        **config[config.method].to_dict(),
    )


def _segment(config: ml_collections.ConfigDict, encoder: nn.Module, classes: int) -> Segment:
    last, count = blocks(config.model.encoder), config.segment.layers
    layers = tuple(range(last - count + 1, last + 1))
    own = Maps(encoder, layers, encoder.stride(layers[0]))
    if config.segment.trained == 'all':
        return Segment(encoder, {ENCODER: own}, {'fcn': FCNHead(classes)}, classes, trained=True)
    maps = {ENCODER: own}
    if config.segment.baselines:
        maps |= {'untrained': own, 'raw_pixels': dataclasses.replace(own, encoder=None)}
    heads = {'linear': LinearHead(classes), 'plain': LinearHead(classes, norm=False)}
    return Segment(encoder, maps, heads, classes)
