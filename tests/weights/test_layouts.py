"""The layouts of PyTorch's libraries: their keys, both ways, and what they cannot express."""

import dataclasses
import pathlib
import sys

import numpy as np
import pytest

from simclr_jax.config import ConfigError
from simclr_jax.weights import timm, torchvision
from simclr_jax.weights.description import Architecture, Head, Preprocess, check_variables, flat

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from random_weights import random_weights

LAYOUTS = {'torchvision': torchvision, 'timm': timm}
RESNETS = [
    Architecture('resnet18'),
    Architecture('resnet50', head=Head(16, 8)),
    Architecture('resnet18', stem='small'),
    Architecture('resnet18', width=2),
]
VITS = [
    Architecture('vit_ti16'),
    Architecture('vit_ti16', num_heads=12, patch_size=8),
    Architecture('vit_ti16', positions='learned'),
    Architecture('vit_ti16', pooling='mean'),
    Architecture('vit_ti16', pooling='mean', positions='learned'),
]
CASES = [(layout, architecture) for layout in LAYOUTS for architecture in [*RESNETS, *VITS]]


def name_of(value):
    if isinstance(value, Architecture):
        default = Architecture('')
        return '-'.join(
            str(v) for k, v in dataclasses.asdict(value).items() if v != getattr(default, k)
        )
    return None


@pytest.mark.parametrize(('layout', 'architecture'), CASES, ids=name_of)
def test_there_and_back_is_bit_identical(layout, architecture):
    module = LAYOUTS[layout]
    channels = 1 if architecture.positions == 'learned' else 3
    weights = random_weights(architecture, mean=(0.5,), std=(0.25,), channels=channels)
    try:
        tensors = module.to_tensors(weights)
    except ConfigError as error:
        assert f'--format={layout}: cannot express' in str(error)
        assert (layout, architecture.pooling) == ('torchvision', 'mean') or (
            layout == 'timm' and (architecture.stem, architecture.width) != ('imagenet', 1)
        )
        return
    assert all(value.flags.c_contiguous for value in tensors.values())
    assert module.recognizes({key: value.shape for key, value in tensors.items()})
    options = {'num_heads': architecture.num_heads or 3} if architecture.is_vit else {}
    found = module.from_tensors(tensors, 'file', **options)
    check_variables(found, 'file')
    assert dataclasses.replace(found.architecture, num_heads=0) == dataclasses.replace(
        architecture, head=None, num_heads=0
    )
    want, have = flat(weights.variables), flat(found.variables)
    assert have.keys() == {name for name in want if '/projector/' not in name}
    assert all(np.array_equal(want[name], have[name]) for name in have)
    # What a state dict cannot say is in the metadata of an exported file.
    metadata = module_metadata(weights)
    found = module.from_tensors(tensors, 'file', metadata=metadata)
    assert found.architecture == dataclasses.replace(architecture, head=None)
    assert found.preprocess == weights.preprocess


def module_metadata(weights):
    from simclr_jax.weights import torch_layout

    return torch_layout.metadata(weights)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(
    ('architecture', 'match'),
    [
        (Architecture('resnet18', padding='same'), "padding='same'"),
        (Architecture('resnet18', padding='simclr'), "padding='simclr'"),
        (Architecture('resnet50', sk_ratio=0.0625), 'selective kernels'),
        (Architecture('resnet18', head=Head(8, 8), head_layers=1), 'head_layers=1'),
        (Architecture('resnet_tiny', stem='small'), 'resnet_tiny'),
    ],
    ids=name_of,
)
def test_what_a_layout_cannot_express_is_refused_with_the_reason(layout, architecture, match):
    weights = random_weights(architecture)
    with pytest.raises(ConfigError, match=f'--format={layout}: cannot express.*{match}.*onnx'):
        LAYOUTS[layout].to_tensors(weights)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_classifiers_are_dropped_and_said_so(layout):
    tensors = LAYOUTS[layout].to_tensors(random_weights(Architecture('resnet18')))
    tensors |= {'fc.weight': np.zeros((10, 512), np.float32), 'fc.bias': np.zeros(10, np.float32)}
    found = LAYOUTS[layout].from_tensors(tensors, 'file')
    assert found.origin['dropped'] == ['fc.bias', 'fc.weight']
    assert found.preprocess == Preprocess(
        224, 0.875, 'bilinear', True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (lambda t: t.pop('layer2.0.bn1.bias'), 'has no layer2.0.bn1.bias'),
        (lambda t: t.update(queue=np.zeros(3)), 'has queue, which it does not know'),
        (lambda t: t.update({'bn1.bias': np.zeros(3, np.float32)}), r'of shape \(3,\).*\(64,\)'),
        (lambda t: t.update({'bn1.bias': np.zeros(64, np.int32)}), 'of type int32'),
        (lambda t: t.update({'conv1.weight': np.zeros((64, 3, 5, 5))}), 'a 7x7 or a 3x3 one'),
        (lambda t: t.update({'layer1.2.conv1.weight': np.zeros(1)}), r'\[3, 2, 2, 2\] basic'),
    ],
)
def test_what_is_wrong_in_a_resnet_is_named(layout, change, match):
    tensors = LAYOUTS[layout].to_tensors(random_weights(Architecture('resnet18')))
    change(tensors)
    with pytest.raises(ConfigError, match=f'a/file: .*{match}'):
        LAYOUTS[layout].from_tensors(tensors, 'a/file')


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (lambda t: t.pop('pos_embed'), 'has no pos_embed'),
        (lambda t: t.update({'blocks.0.ls1.gamma': np.zeros(192)}), 'has blocks.0.ls1.gamma'),
        (lambda t: t.update({'pos_embed': np.zeros((1, 7, 192))}), 'not those of a square'),
        (lambda t: t.pop('blocks.0.mlp.fc1.bias'), 'has no blocks.0.mlp.fc1.bias'),
        (
            lambda t: t.update({'patch_embed.proj.weight': np.zeros((200, 3, 16, 16))}),
            r'vit_ti16 \(192, 12\)',
        ),
    ],
)
def test_what_is_wrong_in_a_vit_is_named(change, match):
    tensors = timm.to_tensors(random_weights(Architecture('vit_ti16')))
    change(tensors)
    with pytest.raises(ConfigError, match=f'a/file: .*{match}'):
        timm.from_tensors(tensors, 'a/file')


def test_the_config_of_timm_says_heads_and_preprocessing():
    architecture = Architecture('vit_s16')
    weights = random_weights(architecture, 48, crop=0.9, mean=(0.5,), std=(0.2,))
    config, tensors = timm.config_of(weights), timm.to_tensors(weights)
    found = timm.from_tensors(tensors, 'file', config=config)
    assert found.architecture == architecture
    want = dataclasses.replace(weights.preprocess, antialias=True, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert found.preprocess == want
    assert timm.from_tensors(tensors, 'file').architecture.num_heads == 6  # timm's default
    for change, match in [
        ({'architecture': 'vit_base_patch16_clip_224'}, 'clip'),
        ({'model_args': {'act_layer': 'quick_gelu'}}, 'act_layer'),
        ({'global_pool': 'avg'}, "global_pool='avg'"),
        ({'pretrained_cfg': {'input_size': [3, 48, 48]}}, 'config.json does not say'),
    ]:
        with pytest.raises(ConfigError, match=f'file: .*{match}'):
            timm.from_tensors(tensors, 'file', config=config | change)
