"""Exports are loaded by the libraries that they are for, by the lines of their README.md."""

import dataclasses
import pathlib
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from simclr_jax.config import ConfigError, RunError
from simclr_jax.weights import (
    exporting,
    formats,
    native,
    onnx,
    parity,
    stablehlo,
    torchvision,
)
from simclr_jax.weights.description import Architecture, Head, Preprocess

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from random_weights import random_weights

ROOT = pathlib.Path(__file__).parents[2]
TINY = Architecture('resnet_tiny', stem='small')


def export(weights, name, place):
    return exporting.export(weights, name, place, *parity.pictures_for(weights.preprocess))


def need(name):
    packages = {
        'torchvision': torchvision.PACKAGES,
        'timm': ('torch', 'timm'),
        'transformers': ('torch', 'transformers'),
        'onnx': ('onnx', 'onnxruntime'),
    }.get(name, ())
    for package in packages:
        pytest.importorskip(package, reason="needs what pip install -e '.[export]' brings")
    return formats.module_of(name)


def test_the_difference_is_relative_to_each_picture():
    ours = np.array([[1.0, -2.0], [100.0, 0.0]], np.float32)
    assert parity.largest_difference(ours, ours) == 0
    theirs = ours + np.array([[0.0, 0.2], [1.0, 0.0]], np.float32)
    assert parity.largest_difference(theirs, ours) == pytest.approx(0.1)
    theirs[0, 0] = np.nan
    assert parity.largest_difference(theirs, ours) == np.inf
    assert parity.largest_difference(ours[:, :1], ours) == np.inf


def test_pictures_are_photographs_or_those_of_the_folder(tmp_path, monkeypatch):
    preprocess = Preprocess(24, 0.875)
    pictures, told = parity.pictures_for(preprocess)
    assert pictures.shape == (parity.COUNT, 24, 24, 3) and 'scikit-learn' in told
    assert len({picture.tobytes() for picture in pictures}) == parity.COUNT
    grey = parity.pictures_for(Preprocess(24, channels=1))[0]
    assert grey.shape == (parity.COUNT, 24, 24, 1)

    monkeypatch.setattr(parity.importlib.util, 'find_spec', lambda name: None)
    drawn, told = parity.pictures_for(preprocess)
    assert 'drawn patterns' in told and len({p.tobytes() for p in drawn}) == parity.COUNT

    for i in range(9):
        PIL.Image.fromarray(np.full((30, 40, 3), i * 20, np.uint8)).save(tmp_path / f'{i}.png')
    (tmp_path / 'bad.png').write_bytes(b'no picture')
    found, told = parity.pictures_for(preprocess, str(tmp_path))
    assert found.shape == (9, 24, 24, 3) and str(tmp_path) in told
    with pytest.raises(ConfigError, match='nowhere'):
        parity.pictures_for(preprocess, str(tmp_path / 'nowhere'))


def test_an_export_says_what_it_is_and_that_it_was_compared(tmp_path):
    place = tmp_path / 'made'
    weights = random_weights(TINY, 16, mean=(0.4,), std=(0.3,))
    proof = export(weights, 'stablehlo', place)
    assert re.search(r'difference \d\.\de-0[6-9] .* over 12 crops of photographs', proof)
    assert {path.name for path in place.iterdir()} == {'README.md', 'encoder.stablehlo'}
    assert list(tmp_path.iterdir()) == [place]  # nothing beside it
    text = (place / 'README.md').read_text()
    assert proof in text and 'resnet_tiny' in text and '[0.4, 0.4, 0.4]' in text
    assert str(tmp_path) not in text
    features = run_readme(place)
    want = parity.features(weights, normalized(weights, picture_of(place.parent, weights)))
    assert parity.largest_difference(features, want) < 1e-4


def picture_of(folder, weights):
    """A picture that every resizing leaves as it is, but for the crop."""
    size = weights.preprocess.size
    with PIL.Image.open(folder / 'picture.jpg') as image:
        return np.asarray(image.convert('RGB'))[None, :size, :size]


def normalized(weights, pictures):
    mean, std = (np.array(v, np.float32) for v in (weights.preprocess.mean, weights.preprocess.std))
    return ((pictures / 255 - mean) / std).astype(np.float32)


