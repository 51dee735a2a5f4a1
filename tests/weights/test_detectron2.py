"""Exports for detectron2: the keys of MoCo's converter, and configs that detectron2 takes."""

import ast
import pathlib
import pickle
import re
import sys

import numpy as np
import pytest
import yaml

from simclr_jax.config import ConfigError
from simclr_jax.weights import (
    detectron2,
    detectron2_configs,
    exporting,
    formats,
)
from simclr_jax.weights.description import Architecture, Head, Preprocess, Weights

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from moco_converter import COUNTER, converted, unpickled
from random_weights import random_weights

IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}


def described(architecture, **preprocess):
    """An encoder without variables, for what only looks at what is said of it."""
    return Weights(architecture, Preprocess(64, **preprocess), {}, {})


def test_keys_are_those_of_torchvision_renamed_and_python_unpickles_them(tmp_path):
    weights = random_weights(Architecture('resnet50'))
    detectron2.write(weights, tmp_path)
    theirs = formats.module_of('torchvision').to_tensors(weights)
    parts = {f'module.encoder_q.{key}': _Tensor(value) for key, value in theirs.items()}
    want = converted({'state_dict': parts})['model']
    for options in ({}, {'encoding': 'latin1'}):
        found = pickle.loads((tmp_path / 'encoder.pkl').read_bytes(), **options)['model']
        assert found.keys() == want.keys() and len(want) == 318
        for key, value in want.items():
            assert found[key].dtype == (np.int64 if key.endswith(COUNTER) else np.float32)
            assert np.array_equal(found[key], value), key
    assert {'stem.conv1.norm.running_mean', 'res2.0.shortcut.weight'} <= want.keys()


class _Tensor:
    def __init__(self, value):
        self.value = value

    def numpy(self):
        return self.value


@pytest.mark.parametrize(
    ('architecture', 'match'),
    [
        (Architecture('vit_ti16'), 'vit_ti16; torchvision'),
        (Architecture('resnet_tiny'), 'resnet_tiny; torchvision'),
        (Architecture('resnet200'), 'resnet200; torchvision'),
        (Architecture('resnet18', stem='small'), "stem='small'"),
        (Architecture('resnet18', width=2), 'width=2 of resnet18'),
        (Architecture('resnet50', padding='same'), "padding='same'"),
        (Architecture('resnet50', padding='simclr'), "padding='simclr'"),
        (Architecture('resnet50', sk_ratio=0.0625), 'selective kernels'),
        (Architecture('resnet18', head=Head(8, 8), head_layers=1), 'an encoder of which head_lay'),
    ],
)
def test_what_detectron2_cannot_express(architecture, match, tmp_path):
    weights = described(architecture)
    with pytest.raises(ConfigError, match=f'--format=detectron2: cannot express {match}'):
        detectron2.check(weights)
    with pytest.raises(ConfigError, match='--format=detectron2: cannot express'):
        exporting.export(weights, 'detectron2', tmp_path / 'made', None, '')
    assert not list(tmp_path.iterdir())


# The fields of detectron2/config/defaults.py that the configs set, and their defaults: a field is
# known, and its type may not change, but for lists and tuples.
DEFAULTS = {
    'VERSION': 2,
    'MODEL.META_ARCHITECTURE': 'GeneralizedRCNN',
    'MODEL.WEIGHTS': '',
    'MODEL.MASK_ON': False,
    'MODEL.PIXEL_MEAN': [103.530, 116.280, 123.675],
    'MODEL.PIXEL_STD': [1.0, 1.0, 1.0],
    'MODEL.BACKBONE.NAME': 'build_resnet_backbone',
    'MODEL.BACKBONE.FREEZE_AT': 2,
    'MODEL.RESNETS.DEPTH': 50,
    'MODEL.RESNETS.OUT_FEATURES': ['res4'],
    'MODEL.RESNETS.NORM': 'FrozenBN',
    'MODEL.RESNETS.WIDTH_PER_GROUP': 64,
    'MODEL.RESNETS.STRIDE_IN_1X1': True,
    'MODEL.RESNETS.RES2_OUT_CHANNELS': 256,
    'MODEL.RESNETS.STEM_OUT_CHANNELS': 64,
    'MODEL.FPN.IN_FEATURES': [],
    'MODEL.FPN.NORM': '',
    'MODEL.ANCHOR_GENERATOR.SIZES': [[32, 64, 128, 256, 512]],
    'MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS': [[0.5, 1.0, 2.0]],
    'MODEL.RPN.IN_FEATURES': ['res4'],
    'MODEL.RPN.PRE_NMS_TOPK_TRAIN': 12000,
    'MODEL.RPN.PRE_NMS_TOPK_TEST': 6000,
    'MODEL.RPN.POST_NMS_TOPK_TRAIN': 2000,
    'MODEL.RPN.POST_NMS_TOPK_TEST': 1000,
    'MODEL.ROI_HEADS.NAME': 'Res5ROIHeads',
    'MODEL.ROI_HEADS.NUM_CLASSES': 80,
    'MODEL.ROI_HEADS.IN_FEATURES': ['res4'],
    'MODEL.ROI_BOX_HEAD.NAME': '',
    'MODEL.ROI_BOX_HEAD.NUM_CONV': 0,
    'MODEL.ROI_BOX_HEAD.NUM_FC': 0,
    'MODEL.ROI_BOX_HEAD.NORM': '',
    'MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION': 14,
    'MODEL.ROI_MASK_HEAD.NAME': 'MaskRCNNConvUpsampleHead',
    'MODEL.ROI_MASK_HEAD.NUM_CONV': 0,
    'MODEL.ROI_MASK_HEAD.NORM': '',
    'MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION': 14,
    'INPUT.FORMAT': 'BGR',
    'INPUT.MIN_SIZE_TRAIN': (800,),
    'INPUT.MIN_SIZE_TEST': 800,
    'DATASETS.TRAIN': (),
    'DATASETS.TEST': (),
    'SOLVER.IMS_PER_BATCH': 16,
    'SOLVER.BASE_LR': 0.001,
    'SOLVER.STEPS': (30000,),
    'SOLVER.MAX_ITER': 40000,
    'SOLVER.WARMUP_ITERS': 1000,
    'TEST.PRECISE_BN.ENABLED': False,
}

