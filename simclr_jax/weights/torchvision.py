"""torchvision's layout: `model.safetensors` of a ResNet or a VisionTransformer, both ways.

Keys are those of `torchvision.models` (`resnet.py`, `vision_transformer.py`). MoCo, SimSiam, DINO,
SwAV, VICReg and Barlow Twins have the ResNet's too.
"""

import pathlib
import re
from collections.abc import Mapping

import numpy as np

from simclr_jax.models.factory import RESNETS, VITS
from simclr_jax.models.resnet import BottleneckBlock
from simclr_jax.models.vit import EPSILON
from simclr_jax.weights import formats, heads, readme, torch_layout
from simclr_jax.weights.description import Architecture, Preprocess, Weights

PACKAGES = ('torch', 'torchvision', 'safetensors')
INPUT = 'nchw'
FILES = '`model.safetensors` is its state dict, with the keys of `torchvision.models`.'
RESNET = {  # pattern of our module -> theirs
    'stem_conv': 'conv1',
    'stem_norm': 'bn1',
    r'stage(\d)_block(\d+)/conv(\d)': r'layer\1.\2.conv\3',
    r'stage(\d)_block(\d+)/norm(\d)': r'layer\1.\2.bn\3',
    r'stage(\d)_block(\d+)/shortcut_conv': r'layer\1.\2.downsample.0',
    r'stage(\d)_block(\d+)/shortcut_norm': r'layer\1.\2.downsample.1',
}
_BLOCK = r'encoder.layers.encoder_layer_\1'
VIT = {
    'class_token': 'class_token',
    'positions': 'encoder.pos_embedding',
    'patch_projection': 'conv_proj',
    r'block(\d+)/norm1': rf'{_BLOCK}.ln_1',
    r'block(\d+)/norm2': rf'{_BLOCK}.ln_2',
    r'block(\d+)/attention': rf'{_BLOCK}.self_attention',
    r'block(\d+)/attention/out': rf'{_BLOCK}.self_attention.out_proj',
    r'block(\d+)/dense1': rf'{_BLOCK}.mlp.0',
    r'block(\d+)/dense2': rf'{_BLOCK}.mlp.3',
    'norm': 'encoder.ln',
}
_JOINED = '.in_proj_{leaf}'
_POSITIONS = VIT['positions']


