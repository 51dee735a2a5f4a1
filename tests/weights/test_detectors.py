"""Detectors of detectron2 and of torchvision on our encoders, and files that MoCo writes.

detectron2 is installed from its repository and not from PyPI. Where it is there, it loads what was
written, and trains a step.
"""

import pathlib
import re
import sys

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="needs PyTorch: pip install -e '.[export]'")
torchvision = pytest.importorskip('torchvision', reason='needs torchvision')

from simclr_jax.weights import (  # noqa: E402
    detectron2,
    detectron2_configs,
    exporting,
    layouts,
    parity,
)
from simclr_jax.weights import torchvision as torchvision_layout  # noqa: E402
from simclr_jax.weights.description import Architecture  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from moco_converter import COUNTER, converted, unpickled  # noqa: E402
from random_weights import random_weights  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}


def moco_checkpoint(name, version):
    """What main_moco.py saves after 7 steps, nothing in it as an initialization leaves it."""
    torch.manual_seed(version)
    model = getattr(torchvision.models, name)()
    dim = model.fc.in_features
    model.fc = torch.nn.Linear(dim, 128)
    if version == 2:
        model.fc = torch.nn.Sequential(torch.nn.Linear(dim, dim), torch.nn.ReLU(), model.fc)
    state = {}
    for key, value in model.state_dict().items():
        if key.endswith(COUNTER):
            state[key] = torch.tensor(7)
        else:
            state[key] = value + torch.rand(value.shape) * 0.1
    parts = {f'module.encoder_q.{key}': value for key, value in state.items()}
    parts |= {f'module.encoder_k.{key}': value * 0.9 for key, value in state.items()}
    parts |= {'module.queue': torch.randn(128, 64), 'module.queue_ptr': torch.zeros(1).long()}
    return {'epoch': 200, 'arch': name, 'state_dict': parts, 'optimizer': {}}


@pytest.mark.parametrize(
    ('name', 'version', 'tensors'),
    [('resnet18', 2, 120), pytest.param('resnet50', 1, 318, marks=pytest.mark.slow)],
)
def test_a_moco_file_becomes_what_its_converter_makes(name, version, tensors, tmp_path):
    checkpoint = moco_checkpoint(name, version)
    torch.save(checkpoint, tmp_path / 'moco.pth.tar')
    detectron2.write(layouts.read(tmp_path / 'moco.pth.tar'), tmp_path)
    want, found = converted(checkpoint), unpickled(tmp_path)

    assert found.keys() == want.keys()
    assert found['matching_heuristics'] is True
    # It is shown while loading; 'Caffe2' alone means something, another naming.
    assert found['__author__'] == 'simclr_jax'

    # The projection head stays behind; that is all of it.
    head = {key for key in want['model'] if key.startswith('stem.fc.')}
    assert len(head) == 2 * version
    assert found['model'].keys() == want['model'].keys() - head
    assert len(found['model']) == tensors
    for key, value in found['model'].items():
        theirs = want['model'][key]
        assert (value.shape, value.dtype) == (theirs.shape, theirs.dtype), key
        # A count of steps is no part of an encoder, and counts for nothing.
        assert np.array_equal(value, 0 * theirs if key.endswith(COUNTER) else theirs), key


