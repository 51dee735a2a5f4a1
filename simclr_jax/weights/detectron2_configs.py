"""Configs of detectron2 for an exported encoder: its train_net.py takes them by --config-file.

Each file is whole: it needs no other one by `_BASE_`. The numbers are published ones, with the
encoder's own depth, width and normalization of pixels:

* `voc_c4.yaml` and `coco_c4.yaml`: facebookresearch/moco,
  `detection/configs/pascal_voc_R_50_C4_24k_moco.yaml` and `coco_R_50_C4_2x_moco.yaml`;
* `coco_fpn.yaml`: HobbitLong/PyContrast, `pycontrast/detection/configs/R_50_FPN_1x_infomin.yaml`,
  over detectron2's `configs/Base-RCNN-FPN.yaml`.

detectron2's C4 heads build their res5 of bottlenecks, whatever the depth (`Res5ROIHeads`), so there
is no C4 file for an encoder of basic blocks.
"""

import json
from collections.abc import Iterator
from typing import Any

from simclr_jax.models.factory import RESNETS
from simclr_jax.models.resnet import BasicBlock
from simclr_jax.weights import torch_layout
from simclr_jax.weights.description import Weights

_SOURCES = {
    'voc_c4.yaml': 'facebookresearch/moco: detection/configs/pascal_voc_R_50_C4_24k_moco.yaml',
    'coco_c4.yaml': 'facebookresearch/moco: detection/configs/coco_R_50_C4_2x_moco.yaml',
    'coco_fpn.yaml': 'HobbitLong/PyContrast: pycontrast/detection/configs/R_50_FPN_1x_infomin.yaml',
}
NAMES = tuple(_SOURCES)
_STAGES = ['res2', 'res3', 'res4', 'res5']
_COCO_SIZES = [640, 672, 704, 736, 768, 800]
# Of MoCo's detection/train_net.py; detectron2 has no such head.
_EXTRA_NORM = [
    'from detectron2.layers import get_norm',
    'from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads',
    '',
    '@ROI_HEADS_REGISTRY.register()',
    'class Res5ROIHeadsExtraNorm(Res5ROIHeads):',
    '    def __init__(self, cfg, input_shape):',
    '        super().__init__(cfg, input_shape)',
    '        channels = self.res5[-1].out_channels',
    "        self.res5.add_module('norm', get_norm(cfg.MODEL.RESNETS.NORM, channels))",
]


def configs(weights: Weights, folder: str) -> dict[str, dict[str, Any]]:
    """Returns the configs that the encoder can have, by the name of their file.

    Args:
      weights: an encoder that detectron2 can express.
      folder: the name of the export's folder, as `MODEL.WEIGHTS` begins.
    """
    made = {'coco_fpn.yaml': _with_pyramid()}
    if not is_basic(weights):
        made = {'voc_c4.yaml': _voc_c4(), 'coco_c4.yaml': _coco_c4()} | made
    return {name: _completed(tree, weights, folder) for name, tree in made.items()}


def is_basic(weights: Weights) -> bool:
    """Whether the encoder has basic blocks, as ResNet-18 and ResNet-34 have."""
    return RESNETS[weights.architecture.encoder]['block'] is BasicBlock


def resnet_fields(weights: Weights) -> dict[str, Any]:
    """Returns the fields of `MODEL.RESNETS` that say which network it is."""
    architecture = weights.architecture
    width = 64 * architecture.width
    return {
        'DEPTH': int(architecture.encoder.removeprefix('resnet')),
        'STEM_OUT_CHANNELS': width,
        'RES2_OUT_CHANNELS': width if is_basic(weights) else 4 * width,
        'WIDTH_PER_GROUP': width,
        'STRIDE_IN_1X1': False,
    }


def pixel_fields(weights: Weights) -> dict[str, list[float]]:
    """Returns `PIXEL_MEAN` and `PIXEL_STD`, of pixels in 0..255, one number a channel."""
    preprocess = weights.preprocess
    mean, std = (
        [round(255 * value, 6) for value in torch_layout.per_channel(values, preprocess.channels)]
        for values in (preprocess.mean, preprocess.std)
    )
    return {'PIXEL_MEAN': mean, 'PIXEL_STD': std}


def picture_format(weights: Weights) -> str:
    """Returns `INPUT.FORMAT`."""
    return 'RGB' if weights.preprocess.channels == 3 else 'L'


def _c4() -> dict[str, Any]:
    return {
        'MODEL': {
            'META_ARCHITECTURE': 'GeneralizedRCNN',
            'BACKBONE': {'FREEZE_AT': 0},
            'RESNETS': {'NORM': 'naiveSyncBN'},
            'RPN': {'PRE_NMS_TOPK_TEST': 6000, 'POST_NMS_TOPK_TEST': 1000},
            'ROI_HEADS': {'NAME': 'Res5ROIHeadsExtraNorm'},
        },
        'SOLVER': {'IMS_PER_BATCH': 16, 'BASE_LR': 0.02},
        'TEST': {'PRECISE_BN': {'ENABLED': True}},
    }


def _voc_c4() -> dict[str, Any]:
    tree = _c4()
    tree['MODEL'] |= {'MASK_ON': False}
    tree['MODEL']['ROI_HEADS'] |= {'NUM_CLASSES': 20}
    tree['INPUT'] = {'MIN_SIZE_TRAIN': list(range(480, 801, 32)), 'MIN_SIZE_TEST': 800}
    tree['DATASETS'] = {
        'TRAIN': ['voc_2007_trainval', 'voc_2012_trainval'],
        'TEST': ['voc_2007_test'],
    }
    tree['SOLVER'] |= {'STEPS': [18000, 22000], 'MAX_ITER': 24000, 'WARMUP_ITERS': 100}
    return tree


