"""An encoder in use: any picture, any number of them, any number of devices."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from simclr_jax.config import ConfigError
from simclr_jax.data import pictures
from simclr_jax.data.central import central_view
from simclr_jax.weights import native, views
from simclr_jax.weights.description import Architecture, Head
from simclr_jax.weights.encoder import Encoder

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from random_weights import random_weights

PHOTO = load_sample_images().images[0]  # uint8 [427, 640, 3]
TINY = Architecture('resnet_tiny', stem='small')


def encoder_of(architecture=TINY, **preprocess):
    return Encoder(random_weights(architecture, **preprocess))


def crops(count, size=32):
    rng = np.random.default_rng(0)
    places = rng.integers(0, (427 - size, 640 - size), (count, 2))
    return np.stack([PHOTO[y : y + size, x : x + size] for y, x in places])


def by_hand(encoder, images):
    """The features of pictures that have the encoder's size, by the module alone."""
    inputs = (images / 255 - np.array(encoder.preprocess.mean)) / np.array(encoder.preprocess.std)
    return encoder.module.apply(encoder.variables, inputs.astype(np.float32), train=False)


def assert_close(found, want):
    assert found.dtype == np.float32 and found.shape == want.shape
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Photographs of several sizes and kinds, and what each is as uint8."""
    root = tmp_path_factory.mktemp('folder')
    (root / 'b').mkdir()
    photo = Image.fromarray(PHOTO)
    photo.save(root / 'a.jpg', quality=90)
    photo.crop((10, 20, 107, 300)).save(root / 'b' / 'one.png')
    photo.resize((40, 33)).convert('L').save(root / 'b' / 'two.PNG')
    (root / 'notes.txt').write_text('no picture')
    return root


@pytest.mark.parametrize('count', [1, 3, 257])
def test_features_are_those_of_the_module(count):
    encoder, images = encoder_of(mean=(0.5, 0.4, 0.3), std=(0.2,)), crops(count)
    want = by_hand(encoder, images)
    assert_close(encoder(images), want)
    assert encoder.dim == want.shape[1] and np.ptp(want) > 0


def test_no_picture_has_no_features():
    encoder = encoder_of()
    assert encoder([]).shape == (0, encoder.dim)
    assert encoder(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, encoder.dim)
    assert encoder.maps([]).shape == (0, 16, 16, encoder.dim)
    assert list(encoder.stream([])) == []


def test_maps_average_to_the_features_of_a_resnet():
    encoder, images = encoder_of(), crops(5)
    maps = encoder.maps(images)
    assert maps.shape == (5, 16, 16, encoder.dim)
    assert_close(maps.mean(axis=(1, 2)), encoder(images))


def test_maps_of_a_vit_are_its_patches():
    architecture = Architecture('vit_ti16', num_heads=3, positions='learned', pooling='mean')
    encoder, images = encoder_of(architecture), crops(2)
    maps = encoder.maps(images)
    assert maps.shape == (2, 2, 2, 192)
    assert_close(maps.mean(axis=(1, 2)), encoder(images))


def test_maps_of_a_vit_with_a_class_token_are_its_patches_too():
    encoder, images = encoder_of(Architecture('vit_ti16', pooling='patches')), crops(2)
    norm = encoder.weights.variables['params']['encoder']['fc_norm']
    mean = encoder.maps(images).mean(axis=(1, 2))
    mean = (mean - mean.mean(1, keepdims=True)) / np.sqrt(mean.var(1, keepdims=True) + 1e-6)
    assert_close(mean * norm['scale'] + norm['bias'], encoder(images))


def test_maps_of_several_stages_of_whole_pictures():
    encoder = encoder_of()
    images = np.random.default_rng(3).integers(0, 256, (3, 21, 34, 3), np.uint8)
    first, last = encoder.maps(images, layers=(1, 3), whole=True)
    assert first.shape == (3, 11, 17, 64) and last.shape == (3, 11, 17, 128)
    want = encoder.module.apply(encoder.variables, encoder.normalize(images), False, layers=(1, 3))
    assert_close(first, want[0])
    assert_close(last, want[1])
    assert encoder.depth == 3 and encoder.stride(1) == encoder.stride() == 2
    np.testing.assert_array_equal(encoder.maps(list(images), whole=True), last)


def test_dilated_maps_are_finer_and_agree_where_strides_look():
    """Every other place of a dilated map is what the strided one has there."""
    encoder = encoder_of(Architecture('resnet_tiny', stem='small', padding='torch'))
    finer = dataclasses.replace(encoder, dilated=3)
    images = crops(2)
    assert encoder.stride() == 2 and finer.stride() == 1
    strided, dilated = encoder.maps(images, layers=1), finer.maps(images, layers=1)
    assert dilated.shape == (2, 32, 32, 64)
    assert_close(dilated[:, ::2, ::2], strided)


@pytest.mark.parametrize(
    'mistake, message',
    [
        (lambda encoder: encoder.maps(crops(1), layers=4), 'layers=4: must be of 1 to 3'),
        (lambda encoder: encoder.maps(crops(1), layers=()), 'layers=()'),
        (lambda encoder: encoder.maps([], whole=True), 'images: are none'),
        (
            lambda encoder: encoder.maps([*crops(1), crops(1)[0, :9]], whole=True),
            'picture 1: is 32 x 9 pixels, but picture 0 is 32 x 32',
        ),
        (lambda encoder: dataclasses.replace(encoder, dilated=4), 'dilated=4: must be 0 to 3'),
        (lambda encoder: encoder.attention(crops(1)), 'has no class token'),
    ],
)
def test_mistakes_with_maps(mistake, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        mistake(encoder_of())


def test_features_of_a_kept_head_layer():
    head = Head(16, 8, 3, output_norm='scale_only')
    encoder = encoder_of(Architecture('resnet_tiny', stem='small', head=head, head_layers=1))
    bare = encoder_of(Architecture('resnet_tiny', stem='small', head=head))
    images = crops(3)
    assert encoder.dim == 16 and bare.dim == 128
    assert_close(encoder(images), by_hand(encoder, images))
    assert_close(encoder.maps(images), bare.maps(images))
    assert sorted(bare.variables['params']) == sorted(bare.weights.variables['params']['encoder'])


def test_pictures_of_any_size_and_kind(folder):
    encoder = encoder_of(crop=0.875)
    paths = [folder / 'a.jpg', str(folder / 'b' / 'one.png'), folder / 'b' / 'two.PNG']
    pixels = [pictures.decode(pathlib.Path(path).read_bytes()) for path in paths]
    seen = np.stack([central_view(p, image_size=32, crop=0.875) for p in pixels])
    want = by_hand(encoder, seen)
    assert_close(encoder(paths), want)
    assert_close(encoder(pixels), want)
    assert_close(encoder([pathlib.Path(path).read_bytes() for path in paths]), want)
    assert_close(encoder(folder), want)
    assert_close(encoder(str(folder)), want)
    assert_close(encoder(paths[0]), want[:1])
    assert_close(encoder(pixels[0][None]), want[:1])


def test_grey_for_colour_and_colour_for_grey(folder):
    grey = pictures.decode((folder / 'b' / 'two.PNG').read_bytes(), 1)
    encoder = encoder_of()
    assert_close(encoder(grey[None]), encoder(grey.repeat(3, axis=-1)[None]))
    assert_close(encoder(grey[None]), encoder([folder / 'b' / 'two.PNG']))
    single = encoder_of(channels=1)
    assert_close(single([folder / 'b' / 'one.png']), single(PHOTO[None, 20:300, 10:107]))


def test_a_bad_picture_is_named_with_its_reason(folder, tmp_path):
    (tmp_path / 'half.jpg').write_bytes((folder / 'a.jpg').read_bytes()[:5000])
    (tmp_path / 'text.png').write_text('text')
    encoder = encoder_of()
    good = folder / 'a.jpg'
    for name, reason in (
        ('half.jpg', 'truncated'),
        ('text.png', 'not a picture'),
        ('none.png', 'No such file'),
    ):
        with pytest.raises(ConfigError, match=rf'{name}: .*{reason}'):
            encoder([good, tmp_path / name])
    with pytest.raises(ConfigError, match='picture 1: not a picture'):
        encoder([good, b'text'])


@pytest.mark.parametrize(
    'images, message',
    [
        (np.zeros((2, 8, 8, 3), np.uint16), r'uint16 \[2, 8, 8, 3\]; wanted is uint8 .*>> 8'),
        (np.zeros((2, 8, 8, 3), np.float32), r'float32 .* wanted is uint8 .*255 \* images'),
        (np.zeros((2, 8, 8, 3), bool), r'bool .* wanted is uint8'),
        (np.zeros((8, 8, 3), np.uint8), r'take images\[None\]'),
        (np.zeros((2, 8, 8), np.uint8), r'take images\[..., None\]'),
        (np.zeros((2, 3, 8, 8), np.uint8), r'take images.transpose\(0, 2, 3, 1\)'),
        (np.zeros((2, 8, 8, 4), np.uint8), r'images\[..., :3\]'),
        (np.zeros((2, 1, 8, 3), np.uint8), 'each side has to have 2 pixels'),
        ([np.zeros((8, 8, 3), np.uint16)], 'uint16'),
        ([3], 'a int is no picture'),
        (3, 'a int is neither'),
    ],
)
def test_what_is_no_picture_says_what_is_wanted(images, message):
    with pytest.raises(ConfigError, match=message):
        encoder_of()(images)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match='holds no pictures'):
        encoder_of()(tmp_path)


def test_a_stream_is_lazy_and_tells_bad_pictures():
    encoder, images, taken = encoder_of(), crops(40), []

    def items():
        for i, image in enumerate(images):
            taken.append(i)
            yield b'text' if i in (1, 8, 9, 10, 11) else image

    parts, most = [], 0
    for part in encoder.stream(items(), batch_size=4):
        parts.append(part)
        most = max(most, len(taken) - 4 * len(parts))
    assert most <= 16
    places = np.concatenate([part.places for part in parts])
    bad = {place: reason for part in parts for place, reason in part.bad.items()}
    assert sorted([*places, *bad]) == list(range(40)) and places.tolist() == sorted(places)
    assert list(bad) == [1, 8, 9, 10, 11] and set(bad.values()) == {'not a picture'}
    assert [len(part.places) for part in parts[:4]] == [3, 4, 0, 4]
    features = np.concatenate([part.features for part in parts])
    assert_close(features, by_hand(encoder, images[places]))


def test_a_stream_that_is_left_leaves_no_thread(folder):
    before = set(threading.enumerate())  # other tests' threads, which need not end
    stream = encoder_of().stream((folder / 'a.jpg' for _ in range(1000)), batch_size=2)
    next(stream)
    stream.close()
    new = [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith('ThreadPoolExecutor')
    ]
    for thread in new:
        thread.join(20)
    assert not any(thread.is_alive() for thread in new)


def test_batches_are_as_large_as_their_pictures_allow():
    sizes = {size: encoder_of(size=size).batch_size // 8 for size in (32, 64, 224, 448, 4000)}
    assert sizes == {32: 64, 64: 64, 224: 8, 448: 2, 4000: 1}


def test_few_shapes_are_compiled():
    encoder = encoder_of()
    assert encoder.batch_size == 8 * 64
    for count in (1, 2, 7, 8, 9, 30, 32, 33):
        encoder(crops(count))
    assert encoder._features._cache_size() == 3  # of 8, 32 and 128 rows on the 8 devices
    list(encoder.stream(crops(41), batch_size=16))
    assert encoder._features._cache_size() == 4


def test_all_devices_take_part_and_one_gives_the_same(tmp_path):
    encoder, images = encoder_of(), crops(50)
    assert len(jax.local_devices()) == 8
    assert encoder._mesh.devices.size == 8
    want = encoder(images)
    native.save(tmp_path / 'e.safetensors', encoder.weights)
    np.save(tmp_path / 'images.npy', images)
    code = (
        'import sys, numpy as np, jax\n'
        'from simclr_jax.weights import native\n'
        'from simclr_jax.weights.encoder import Encoder\n'
        'assert len(jax.local_devices()) == 1\n'
        'encoder = Encoder(native.read(sys.argv[1] + "/e.safetensors"))\n'
        'features = encoder(np.load(sys.argv[1] + "/images.npy"))\n'
        'np.save(sys.argv[1] + "/features.npy", features)\n'
    )
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': os.getcwd()}
    environment.pop('XLA_FLAGS', None)
    subprocess.run([sys.executable, '-c', code, str(tmp_path)], env=environment, check=True)
    assert_close(np.load(tmp_path / 'features.npy'), want)


def test_bfloat16_is_asked_for():
    encoder, images = encoder_of(), crops(4)
    half = Encoder(encoder.weights, 'bfloat16')(images)
    assert half.dtype == np.float32
    full = encoder(images)
    assert 1e-5 < np.abs(half - full).max() / np.abs(full).max() < 0.05
    with pytest.raises(ConfigError, match='float16'):
        Encoder(encoder.weights, 'float16')


def test_what_it_says_of_itself():
    encoder = encoder_of()
    assert repr(encoder) == '<Encoder resnet_tiny, pictures of 32 x 32 x 3; simclr, 3 steps>'
    assert encoder.architecture is encoder.weights.architecture
    assert encoder.origin['steps'] == 3 and encoder.preprocess.size == 32
    with pytest.raises(AttributeError):
        encoder.dtype = 'bfloat16'


def test_views_of_a_folder_are_sorted(folder):
    names = [os.path.relpath(path, folder) for path in views.files_in(folder)]
    assert names == ['a.jpg', 'b/one.png', 'b/two.PNG']
