"""The proof that an exported encoder is the same: another library loads it and is compared.

The lines that load it are those of its README.md. They run in a Python process of their own, so
that it is seen that they are enough, and that no two libraries share a process.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import jax
import numpy as np

from simclr_jax.augment.pixels import normalize_images
from simclr_jax.config import RunError
from simclr_jax.weights import formats, views
from simclr_jax.weights.description import Preprocess, Weights

TOLERANCE = 1e-4  # of `largest_difference`, in float32
COUNT = 12  # pictures
_TIMEOUT = 1800  # seconds


def largest_difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Returns the largest over pictures of `max |theirs - ours| / max |ours|`.

    It is infinite where a feature is no number, or shapes differ.

    Args:
      theirs: `[n, dim]`.
      ours: `[n, dim]`.
    """
    if theirs.shape != ours.shape or not (np.isfinite(theirs).all() and np.isfinite(ours).all()):
        return float('inf')
    scale = np.maximum(np.abs(ours).max(axis=1), np.finfo(np.float32).tiny)
    return float((np.abs(theirs - ours).max(axis=1) / scale).max())


def prove(
    weights: Weights, name: str, folder: pathlib.Path, pictures: np.ndarray
) -> tuple[float, str]:
    """Compares an exported encoder with the one that it was made of.

    Args:
      weights: the encoder.
      name: of the format.
      folder: what was exported.
      pictures: uint8 `[n, size, size, channel]`.

    Returns:
      The largest difference, and the versions that it was found with.

    Raises:
      RunError: the library cannot load what was written.
    """
    module = formats.module_of(name)
    inputs = np.asarray(_normalized(weights.preprocess, pictures))
    given = {
        'uint8': pictures,
        'nhwc': inputs,
        'nchw': np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)),
    }[module.INPUT]
    with tempfile.TemporaryDirectory() as place:
        images, made = pathlib.Path(place, 'images.npy'), pathlib.Path(place, 'features.npy')
        np.save(images, given)
        script = '\n'.join(_script(weights, module, folder.name, images, made))
        # Hugging Face's libraries would ask the internet whether there is something newer.
        own = {'HF_HUB_OFFLINE': '1', 'PYTHONPATH': _search_path()}
        process = subprocess.run(
            [sys.executable, '-c', script],
            cwd=folder.parent,
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
        if process.returncode:
            last = (process.stderr.strip() or process.stdout.strip()).splitlines()[-3:]
            raise RunError('\n  '.join([f'{name} cannot load what was written:', *last]))
        versions = process.stdout.strip().splitlines()[-1]
        theirs = np.load(made)
    return largest_difference(theirs, features(weights, inputs)), versions


def features(weights: Weights, inputs: np.ndarray) -> np.ndarray:
    """Returns our features, or logits, of normalized pictures, `[n, dim]`, in full float32."""
    module = weights.network() if weights.classifier else weights.architecture.module()

    def encode(variables, images):
        made = module.apply(variables, images, train=False)
        return made[1] if weights.classifier else made

    with jax.default_matmul_precision('highest'):
        apply = jax.jit(encode)
        return np.concatenate(
            [apply(weights.variables, inputs[i : i + 1]) for i in range(len(inputs))]
        )


def _normalized(preprocess: Preprocess, pictures: np.ndarray) -> jax.Array:
    return normalize_images(pictures, preprocess.mean, preprocess.std)


def _script(weights, module, folder, images, made) -> Iterator[str]:
    """Yields the lines of the process that loads an export and computes features."""
    yield 'import numpy'
    yield from module.lines(weights, folder)
    if hasattr(module, 'strict'):
        yield from module.strict(weights, folder)
    yield f'images = numpy.load({str(images)!r})'
    indent = ''
    if 'torch' in module.PACKAGES:
        yield 'import torch'
        yield 'images = torch.from_numpy(images)'
        yield 'with torch.no_grad():'
        indent = '    '
    yield f'{indent}features = {module.features(weights)}'
    yield f'numpy.save({str(made)!r}, numpy.asarray(features))'
    yield 'from importlib.metadata import version'
    names = ', '.join(f"'{name} ' + version('{name}')" for name in module.PACKAGES or ['jax'])
    yield f"print(', '.join([{names}]))"


def _search_path() -> str:
    """Returns where Python looks for modules, in which this package is, installed or not."""
    package = str(pathlib.Path(__file__).parents[2])
    return os.pathsep.join([package, *filter(None, [os.environ.get('PYTHONPATH')])])


def pictures_for(preprocess: Preprocess, folder: str | None = None) -> tuple[np.ndarray, str]:
    """Returns pictures to compare by, `[n, size, size, channel]` uint8, and what they are.

    Args:
      preprocess: of the encoder.
      folder: of pictures; without, those that scikit-learn and scikit-image bring along.

    Raises:
      ConfigError: the folder is not there, or holds no picture.
    """
    if folder:
        paths = views.files_in(folder)
        step = max(1, len(paths) // COUNT)
        items, told = _readable(paths[::step], preprocess), f'pictures of {folder}'
    else:
        photographs = [*_scikit_learn(), *_scikit_image()]
        items = [views.view_of(picture, preprocess) for picture in _crops(photographs)]
        told = 'crops of photographs of scikit-learn and scikit-image'
    if not items:
        items = [views.view_of(picture, preprocess) for picture in _patterns()]
        told = 'drawn patterns, as neither scikit-learn nor scikit-image are installed'
    return np.stack(items[:COUNT]), told


def _readable(paths: list[str], preprocess: Preprocess) -> list[np.ndarray]:
    found = []
    for path in paths[: 2 * COUNT]:
        try:
            found.append(views.view_of(path, preprocess))
        except views.Unreadable:
            continue
    return found


def _scikit_learn() -> list[np.ndarray]:
    if importlib.util.find_spec('sklearn') is None:
        return []
    from sklearn.datasets import load_sample_images

    return load_sample_images().images  # a temple in China, and a flower


def _scikit_image() -> list[np.ndarray]:
    spec = importlib.util.find_spec('skimage')
    if spec is None or spec.origin is None:
        return []
    folder = pathlib.Path(spec.origin).parent / 'data'
    names = ('astronaut.png', 'chelsea.png', 'coffee.png', 'rocket.jpg')
    return [(folder / name).read_bytes() for name in names if (folder / name).is_file()]


def _crops(photographs: list) -> list[np.ndarray]:
    """Returns `COUNT` squares, some of each photograph."""
    import io

    import PIL.Image

    crops = []
    for photograph in photographs:
        if isinstance(photograph, bytes):
            with PIL.Image.open(io.BytesIO(photograph)) as image:
                photograph = np.asarray(image.convert('RGB'))
        height, width, _ = photograph.shape
        side = min(height, width) * 2 // 3
        corners = [(0, 0), (height - side, width - side), (0, width - side), (height - side, 0)]
        squares = [photograph[y : y + side, x : x + side] for y, x in corners]
        crops.append([photograph, squares[0], squares[1], squares[2], squares[3], photograph[::-1]])
    return [crop for turn in zip(*crops, strict=True) for crop in turn][:COUNT]


def _patterns() -> list[np.ndarray]:
    """Returns smooth colours with edges, a different picture each."""
    y, x = np.mgrid[0:256, 0:256] / 256
    made = []
    for i in range(COUNT):
        rng = np.random.default_rng(i)
        waves = [
            np.sin(2 * np.pi * (rng.uniform(0.5, 6) * x + rng.uniform(0.5, 6) * y + rng.uniform()))
            for _ in range(3)
        ]
        pattern = 0.5 + 0.5 * np.stack(waves, axis=-1)
        cut = x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1) > rng.uniform(-0.3, 0.3)
        made.append(np.uint8(255 * np.where(cut[..., None], pattern, pattern**3)))
    return made
