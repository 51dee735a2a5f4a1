"""Public checkpoints, made by the modules of the libraries that made them, against those modules.

Each file has the keys that the method's repository writes: its heads, its prefixes, its wrappers.
"""

import argparse
import functools
import itertools
import pathlib

import jax
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="needs PyTorch: pip install -e '.[export]'")
torchvision = pytest.importorskip('torchvision', reason='needs torchvision')
timm = pytest.importorskip('timm', reason='needs timm')

from simclr_jax.models.vit import sincos_positions  # noqa: E402
from simclr_jax.weights import layouts  # noqa: E402

nn = torch.nn
RESNETS = ['resnet18', pytest.param('resnet50', marks=pytest.mark.slow)]


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """No parameter and no statistic is as an initialization leaves it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith('running_var'):
                value.copy_(noise.abs() * 0.3 + 0.7)
            elif name.endswith('running_mean') or name.endswith('bias'):
                value.copy_(noise * 0.1)
            elif value.ndim == 1:
                value.copy_(noise * 0.1 + 1)
    return model.eval()


def save(state, path: pathlib.Path, legacy: bool = False) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


@functools.cache  # to compile once
def forward(architecture):
    module = architecture.module()
    return jax.jit(lambda variables, images: module.apply(variables, images, False))


def difference(path, model, size: int = 64, preprocess=None) -> float:
    """Largest difference between our features and those of `model`, as a share of the largest."""
    weights = layouts.read(path)
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    ours = forward(weights.architecture)(weights.variables, images)
    assert np.ptp(theirs) > 0.1
    result = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    print(f'{weights.origin["layout"]}, {weights.architecture.encoder}: {result:.1e}')
    for field, value in (preprocess or {}).items():
        assert getattr(weights.preprocess, field) == value
    assert len(weights.origin['sha256']) == 64
    return result


def prefixed(prefix: str, *modules: tuple[str, nn.Module]) -> dict:
    """State dicts in one, as a module that has these parts would have it."""
    return {
        f'{prefix}{name}.{key}': value
        for name, module in modules
        for key, value in module.state_dict().items()
    }


def mlp(*dims: int, affine: bool = True) -> nn.Module:
    layers = []
    for before, after in itertools.pairwise(dims):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after, affine=affine)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def resnet(name: str) -> tuple[nn.Module, int]:
    model = randomized(getattr(torchvision.models, name)())
    dim = model.fc.in_features
    model.fc = nn.Identity()
    return model, dim


def with_head(model: nn.Module, name: str, head: nn.Module) -> nn.Module:
    copy = nn.Module()
    for key, module in model.named_children():
        copy.add_module(key, module)
    for key, parameter in model.named_parameters(recurse=False):
        copy.register_parameter(key, parameter)
    copy.add_module(name, head)
    return copy


def moco(model, dim, version):
    head = nn.Linear(dim, 128)
    if version == 2:
        head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 128))
    part = with_head(model, 'fc', head)
    other = randomized(with_head(torchvision.models.resnet18(), 'fc', head), seed=1)
    return {
        'epoch': 200,
        'arch': 'resnet50',
        'state_dict': prefixed('module.', ('encoder_q', part), ('encoder_k', other))
        | {'module.queue': torch.randn(128, 64), 'module.queue_ptr': torch.zeros(1).long()},
        'optimizer': torch.optim.SGD(model.parameters(), 0.1).state_dict(),
    }


def moco_v3(model, dim, name='fc'):
    projector, predictor = mlp(dim, 64, 32, affine=False), mlp(32, 64, 32)
    parts = [('base_encoder', with_head(model, name, projector)), ('predictor', predictor)]
    parts.append(('momentum_encoder', with_head(model, name, projector)))
    return {'epoch': 300, 'arch': 'vit_small', 'state_dict': prefixed('module.', *parts)}


def simsiam(model, dim):
    encoder = with_head(model, 'fc', mlp(dim, dim, dim, dim))
    parts = prefixed('module.', ('encoder', encoder), ('predictor', mlp(dim, 512, dim)))
    return {'epoch': 100, 'arch': 'resnet50', 'state_dict': parts, 'optimizer': {}}


def swav(model, dim):
    parts = model.state_dict() | prefixed('', ('projection_head', mlp(dim, 64, 32)))
    parts |= prefixed('', ('prototypes', nn.Linear(32, 100, bias=False)))
    return {f'module.{key}': value for key, value in parts.items()}


def barlow_twins(model, dim):
    parts = [('backbone', model), ('projector', mlp(dim, 64, 64)), ('bn', nn.BatchNorm1d(64))]
    return {'epoch': 1000, 'model': prefixed('module.', *parts), 'optimizer': {}}


def vicreg(model, dim):
    parts = [('backbone', model), ('projector', mlp(dim, 64, 64))]
    return {'epoch': 1000, 'model': prefixed('module.', *parts), 'optimizer': {}}


def dino(model, dim):
    student = randomized(torchvision.models.resnet18(), seed=2)
    parts = prefixed('', ('backbone', model), ('head', mlp(dim, 64, 32)))
    return {
        'student': prefixed('module.', ('backbone', student), ('head', mlp(dim, 64, 32))),
        'teacher': parts,
        'epoch': 800,
        'args': argparse.Namespace(arch='resnet50', patch_size=16),
        'dino_loss': {'center': torch.zeros(1, 32)},
        'optimizer': torch.optim.SGD(model.parameters(), 0.1).state_dict(),
    }


FILES = {  # name of the layout -> what the repository saves
    'MoCo v1, v2': lambda model, dim: moco(model, dim, 1),
    'MoCo v1, v2 ': lambda model, dim: moco(model, dim, 2),
    'MoCo v3': moco_v3,
    'SimSiam': simsiam,
    'SwAV': swav,
    'Barlow Twins': barlow_twins,
    'VICReg': vicreg,
    'DINO': dino,
    'torchvision': lambda model, dim: model.state_dict(),
}


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('name', RESNETS)
@pytest.mark.parametrize('layout', FILES)
def test_a_resnet(layout, name, legacy, tmp_path):
    model, dim = resnet(name)
    path = tmp_path / 'weights.pth'
    save(FILES[layout](model, dim), path, legacy)
    interpolation = 'bicubic' if layout == 'DINO' else 'bilinear'
    want = {'size': 224, 'crop': 0.875, 'interpolation': interpolation, 'antialias': True}
    assert difference(path, model, preprocess=want) < 1e-4
    assert layouts.read(path).origin['layout'] == layout.strip()


def test_swav_pads_by_one_and_then_by_two(tmp_path):
    """As `src/resnet50.py` does, for what torchvision pads by three."""
    model, dim = resnet('resnet18')
    save(swav(model, dim), tmp_path / 'weights.pth')
    model.conv1.padding = (2, 2)
    padded = nn.Sequential(nn.ConstantPad2d(1, 0.0), model)
    assert difference(tmp_path / 'weights.pth', padded) < 1e-4


def test_what_was_dropped_is_recorded(tmp_path):
    model, dim = resnet('resnet18')
    path = tmp_path / 'weights.pth'
    save(moco(model, dim, 2), path)
    assert layouts.read(path).origin['dropped'] == [
        'module.encoder_k.',
        'module.queue',
        'module.encoder_q.fc.',
        'epoch',
        'arch',
        'optimizer',
    ]


def vit(name: str = 'vit_small_patch16_224', **arguments) -> nn.Module:
    return randomized(timm.create_model(name, num_classes=0, **arguments))


def test_moco_v3_has_12_heads_in_its_small_vit_and_fixed_positions(tmp_path):
    """Neither is to be seen in the shapes; `vits.py` says it."""
    model = vit(num_heads=12)
    fixed = np.pad(sincos_positions(14, 14, 384), ((1, 0), (0, 0)))
    model.pos_embed.data = torch.tensor(fixed)[None]
    path = tmp_path / 'vit-s-300ep.pth.tar'
    save(moco_v3(model, 384, 'head'), path)
    assert difference(path, model, 224) < 1e-4
    architecture = layouts.read(path).architecture
    assert (architecture.positions, architecture.encoder) == ('sincos', 'vit_s16')
    # As its `convert_to_deit.py` writes it, only the positions are left to tell it by.
    save({'model': model.state_dict()}, path)
    assert difference(path, model, 224) < 1e-4


def test_dino_has_6_heads_and_learned_positions(tmp_path):
    model = vit()
    path = tmp_path / 'dino.pth'
    save(model.state_dict(), path)  # the file with the backbone only
    assert difference(path, model, 224) < 1e-4
    full = dino(model, 384) | {'teacher': prefixed('', ('backbone', model), ('head', mlp(384, 8)))}
    save(full, path)
    assert difference(path, model, 224, {'interpolation': 'bicubic'}) < 1e-4
    assert layouts.read(path).architecture.num_heads == 6


@pytest.mark.slow
def test_dino_with_small_patches(tmp_path):
    model = vit('vit_small_patch8_224')
    save(model.state_dict(), tmp_path / 'dino.pth')
    assert difference(tmp_path / 'dino.pth', model, 224) < 1e-4
    assert layouts.read(tmp_path / 'dino.pth').architecture.patch_size == 8


def test_the_encoder_of_mae(tmp_path):
    model = vit('vit_tiny_patch16_224')
    decoder = {
        'mask_token': torch.randn(1, 1, 64),
        'decoder_pos_embed': torch.randn(1, 197, 64),
        **prefixed('decoder_', ('embed', nn.Linear(192, 64)), ('pred', nn.Linear(64, 768))),
        **prefixed('decoder_blocks.0.', ('norm1', nn.LayerNorm(64))),
    }
    path = tmp_path / 'mae.pth'
    save({'model': model.state_dict() | decoder, 'args': argparse.Namespace(lr=1)}, path)
    assert difference(path, model, 224, {'interpolation': 'bicubic'}) < 1e-4
    assert layouts.read(path).origin['dropped'] == ['mask_token', 'decoder_', 'args']


def test_a_vit_that_mae_fine_tuned(tmp_path):
    """Its features are the mean of the patches and a LayerNorm, beside a class token."""
    model = vit('vit_tiny_patch16_224', global_pool='avg')
    path = tmp_path / 'mae_finetuned.pth'
    save({'model': model.state_dict(), 'epoch': 99}, path)
    assert difference(path, model, 224) < 1e-4
    assert layouts.read(path).architecture.pooling == 'patches'
    timm.models.save_for_hf(model, tmp_path / 'timm', model_config={'num_classes': 0})
    assert difference(tmp_path / 'timm', model, 224) < 1e-4


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(half, tmp_path):
    from safetensors.torch import save_file

    model, _ = resnet('resnet18')
    rounded = {k: v.to(half) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict({k: v.float() for k, v in rounded.items()})
    save(rounded, tmp_path / 'weights.pth')
    save_file(rounded, tmp_path / 'weights.safetensors')
    for name in ('weights.pth', 'weights.safetensors'):
        assert difference(tmp_path / name, model) < 1e-4


def test_folders_of_other_libraries(tmp_path):
    model = vit('vit_tiny_patch16_224')
    timm.models.save_for_hf(model, tmp_path / 'timm', model_config={'num_classes': 0})
    assert difference(tmp_path / 'timm', model, 224) < 1e-4

    transformers = pytest.importorskip('transformers', reason='needs transformers')
    config = transformers.ResNetConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type='basic'
    )
    resnet = randomized(transformers.ResNetModel(config))
    resnet.save_pretrained(tmp_path / 'resnet')
    model = lambda x: resnet(x).pooler_output[:, :, 0, 0]  # noqa: E731
    assert difference(tmp_path / 'resnet', model) < 1e-4
    config = transformers.ViTConfig(
        hidden_size=192, num_attention_heads=3, intermediate_size=768, layer_norm_eps=1e-6
    )
    other = randomized(transformers.ViTModel(config, add_pooling_layer=False))
    other.save_pretrained(tmp_path / 'vit')
    model = lambda x: other(x).last_hidden_state[:, 0]  # noqa: E731
    assert difference(tmp_path / 'vit', model, 224) < 1e-4


def test_torch_before_1_6_and_parameters_and_views(tmp_path):
    """What a state dict may hold beside plain tensors: parameters, parts of one storage."""
    model, _ = resnet('resnet18')
    state = {key: nn.Parameter(value, False) for key, value in model.state_dict().items()}
    whole = torch.cat([value.flatten() for value in state.values()])
    first = 0
    for key, value in state.items():
        state[key] = whole[first : first + value.numel()].view(value.shape)
        first += value.numel()
    state['layer1.0.conv1.weight'] = state['layer1.0.conv1.weight'].contiguous(
        memory_format=torch.channels_last
    )
    for legacy in (False, True):
        save(state, tmp_path / 'weights.pth', legacy)
        assert difference(tmp_path / 'weights.pth', model) < 1e-4
