"""StableHLO by `jax.export`: the computation itself, to be called from JAX without this package.

It takes pixels, so that nothing can go wrong between a picture and its features but the resizing.
"""

import pathlib

import jax
import jax.export
import jax.numpy as jnp

from simclr_jax.augment.pixels import normalize_images
from simclr_jax.weights import readme
from simclr_jax.weights.description import Weights

PACKAGES = ('jax',)
INPUT = 'uint8'
FILES = (
    '`encoder.stablehlo` is what `jax.export` serializes: weights and normalization are in it, the '
    'number of pictures is free, and it runs on CPUs, CUDA GPUs and TPUs.'
)
_PLATFORMS = ('cpu', 'cuda', 'tpu')


def check(weights: Weights) -> None:
    """Every encoder and every classifier can be written so."""


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `encoder.stablehlo`."""
    preprocess, module = weights.preprocess, weights.architecture.module()

    @jax.jit
    def encode(images: jax.Array) -> jax.Array:
        inputs = normalize_images(images, preprocess.mean, preprocess.std)
        return module.apply(weights.variables, inputs, train=False)

    @jax.jit
    def classify(images: jax.Array) -> jax.Array:
        inputs = normalize_images(images, preprocess.mean, preprocess.std)
        return weights.network().apply(weights.variables, inputs, train=False)[1]

    size = preprocess.size
    shape = jax.export.symbolic_shape(f'n, {size}, {size}, {preprocess.channels}')
    # As exact as float32 is, on every chip: else TPUs and newer GPUs round to fewer bits.
    with jax.default_matmul_precision('highest'):
        exported = jax.export.export(
            classify if weights.classifier else encode, platforms=_PLATFORMS
        )(jax.ShapeDtypeStruct(shape, jnp.uint8))
    (folder / 'encoder.stablehlo').write_bytes(exported.serialize())


def lines(weights: Weights, folder: str) -> list[str]:
    """Returns the Python lines that load an exported file."""
    del weights
    return [
        'import pathlib',
        'import jax.export',
        '',
        f"content = pathlib.Path('{folder}/encoder.stablehlo').read_bytes()",
        'model = jax.export.deserialize(bytearray(content))',
    ]


def features(weights: Weights) -> str:
    """Returns the expression that turns `images` into features."""
    del weights
    return 'model.call(images)'


def use(weights: Weights) -> list[str]:
    """Returns the lines that turn `picture` into features."""
    return [*readme.pixel_lines(weights), f'features = {features(weights)}']
