"""ONNX: one file with an encoder's graph and weights, for onnxruntime and many others."""

import pathlib

from simclr_jax.weights import readme
from simclr_jax.weights.description import Weights

NEEDED = ('onnx',)
PACKAGES = ('onnxruntime',)
INPUT = 'nchw'
FILES = (
    '`encoder.onnx` has the graph and the weights (opset 17). The number of pictures is free; as '
    "with torchvision's exports, pictures are normalized before, and channels come first."
)


def check(weights: Weights) -> None:
    """Every encoder and every classifier can be written so."""


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `encoder.onnx`."""
    import onnx

    from simclr_jax.weights.onnx_graph import build

    onnx.save(build(weights), str(folder / 'encoder.onnx'))


def lines(weights: Weights, folder: str) -> list[str]:
    """Returns the Python lines that load an exported file."""
    del weights
    return [
        'import onnxruntime',
        '',
        f"path, where = '{folder}/encoder.onnx', ['CPUExecutionProvider']",
        'session = onnxruntime.InferenceSession(path, providers=where)',
    ]


def features(weights: Weights) -> str:
    """Returns the expression that turns `images` into features, or logits."""
    output = 'logits' if weights.classifier else 'features'
    return f"session.run(['{output}'], {{'images': images}})[0]"


def use(weights: Weights) -> list[str]:
    """Returns the lines that turn `picture` into features."""
    return [*readme.normalize_lines(weights), f'features = {features(weights)}']
