"""PyTorch's side of `gpu_step.py`: the same encoder, head, loss and kind of optimizer.

`channels_last`, autocast to bfloat16 and `torch.compile`: what a PyTorch user would switch on.
"""

import gc
import pathlib
import time
import traceback

import torch
import torchvision
from gpu_step import MEAN, STD, TEMPERATURE, WIDTHS, Case, alone, windows, write_kernels, write_row
from torch import nn
from torch.nn import functional

# Peak bfloat16 FLOP/s by device name, as in simclr_jax/tools/chips.py, which needs JAX.
PEAKS = {'NVIDIA H100 80GB HBM3': 989e12, 'NVIDIA H200': 989e12}


class Network(nn.Module):
    """Views `[pair, 2, height, width, 3]` uint8 to projections `[2 pairs, 128]`, interleaved."""

    def __init__(self, case: Case):
        super().__init__()
        self.encoder = encoder_of(case)
        width = WIDTHS[case.encoder]
        self.head = nn.Sequential(
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, 128, bias=False),
            nn.BatchNorm1d(128),
        )
        self.register_buffer('mean', 255 * torch.tensor(MEAN)[None, :, None, None])
        self.register_buffer('std', 255 * torch.tensor(STD)[None, :, None, None])

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        images = views.flatten(0, 1).permute(0, 3, 1, 2)  # in memory they stay channels-last
        return self.head(self.encoder((images.float() - self.mean) / self.std))


def encoder_of(case: Case) -> nn.Module:
    """torchvision's ResNet without its classifier, or timm's ViT with as many heads as ours."""
    if case.encoder.startswith('vit'):
        import timm

        return timm.models.vision_transformer.VisionTransformer(
            case.image_size, 16, num_classes=0, embed_dim=384, depth=12, num_heads=12
        )
    encoder = getattr(torchvision.models, case.encoder)()
    encoder.fc = nn.Identity()
    if case.image_size <= 32:
        encoder.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        encoder.maxpool = nn.Identity()
    return encoder


def nt_xent(projections: torch.Tensor) -> torch.Tensor:
    """NT-Xent of projections whose row `i` has its positive at `i ^ 1`, in float32."""
    z = functional.normalize(projections.float(), dim=1)
    logits = z @ z.T / TEMPERATURE
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(z), device=z.device) ^ 1)


def measure_torch(name: str, case: Case, out: pathlib.Path, lock: str) -> None:
    """Compiles PyTorch's step beside whoever measures, and measures it when its turn comes."""
    try:
        _measure(name, case, out, lock)
    finally:
        torch.compiler.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _measure(name: str, case: Case, out: pathlib.Path, lock: str) -> None:
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision('high')
    torch.manual_seed(0)
    network = Network(case).to(device, memory_format=torch.channels_last)
    kind = torch.optim.AdamW if case.optimizer == 'adamw' else torch.optim.SGD
    options = {'lr': 1e-4} if case.optimizer == 'adamw' else {'lr': 0.1, 'momentum': 0.9}
    optimizer = kind(network.parameters(), weight_decay=1e-6, fused=device == 'cuda', **options)
    shape = (case.pairs, 2, case.image_size, case.image_size, 3)
    views = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    @torch.compile
    def loss_of(views: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            projections = network(views)
        return nt_xent(projections)

    def step() -> torch.Tensor:
        loss = loss_of(views)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    def wait(loss: torch.Tensor) -> None:
        loss.detach()
        if device == 'cuda':
            torch.cuda.synchronize()

    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    wait(step())
    compiled = time.perf_counter() - start
    with alone(lock):
        seconds = windows(step, wait)
        cuda = device == 'cuda'
        kind = torch.cuda.get_device_name() if cuda else 'cpu'
        memory = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
        write_row(
            out,
            name,
            case,
            seconds,
            framework='torch',
            peak=PEAKS.get(kind),
            compile_seconds=f'{compiled:.1f}',
            memory_gib=f'{memory:.1f}',
            device=kind,
            versions=f'torch {torch.__version__}',
        )
        print(f'torch {name}: loss {step().item():.4f}', flush=True)
        try:
            _write_profile(out / f'kernels_torch_{name}.csv', step, wait, cuda)
        except Exception:  # a profile is not worth a figure
            traceback.print_exc()


def _write_profile(path: pathlib.Path, step, wait, cuda: bool) -> None:
    activities = torch.profiler.ProfilerActivity
    with torch.profiler.profile(
        activities=[activities.CUDA if cuda else activities.CPU]
    ) as profile:
        for _ in range(3):
            loss = step()
        wait(loss)
    kernels: dict[str, tuple[float, int]] = {}
    for event in profile.key_averages():
        time_us = event.self_device_time_total if cuda else event.self_cpu_time_total
        kernels[event.key] = (time_us / 1e3, event.count)
    write_kernels(path, kernels, 3)
