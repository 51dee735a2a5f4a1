"""Mixup and cutmix against timm's, with the same draws, and what they draw."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from simclr_jax.augment import mixing
from simclr_jax.augment.mixing_recipe import MAE_MIXING, Mixing

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens' / 'timm_views.npz'
BATCH, HEIGHT, WIDTH, CLASSES = 8, 12, 10, 5


@pytest.fixture(scope='module')
def batch():
    random = np.random.default_rng(0)
    images = random.normal(size=(BATCH, HEIGHT, WIDTH, 3)).astype(np.float32)
    return images, random.integers(0, CLASSES, BATCH)


@jax.jit
def drawn_by_mae(keys):
    return jax.vmap(lambda key: mixing.sample_parameters(MAE_MIXING, key, HEIGHT, WIDTH))(keys)


def parameters(share, cutmix, centre=(3, 8)):
    box = mixing.cut_box(jnp.float32(share), *map(jnp.int32, centre), HEIGHT, WIDTH)
    if cutmix:
        share = 1 - (box[1] - box[0]) * (box[3] - box[2]) / (HEIGHT * WIDTH)
    return {'share': jnp.float32(share), 'cutmix': jnp.bool_(cutmix), 'box': box}


@pytest.fixture(scope='module')
def goldens():
    with np.load(GOLDENS) as values:
        return dict(values)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('kind', ['mixup', 'cutmix'])
def test_a_batch_is_mixed_as_by_timm(goldens, kind, smoothing):
    images = goldens['mix_images']
    targets = mixing.smooth_targets(goldens['mix_labels'], CLASSES, smoothing)
    for i, share in enumerate(goldens['mix_shares']):
        drawn = parameters(share, kind == 'cutmix', goldens['mix_centre'])
        found, found_targets = mixing.mix_images(images, drawn), mixing.mix_targets(targets, drawn)
        key = f'{kind}_{smoothing}'
        np.testing.assert_allclose(found, goldens[f'{key}_images'][i], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found_targets, goldens[f'{key}_targets'][i], rtol=0, atol=1e-6)


def test_what_is_drawn():
    count = 20_000
    drawn = jax.tree.map(np.asarray, drawn_by_mae(jax.random.split(jax.random.key(0), count)))
    assert scipy.stats.binomtest(int(drawn['cutmix'].sum()), count, 0.5).pvalue > 1e-3
    of_mixup = drawn['share'][~drawn['cutmix']]
    assert scipy.stats.kstest(of_mixup, scipy.stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    top, bottom, left, right = drawn['box'].T
    assert (top >= 0).all() and (top <= bottom).all() and (bottom <= HEIGHT).all()
    assert (left >= 0).all() and (left <= right).all() and (right <= WIDTH).all()
    left_over = 1 - (bottom - top) * (right - left) / (HEIGHT * WIDTH)
    np.testing.assert_allclose(drawn['share'][drawn['cutmix']], left_over[drawn['cutmix']], 1e-5)
    # Every pixel is replaced somewhere, and those of the middle more often.
    y, x = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    often = np.mean(
        [
            (y >= t) & (y < b) & (x >= le) & (x < r)
            for t, b, le, r in drawn['box'][drawn['cutmix']][:2000]
        ],
        axis=0,
    )
    assert often.min() > 0.1 and often[6, 5] > often[0, 0] + 0.05


def test_boxes_leave_the_same_shares_as_timms(goldens):
    drawn = drawn_by_mae(jax.random.split(jax.random.key(1), 8000))
    ours = np.asarray(drawn['share'])[np.asarray(drawn['cutmix'])]
    pixels = np.rint(ours * HEIGHT * WIDTH)
    assert scipy.stats.ks_2samp(pixels, goldens['cutmix_left']).pvalue > 1e-3


@pytest.mark.parametrize(
    ('recipe', 'mixed', 'cut'),
    [
        (Mixing(mixup_alpha=0.8, probability=0.25), 0.25, 0.0),
        (Mixing(cutmix_alpha=1.0, probability=0.75), 0.75, 1.0),
        (Mixing(mixup_alpha=0.5, cutmix_alpha=0.5, switch_probability=0.2), 1.0, 0.2),
    ],
)
def test_how_often(recipe, mixed, cut):
    keys = jax.random.split(jax.random.key(2), 4000)
    draw = jax.jit(jax.vmap(lambda key: mixing.sample_parameters(recipe, key, 200, 200)))
    drawn = jax.tree.map(np.asarray, draw(keys))
    # A box of no pixel, which a share of nearly 1 gives, mixes nothing either.
    assert abs((drawn['share'] < 1).mean() - mixed) < 0.03
    assert abs(drawn['cutmix'].mean() - cut) < 0.03


def test_mixing_is_a_function_of_its_key(batch):
    images, labels = batch
    targets = mixing.smooth_targets(labels, CLASSES)
    mix = jax.jit(mixing.mix, static_argnums=0)
    first, again, other = (mix(MAE_MIXING, jax.random.key(k), images, targets) for k in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert np.abs(first[0] - other[0]).max() > 0.1
    np.testing.assert_allclose(first[1].sum(1), 1, rtol=0, atol=1e-6)
    same = mixing.mix(Mixing(), jax.random.key(3), images, targets)
    assert same[0] is images and same[1] is targets


def test_a_picture_without_a_label_gives_no_target():
    labels = np.array([2, -1, 0, -1])
    targets = mixing.smooth_targets(labels, 3, 0.3)
    np.testing.assert_allclose(targets[0], [0.1, 0.1, 0.8], atol=1e-6)
    np.testing.assert_array_equal(targets[1], np.zeros(3))
    mixed = mixing.mix_targets(targets, parameters(0.25, cutmix=False))
    np.testing.assert_allclose(mixed.sum(1), [0.25, 0.75, 0.25, 0.75], atol=1e-6)


@pytest.mark.slow
def test_mixing_over_eight_devices_moves_each_part_once(batch):
    from simclr_jax import parallel

    images, labels = batch
    targets = mixing.smooth_targets(labels, CLASSES, 0.1)
    mesh = parallel.make_mesh()
    assert mesh.devices.size == 8
    sharding = parallel.batch_sharding(mesh)
    mix = jax.jit(mixing.mix, static_argnums=0, out_shardings=sharding)
    sharded = parallel.put_batch({'image': images, 'target': np.asarray(targets)}, mesh)
    arguments = MAE_MIXING, jax.random.key(3), sharded['image'], sharded['target']
    for found, want in zip(
        mix(*arguments), mixing.mix(*arguments[:2], images, targets), strict=True
    ):
        np.testing.assert_allclose(np.asarray(found), want, rtol=0, atol=1e-6)
    program = mix.lower(*arguments).compile().as_text()
    assert 'collective-permute' in program
    assert 'all-gather' not in program and 'all-to-all' not in program


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('mixup_alpha', -0.1),
        ('cutmix_alpha', float('inf')),
        ('probability', 1.5),
        ('switch_probability', float('nan')),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(ValueError) as error:
        Mixing(**{name: value})
    assert f'{name}={value!r}' in str(error.value)