def _coco_c4() -> dict[str, Any]:
    tree = _c4()
    tree['MODEL'] |= {'MASK_ON': True}
    tree['INPUT'] = {'MIN_SIZE_TRAIN': _COCO_SIZES, 'MIN_SIZE_TEST': 800}
    tree['DATASETS'] = {'TRAIN': ['coco_2017_train'], 'TEST': ['coco_2017_val']}
    tree['SOLVER'] |= {'STEPS': [120000, 160000], 'MAX_ITER': 180000}
    return tree


def _with_pyramid() -> dict[str, Any]:
    return {
        'MODEL': {
            'META_ARCHITECTURE': 'GeneralizedRCNN',
            'MASK_ON': True,
            'BACKBONE': {'NAME': 'build_resnet_fpn_backbone', 'FREEZE_AT': 0},
            'RESNETS': {'OUT_FEATURES': _STAGES, 'NORM': 'SyncBN'},
            'FPN': {'IN_FEATURES': _STAGES, 'NORM': 'SyncBN'},
            'ANCHOR_GENERATOR': {
                'SIZES': [[32], [64], [128], [256], [512]],
                'ASPECT_RATIOS': [[0.5, 1.0, 2.0]],
            },
            'RPN': {
                'IN_FEATURES': ['p2', 'p3', 'p4', 'p5', 'p6'],
                'PRE_NMS_TOPK_TRAIN': 2000,
                'PRE_NMS_TOPK_TEST': 1000,
                'POST_NMS_TOPK_TRAIN': 1000,
                'POST_NMS_TOPK_TEST': 1000,
            },
            'ROI_HEADS': {'NAME': 'StandardROIHeads', 'IN_FEATURES': ['p2', 'p3', 'p4', 'p5']},
            'ROI_BOX_HEAD': {
                'NAME': 'FastRCNNConvFCHead',
                'NUM_CONV': 4,
                'NUM_FC': 1,
                'NORM': 'SyncBN',
                'POOLER_RESOLUTION': 7,
            },
            'ROI_MASK_HEAD': {
                'NAME': 'MaskRCNNConvUpsampleHead',
                'NUM_CONV': 4,
                'NORM': 'SyncBN',
                'POOLER_RESOLUTION': 14,
            },
        },
        'INPUT': {'MIN_SIZE_TRAIN': _COCO_SIZES},
        'DATASETS': {'TRAIN': ['coco_2017_train'], 'TEST': ['coco_2017_val']},
        'SOLVER': {
            'IMS_PER_BATCH': 16,
            'BASE_LR': 0.02,
            'STEPS': [60000, 80000],
            'MAX_ITER': 90000,
        },
        'TEST': {'PRECISE_BN': {'ENABLED': True}},
    }


def _completed(tree: dict[str, Any], weights: Weights, folder: str) -> dict[str, Any]:
    """Adds what follows from the encoder, and the version that detectron2 wants to be told."""
    model = {'WEIGHTS': f'{folder}/encoder.pkl', **pixel_fields(weights), **tree['MODEL']}
    model['RESNETS'] = resnet_fields(weights) | model['RESNETS']
    inputs = {'FORMAT': picture_format(weights), **tree['INPUT']}
    return {'VERSION': 2, **tree, 'MODEL': model, 'INPUT': inputs}


def text(name: str, tree: dict[str, Any]) -> str:
    """Returns a config as YAML."""
    head = [
        f'# The numbers of {_SOURCES[name]},',
        '# with the depth, the width and the normalization of pixels of encoder.pkl.',
    ]
    return '\n'.join([*head, *_yaml(tree)]) + '\n'


def _yaml(tree: dict[str, Any], indent: str = '') -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield f'{indent}{key}:'
            yield from _yaml(value, f'{indent}  ')
        else:
            yield f'{indent}{key}: {json.dumps(value, ensure_ascii=False)}'


def sections(weights: Weights, folder: str) -> list[str]:
    """Returns what README.md says of training a detector."""
    command = 'python train_net.py --num-gpus 8 --config-file'
    blocks = [
        '## Train a detector',
        'From the folder that this one is in, with the `tools/train_net.py` of detectron2 and '
        'COCO where its `datasets/README.md` says, a Mask R-CNN with a feature pyramid:',
        f'```\n{command} {folder}/coco_fpn.yaml\n```',
        'The numbers are for 16 pictures a step on 8 GPUs. For another number of GPUs add '
        '`SOLVER.REFERENCE_WORLD_SIZE 8`: detectron2 then scales pictures, rate and steps. For '
        'pictures of your own, register them as its `docs/tutorials/datasets.md` says, and name '
        'them and the number of classes: `DATASETS.TRAIN "(\'mine\',)" DATASETS.TEST '
        '"(\'mine_test\',)" MODEL.ROI_HEADS.NUM_CLASSES 7`, with `MODEL.MASK_ON False` where there '
        'are boxes and no masks.',
    ]
    if is_basic(weights):
        return [
            *blocks,
            f'There is no C4 config for {weights.architecture.encoder}: the C4 heads of detectron2 '
            'have bottlenecks, into which its basic blocks cannot be loaded.',
        ]
    return [
        *blocks,
        "MoCo's protocol for VOC and COCO, Faster and Mask R-CNN on res4 (C4):",
        f'```\n{command} {folder}/voc_c4.yaml\n{command} {folder}/coco_c4.yaml\n```',
        "These have MoCo's normalization after res5. It is no part of detectron2; put these lines "
        'below the imports of `train_net.py`:',
        '\n'.join(['```python', *_EXTRA_NORM, '```']),
    ]
