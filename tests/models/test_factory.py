import jax
import jax.numpy as jnp
import pytest

from simclr_jax.models.factory import ENCODERS, RESNETS, create_encoder

SIZES = {  # name -> (parameters with three channels and the ImageNet stem, features)
    'resnet_tiny': (49_296, 128),
    'resnet18': (11_176_512, 512),
    'resnet34': (21_284_672, 512),
    'resnet50': (23_508_032, 2048),
    'resnet101': (42_500_160, 2048),
    'resnet152': (58_143_808, 2048),
    'resnet200': (62_624_832, 2048),
    # timm's and DeiT's, without the classifier and the positions, which are fixed here.
    'vit_ti16': (5_486_592, 192),
    'vit_s16': (22_050_664 - 1000 * 385 - 197 * 384, 384),
    'vit_b16': (86_567_656 - 1000 * 769 - 197 * 768, 768),
    'vit_l16': (304_326_632 - 1000 * 1025 - 197 * 1024, 1024),
}
# The original SimCLR's for CIFAR-10, with the small stem, and BYOL's for Imagenette.
PROJECTED = {
    ('resnet18', 'simclr', 32): 11_173_056,
    ('resnet18', 'same', 128): 11_180_736,
    ('resnet34', 'same', 128): 21_284_672 + 64 * 64 + 2 * 64,
    ('resnet50', 'simclr', 224): SIZES['resnet50'][0],  # its first shortcut changes its shape
}
# SimCLR v2's README: (depth, width, selective kernels) -> millions, with the running statistics.
SIMCLR_V2 = {
    (50, 1, False): 24,
    (50, 1, True): 35,
    (50, 2, False): 94,
    (50, 2, True): 140,
    (101, 1, False): 43,
    (101, 1, True): 65,
    (101, 2, False): 170,
    (101, 2, True): 257,
    (152, 1, False): 58,
    (152, 1, True): 89,
    (152, 2, False): 233,
    (152, 2, True): 354,
    (152, 3, True): 795,
}
QUICK = {(50, 1, True), (50, 2, True), (152, 3, True)}  # tracing 152 layers takes seconds
WIDE = {  # (name, width) -> parameters; BYOL's table 1 has 375 and 250 million
    ('resnet50', 2): 93_907_072,
    ('resnet50', 4): 375_378_176,
    ('resnet200', 2): 250_128_512,
}


def shapes(encoder, image_size, channels=3):
    return jax.eval_shape(
        lambda rng, images: encoder.init_with_output(rng, images, train=True),
        jax.random.key(0),
        jnp.zeros((2, image_size, image_size, channels)),
    )


def count(variables):
    return sum(x.size for x in jax.tree.leaves(variables['params']))


@pytest.mark.parametrize(('name', 'padding', 'image_size'), PROJECTED)
def test_the_first_shortcut_is_projected_where_the_original_does(name, padding, image_size):
    encoder = create_encoder(name, image_size=image_size, padding=padding)
    _, variables = shapes(encoder, image_size)
    assert count(variables) == PROJECTED[name, padding, image_size]
    assert 'shortcut_conv' in variables['params']['stage1_block0']
    assert 'shortcut_conv' not in variables['params']['stage1_block1']


def bottleneck_count(stage_sizes, width):
    """From the layers' sizes: 7x7, then 1x1, 3x3 and 1x1, and shortcuts of 1x1; no biases."""
    total, inputs = 7 * 7 * 3 * 64 * width + 2 * 64 * width, 64 * width
    for blocks, base in zip(stage_sizes, (64, 128, 256, 512), strict=True):
        f = base * width
        for block in range(blocks):
            total += inputs * f + 9 * f * f + f * 4 * f + 2 * (f + f + 4 * f)
            total += (inputs * 4 * f + 2 * 4 * f) if block == 0 else 0
            inputs = 4 * f
    return total


def test_every_encoder_is_in_the_table():
    assert set(SIZES) == set(ENCODERS)


@pytest.mark.parametrize('name', SIZES)
def test_sizes(name):
    features, variables = shapes(create_encoder(name, image_size=224), 224)
    parameters, dim = SIZES[name]
    assert count(variables) == parameters
    assert features.shape == (2, dim)
    assert features.dtype == jnp.float32


@pytest.mark.parametrize(('name', 'width'), WIDE)
def test_sizes_of_wide_encoders(name, width):
    features, variables = shapes(create_encoder(name, image_size=224, width=width), 224)
    assert count(variables) == WIDE[name, width]
    assert features.shape == (2, SIZES[name][1] * width)
    assert count(variables) == bottleneck_count(RESNETS[name]['stage_sizes'], width)


@pytest.mark.parametrize(
    ('depth', 'width', 'selective'),
    [
        pytest.param(
            *key, marks=() if key in QUICK else pytest.mark.slow, id='-'.join(map(str, key))
        )
        for key in SIMCLR_V2
    ],
)
def test_sizes_of_simclr_v2_s_encoders(depth, width, selective):
    encoder = create_encoder(
        f'resnet{depth}', image_size=224, width=width, sk_ratio=0.0625 if selective else 0.0
    )
    _, variables = shapes(encoder, 224)
    everything = sum(x.size for x in jax.tree.leaves(variables))
    assert round(everything / 1e6) == SIMCLR_V2[depth, width, selective]


def test_averaging_patches_takes_no_class_token():
    encoder = create_encoder('vit_s16', image_size=224, pooling='mean')
    features, variables = shapes(encoder, 224)
    # Neither the token nor the last LayerNorm.
    assert count(variables) == SIZES['vit_s16'][0] - 384 - 2 * 384
    assert features.shape == (2, 384)


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
