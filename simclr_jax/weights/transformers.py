"""The layout of Hugging Face transformers: a folder for `from_pretrained`, both ways.

`config.json`, `preprocessor_config.json` and `model.safetensors` of a `ViTModel` or `ResNetModel`.
A ViT's keys are those of version 4, which version 5 renames as it reads and as it writes.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax.config import ConfigError
from simclr_jax.models.factory import RESNETS, VITS
from simclr_jax.models.resnet import BottleneckBlock
from simclr_jax.weights import formats, heads, torch_layout
from simclr_jax.weights.description import Preprocess, Weights

PACKAGES = ('torch', 'transformers')
INPUT = 'nchw'
FILES = (
    '`config.json`, `preprocessor_config.json` and `model.safetensors` are a folder for '
    '`from_pretrained`.'
)
RESNET = {  # pattern of our module -> theirs; _resnet_table counts stages and layers from 0
    'stem_conv': 'embedder.embedder.convolution',
    'stem_norm': 'embedder.embedder.normalization',
    r'stage(\d)_block(\d+)/conv(\d)': r'encoder.stages.\1.layers.\2.layer.\3.convolution',
    r'stage(\d)_block(\d+)/norm(\d)': r'encoder.stages.\1.layers.\2.layer.\3.normalization',
    r'stage(\d)_block(\d+)/shortcut_conv': r'encoder.stages.\1.layers.\2.shortcut.convolution',
    r'stage(\d)_block(\d+)/shortcut_norm': r'encoder.stages.\1.layers.\2.shortcut.normalization',
}
_BLOCK = r'encoder.layer.\1'
VIT = {
    'class_token': 'embeddings.cls_token',
    'positions': 'embeddings.position_embeddings',
    'patch_projection': 'embeddings.patch_embeddings.projection',
    r'block(\d+)/norm1': rf'{_BLOCK}.layernorm_before',
    r'block(\d+)/norm2': rf'{_BLOCK}.layernorm_after',
    r'block(\d+)/attention/(query|key|value)': rf'{_BLOCK}.attention.attention.\2',
    r'block(\d+)/attention/out': rf'{_BLOCK}.attention.output.dense',
    r'block(\d+)/dense1': rf'{_BLOCK}.intermediate.dense',
    r'block(\d+)/dense2': rf'{_BLOCK}.output.dense',
    'norm': 'layernorm',
}
_POSITIONS = VIT['positions']
_SINCE_5 = {  # as version 5 has them in memory, in the order in which they are looked for
    r'^layers\.(\d+)\.attention\.q_proj': r'encoder.layer.\1.attention.attention.query',
    r'^layers\.(\d+)\.attention\.k_proj': r'encoder.layer.\1.attention.attention.key',
    r'^layers\.(\d+)\.attention\.v_proj': r'encoder.layer.\1.attention.attention.value',
    r'^layers\.(\d+)\.attention\.o_proj': r'encoder.layer.\1.attention.output.dense',
    r'^layers\.(\d+)\.mlp\.fc1': r'encoder.layer.\1.intermediate.dense',
    r'^layers\.(\d+)\.mlp\.fc2': r'encoder.layer.\1.output.dense',
    r'^layers\.(\d+)\.': r'encoder.layer.\1.',
}
_PREFIXES = ('vit.', 'resnet.')
_DROPPED = ('classifier.', 'pooler.', 'decoder.')  # the last is of ViTMAEForPreTraining
_TYPES = ('resnet', 'vit', 'vit_mae', 'vit_msn')
_FIXED = {  # of config.json: what other values would make another function
    'vit': {'hidden_act': 'gelu'},
    'resnet': {
        'hidden_act': 'relu',
        'downsample_in_first_stage': False,
        'downsample_in_bottleneck': False,
    },
}
_INTERPOLATIONS = {2: 'bilinear', 3: 'bicubic'}  # Pillow's numbers


def recognizes(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether these are the keys of a ViTModel or a ResNetModel, with a classifier or without."""
    keys = {_without_prefix(key) for key in shapes}
    return bool(keys & {_POSITIONS, 'embedder.embedder.convolution.weight'})


