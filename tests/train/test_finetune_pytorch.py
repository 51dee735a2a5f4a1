"""Twenty steps of fine-tuning equal PyTorch's, on the same weights and batches.

Our side is the train step of a run, built from a config; theirs is torchvision's ResNet-18 or
timm's ViT-S with PyTorch's own optimizers, and SimCLR's LARS. What is compared is the loss in
training mode: the running averages of batch normalization, where PyTorch's variance is the unbiased
one and ours is not, are seen by it in frozen stages alone, which leave them as they are.
"""

import dataclasses
import functools
import math
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np
import pytest

from simclr_jax import parallel
from simclr_jax.config import default
from simclr_jax.data.sources import Source
from simclr_jax.train.setup import Run, assemble
from simclr_jax.weights import timm as timm_layout
from simclr_jax.weights import torchvision as torchvision_layout
from simclr_jax.weights.description import Architecture, Head, Weights

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'weights'))
from random_weights import random_weights

torch = pytest.importorskip('torch', reason="needs PyTorch: pip install -e '.[export]'")
torchvision = pytest.importorskip('torchvision', reason='has their ResNet-18')
timm = pytest.importorskip('timm', reason='has their ViT-S')

STEPS, WARMUP, BATCH, SIZE, CLASSES = 20, 4, 8, 48, 5
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
RESNET = Architecture('resnet18')
VIT = Architecture('vit_s16', num_heads=6, positions='learned')
# SimCLR v2's projection head, of which fine-tuning keeps the first layer.
PROJECTED = Architecture('resnet18', head=Head(64, 32, 3, output_norm='scale_only'))


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Four batches, five times each: uint8 `[step, n, side, side, 3]`, labels `[step, n]`.

    Each class has a pattern of coarse patches of its own, under noise.
    """
    random = np.random.default_rng(0)
    patterns = random.uniform(0, 255, (CLASSES, 6, 6, 3)).repeat(8, axis=1).repeat(8, axis=2)
    labels = random.integers(0, CLASSES, (4, BATCH)).astype(np.int32)
    noise = random.normal(0, 40, (4, BATCH, SIZE, SIZE, 3))
    images = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
    return np.tile(images, (5, 1, 1, 1, 1)), np.tile(labels, (5, 1))


IMAGES, LABELS = pictures()


def run_of(weights: Weights, optimizer: dict, finetune: dict) -> Run:
    architecture, config = weights.architecture, default()
    config.method, config.batch_size, config.epochs = 'finetune', BATCH, 5.0
    config.data.image_size, config.data.mean, config.data.std = SIZE, MEAN, STD
    config.model.encoder, config.model.stem = architecture.encoder, architecture.stem
    config.model.num_heads, config.model.positions = architecture.num_heads, architecture.positions
    config.finetune.head_init = 'normal'
    config.finetune.head_layers = 1 if architecture.head else 0
    config.finetune.update(finetune)
    config.optimizer.update({'learning_rate_scaling': 'none', 'warmup_epochs': 1.0} | optimizer)
    names = tuple(map(str, range(CLASSES)))
    source = Source(lambda _: [], 4 * BATCH, (SIZE, SIZE, 3), names)
    return assemble(config, parallel.make_mesh(jax.devices()[:1]), source, weights)


def our_losses(run: Run) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The loss of every step, and the classifier that it began with."""
    state = run.init()
    classifier = jax.tree.map(np.asarray, state.params['classifier'])
    program = run.lower_step().compile()
    losses = []
    for images, labels in zip(IMAGES, LABELS, strict=True):
        batch = parallel.put_batch({'image': images[:, None], 'label': labels}, run.mesh)
        state, metrics = program(state, batch)
        losses.append(float(metrics['loss'][0]))
    return np.array(losses), classifier


