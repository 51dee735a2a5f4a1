"""Encoders to other libraries and back, by real photographs: largest differences of features.

    python benchmarks/round_trips.py [--only=vit_s16]

needs the `export` extra and writes `results/round_trips.csv`, a row for an encoder and a library:

* `theirs`: our weights, loaded by the library in a process of its own, by the lines of the export's
  README.md, strictly. Largest over pictures of `max |theirs - ours| / max |ours|`.
* `ours`: the library's model, drawn anew and saved by the library itself, read by ours.
* `maps`: `Encoder.maps` of those against timm's `forward_features`.
* `back`: whether our weights, written in the layout and read again, have the same bits.

Weights start as their library starts them; then every statistic, scale and bias is drawn, so that
none is what an initialization leaves. Rows of other encoders stay as they are.
"""

import argparse
import csv
import dataclasses
import pathlib
import platform
import tempfile

import jax
import numpy as np
import timm
import torch

from simclr_jax.config import ConfigError
from simclr_jax.weights import exporting, formats, layouts, parity
from simclr_jax.weights import torchvision as torchvision_layout
from simclr_jax.weights.description import Architecture, Preprocess, Weights, flat
from simclr_jax.weights.encoder import Encoder

ENCODERS = {
    'resnet18': Architecture('resnet18'),
    'resnet34': Architecture('resnet34'),
    'resnet50': Architecture('resnet50'),
    'resnet101': Architecture('resnet101'),
    'resnet18, small stem': Architecture('resnet18', stem='small'),
    'resnet50, width 2': Architecture('resnet50', width=2),
    'resnet50, padding same': Architecture('resnet50', padding='same'),
    'resnet50, selective kernels': Architecture('resnet50', padding='simclr', sk_ratio=0.0625),
    'vit_s16, 12 heads': Architecture('vit_s16'),
    'vit_b16': Architecture('vit_b16'),
    'vit_b16, mean, learned positions': Architecture(
        'vit_b16', pooling='mean', positions='learned'
    ),
    'vit_l16': Architecture('vit_l16'),
}
SIZES = {'resnet18, small stem': 32}
LIBRARIES = ('torchvision', 'timm', 'transformers', 'onnx', 'stablehlo')
COLUMNS = ('encoder', 'library', 'theirs', 'ours', 'maps', 'back', 'pictures', 'versions')
COLUMNS += ('machine', 'command')
RESULTS = pathlib.Path(__file__).parent / 'results' / 'round_trips.csv'


