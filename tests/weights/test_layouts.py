"""The layouts of PyTorch's libraries: their keys, both ways, and what they cannot express."""

import dataclasses
import pathlib
import sys

import numpy as np
import pytest

from simclr_jax.config import ConfigError
from simclr_jax.weights import timm, torch_layout, torchvision, transformers
from simclr_jax.weights.description import Architecture, Head, Preprocess, check_variables, flat

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from random_weights import random_weights

LAYOUTS = {'torchvision': torchvision, 'timm': timm, 'transformers': transformers}
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
    Architecture('vit_ti16', pooling='patches'),
    Architecture('vit_ti16', pooling='patches', positions='learned'),
]
MEAN = [architecture for architecture in VITS if architecture.pooling != 'token']
CANNOT = {'torchvision': MEAN, 'timm': RESNETS[2:], 'transformers': [*MEAN, RESNETS[2]]}
CASES = [(layout, architecture) for layout in LAYOUTS for architecture in [*RESNETS, *VITS]]


def name_of(value):
    if isinstance(value, Architecture):
        default = Architecture('')
        return '-'.join(
            str(v) for k, v in dataclasses.asdict(value).items() if v != getattr(default, k)
        )
    return None


def beside(layout, weights):
    """What a layout has beside its tensors, or the user says."""
    if layout == 'torchvision':
        return {'num_heads': weights.architecture.num_heads or 3}
    config = {'config': LAYOUTS[layout].config_of(weights)}
    if layout == 'transformers':
        config['preprocessor'] = transformers.preprocessor_of(weights)
    return config


@pytest.mark.parametrize(('layout', 'architecture'), CASES, ids=name_of)
def test_there_and_back_is_bit_identical(layout, architecture):
    module = LAYOUTS[layout]
    channels = 1 if architecture.positions == 'learned' else 3
    weights = random_weights(architecture, mean=(0.5,), std=(0.25,), channels=channels)
    try:
        tensors = module.to_tensors(weights)
    except ConfigError as error:
        assert f'--format={layout}: cannot express' in str(error)
        assert architecture in CANNOT[layout]
        return
    assert architecture not in CANNOT[layout]
    assert all(value.flags.c_contiguous for value in tensors.values())
    assert module.recognizes({key: value.shape for key, value in tensors.items()})
    found = module.from_tensors(tensors, 'file', **beside(layout, weights))
    check_variables(found, 'file')
    assert found.architecture == dataclasses.replace(architecture, head=None)
    want, have = flat(weights.variables), flat(found.variables)
    assert have.keys() == {name for name in want if '/projector/' not in name}
    assert all(np.array_equal(want[name], have[name]) for name in have)
    # What a state dict cannot say is in the metadata of an exported file.
    options = beside(layout, weights) if layout == 'transformers' else {}
    options |= {'metadata': torch_layout.metadata(weights)}
    found = module.from_tensors(tensors, 'file', **options)
    assert found.architecture == dataclasses.replace(architecture, head=None)
    assert found.preprocess == weights.preprocess


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


@pytest.mark.parametrize('layout', ['torchvision', 'timm'])
def test_classifiers_are_dropped_and_said_so(layout):
    tensors = LAYOUTS[layout].to_tensors(random_weights(Architecture('resnet18')))
    tensors |= {'fc.weight': np.zeros((10, 512), np.float32), 'fc.bias': np.zeros(10, np.float32)}
    found = LAYOUTS[layout].from_tensors(tensors, 'file')
    assert found.origin['dropped'] == ['fc.bias', 'fc.weight']
    assert found.preprocess == Preprocess(
        224, 0.875, 'bilinear', True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )


@pytest.mark.parametrize('layout', ['torchvision', 'timm'])
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


def test_transformers_with_a_classifier_and_with_the_names_of_version_5():
    weights = random_weights(Architecture('vit_ti16'), mean=(0.5,) * 3, std=(0.5,) * 3)
    options, tensors = beside('transformers', weights), transformers.to_tensors(weights)
    new = {
        'encoder.layer.': 'layers.',
        'attention.attention.query': 'attention.q_proj',
        'attention.attention.key': 'attention.k_proj',
        'attention.attention.value': 'attention.v_proj',
        'attention.output.dense': 'attention.o_proj',
        'intermediate.dense': 'mlp.fc1',
        'output.dense': 'mlp.fc2',
    }
    renamed = {'classifier.weight': np.zeros((10, 192), np.float32)}
    for key, value in tensors.items():
        for old, name in new.items():
            key = key.replace(old, name)
        renamed[f'vit.{key}'] = value
    assert transformers.recognizes({key: value.shape for key, value in renamed.items()})
    found = transformers.from_tensors(renamed, 'folder', **options)
    assert found.origin['dropped'] == ['classifier.weight']
    want, have = flat(weights.variables), flat(found.variables)
    assert want.keys() == have.keys()
    assert all(np.array_equal(want[name], have[name]) for name in want)
    for field, value, match in [
        ('model_type', 'dinov2', "model_type='dinov2'; known are"),
        ('hidden_act', 'gelu_new', "hidden_act='gelu_new'; only 'gelu'"),
        ('layer_norm_eps', None, 'layer_norm_eps=None'),
        ('num_attention_heads', 5, 'num_heads=5 does not divide'),
    ]:
        with pytest.raises(ConfigError, match=f'folder: .*{match}'):
            config = options['config'] | {field: value}
            transformers.from_tensors(tensors, 'folder', config=config)
    with pytest.raises(ConfigError, match=r'needs its config\.json'):
        transformers.from_tensors(tensors, 'folder')


@pytest.mark.parametrize(
    ('preprocessor', 'want'),
    [
        # google/vit-base-patch16-224, microsoft/resnet-50 and facebook/dinov2-base.
        ({'size': 224, 'resample': 2}, (224, 1.0, 'bilinear')),
        (
            {'size': {'shortest_edge': 224}, 'crop_pct': 0.875, 'resample': 3},
            (224, 0.875, 'bicubic'),
        ),
        (
            {
                'size': {'shortest_edge': 256},
                'do_center_crop': True,
                'crop_size': {'height': 224, 'width': 224},
                'resample': 3,
            },
            (224, 0.875, 'bicubic'),
        ),
        ({'size': {'height': 224, 'width': 384}}, 'not that of a square'),
        ({'size': 224, 'resample': 1}, 'resample=1'),
        ({'size': 224, 'do_rescale': False}, '255'),
    ],
)
def test_the_preprocessors_of_transformers(preprocessor, want):
    preprocessor = {'image_mean': [0.5] * 3, 'image_std': [0.4] * 3, **preprocessor}
    if isinstance(want, str):
        with pytest.raises(ConfigError, match=f'folder: preprocessor_config.json.*{want}'):
            transformers.preprocess_of(preprocessor, 3, 'folder')
        return
    found = transformers.preprocess_of(preprocessor, 3, 'folder')
    assert found == Preprocess(*want, True, (0.5,) * 3, (0.4,) * 3, 3)