def model_of(weights: Weights, classifier: dict[str, np.ndarray]) -> torch.nn.Module:
    """Torchvision's or timm's module with these weights, in training mode."""
    architecture = weights.architecture
    if architecture.is_vit:
        model = timm.create_model('vit_small_patch16_224', num_classes=CLASSES, img_size=SIZE)
        tensors, head = timm_layout.to_tensors(weights), 'head'
    else:
        model = torchvision.models.resnet18(num_classes=CLASSES)
        tensors, head = torchvision_layout.to_tensors(encoder_of(weights)), 'fc'
    tensors = {name: torch.from_numpy(value) for name, value in tensors.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert {*missing} == {f'{head}.weight', f'{head}.bias'} and not unexpected
    kernel, bias = (torch.tensor(classifier[name]) for name in ('kernel', 'bias'))
    last = torch.nn.Linear(*kernel.shape)
    with torch.no_grad():
        last.weight.copy_(kernel.T)
        last.bias.copy_(bias)
    setattr(model, head, torch.nn.Sequential(*projection_of(weights), last))
    return model.train()


def encoder_of(weights: Weights) -> Weights:
    variables = {name: {'encoder': tree['encoder']} for name, tree in weights.variables.items()}
    architecture = dataclasses.replace(weights.architecture, head=None)
    return dataclasses.replace(weights, architecture=architecture, variables=variables)


def projection_of(weights: Weights) -> list[torch.nn.Module]:
    """The first layer of the projection head, with its normalization."""
    if weights.architecture.head is None:
        return []
    params = weights.variables['params']['projector']
    kernel = torch.from_numpy(params['dense1']['kernel'])
    dense = torch.nn.Linear(*kernel.shape, bias=False)
    norm = torch.nn.BatchNorm1d(kernel.shape[1])
    with torch.no_grad():
        dense.weight.copy_(kernel.T)
        norm.weight.copy_(torch.from_numpy(params['norm1']['scale']))
        norm.bias.copy_(torch.from_numpy(params['norm1']['bias']))
    return [dense, norm, torch.nn.ReLU()]


def their_losses(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, peak: float, smoothing: float
) -> np.ndarray:
    """The loss of every step; each group of the optimizer has `scale`, of the rate of the step."""
    dtype = next(model.parameters()).dtype
    mean, std = (torch.tensor(value, dtype=dtype).view(3, 1, 1) for value in (MEAN, STD))
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group['lr'] = rate(peak, step) * group['scale']
        images = torch.from_numpy(IMAGES[step]).permute(0, 3, 1, 2).to(dtype) / 255
        labels = torch.from_numpy(LABELS[step]).long()
        loss = torch.nn.functional.cross_entropy(
            model((images - mean) / std), labels, label_smoothing=smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def rate(peak: float, step: int) -> float:
    if step < WARMUP:
        return peak * step / WARMUP
    return peak * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2


class LARS(torch.optim.Optimizer):
    """`lars_optimizer.py` of google-research/simclr: classic momentum, eeta 0.001.

    timm's queries, keys and values are one tensor, and three here: each has a norm of its own.
    """

    def __init__(self, groups):
        defaults = {'lr': 0.0, 'weight_decay': 0.0, 'adapted': True, 'scale': 1.0, 'pieces': 1}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for w in group['params']:
                if w not in self.state:
                    self.state[w]['velocity'] = torch.zeros_like(w)
                tensors = w, w.grad, self.state[w]['velocity']
                for piece in zip(*(x.chunk(group['pieces']) for x in tensors), strict=True):
                    self._update(group, *piece)

    def _update(self, group, w, g, velocity):
        rate = group['lr']
        if group['adapted']:
            g = g + group['weight_decay'] * w
            w_norm, g_norm = w.norm(), g.norm()
            if w_norm > 0 and g_norm > 0:
                rate = rate * 0.001 * w_norm / g_norm
        velocity.mul_(0.9).add_(rate * g)
        w.sub_(velocity)


def is_head(name: str) -> bool:
    return name.startswith(('fc.', 'head.'))


def is_classifier(name: str, model: torch.nn.Module) -> bool:
    """Whether it is of the last layer, not of a projection head's."""
    last = len(model.fc if hasattr(model, 'fc') else model.head) - 1
    return is_head(name) and name.split('.')[1] == str(last)


def is_decayed(name: str, parameter: torch.nn.Parameter) -> bool:
    """As MAE's `util/lr_decay.py` and its `no_weight_decay` have it."""
    return parameter.ndim > 1 and name not in ('pos_embed', 'cls_token')


def layer_of(name: str) -> int:
    """`get_layer_id_for_vit` of MAE's `util/lr_decay.py`; a ResNet's layers are its stages."""
    if name in ('cls_token', 'pos_embed') or name.startswith(('patch_embed', 'conv1', 'bn1')):
        return 0
    if name.startswith('blocks'):
        return int(name.split('.')[1]) + 1
    return int(name[5]) if name.startswith('layer') else -1


def named(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def sgd(model: torch.nn.Module, nesterov: bool = False) -> torch.optim.Optimizer:
    """The classifier at ten times the rate of the encoder."""
    groups = [
        {'params': [p], 'scale': 10.0 if is_classifier(name, model) else 1.0}
        for name, p in named(model)
    ]
    return torch.optim.SGD(groups, lr=1, momentum=0.9, nesterov=nesterov, weight_decay=1e-3)


def lars(model: torch.nn.Module) -> torch.optim.Optimizer:
    """The classifier neither decays nor is adapted, `head_supervised` of SimCLR's `model.py`."""
    groups = [
        {
            'params': [p],
            'adapted': is_decayed(name, p) and not is_classifier(name, model),
            'pieces': 3 if '.qkv.' in name else 1,
        }
        for name, p in named(model)
    ]
    return LARS([group | {'weight_decay': 1e-4} for group in groups])


def adamw(model: torch.nn.Module, head: float = 1.0) -> torch.optim.Optimizer:
    """The classifier at `head` times the rate of the encoder's last layer."""
    layers = 1 + max(layer_of(name) for name, _ in model.named_parameters())
    groups = [
        {
            'params': [p],
            'scale': 0.65 ** (layers - (layers if layer_of(name) < 0 else layer_of(name)))
            * (head if is_classifier(name, model) else 1.0),
            'weight_decay': 0.05 if is_decayed(name, p) else 0.0,
        }
        for name, p in named(model)
    ]
    return torch.optim.AdamW(groups, lr=1)


def freeze(model: torch.nn.Module, parts: tuple[str, ...], norm: str = 'running') -> None:
    """Modules and parameters whose names begin so get no gradient."""
    for name, parameter in model.named_parameters():
        if name.startswith(parts):
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if name.startswith(parts) and norm == 'running':
            module.eval()


@dataclasses.dataclass(frozen=True)
class Case:
    architecture: Architecture
    optimizer: dict  # of our config
    theirs: Callable[[torch.nn.Module], torch.optim.Optimizer]
    finetune: dict = dataclasses.field(default_factory=dict)  # of our config
    freeze: Callable[[torch.nn.Module], None] = lambda model: None


def two_rates(architecture: Architecture, nesterov: bool = False, **fields) -> Case:
    # At ten times its rate, a ResNet's loss falls to 0.03, and PyTorch's own float32 and float64
    # are 9e-4 apart: rounding then grows from step to step, on either side.
    rate = 3e-3 if architecture.is_vit else 3e-4
    optimizer = {
        'name': 'sgd',
        'learning_rate': rate,
        'nesterov': nesterov,
        'weight_decay': 1e-3,
        'exclude_bias_and_norm': False,
    }
    theirs = functools.partial(sgd, nesterov=nesterov)
    return Case(architecture, optimizer, theirs, {'head_learning_rate': 10 * rate}, **fields)


def adaptive(architecture: Architecture) -> Case:
    # The classifier is not adapted: at a rate of 0.3, which an encoder bears, its loss explodes. At
    # 0.01 a ResNet's difference is 6e-5, of rounding that has grown; with a layer of a projection
    # head before the classifier it is far smaller, and so are the steps.
    rate = 0.01 if architecture.is_vit or architecture.head else 0.003
    optimizer = {'name': 'lars', 'learning_rate': rate, 'weight_decay': 1e-4}
    return Case(architecture, optimizer, lars)


def layer_wise(architecture: Architecture, **fields) -> Case:
    # Adam divides a gradient by its size: one that is rounding alone becomes a whole step. So at
    # 5e-5 a ResNet's difference is 7e-5. Its classifier bears a higher rate.
    rate, head = (3e-4, 1.0) if architecture.is_vit else (5e-6, 100.0)
    optimizer = {'name': 'adamw', 'learning_rate': rate, 'weight_decay': 0.05}
    finetune = {'layer_decay': 0.65, 'label_smoothing': 0.1, 'head_learning_rate': head * rate}
    theirs = functools.partial(adamw, head=head)
    return Case(architecture, optimizer, theirs, finetune, **fields)


def partly(case: Case, trained: str, parts: tuple[str, ...], norm: str = 'running') -> Case:
    finetune = case.finetune | {'trained': trained, 'frozen_norm': norm}
    theirs = functools.partial(freeze, parts=parts, norm=norm)
    return dataclasses.replace(case, finetune=finetune, freeze=theirs)


STEM, EMBEDDING = ('conv1', 'bn1'), ('cls_token', 'pos_embed', 'patch_embed')
CASES = {
    'resnet18-sgd': two_rates(RESNET),
    'resnet18-nesterov': two_rates(RESNET, nesterov=True),
    'resnet18-lars': adaptive(RESNET),
    'resnet18-adamw': layer_wise(RESNET),
    'resnet18 with a layer of the head-lars': adaptive(PROJECTED),
    'vit_s16-sgd': two_rates(VIT),
    'vit_s16-lars': adaptive(VIT),
    'vit_s16-adamw': layer_wise(VIT),
    'resnet18 from stage 3-sgd': partly(two_rates(RESNET), 'block3', (*STEM, 'layer1', 'layer2')),
    'resnet18 from stage 3, batch statistics-sgd': partly(
        two_rates(RESNET), 'block3', (*STEM, 'layer1', 'layer2'), norm='batch'
    ),
    'resnet18 frozen-sgd': partly(two_rates(RESNET), 'head', (*STEM, 'layer')),
    'vit_s16 from block 7-adamw': partly(
        layer_wise(VIT), 'block7', (*EMBEDDING, *(f'blocks.{i}.' for i in range(6)))
    ),
}


def losses_of(case: Case, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Ours, and theirs in the arithmetic of `dtype`."""
    weights = random_weights(case.architecture, size=SIZE, mean=MEAN, std=STD)
    found, classifier = our_losses(run_of(weights, case.optimizer, case.finetune))
    model = model_of(weights, classifier).to(dtype)
    case.freeze(model)
    smoothing = case.finetune.get('label_smoothing', 0.0)
    peak = case.optimizer['learning_rate']
    return found, their_losses(model, case.theirs(model), peak, smoothing)


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_twenty_steps_have_the_losses_of_pytorch(name):
    found, wanted = losses_of(CASES[name], torch.float32)
    print(f'{name}: largest difference {np.abs(found - wanted).max():.2g}')
    assert wanted[-4:].mean() < wanted[:4].mean() - 0.1  # something is learned
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
