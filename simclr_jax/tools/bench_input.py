"""`--bench=input`: pictures a second of both backends beside decoding alone, in one run."""

import importlib.util
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax import parallel
from simclr_jax.augment import jax_ops
from simclr_jax.augment.recipe import PRESETS, ViewRecipe
from simclr_jax.data import example, sources
from simclr_jax.data.factory import open_split
from simclr_jax.models.factory import create_encoder
from simclr_jax.tools.chips import devices_of

_SIZE = (500, 375)  # width and height of the pictures made
_QUALITY = 95  # such that they take about 80 kB
_PICTURES = 64
_BATCH = 64
_SECONDS = 6.0  # that each pipeline is watched for, in each turn
_TURNS = 3
_IMAGE_SIZE = 224
_TOPOLOGY = 'v5e:2x2'
_PICTURES_A_CHIP = 64


def main(config: ConfigDict, workdir: str) -> None:
    """Prints the table and writes `bench_input.json`.

    Over the config's data where it is a folder that is named, else over pictures made here.
    """
    if config.data.path:
        source, image_size = open_split(config, config.data.train_split), config.data.image_size
        recipes, name = config_lib.view_recipes(config), config.data.path
    else:
        source, image_size, recipes = made_source(), _IMAGE_SIZE, PRESETS['simclr']
        if config.method in config_lib.CLASSIFIERS:
            recipes = config_lib.view_recipes(config)
        length = np.mean([len(record) for record in source.read(range(_PICTURES))]) / 1000
        name = f'{_PICTURES} pictures of {_SIZE[0]} x {_SIZE[1]} pixels, {length:.0f} kB each'
    rates = measure(source, recipes, image_size)
    cost = augmentation_cost(recipes, image_size, source.canvas_shape[0], config.augment.dtype)
    result = {
        'data': name,
        'image_size': image_size,
        'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else None,
        'views': len(recipes),
        'pictures_per_second': rates,
        'over_decoding': {key: rate / rates['decode'] for key, rate in rates.items()},
        'augmentation': cost,
    }
    print(f'Input at {image_size} pixels from {name}, {result["cores"]} cores')
    unit = 'pairs/s' if len(recipes) == 2 else 'pictures/s'
    print(f'{"":<24}{unit:>10}{"over decoding":>16}')
    for key, rate in rates.items():
        print(f'{key:<24}{rate:>10,.0f}{result["over_decoding"][key]:>16.3f}')
    print(_describe_cost(cost))
    path = epath.Path(workdir)
    path.mkdir(parents=True, exist_ok=True)
    (path / 'bench_input.json').write_text(json.dumps(result, indent=2) + '\n')