def recognizes(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether these are the keys of one of torchvision's ResNets or ViTs."""
    return is_resnet(shapes) or 'encoder.layers.encoder_layer_0.ln_1.weight' in shapes


def is_resnet(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether these are the keys of a ResNet, which timm has as well."""
    return {'conv1.weight', 'layer1.0.conv1.weight'} <= shapes.keys()


def from_tensors(
    tensors: torch_layout.Tensors,
    path: str,
    *,
    metadata: Mapping[str, str] | None = None,
    num_heads: int | None = None,
    epsilon: float = EPSILON,
) -> Weights:
    """Reads a state dict, without its classifier.

    Args:
      tensors: the state dict.
      path: the file that it is from, for errors and the origin.
      metadata: of a safetensors file.
      num_heads: of a ViT; 64 features a head where it is not given, as torchvision has them.
      epsilon: of a ViT's LayerNorm.

    Raises:
      ConfigError: a key is missing, unknown or of a wrong shape, or there is no such encoder.
    """
    noted = torch_layout.noted(metadata or {}, path)
    if 'conv_proj.weight' in tensors:
        return _vit_from(tensors, path, num_heads, epsilon, noted)
    architecture, preprocess = noted or resnet_of(tensors, path)
    return resnet_from(tensors, path, architecture, preprocess, 'torchvision')


def resnet_of(tensors: torch_layout.Tensors, path: str) -> tuple[Architecture, Preprocess]:
    """Returns the ResNet that keys and shapes are of, and torchvision's preprocessing for it.

    Raises:
      ConfigError: there is no such encoder.
    """
    blocks = {re.match(r'layer(\d+)\.(\d+)\.', key) for key in tensors} - {None}
    places = {(int(match[1]), int(match[2])) for match in blocks}
    stages = sorted({stage for stage, _ in places})
    depths = [sum(place[0] == stage for place in places) for stage in stages]
    stem = np.shape(tensors['conv1.weight'])
    bottleneck = 'layer1.0.conv3.weight' in tensors
    architecture = torch_layout.resnet_of(stem, depths, bottleneck, path)
    return architecture, torch_layout.imagenet(224, stem[1])


def resnet_from(
    tensors: torch_layout.Tensors,
    path: str,
    architecture: Architecture,
    preprocess: Preprocess,
    layout: str,
) -> Weights:
    """Reads a ResNet that is known already."""
    kept, dropped = torch_layout.without(tensors, 'fc.')
    what = f"{path}: {layout}'s {architecture.encoder}"
    shapes = torch_layout.shapes_of(architecture, preprocess, path)
    variables = torch_layout.read(kept, torch_layout.resnet_table(shapes, RESNET), shapes, what)
    origin = {'layout': layout, 'file': path, 'dropped': dropped}
    return Weights(architecture, preprocess, origin, variables)


def _vit_from(
    tensors: torch_layout.Tensors,
    path: str,
    num_heads: int | None,
    epsilon: float,
    noted: tuple[Architecture, Preprocess] | None,
) -> Weights:
    tensors = {  # of torchvision 0.12
        key.replace('mlp.linear_1', 'mlp.0').replace('mlp.linear_2', 'mlp.3'): value
        for key, value in tensors.items()
    }
    kept, dropped = torch_layout.without(tensors, 'heads.')
    depth = sum(key.endswith('.ln_1.weight') for key in kept)
    torch_layout.check_keys({*kept} & {_POSITIONS}, {_POSITIONS}, f"{path}: torchvision's ViT")
    patch = np.shape(kept['conv_proj.weight'])
    architecture, size = torch_layout.vit_of(
        patch,
        depth,
        kept[_POSITIONS],
        token=True,
        num_heads=num_heads,
        epsilon=epsilon,
        what=path,
    )
    preprocess = torch_layout.imagenet(size, patch[1])
    if noted:
        architecture, preprocess = torch_layout.with_positions_of(architecture, *noted)
    if architecture.positions == 'sincos':
        del kept[_POSITIONS]
    shapes = torch_layout.shapes_of(architecture, preprocess, path)
    table = torch_layout.vit_table(shapes, VIT, _JOINED)
    what = f"{path}: torchvision's {architecture.encoder}"
    variables = torch_layout.read(kept, table, shapes, what)
    origin = {'layout': 'torchvision', 'file': path, 'dropped': dropped}
    return Weights(architecture, preprocess, origin, variables)


def check(weights: Weights) -> None:
    """Checks that torchvision's classes can compute these features.

    Raises:
      ConfigError: they cannot; it says why, and which format can.
    """
    architecture = weights.architecture
    torch_layout.check_expressible(weights, 'torchvision')
    if architecture.is_vit:
        if architecture.pooling != 'token':
            raise torch_layout.cannot('torchvision', f'pooling={architecture.pooling!r}', 'timm')
    elif len(RESNETS[architecture.encoder]['stage_sizes']) != 4:
        raise torch_layout.cannot('torchvision', architecture.encoder)


def to_tensors(weights: Weights) -> dict[str, np.ndarray]:
    """Returns the state dict of a model, with its classifier if there is one.

    Raises:
      ConfigError: torchvision cannot express the encoder.
    """
    check(weights)
    architecture, size = weights.architecture, weights.preprocess.size
    names = torch_layout.encoder_names(weights)
    if not architecture.is_vit:
        tensors = torch_layout.write(weights, torch_layout.resnet_table(names, RESNET))
        return tensors | heads.to_tensors(weights, 'torchvision')
    tensors = torch_layout.write(weights, torch_layout.vit_table(names, VIT, _JOINED))
    if architecture.positions == 'sincos':
        dim, side = VITS[architecture.encoder]['dim'], size // architecture.patch_size
        tensors[_POSITIONS] = torch_layout.position_tensor(side, dim, token=True)
    return tensors | heads.to_tensors(weights, 'torchvision')


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `model.safetensors`."""
    formats.save_tensors(folder / 'model.safetensors', weights, to_tensors(weights))


def features(weights: Weights) -> str:
    """Returns the expression that turns `images` into features."""
    del weights
    return 'model(images)'


def use(weights: Weights) -> list[str]:
    """Returns the lines that turn `picture` into features."""
    return [
        *readme.normalize_lines(weights, torch=True),
        'with torch.no_grad():',
        f'    features = {features(weights)}',
    ]


def lines(weights: Weights, folder: str) -> list[str]:
    """Returns the Python lines that load an exported file as `model`, strictly."""
    architecture, channels = weights.architecture, weights.preprocess.channels
    made = _vit_lines(weights) if architecture.is_vit else _resnet_lines(architecture, channels)
    made.append(_head_line(weights))
    return [
        'import torch',
        'import torchvision',
        'from safetensors.torch import load_file',
        '',
        *made,
        f"model.load_state_dict(load_file('{folder}/model.safetensors'))",
        'model.eval()',
    ]


def _resnet_lines(architecture: Architecture, channels: int) -> list[str]:
    fields = RESNETS[architecture.encoder]
    width = 64 * architecture.width
    block = 'Bottleneck' if fields['block'] is BottleneckBlock else 'BasicBlock'
    made = f'{block}, {list(fields["stage_sizes"])}'
    result = [f'model = torchvision.models.{architecture.encoder}()']
    if architecture.width > 1:
        result = [
            f'class Wide(torchvision.models.ResNet):  # {architecture.width} times the filters',
            '    def _make_layer(self, block, planes, *args, **kwargs):',
            f'        self.inplanes = max(self.inplanes, {width})',
            f'        planes *= {architecture.width}',
            '        return super()._make_layer(block, planes, *args, **kwargs)',
            '',
            f'model = Wide(torchvision.models.resnet.{made})',
            f'model.bn1 = torch.nn.BatchNorm2d({width})',
        ]
    elif architecture.encoder == 'resnet200':
        result = [f'model = torchvision.models.ResNet(torchvision.models.resnet.{made})']
    kernel, stride, pad = (3, 1, 1) if architecture.stem == 'small' else (7, 2, 3)
    if (width, kernel, channels) != (64, 7, 3):
        sizes = f'{channels}, {width}, {kernel}, {stride}, {pad}'
        result.append(f'model.conv1 = torch.nn.Conv2d({sizes}, bias=False)')
    if architecture.stem == 'small':
        result.append('model.maxpool = torch.nn.Identity()')
    return result


def _head_line(weights: Weights) -> str:
    place = 'heads' if weights.architecture.is_vit else 'fc'
    if weights.classifier is None:
        return f'model.{place} = torch.nn.Identity()'
    dim, labels = np.shape(weights.variables['params']['classifier']['kernel'])
    return f'model.{heads.key_of(weights, "torchvision")} = torch.nn.Linear({dim}, {labels})'


def _vit_lines(weights: Weights) -> list[str]:
    architecture = weights.architecture
    fields, patch = VITS[architecture.encoder], architecture.patch_size
    dim = fields['dim']
    result = [
        'model = torchvision.models.VisionTransformer(',
        f'    image_size={weights.preprocess.size}, patch_size={patch}, '
        f'num_layers={fields["depth"]},',
        f'    num_heads={architecture.num_heads or fields["num_heads"]}, hidden_dim={dim}, '
        f'mlp_dim={4 * dim},',
    ]
    if architecture.epsilon != EPSILON:
        result.append(
            f'    norm_layer=lambda dim: torch.nn.LayerNorm(dim, {architecture.epsilon}),'
        )
    result.append(')')
    if weights.preprocess.channels != 3:
        sizes = f'{weights.preprocess.channels}, {dim}, {patch}, {patch}'
        result.append(f'model.conv_proj = torch.nn.Conv2d({sizes})')
    return result