def _without_prefix(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def from_tensors(
    tensors: torch_layout.Tensors,
    path: str,
    *,
    config: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Weights:
    """Reads a model, without its classifier.

    Args:
      tensors: those of `model.safetensors`.
      path: the folder or file that they are from, for errors and the origin.
      config: what `config.json` beside it says; a ViT's heads are in no tensor.
      preprocessor: what `preprocessor_config.json` says; without, torchvision's is assumed.
      metadata: of the safetensors file.

    Raises:
      ConfigError: a key is missing, unknown or of a wrong shape, there is no such encoder, or a
        field of a configuration has a value that is not known.
    """
    if config is None:
        raise ConfigError(f'{path}: a model of transformers needs its config.json beside it')
    kind = config.get('model_type')
    if kind not in _TYPES:
        known = ', '.join(_TYPES)
        raise ConfigError(f'{path}: config.json: model_type={kind!r}; known are {known}')
    for field, value in _FIXED['resnet' if kind == 'resnet' else 'vit'].items():
        if config.get(field, value) != value:
            raise ConfigError(
                f'{path}: config.json: {field}={config[field]!r}; only {value!r} is known'
            )
    tensors = {_without_prefix(key): value for key, value in tensors.items()}
    kept, dropped = torch_layout.without(tensors, *_DROPPED)
    noted = torch_layout.noted(metadata or {}, path)
    if kind == 'resnet':
        architecture, preprocess = _resnet_of(kept, path)
    else:
        kept = {_renamed(key): value for key, value in kept.items()}
        architecture, preprocess = _vit_of(kept, config, path)
    if preprocessor is not None:
        preprocess = preprocess_of(preprocessor, preprocess.channels, path)
    if noted:
        architecture, preprocess = torch_layout.with_positions_of(architecture, *noted)
    if architecture.is_vit and architecture.positions == 'sincos':
        del kept[_POSITIONS]
    shapes = torch_layout.shapes_of(architecture, preprocess, path)
    table = (torch_layout.vit_table if architecture.is_vit else _resnet_table)(
        shapes, VIT if architecture.is_vit else RESNET
    )
    what = f"{path}: transformers' {architecture.encoder}"
    variables = torch_layout.read(kept, table, shapes, what)
    origin = {'layout': 'transformers', 'file': path, 'dropped': dropped}
    return Weights(architecture, preprocess, origin, variables)


def _resnet_table(names, rename) -> torch_layout.Table:
    table = torch_layout.resnet_table(names, rename)
    counted = re.compile(r'(?<=stages\.)\d|(?<=\.layer\.)\d')
    return {
        counted.sub(lambda match: str(int(match[0]) - 1), key): ours for key, ours in table.items()
    }


def _renamed(key: str) -> str:
    for pattern, replacement in _SINCE_5.items():
        key, count = re.subn(pattern, replacement, key)
        if count:
            break
    return key


def _resnet_of(tensors, path):
    needed = {'embedder.embedder.convolution.weight'}
    torch_layout.check_keys({*tensors} & needed, needed, f"{path}: transformers' ResNet")
    matches = {re.match(r'encoder\.stages\.(\d+)\.layers\.(\d+)\.', key) for key in tensors}
    places = {(int(match[1]), int(match[2])) for match in matches - {None}}
    stages = sorted({stage for stage, _ in places})
    depths = [sum(place[0] == stage for place in places) for stage in stages]
    stem = np.shape(tensors['embedder.embedder.convolution.weight'])
    bottleneck = 'encoder.stages.0.layers.0.layer.2.convolution.weight' in tensors
    architecture = torch_layout.resnet_of(stem, depths, bottleneck, path)
    return architecture, torch_layout.imagenet(224, stem[1])


def _vit_of(tensors, config, path):
    patch_key = 'embeddings.patch_embeddings.projection.weight'
    needed = {_POSITIONS, patch_key, 'embeddings.cls_token'}
    torch_layout.check_keys({*tensors} & needed, needed, f"{path}: transformers' ViT")
    for field in ('num_attention_heads', 'layer_norm_eps'):
        if not isinstance(config.get(field), int | float):
            raise ConfigError(f'{path}: config.json: {field}={config.get(field)!r}: is no number')
    patch = np.shape(tensors[patch_key])
    architecture, size = torch_layout.vit_of(
        patch,
        len({match[1] for key in tensors if (match := re.match(r'encoder\.layer\.(\d+)\.', key))}),
        tensors[_POSITIONS],
        token=True,
        num_heads=config['num_attention_heads'],
        epsilon=float(config['layer_norm_eps']),
        what=path,
    )
    return architecture, torch_layout.imagenet(size, patch[1])


def preprocess_of(preprocessor: Mapping[str, Any], channels: int, path: str) -> Preprocess:
    """Returns what a `preprocessor_config.json` says; Pillow's resizing is antialiased.

    A ViTImageProcessor squeezes the whole picture into a square. Ours never changes the shape of
    things: the whole square in the centre takes its place.

    Raises:
      ConfigError: a field is missing, or of a value that is not known.
    """
    where = f'{path}: preprocessor_config.json'
    resample = preprocessor.get('resample', 2)
    if resample not in _INTERPOLATIONS:
        raise ConfigError(f'{where}: resample={resample!r}; known are 2, bilinear, and 3, bicubic')
    edge, cropped = _side(preprocessor.get('size'), where), preprocessor.get('crop_size')
    crop, size = 1.0, edge
    if preprocessor.get('do_center_crop', False) and cropped is not None:
        size = _side(cropped, where)
        crop = min(1.0, size / edge)
    elif preprocessor.get('crop_pct') and edge < 384:  # ConvNextImageProcessor
        crop = float(preprocessor['crop_pct'])
    mean, std = (0.0,), (1.0,)
    if preprocessor.get('do_normalize', True):
        try:
            mean, std = (tuple(map(float, preprocessor[f'image_{n}'])) for n in ('mean', 'std'))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f'{where}: has no numbers for {error}') from error
    if not preprocessor.get('do_rescale', True) or not np.isclose(
        preprocessor.get('rescale_factor', 1 / 255), 1 / 255
    ):
        raise ConfigError(f'{where}: pixels are not divided by 255 there')
    return Preprocess(size, crop, _INTERPOLATIONS[resample], True, mean, std, channels)


def _side(size: Any, where: str) -> int:
    if isinstance(size, dict):
        sides = {size[name] for name in ('shortest_edge', 'height', 'width') if name in size}
        size = sides.pop() if len(sides) == 1 else None
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f'{where}: size or crop_size is not that of a square')
    return size