def made_source(count: int = _PICTURES) -> sources.Source:
    """Returns JPEGs of 500 x 375 pixels and about 80 kB, cut from scikit-learn's photographs."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    random, records = np.random.default_rng(0), []
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        left, top = random.uniform(0, 0.15, 2) * photograph.size
        right, bottom = random.uniform(0.85, 1, 2) * photograph.size
        picture = photograph.resize(_SIZE, Image.Resampling.BICUBIC, (left, top, right, bottom))
        stream = io.BytesIO()
        picture.save(stream, 'JPEG', quality=_QUALITY)
        records.append(example.serialize(stream.getvalue()))
    shape = (None, None, 3)
    return sources.Source(lambda indices: [records[i] for i in indices], count, shape, None)


def measure(
    source: sources.Source,
    recipes: tuple[ViewRecipe, ...],
    image_size: int,
    *,
    batch_size: int = _BATCH,
    seconds: float = _SECONDS,
    turns: int = _TURNS,
) -> dict[str, float]:
    """Returns pictures a second: 'decode' alone, 'tf' and the host's part of 'jax'.

    They take turns, so that a busy machine harms all; the best turn of each counts.
    """
    from simclr_jax.data import pipeline  # imports TensorFlow

    batch_size = min(batch_size, source.num_examples)
    options = {'seed': 0, 'batch_size': batch_size, 'start_step': 0, 'total_steps': 1_000_000}
    streams: dict[str, Callable[[], Iterator[Any]]] = {
        'decode': lambda: pipeline.decoded(source, batch_size),
        'tf': lambda: pipeline.train_batches(source, recipes, image_size=image_size, **options),
        'jax': lambda: pipeline.canvas_batches(source, **options),
    }
    rates = dict.fromkeys(streams, 0.0)
    for _ in range(turns):
        for name, stream in streams.items():
            rates[name] = max(rates[name], batch_size * _batches_a_second(stream(), seconds))
    return rates


def _batches_a_second(batches: Iterator[Any], seconds: float) -> float:
    for _ in range(3):  # buffers fill, tf.data tunes itself
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += 1
    return count / (time.perf_counter() - start)


def augmentation_cost(
    recipes: tuple[ViewRecipe, ...], image_size: int, canvas: int, dtype: str
) -> dict[str, Any]:
    """Returns the compiler's FLOPs and bytes of a view, and their share of a ResNet-50's step.

    Compiled for the chips of `v5e:2x2` where the `tpu` extra is installed; elsewhere only lowered,
    which tells the FLOPs. The step is the encoder's forward and backward pass with the views.
    """
    devices = _chips()
    mesh = parallel.make_mesh(devices or jax.devices()[:1])
    pictures = _PICTURES_A_CHIP * mesh.devices.size
    views = pictures * len(recipes)
    batch = {
        'image': jax.ShapeDtypeStruct((pictures, canvas, canvas, 3), jnp.uint8),
        'size': jax.ShapeDtypeStruct((pictures, 2), jnp.int32),
        'index': jax.ShapeDtypeStruct((pictures,), jnp.int32),
    }
    encoder = create_encoder('resnet50', image_size=image_size, dtype='bfloat16')
    images = jax.ShapeDtypeStruct((views, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(
        lambda: encoder.init(jax.random.key(0), jnp.zeros(images.shape), train=False)
    )

    def augment(batch, step):
        return jax_ops.make_views(
            batch, recipes, seed=0, step=step, image_size=image_size, dtype=dtype
        )

    def train(images, variables):
        def loss(params):
            features, _ = encoder.apply(
                variables | {'params': params}, images, train=True, mutable=['batch_stats']
            )
            return features.astype(jnp.float32).sum()

        return jax.grad(loss)(variables['params'])

    def cost(function, *arguments):
        shardings = parallel.batch_sharding(mesh), parallel.replicated(mesh)
        lowered = jax.jit(function, in_shardings=shardings).lower(*arguments)
        found = (lowered.compile() if devices else lowered).cost_analysis()
        return found[0] if isinstance(found, list) else found

    made = cost(augment, batch, jax.ShapeDtypeStruct((), jnp.int32))
    trained = cost(train, images, variables)
    views /= mesh.devices.size if devices else 1  # lowered counts the whole mesh
    result = {
        'compiled_for': _TOPOLOGY if devices else None,
        'gflop_per_view': made['flops'] / views / 1e9,
        'flop_share': made['flops'] / (made['flops'] + trained['flops']),
    }
    if devices:
        moved, rest = made['bytes accessed'], trained['bytes accessed']
        result |= {'mbytes_per_view': moved / views / 1e6, 'byte_share': moved / (moved + rest)}
    return result


def _chips() -> list[jax.Device] | None:
    """The chips of a TPU that is not there, None without the extra."""
    if importlib.util.find_spec('libtpu') is None:
        return None
    return devices_of(_TOPOLOGY)


def _describe_cost(cost: dict[str, Any]) -> str:
    text = (
        f"views of the 'jax' backend: {cost['gflop_per_view']:.2f} GFLOP each, "
        f'{cost["flop_share"]:.1%} of a ResNet-50 step with them'
    )
    if cost['compiled_for']:
        text += f'; {cost["mbytes_per_view"]:.1f} MB, {cost["byte_share"]:.1%} ({_TOPOLOGY})'
    return text