@pytest.mark.slow
def test_the_docs_train_a_step_of_torchvisions_detector(tmp_path, monkeypatch):
    """The lines of docs/dense.md as they stand there, on an export of ours."""
    pytest.importorskip('safetensors')
    section = (ROOT / 'docs/dense.md').read_text().partition('### torchvision')[2]
    (code,) = re.findall(r'```python\n(.*?)```', section, re.DOTALL)
    weights = random_weights(Architecture('resnet18'), 64, **IMAGENET)
    (tmp_path / 'weights').mkdir()
    torchvision_layout.write(weights, tmp_path / 'weights')
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    made = {}
    exec(compile(code, 'dense.md', 'exec'), made)
    assert all(torch.isfinite(loss) for loss in made['losses'].values())
    assert {*made['losses']} >= {'loss_classifier', 'loss_box_reg', 'loss_objectness'}
    transform = made['model'].transform
    assert (transform.image_mean, transform.image_std) == tuple(map(list, IMAGENET.values()))
    body = made['backbone'].body.state_dict()
    tensors = torchvision_layout.to_tensors(weights)
    # Statistics are kept as they were exported, and a step has changed what is trained.
    assert np.array_equal(body['bn1.running_mean'].numpy(), tensors['bn1.running_mean'])
    change = np.abs(body['conv1.weight'].numpy() - tensors['conv1.weight']).max()
    assert 0 < change < 0.1
    # Before that step, the backbone computes what our encoder does.
    network = made['backbone'].body.eval()
    network.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()})
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2)))['3'].mean((2, 3))
    assert parity.largest_difference(theirs.numpy(), parity.features(weights, images)) < 1e-4


@pytest.fixture(scope='module')
def real():
    reason = 'is installed from its repository: no package of PyPI has it'
    return pytest.importorskip('detectron2', reason=reason)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('architecture', 'channels'),
    [
        (Architecture('resnet18'), 3),
        (Architecture('resnet34'), 1),
        (Architecture('resnet50', width=2), 3),
    ],
)
def test_detectron2_computes_the_same(architecture, channels, tmp_path, real):
    weights = random_weights(architecture, 64, channels=channels, mean=(0.4,), std=(0.3,))
    pictures = parity.pictures_for(weights.preprocess)
    proof = exporting.export(weights, 'detectron2', tmp_path / 'made', *pictures)
    assert re.search(r'Compared with simclr_jax: largest relative difference \d\.\de-0[5-9]', proof)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # of detectron2 about PyTorch
@pytest.mark.parametrize('name', detectron2_configs.NAMES)
def test_detectron2_trains_a_step_by_the_config(name, tmp_path, real, monkeypatch):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'made'
    folder.mkdir()
    weights = random_weights(Architecture('resnet50'), 64, **IMAGENET)
    detectron2.write(weights, folder)
    if 'Res5ROIHeadsExtraNorm' not in ROI_HEADS_REGISTRY:
        (lines,) = re.findall(
            r'```python\n(.*?)```', '\n'.join(detectron2.sections(weights, 'made')), re.DOTALL
        )
        exec(lines, {'__name__': 'train_net'})
    cfg = get_cfg()
    cfg.merge_from_file(f'made/{name}')
    # One processor has no other to synchronize with, and little time.
    cfg.merge_from_list(['MODEL.DEVICE', 'cpu', 'MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE', 8])
    for part in ('RESNETS', 'FPN', 'ROI_BOX_HEAD', 'ROI_MASK_HEAD'):
        if cfg.MODEL[part].NORM == 'SyncBN':
            cfg.MODEL[part].NORM = 'BN'
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    state, tensors = model.state_dict(), unpickled(folder)['model']
    pyramid = name == 'coco_fpn.yaml'
    for key, value in tensors.items():
        body = 'backbone.bottom_up.' if pyramid else 'backbone.'
        place = 'roi_heads.' if key.startswith('res5') and not pyramid else body
        assert np.array_equal(state[place + key].numpy(), value), key
    assert model.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert ('roi_heads.res5.norm.weight' in state) != pyramid

    target = Instances((64, 96), gt_boxes=Boxes(torch.tensor([[8.0, 8, 60, 50]])))
    target.gt_classes = torch.tensor([3])
    target.gt_masks = BitMasks(torch.ones(1, 64, 96, dtype=torch.bool))
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)
    with EventStorage():
        losses = model.train()([{'image': image, 'instances': target}] * 2)
    assert len(losses) == 4 + cfg.MODEL.MASK_ON
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(p.requires_grad for p in model.parameters())  # FREEZE_AT is 0