def check(weights: Weights) -> None:
    """Checks that a model of transformers can compute these features.

    Raises:
      ConfigError: it cannot; it says why, and which format can.
    """
    architecture = weights.architecture
    torch_layout.check_expressible(weights, 'transformers')
    if architecture.is_vit:
        if architecture.pooling != 'token':
            raise torch_layout.cannot('transformers', f'pooling={architecture.pooling!r}', 'timm')
        return
    if len(RESNETS[architecture.encoder]['stage_sizes']) != 4:
        raise torch_layout.cannot('transformers', architecture.encoder)
    if architecture.stem != 'imagenet':
        raise torch_layout.cannot(
            'transformers',
            f'stem={architecture.stem!r}: the first layer is fixed there',
            'torchvision',
        )


def to_tensors(weights: Weights) -> dict[str, np.ndarray]:
    """Returns the tensors of a `ViTModel` without pooling layer, or of a `ResNetModel`.

    With a classifier, they are those of a `ViTForImageClassification` or
    `ResNetForImageClassification`.

    Raises:
      ConfigError: transformers cannot express the encoder.
    """
    check(weights)
    architecture, size = weights.architecture, weights.preprocess.size
    names = torch_layout.encoder_names(weights)
    if not architecture.is_vit:
        tensors = torch_layout.write(weights, _resnet_table(names, RESNET))
        return _with_head(weights, tensors, 'resnet.')
    tensors = torch_layout.write(weights, torch_layout.vit_table(names, VIT))
    if architecture.positions == 'sincos':
        dim, side = VITS[architecture.encoder]['dim'], size // architecture.patch_size
        tensors[_POSITIONS] = torch_layout.position_tensor(side, dim, token=True)
    return _with_head(weights, tensors, 'vit.')


def _with_head(
    weights: Weights, tensors: dict[str, np.ndarray], prefix: str
) -> dict[str, np.ndarray]:
    """Returns the tensors of the encoder as part of a model with a classifier, if it has one."""
    if weights.classifier is None:
        return tensors
    made = {prefix + key: value for key, value in tensors.items()}
    return made | heads.to_tensors(weights, 'transformers')


def _class_of(weights: Weights) -> str:
    name = 'ViT' if weights.architecture.is_vit else 'ResNet'
    return f'{name}ForImageClassification' if weights.classifier else f'{name}Model'