# Files of facebookresearch/moco, detection/configs: Base-RCNN-C4-BN.yaml,
MOCO_BASE = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  RPN: {PRE_NMS_TOPK_TEST: 6000, POST_NMS_TOPK_TEST: 1000}
  ROI_HEADS: {NAME: Res5ROIHeadsExtraNorm}
  BACKBONE: {FREEZE_AT: 0}
  RESNETS: {NORM: naiveSyncBN}
TEST: {PRECISE_BN: {ENABLED: true}}
SOLVER: {IMS_PER_BATCH: 16, BASE_LR: 0.02}
"""
# pascal_voc_R_50_C4_24k.yaml, coco_R_50_C4_2x.yaml,
MOCO_VOC = """
MODEL: {MASK_ON: false, ROI_HEADS: {NUM_CLASSES: 20}}
INPUT:
  MIN_SIZE_TRAIN: [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
  MIN_SIZE_TEST: 800
DATASETS: {TRAIN: [voc_2007_trainval, voc_2012_trainval], TEST: [voc_2007_test]}
SOLVER: {STEPS: [18000, 22000], MAX_ITER: 24000, WARMUP_ITERS: 100}
"""
MOCO_COCO = """
MODEL: {MASK_ON: true}
INPUT: {MIN_SIZE_TRAIN: [640, 672, 704, 736, 768, 800], MIN_SIZE_TEST: 800}
DATASETS: {TRAIN: [coco_2017_train], TEST: [coco_2017_val]}
SOLVER: {STEPS: [120000, 160000], MAX_ITER: 180000}
"""
# and what the files *_moco.yaml, and PyContrast's *_infomin.yaml, add.
MOCO_PIXELS = """
MODEL:
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS: {STRIDE_IN_1X1: false}
INPUT: {FORMAT: RGB}
"""
# configs/Base-RCNN-FPN.yaml of facebookresearch/detectron2.
FPN_BASE = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS: {OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5]}
  ANCHOR_GENERATOR:
    SIZES: [[32], [64], [128], [256], [512]]
    ASPECT_RATIOS: [[0.5, 1.0, 2.0]]
  RPN:
    IN_FEATURES: [p2, p3, p4, p5, p6]
    PRE_NMS_TOPK_TRAIN: 2000
    PRE_NMS_TOPK_TEST: 1000
    POST_NMS_TOPK_TRAIN: 1000
    POST_NMS_TOPK_TEST: 1000
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5]}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 4, POOLER_RESOLUTION: 14}
DATASETS: {TRAIN: [coco_2017_train], TEST: [coco_2017_val]}
SOLVER: {IMS_PER_BATCH: 16, BASE_LR: 0.02, STEPS: [60000, 80000], MAX_ITER: 90000}
INPUT: {MIN_SIZE_TRAIN: [640, 672, 704, 736, 768, 800]}
"""
# pycontrast/detection/configs/R_50_FPN_1x.yaml of HobbitLong/PyContrast.
FPN_1X = """
MODEL:
  MASK_ON: true
  BACKBONE: {FREEZE_AT: 0}
  RESNETS: {DEPTH: 50, NORM: SyncBN}
  FPN: {NORM: SyncBN}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_CONV: 4, NUM_FC: 1, NORM: SyncBN}
  ROI_MASK_HEAD: {NORM: SyncBN}
TEST: {PRECISE_BN: {ENABLED: true}}
SOLVER: {STEPS: [60000, 80000], MAX_ITER: 90000}
"""
PUBLISHED = {
    'voc_c4.yaml': (MOCO_BASE, MOCO_VOC, MOCO_PIXELS),
    'coco_c4.yaml': (MOCO_BASE, MOCO_COCO, MOCO_PIXELS),
    'coco_fpn.yaml': (FPN_BASE, FPN_1X, MOCO_PIXELS),
}


def fields(tree, prefix=''):
    found = {}
    for key, value in tree.items():
        found |= (
            fields(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
        )
    return found


def read(configs):
    """Returns the fields of each config, once it was text."""
    texts = {name: detectron2_configs.text(name, tree) for name, tree in configs.items()}
    return {name: fields(yaml.safe_load(text)) for name, text in texts.items()}


def test_configs_are_the_published_ones():
    """All fields, those that nothing says at their defaults, but for the file of weights."""
    folder = 'mes "poids" 1: é'
    found = read(
        detectron2_configs.configs(described(Architecture('resnet50'), **IMAGENET), folder)
    )
    assert found.keys() == PUBLISHED.keys()
    for name, parts in PUBLISHED.items():
        want = dict(DEFAULTS)
        for part in parts:
            want |= fields(yaml.safe_load(part))
        want['MODEL.WEIGHTS'] = f'{folder}/encoder.pkl'
        made = DEFAULTS | found[name]
        assert made.keys() == want.keys()
        for key, value in want.items():
            value = list(value) if isinstance(value, tuple) else value
            made[key] = list(made[key]) if isinstance(made[key], tuple) else made[key]
            assert made[key] == value, (name, key)


@pytest.mark.parametrize(
    ('architecture', 'network', 'names'),
    [
        (Architecture('resnet18'), [18, 64, 64, 64], ['coco_fpn.yaml']),
        (Architecture('resnet34'), [34, 64, 64, 64], ['coco_fpn.yaml']),
        (Architecture('resnet101'), [101, 64, 256, 64], list(PUBLISHED)),
        (Architecture('resnet50', width=2), [50, 128, 512, 128], list(PUBLISHED)),
    ],
)
def test_configs_have_the_encoder_and_types_that_detectron2_takes(architecture, network, names):
    weights = described(architecture, mean=(0.0,), std=(1.0,))
    found = read(detectron2_configs.configs(weights, 'weights'))
    assert list(found) == names
    for name, made in found.items():
        keys = ('DEPTH', 'STEM_OUT_CHANNELS', 'RES2_OUT_CHANNELS', 'WIDTH_PER_GROUP')
        assert [made[f'MODEL.RESNETS.{key}'] for key in keys] == network
        assert made['MODEL.RESNETS.STRIDE_IN_1X1'] is False
        assert made['MODEL.PIXEL_MEAN'] == [0.0] * 3 and made['MODEL.PIXEL_STD'] == [255.0] * 3
        assert made['INPUT.FORMAT'] == 'RGB'
        for key, value in made.items():
            kinds = (list, tuple) if isinstance(DEFAULTS[key], tuple) else (type(DEFAULTS[key]),)
            assert isinstance(value, kinds), (name, key)


def test_an_export_has_configs_and_says_how_they_are_used(tmp_path, monkeypatch):
    """Of grey pictures, which detectron2 reads as grey."""
    monkeypatch.setattr(formats, 'not_installed', lambda packages: list(packages))
    place = tmp_path / 'made'
    weights = random_weights(Architecture('resnet18'), channels=1, mean=(0.4,), std=(0.2,))
    exporting.export(weights, 'detectron2', place, None, '')
    assert unpickled(place)['model']['stem.conv1.weight'].shape == (64, 1, 7, 7)
    assert {path.name for path in place.iterdir()} == {'README.md', 'encoder.pkl', 'coco_fpn.yaml'}
    made = fields(yaml.safe_load((place / 'coco_fpn.yaml').read_text()))
    assert made['MODEL.WEIGHTS'] == 'made/encoder.pkl'
    assert made['INPUT.FORMAT'] == 'L'
    assert (made['MODEL.PIXEL_MEAN'], made['MODEL.PIXEL_STD']) == ([102.0], [51.0])
    readme = (place / 'README.md').read_text()
    assert re.findall(r'--config-file (\S+)', readme) == ['made/coco_fpn.yaml']
    assert 'no C4 config for resnet18' in readme
    # What is there is an export's, so that it can be replaced.
    assert exporting.checked_place(str(place), overwrite=True) == place


def test_every_config_is_in_the_readme():
    weights = described(Architecture('resnet50'))
    text = '\n'.join(detectron2.sections(weights, 'made'))
    named = re.findall(r'--config-file made/(\S+)', text)
    assert sorted(named) == sorted(detectron2_configs.NAMES) == sorted(PUBLISHED)
    (lines,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    assert 'Res5ROIHeadsExtraNorm' in {
        node.name for node in ast.walk(ast.parse(lines)) if isinstance(node, ast.ClassDef)
    }