def drawn(architecture: Architecture, size: int) -> Weights:
    """Weights as training starts with them, but nothing at 0 or 1."""
    preprocess = Preprocess(
        size, 0.875, 'bilinear', True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    module = architecture.module(zero_init_last_scale=False)
    images = np.zeros((1, size, size, 3), np.float32)
    variables = jax.jit(lambda rng: module.init(rng, images, train=False))(jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, value):
        value, leaf = np.array(value), path[-1].key
        noise = rng.normal(size=value.shape).astype(np.float32)
        if leaf == 'var':
            return np.abs(noise) * 0.3 + 0.7
        if leaf == 'scale':
            return noise * 0.1 + 1
        if leaf in ('mean', 'bias', 'class_token'):
            return noise * 0.1
        return value

    variables = jax.tree_util.tree_map_with_path(draw, jax.device_get(variables))
    return Weights(architecture, preprocess, {'method': 'none'}, variables)


def randomize(model: torch.nn.Module) -> None:
    """Draws anew what an initialization would leave."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith('running_var'):
                value.copy_(noise.abs() * 0.3 + 0.7)
            elif name.endswith(('running_mean', 'bias')):
                value.copy_(noise * 0.1)
            elif value.ndim == 1 and value.dtype == torch.float32:
                value.copy_(noise * 0.1 + 1)
            elif value.ndim > 1 and 'pos' not in name:
                value.copy_(value[torch.randperm(len(value), generator=generator)])


def round_trip(
    weights: Weights, library: str, folder: pathlib.Path, pictures: np.ndarray, told: str
) -> dict[str, str]:
    """Returns what was found of one encoder and one library."""
    module, place = formats.module_of(library), folder / library
    row = {'library': library, 'theirs': '', 'ours': '', 'maps': '', 'back': ''}
    try:
        module.check(weights)
    except ConfigError as error:
        return row | {'theirs': str(error).partition(': ')[2]}
    exporting.export(weights, library, place, pictures, told)
    difference, versions = parity.prove(weights, library, place, pictures)
    row |= {'theirs': f'{difference:.1e}', 'versions': versions}
    if library in ('onnx', 'stablehlo'):
        return row
    same = read(weights, library, place)
    want, have = flat(weights.variables), flat(same.variables)
    equal = want.keys() == have.keys() and all(np.array_equal(want[k], have[k]) for k in want)
    row['back'] = 'equal' if equal and same.architecture == weights.architecture else 'NOT EQUAL'
    return row | from_theirs(weights, module, library, place, pictures)


def from_theirs(weights, module, library, place, pictures) -> dict[str, str]:
    """Reads a model that the library itself saved, and compares features."""
    scope: dict = {}
    code = '\n'.join(module.lines(weights, str(place)))
    exec(code, scope)
    model, saved = scope['model'], place.parent / 'theirs'
    randomize(model)
    if library == 'transformers':
        model.save_pretrained(saved)
        (saved / 'preprocessor_config.json').write_bytes(
            (place / 'preprocessor_config.json').read_bytes()
        )
    elif library == 'timm':
        timm.models.save_for_hf(model, saved, safe_serialization=True)
    else:
        saved.mkdir()
        torch.save(model.state_dict(), saved / 'model.pth')
    mean, std = (np.array(v, np.float32) for v in (weights.preprocess.mean, weights.preprocess.std))
    inputs = ((pictures / 255 - mean) / std).astype(np.float32)
    images = torch.from_numpy(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        theirs = eval(module.features(weights), scope | {'images': images}).numpy()
        maps = model.forward_features(images).numpy() if library == 'timm' else None
    found = read(weights, library, saved)
    result = {'ours': f'{parity.largest_difference(theirs, parity.features(found, inputs)):.1e}'}
    if maps is not None:
        # Its preprocessing is for pictures; these are views already.
        whole = dataclasses.replace(weights.preprocess, crop=1.0)
        ours = Encoder(dataclasses.replace(found, preprocess=whole)).maps(pictures)
        if maps.ndim == 3:  # tokens, the class token's first
            maps = maps[:, int(weights.architecture.pooling == 'token') :]
        else:
            maps = maps.transpose(0, 2, 3, 1)
        maps, ours = (values.reshape(len(pictures), -1) for values in (maps, ours))
        result['maps'] = f'{parity.largest_difference(maps, ours):.1e}'
    return result


def read(weights: Weights, library: str, folder: pathlib.Path) -> Weights:
    """Reads a folder as anybody would; a bare state dict of a ViT does not say its heads."""
    path = folder / 'model.pth'
    if not path.exists():
        return layouts.read(folder)
    if not weights.architecture.is_vit:
        return layouts.read(path)
    tensors = {key: value.numpy() for key, value in torch.load(path, weights_only=True).items()}
    return torchvision_layout.from_tensors(
        tensors, str(path), num_heads=weights.architecture.module().encoder.num_heads
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--only', help='one of the encoders')
    only = parser.parse_args().only
    machine = f'{platform.processor() or platform.machine()}, Python {platform.python_version()}'
    for name, architecture in ENCODERS.items():
        if only not in (None, name):
            continue
        weights = drawn(architecture, SIZES.get(name, 224))
        pictures, told = parity.pictures_for(weights.preprocess)
        rows = []
        for library in LIBRARIES:
            with tempfile.TemporaryDirectory() as folder:
                row = round_trip(weights, library, pathlib.Path(folder), pictures, told)
            row |= {'encoder': name, 'pictures': len(pictures), 'machine': machine}
            row['command'] = f"python benchmarks/round_trips.py --only='{name}'"
            print(row, flush=True)
            rows.append(row)
        save(name, rows)


def save(name: str, rows: list[dict[str, str]]) -> None:
    """Replaces the rows of an encoder."""
    others = []
    if RESULTS.exists():
        with RESULTS.open() as file:
            others = [row for row in csv.DictReader(file) if row['encoder'] != name]
    order = list(ENCODERS)
    with RESULTS.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        known = sorted([*others, *rows], key=lambda row: order.index(row['encoder']))
        writer.writerows(known)


if __name__ == '__main__':
    main()