def config_of(weights: Weights) -> dict[str, Any]:
    """Returns `config.json`."""
    config = _config_of(weights)
    if weights.classifier:
        names = weights.classifier.names
        config['id2label'] = {str(number): name for number, name in enumerate(names)}
        config['label2id'] = {name: number for number, name in enumerate(names)}
        several = weights.classifier.several
        config['problem_type'] = f'{"multi" if several else "single"}_label_classification'
    return config


def _config_of(weights: Weights) -> dict[str, Any]:
    architecture, channels = weights.architecture, weights.preprocess.channels
    if architecture.is_vit:
        fields = VITS[architecture.encoder]
        return {
            'architectures': [_class_of(weights)],
            'model_type': 'vit',
            'hidden_size': fields['dim'],
            'num_hidden_layers': fields['depth'],
            'num_attention_heads': architecture.num_heads or fields['num_heads'],
            'intermediate_size': 4 * fields['dim'],
            'hidden_act': 'gelu',
            'layer_norm_eps': architecture.epsilon,
            'image_size': weights.preprocess.size,
            'patch_size': architecture.patch_size,
            'num_channels': channels,
            'qkv_bias': True,
            'hidden_dropout_prob': 0.0,
            'attention_probs_dropout_prob': 0.0,
        }
    fields = RESNETS[architecture.encoder]
    bottleneck = fields['block'] is BottleneckBlock
    stem = 64 * architecture.width
    return {
        'architectures': [_class_of(weights)],
        'model_type': 'resnet',
        'num_channels': channels,
        'embedding_size': stem,
        'hidden_sizes': [stem * 2**stage * (4 if bottleneck else 1) for stage in range(4)],
        'depths': list(fields['stage_sizes']),
        'layer_type': 'bottleneck' if bottleneck else 'basic',
        'hidden_act': 'relu',
        'downsample_in_first_stage': False,
        'downsample_in_bottleneck': False,
    }


def preprocessor_of(weights: Weights) -> dict[str, Any]:
    """Returns `preprocessor_config.json`: of a processor that resizes, then cuts out the centre."""
    preprocess = weights.preprocess
    channels, size = preprocess.channels, preprocess.size
    numbers = {value: number for number, value in _INTERPOLATIONS.items()}
    return {
        'image_processor_type': 'BitImageProcessor',
        'do_convert_rgb': channels == 3,
        'do_resize': True,
        'size': {'shortest_edge': round(size / preprocess.crop)},
        'resample': numbers[preprocess.interpolation],
        'do_center_crop': True,
        'crop_size': {'height': size, 'width': size},
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': torch_layout.per_channel(preprocess.mean, channels),
        'image_std': torch_layout.per_channel(preprocess.std, channels),
    }


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `config.json`, `preprocessor_config.json` and `model.safetensors`."""
    formats.save_tensors(folder / 'model.safetensors', weights, to_tensors(weights))
    formats.save_json(folder / 'config.json', config_of(weights))
    formats.save_json(folder / 'preprocessor_config.json', preprocessor_of(weights))


def features(weights: Weights) -> str:
    """Returns the expression that turns `images` into features, or logits."""
    if weights.classifier:
        return 'model(images).logits'
    if weights.architecture.is_vit:
        return 'model(images).last_hidden_state[:, 0]'
    return 'model(images).pooler_output.flatten(1)'


def use(weights: Weights) -> list[str]:
    """Returns the lines that turn `picture` into features."""
    mode = 'RGB' if weights.preprocess.channels == 3 else 'L'
    return [
        'import torch',
        '',
        f"picture = picture.convert('{mode}')",
        "images = prepare(picture, return_tensors='pt')['pixel_values']",
        'with torch.no_grad():',
        f'    features = {features(weights)}',
    ]


def strict(weights: Weights, folder: str) -> list[str]:
    """Returns lines that fail where the model would take what is not in the file from elsewhere."""
    kind = _class_of(weights)
    more = ', add_pooling_layer=False' if kind == 'ViTModel' else ''
    return [
        f"_, info = {kind}.from_pretrained('{folder}'{more}, output_loading_info=True)",
        'assert not any(info.values()), info',
    ]


def lines(weights: Weights, folder: str) -> list[str]:
    """Returns the Python lines that load an exported folder as `model`."""
    kind = _class_of(weights)
    more = ', add_pooling_layer=False' if kind == 'ViTModel' else ''
    return [
        f'from transformers import AutoImageProcessor, {kind}',
        '',
        f"model = {kind}.from_pretrained('{folder}'{more})",
        f"prepare = AutoImageProcessor.from_pretrained('{folder}')",
        'model.eval()',
    ]
