"""timm's layout: a folder of `config.json` and `model.safetensors` for `local-dir:`, both ways.

Keys are those of `timm.models.vision_transformer`, which DINO, MAE and MoCo v3 have too, and for a
ResNet those of torchvision.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax.config import ConfigError
from simclr_jax.models.factory import RESNETS, VITS
from simclr_jax.models.vit import EPSILON, POOLED_NORM
from simclr_jax.weights import formats, heads, torch_layout, torchvision
from simclr_jax.weights.description import Preprocess, Weights

PACKAGES = ('torch', 'timm')
INPUT = 'nchw'
FILES = "`config.json` and `model.safetensors` are a folder for timm's `local-dir:`."
_BLOCK = r'blocks.\1'
VIT = {  # pattern of our module -> theirs
    'class_token': 'cls_token',
    'positions': 'pos_embed',
    'patch_projection': 'patch_embed.proj',
    r'block(\d+)/norm1': rf'{_BLOCK}.norm1',
    r'block(\d+)/norm2': rf'{_BLOCK}.norm2',
    r'block(\d+)/attention': rf'{_BLOCK}.attn',
    r'block(\d+)/attention/out': rf'{_BLOCK}.attn.proj',
    r'block(\d+)/dense1': rf'{_BLOCK}.mlp.fc1',
    r'block(\d+)/dense2': rf'{_BLOCK}.mlp.fc2',
    'norm': 'norm',
    POOLED_NORM: 'fc_norm',
}
_JOINED = '.qkv.{leaf}'
_NAMES = {'vit_ti16': 'tiny', 'vit_s16': 'small', 'vit_b16': 'base', 'vit_l16': 'large'}
_KNOWN = re.compile(
    r'(tv_)?resnet(18|34|50|101|152|200)|(vit|deit)_(tiny|small|base|large)_patch\d+_\d+'
)
# What `model_args` may say; the others change the function in ways that ours has not.
_ARGUMENTS = (
    'class_token',
    'fc_norm',
    'final_norm',
    'global_pool',
    'img_size',
    'in_chans',
    'num_classes',
    'num_heads',
    'patch_size',
)


def recognizes(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether these are the keys of one of timm's ViTs, or of a ResNet, as torchvision has them."""
    vit = {'patch_embed.proj.weight', 'blocks.0.attn.qkv.weight'} <= shapes.keys()
    return vit or torchvision.is_resnet(shapes)


def from_tensors(
    tensors: torch_layout.Tensors,
    path: str,
    *,
    config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    num_heads: int | None = None,
    epsilon: float = EPSILON,
) -> Weights:
    """Reads a state dict, without its classifier.

    Args:
      tensors: the state dict.
      path: the file that it is from, for errors and the origin.
      config: what `config.json` beside it says; without, torchvision's preprocessing is assumed.
      metadata: of a safetensors file.
      num_heads: of a ViT, where `config` does not say it; 64 features a head without.
      epsilon: of a ViT's LayerNorm.

    Raises:
      ConfigError: a key is missing, unknown or of a wrong shape, or there is no such encoder.
    """
    noted = torch_layout.noted(metadata or {}, path)
    arguments = _checked_arguments(config or {}, path)
    if 'conv1.weight' in tensors:
        architecture, preprocess = noted or torchvision.resnet_of(tensors, path)
        if config and not noted:
            preprocess = preprocess_of(config, path)
        return torchvision.resnet_from(tensors, path, architecture, preprocess, 'timm')

    kept, dropped = torch_layout.without(tensors, 'head.', 'head_dist.')
    needed = {'pos_embed', 'patch_embed.proj.weight'}
    torch_layout.check_keys({*kept} & needed, needed, f"{path}: timm's ViT")
    token, pooled_norm = 'cls_token' in kept, 'fc_norm.weight' in kept
    expected = 'token' if token and not pooled_norm else 'avg'
    pooling = arguments.get('global_pool', expected)
    if pooling != expected or (pooled_norm and not token):
        raise ConfigError(
            f'{path}: global_pool={pooling!r} of a ViT {"with" if token else "without"} a class '
            f'token and {"with" if pooled_norm else "without"} fc_norm; known are token with one '
            'and without the other, avg with both, and avg with neither'
        )
    patch = np.shape(kept['patch_embed.proj.weight'])
    architecture, size = torch_layout.vit_of(
        patch,
        len({key.split('.')[1] for key in kept if key.startswith('blocks.')}),
        kept['pos_embed'],
        token=token,
        num_heads=arguments.get('num_heads', num_heads),
        epsilon=epsilon,
        what=path,
    )
    if pooled_norm:
        architecture = dataclasses.replace(architecture, pooling='patches')
    preprocess = preprocess_of(config, path) if config else torch_layout.imagenet(size, patch[1])
    if noted:
        architecture, preprocess = torch_layout.with_positions_of(architecture, *noted)
    if architecture.positions == 'sincos':
        del kept['pos_embed']
    shapes = torch_layout.shapes_of(architecture, preprocess, path)
    table = torch_layout.vit_table(shapes, VIT, _JOINED)
    what = f"{path}: timm's {architecture.encoder}"
    variables = torch_layout.read(kept, table, shapes, what)
    origin = {'layout': 'timm', 'file': path, 'dropped': dropped}
    return Weights(architecture, preprocess, origin, variables)


