import jax
import jax.numpy as jnp
import pytest

from simclr_jax.models.factory import ENCODERS, create_encoder

SIZES = {  # name -> (parameters with three channels and the ImageNet stem, features)
    'resnet_tiny': (49_296, 128),
    'resnet18': (11_176_512, 512),
    'resnet34': (21_284_672, 512),
    'resnet50': (23_508_032, 2048),
    'resnet101': (42_500_160, 2048),
    'resnet152': (58_143_808, 2048),
}


def shapes(encoder, image_size, channels=3):
    return jax.eval_shape(
        lambda rng, images: encoder.init_with_output(rng, images, train=True),
        jax.random.key(0),
        jnp.zeros((2, image_size, image_size, channels)),
    )


def count(variables):
    return sum(x.size for x in jax.tree.leaves(variables['params']))


def test_every_encoder_is_in_the_table():
    assert set(SIZES) == set(ENCODERS)


@pytest.mark.parametrize('name', SIZES)
def test_sizes(name):
    features, variables = shapes(create_encoder(name, image_size=224), 224)
    parameters, dim = SIZES[name]
    assert count(variables) == parameters
    assert features.shape == (2, dim)
    assert features.dtype == jnp.float32


@pytest.mark.parametrize(
    ('stem', 'image_size', 'expected'),
    [
        ('auto', 8, 'small'),
        ('auto', 32, 'small'),
        ('auto', 33, 'imagenet'),
        ('auto', 224, 'imagenet'),
        ('imagenet', 32, 'imagenet'),
        ('small', 224, 'small'),
    ],
)
def test_stem(stem, image_size, expected):
    assert create_encoder('resnet18', image_size=image_size, stem=stem).stem == expected


def test_small_stem_and_one_channel():
    _, variables = shapes(create_encoder('resnet18', image_size=32), 32, channels=1)
    assert variables['params']['stem_conv']['kernel'].shape == (3, 3, 1, 64)
    assert count(variables) == 11_176_512 - (7 * 7 * 3 - 3 * 3) * 64


def test_fields_replace_the_table_s():
    encoder = create_encoder(
        'resnet_tiny',
        image_size=8,
        padding='same',
        zero_init_last_scale=False,
        dtype='bfloat16',
        widths=(8, 16, 24),
        strides=(1, 1, 1),
    )
    assert (encoder.padding, encoder.zero_init_last_scale) == ('same', False)
    assert encoder.dtype == jnp.bfloat16
    assert encoder.strides == (1, 1, 1)
    features, _ = shapes(encoder, 8)
    assert features.shape == (2, 4 * 24)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('resnet51', r"unknown encoder 'resnet51': did you mean resnet50 or .*\? There are"),
        ('vgg', r"unknown encoder 'vgg': There are resnet_tiny, resnet18"),
    ],
)
def test_unknown_name(name, message):
    with pytest.raises(ValueError, match=message):
        create_encoder(name, image_size=224)