def run_readme(place, size=16):
    """Runs the code of a README.md as it stands, beside its folder; returns its features."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (size, size, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(place.parent / 'picture.jpg')
    blocks = re.findall(r'```python\n(.*?)```', (place / 'README.md').read_text(), re.DOTALL)
    assert len(blocks) == 2
    save = "numpy.save('features.npy', numpy.asarray(features))"
    code = '\n'.join([*blocks, save])
    env = {**parity.os.environ, 'PYTHONPATH': str(ROOT), 'HF_HUB_OFFLINE': '1'}
    command = [sys.executable, '-W', 'error::UserWarning:__main__', '-c', code]
    subprocess.run(command, cwd=place.parent, env=env, check=True, timeout=300)
    return np.load(place.parent / 'features.npy')


def test_an_export_that_computes_something_else_is_deleted(tmp_path, monkeypatch):
    place = tmp_path / 'made'
    place.mkdir()
    (place / 'README.md').write_text('an older export')
    weights, wrong = random_weights(TINY, 16), random_weights(TINY, 16)
    wrong.variables['params']['encoder']['stem_conv']['kernel'] *= 1.01
    write = stablehlo.write
    monkeypatch.setattr(stablehlo, 'write', lambda _, folder: write(wrong, folder))
    with pytest.raises(RunError, match=r'not the same: largest relative difference \d'):
        export(weights, 'stablehlo', place)
    # What was there stays, and nothing is left beside it.
    assert [path.read_text() for path in place.iterdir()] == ['an older export']
    assert list(tmp_path.iterdir()) == [place]


def test_an_export_that_cannot_be_loaded_is_deleted(tmp_path, monkeypatch):
    def write(_, folder):
        (folder / native.NAME).write_bytes(b'nothing')

    monkeypatch.setattr(native, 'write', write)
    with pytest.raises(
        RunError, match=r'(?s)native cannot load what was written:.*no safetensors file'
    ):
        export(random_weights(TINY, 16), 'native', tmp_path / 'made')
    assert not list(tmp_path.iterdir())


def test_without_the_library_there_is_no_proof_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, 'not_installed', lambda packages: list(packages))
    place = tmp_path / 'made'
    weights = random_weights(Architecture('resnet18'))
    proof = export(weights, 'timm', place)
    assert proof.startswith('No proof was made: torch, timm is not installed')
    assert proof in (place / 'README.md').read_text()
    names = {path.name for path in place.iterdir()}
    assert names == {'README.md', 'config.json', 'model.safetensors'}


def test_an_interrupted_export_leaves_the_older_one(tmp_path, monkeypatch):
    place = tmp_path / 'made'
    weights = random_weights(TINY, 16)
    monkeypatch.setattr(formats, 'not_installed', lambda packages: ['it'] if packages else [])
    export(weights, 'stablehlo', place)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    rename = pathlib.Path.rename

    def interrupted(path, target):
        if path.name == 'made' and path != place:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, 'rename', interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(weights, 'stablehlo', place)
    assert before == {path.name: path.read_bytes() for path in place.iterdir()}
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    place = tmp_path / 'pictures'
    place.mkdir()
    assert exporting.checked_place(str(place), overwrite=False) == place  # it is empty
    (place / 'README.md').write_text('an export')
    with pytest.raises(ConfigError, match='is there already; --overwrite replaces it'):
        exporting.checked_place(str(place), overwrite=False)
    assert exporting.checked_place(str(place), overwrite=True) == place
    (place / 'holiday.jpg').write_text('a picture')
    with pytest.raises(ConfigError, match=r'holds holiday\.jpg, which no export'):
        exporting.checked_place(str(place), overwrite=True)
    with pytest.raises(ConfigError, match='is a file or a link'):
        exporting.checked_place(str(place / 'holiday.jpg'), overwrite=True)
    with pytest.raises(ConfigError, match='gs://bucket/x: an export is written to a disk'):
        exporting.checked_place('gs://bucket/x', overwrite=True)


def test_unknown_formats_and_what_is_missing_to_write():
    with pytest.raises(ConfigError, match=r'must be one of native, .*did you mean torchvision'):
        formats.module_of('torchvison')
    for name in formats.FORMATS:
        if not formats.not_installed(getattr(onnx, 'NEEDED', ()) if name == 'onnx' else ()):
            module = formats.module_of(name)
            assert module.INPUT in ('nchw', 'nhwc', 'uint8') and module.FILES
            weights = random_weights(TINY, 16)
            assert module.lines(random_weights(Architecture('resnet18')), 'there')
            assert module.features(weights) and module.use(weights)


def test_onnx_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(formats, 'not_installed', lambda packages: list(packages))
    with pytest.raises(ConfigError, match='--format=onnx: needs onnx: pip install onnx'):
        formats.module_of('onnx')


def test_a_wrong_padding_would_be_noticed():
    """Shapes are the same, so nothing but the features says so."""
    weights = random_weights(Architecture('resnet18', padding='same'), 64)
    other = dataclasses.replace(weights, architecture=Architecture('resnet18', padding='simclr'))
    images = normalized(weights, parity.pictures_for(weights.preprocess)[0][:3])
    found = [parity.features(w, images) for w in (weights, other)]
    assert parity.largest_difference(*found) > 100 * parity.TOLERANCE


PLAIN = Head(16, 8, output_norm='plain')
ONNX = [
    Architecture('resnet18', head=Head(16, 8, 3, output_norm='scale_only'), head_layers=2),
    Architecture(
        'resnet18', padding='simclr', head=Head(16, 8, output_norm='plain'), head_layers=2
    ),
    Architecture('resnet18', padding='same', stem='small'),
    Architecture('resnet18', padding='same', width=2),
    Architecture('resnet50', padding='simclr', sk_ratio=0.0625),
    TINY,
    Architecture('vit_ti16', epsilon=1e-4),
    Architecture('vit_ti16', positions='learned', patch_size=8, num_heads=12),
    Architecture('vit_ti16', pooling='mean', head=Head(16, 8, 1, output_bias=True), head_layers=1),
    Architecture('vit_ti16', pooling='patches'),
]


@pytest.mark.parametrize('size', [48, 80])
@pytest.mark.parametrize('architecture', ONNX)
def test_onnx_has_every_layer_and_every_padding(architecture, size, tmp_path):
    """Of 80 pixels, some layers see an odd side."""
    need('onnx')
    import onnxruntime

    weights = random_weights(architecture, size, mean=(0.4,), std=(0.3,))
    onnx.write(weights, tmp_path)
    session = onnxruntime.InferenceSession(
        tmp_path / 'encoder.onnx', providers=['CPUExecutionProvider']
    )
    images = normalized(weights, parity.pictures_for(weights.preprocess)[0][:3])
    (theirs,) = session.run(['features'], {'images': images.transpose(0, 3, 1, 2)})
    ours = parity.features(weights, images)
    assert parity.largest_difference(theirs, ours) < 1e-5
    assert np.ptp(ours, axis=0).max() > 1e-2 * np.abs(ours).max()  # pictures are told apart


LIBRARIES = [
    ('torchvision', Architecture('resnet18', stem='small')),
    ('torchvision', Architecture('resnet18', width=2)),
    ('torchvision', Architecture('vit_ti16', epsilon=1e-4)),
    ('timm', Architecture('resnet50', head=Head(8, 8))),
    ('timm', Architecture('vit_ti16', num_heads=12)),
    ('timm', Architecture('vit_ti16', pooling='mean', positions='learned')),
    ('timm', Architecture('vit_ti16', pooling='patches', positions='learned')),
    ('transformers', Architecture('resnet18')),
    ('transformers', Architecture('vit_ti16', num_heads=6, patch_size=8)),
    ('onnx', Architecture('resnet18', padding='same')),
    ('stablehlo', Architecture('resnet18', padding='simclr')),
    ('native', Architecture('vit_ti16')),
]


@pytest.mark.slow
@pytest.mark.parametrize('channels', [3, 1])
@pytest.mark.parametrize(('name', 'architecture'), LIBRARIES)
def test_the_library_computes_the_same_by_the_lines_of_the_readme(
    name, architecture, channels, tmp_path
):
    need(name)
    size = 64
    weights = random_weights(
        architecture, size, channels=channels, mean=(0.4,), std=(0.3,), interpolation='bilinear'
    )
    proof = export(weights, name, tmp_path / 'made')
    assert re.search(r'Compared with simclr_jax: largest relative difference \d\.\de-0[5-9]', proof)
    features = run_readme(tmp_path / 'made', size)
    pictures = picture_of(tmp_path, weights)
    if channels == 1:
        with PIL.Image.open(tmp_path / 'picture.jpg') as image:
            pictures = np.asarray(image.convert('L'))[None, ..., None]
    want = parity.features(weights, normalized(weights, pictures))
    assert parity.largest_difference(features, want) < 1e-3  # their resizing rounds


@pytest.mark.slow
@pytest.mark.parametrize('name', ['torchvision', 'timm', 'transformers'])
@pytest.mark.parametrize('encoder', ['resnet18', 'vit_ti16'])
def test_a_missing_tensor_is_noticed_by_the_library(name, encoder, tmp_path, monkeypatch):
    """Loading is strict: what is not in the file is not filled in by an initialization."""
    module = need(name)
    to_tensors = module.to_tensors

    def incomplete(weights):
        tensors = to_tensors(weights)
        last = [key for key in tensors if key.endswith('.bias')][-1]
        del tensors[last]
        return tensors

    monkeypatch.setattr(module, 'to_tensors', incomplete)
    weights = random_weights(Architecture(encoder), 64)
    with pytest.raises(RunError, match=f'{name} cannot load what was written'):
        export(weights, name, tmp_path / 'made')
    assert not list(tmp_path.iterdir())


def test_stablehlo_takes_any_number_of_pictures_and_says_its_platforms(tmp_path):
    import jax.export

    weights = random_weights(TINY, 16)
    stablehlo.write(weights, tmp_path)
    content = (tmp_path / 'encoder.stablehlo').read_bytes()
    model = jax.export.deserialize(bytearray(content))
    assert model.platforms == ('cpu', 'cuda', 'tpu')
    pictures = parity.pictures_for(weights.preprocess)[0]
    for count in (1, 5):
        theirs = np.asarray(model.call(pictures[:count]))
        ours = parity.features(weights, normalized(weights, pictures[:count]))
        assert parity.largest_difference(theirs, ours) < 1e-5