def _checked_arguments(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Returns `model_args` of a `config.json`.

    Raises:
      ConfigError: the model is none of those that are ours too.
    """
    name = str(config.get('architecture', 'resnet50')).partition('.')[0]
    arguments = dict(config.get('model_args') or {})
    if not _KNOWN.fullmatch(name):
        raise ConfigError(
            f"{path}: is timm's {name}; known are resnet18 to resnet200 and the plain ViTs, as "
            'vit_small_patch16_224'
        )
    unknown = sorted(arguments.keys() - set(_ARGUMENTS))
    if unknown:
        raise ConfigError(
            f'{path}: model_args has {", ".join(unknown)}; known are {", ".join(_ARGUMENTS)}'
        )
    if 'global_pool' in config:
        arguments.setdefault('global_pool', config['global_pool'])
    return arguments


def preprocess_of(config: Mapping[str, Any], path: str) -> Preprocess:
    """Returns what `pretrained_cfg` of a `config.json` says; timm's pictures are antialiased.

    Raises:
      ConfigError: a field is missing, or of a value that is not known.
    """
    fields = config.get('pretrained_cfg', config)  # older files have them at the top
    try:
        channels, size, width = fields['input_size']
        interpolation = fields['interpolation']
        mean, std = (tuple(map(float, fields[name])) for name in ('mean', 'std'))
        preprocess = Preprocess(
            size, float(fields['crop_pct']), interpolation, True, mean, std, channels
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f'{path}: config.json does not say {error}') from error
    if size != width or interpolation not in ('bicubic', 'bilinear'):
        raise ConfigError(
            f'{path}: input_size={fields["input_size"]}, interpolation={interpolation!r}; known '
            'are squares, and bicubic or bilinear'
        )
    return preprocess


def check(weights: Weights) -> None:
    """Checks that a timm model can compute these features.

    Raises:
      ConfigError: it cannot; it says why, and which format can.
    """
    architecture = weights.architecture
    torch_layout.check_expressible(weights, 'timm')
    if architecture.is_vit:
        if architecture.epsilon != EPSILON:
            raise torch_layout.cannot(
                'timm', f'epsilon={architecture.epsilon} of LayerNorm', 'torchvision'
            )
        return
    if len(RESNETS[architecture.encoder]['stage_sizes']) != 4:
        raise torch_layout.cannot('timm', architecture.encoder)
    if architecture.stem != 'imagenet':
        raise torch_layout.cannot(
            'timm', f'stem={architecture.stem!r}: the first layer is fixed there', 'torchvision'
        )
    if architecture.width > 1:
        raise torch_layout.cannot(
            'timm',
            f'width={architecture.width}: the first layer has 64 filters there',
            'torchvision',
            'transformers',
        )


def to_tensors(weights: Weights) -> dict[str, np.ndarray]:
    """Returns the state dict of a model, with its classifier if there is one.

    Raises:
      ConfigError: timm cannot express the encoder.
    """
    check(weights)
    architecture, size = weights.architecture, weights.preprocess.size
    names = torch_layout.encoder_names(weights)
    if not architecture.is_vit:
        tensors = torch_layout.write(weights, torch_layout.resnet_table(names, torchvision.RESNET))
        return tensors | heads.to_tensors(weights, 'timm')
    tensors = torch_layout.write(weights, torch_layout.vit_table(names, VIT, _JOINED))
    if architecture.positions == 'sincos':
        dim, side = VITS[architecture.encoder]['dim'], size // architecture.patch_size
        tensors['pos_embed'] = torch_layout.position_tensor(side, dim, architecture.has_token)
    return tensors | heads.to_tensors(weights, 'timm')


def config_of(weights: Weights) -> dict[str, Any]:
    """Returns `config.json`, from which `timm.create_model('local-dir:...')` makes the model."""
    architecture, preprocess = weights.architecture, weights.preprocess
    channels, size = preprocess.channels, preprocess.size
    arguments: dict[str, Any] = {'in_chans': channels} if channels != 3 else {}
    features = weights.variables['params']['encoder']
    labels = list(weights.classifier.names) if weights.classifier else []
    if architecture.is_vit:
        name, pooling = f'vit_{_NAMES[architecture.encoder]}_patch16_224', 'token'
        dim = VITS[architecture.encoder]['dim']
        arguments['num_heads'] = architecture.num_heads or VITS[architecture.encoder]['num_heads']
        arguments |= {'img_size': size, 'patch_size': architecture.patch_size}
        if architecture.pooling != 'token':
            pooling = arguments['global_pool'] = 'avg'  # with timm's default, a LayerNorm behind it
        if architecture.pooling == 'mean':
            arguments |= {'class_token': False, 'final_norm': False, 'fc_norm': False}
    else:
        name, pooling = architecture.encoder, 'avg'
        last = RESNETS[architecture.encoder]['stage_sizes'][-1] - 1
        dim = max(
            value['kernel'].shape[-1]
            for layer, value in features[f'stage4_block{last}'].items()
            if layer.startswith('conv')
        )
    return {
        'architecture': name,
        'num_classes': len(labels),
        **({'label_names': labels} if labels else {}),
        'num_features': dim,
        'global_pool': pooling,
        'model_args': arguments,
        'pretrained_cfg': {
            'input_size': [channels, size, size],
            'fixed_input_size': architecture.is_vit,
            'interpolation': preprocess.interpolation,
            'crop_pct': preprocess.crop,
            'crop_mode': 'center',
            'mean': torch_layout.per_channel(preprocess.mean, channels),
            'std': torch_layout.per_channel(preprocess.std, channels),
            'num_classes': len(labels),
            'first_conv': 'patch_embed.proj' if architecture.is_vit else 'conv1',
            'classifier': 'head' if architecture.is_vit else 'fc',
        },
    }


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `config.json` and `model.safetensors`."""
    formats.save_tensors(folder / 'model.safetensors', weights, to_tensors(weights))
    formats.save_json(folder / 'config.json', config_of(weights))


def features(weights: Weights) -> str:
    """Returns the expression that turns `images` into features."""
    del weights
    return 'model(images)'


def use(weights: Weights) -> list[str]:
    """Returns the lines that turn `picture` into features."""
    mode = 'RGB' if weights.preprocess.channels == 3 else 'L'
    return [
        'import torch',
        '',
        'prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))',
        f"images = prepare(picture.convert('{mode}'))[None]",
        'with torch.no_grad():',
        f'    features = {features(weights)}',
    ]


def lines(weights: Weights, folder: str) -> list[str]:
    """Returns the Python lines that load an exported folder as `model`, strictly."""
    del weights
    return [
        'import timm',
        '',
        f"model = timm.create_model('local-dir:{folder}', pretrained=True)",
        'model.eval()',
    ]
