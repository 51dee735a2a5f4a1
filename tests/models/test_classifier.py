import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from simclr_jax.models.classifier import ClassifierNetwork
from simclr_jax.models.factory import create_encoder
from simclr_jax.models.heads import MLPHead
from simclr_jax.models.vit import Block, VisionTransformer

IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def vit(**fields):
    return VisionTransformer(
        **{'dim': 8, 'depth': 3, 'num_heads': 2, 'patch_size': 4, 'freeze_patch_projection': False}
        | fields
    )


def tiny(**fields):
    return create_encoder('resnet_tiny', image_size=8, zero_init_last_scale=False, **fields)


def made(network):
    variables = jax.jit(network.init, static_argnames='train')(
        jax.random.key(0), IMAGES, train=True
    )
    rest = {name: tree for name, tree in variables.items() if name != 'params'}
    return variables['params'], rest


def gradients(network, params, rest, **how):
    """Gradients by name, and the statistics after the step."""

    def loss(params):
        (_, logits), updated = network.apply(
            {'params': params, **rest}, IMAGES, train=True, mutable=['batch_stats'], **how
        )
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), LABELS[:, None], 1).mean(), updated

    grads, updated = jax.jit(jax.grad(loss, has_aux=True))(params)
    return flatten_dict(grads, sep='/'), updated


def test_parameters_and_shapes():
    projector = MLPHead(hidden_dim=16, output_dim=5, num_layers=3)
    network = ClassifierNetwork(tiny(), projector, head_layers=1, classes=3)
    params, _ = made(network)
    assert params.keys() == {'encoder', 'projector', 'classifier'}
    assert params['projector'].keys() == {'dense1', 'norm1'}
    assert params['classifier']['kernel'].shape == (16, 3)
    assert params['classifier']['bias'].shape == (3,)
    variables = network.init(jax.random.key(0), IMAGES, train=False)
    features, logits = network.apply(variables, IMAGES, train=False)
    assert features.shape == (6, 16) and logits.shape == (6, 3)
    np.testing.assert_array_equal(logits, np.zeros((6, 3)))  # a head that starts at 0


@pytest.mark.slow
def test_a_network_in_bfloat16_gives_float32():
    network = ClassifierNetwork(tiny(dtype='bfloat16'), classes=3, head_init='normal')
    params, rest = made(network)
    features, logits = network.apply({'params': params, **rest}, IMAGES, train=False)
    assert features.dtype == logits.dtype == jnp.float32


@pytest.mark.parametrize(
    'head_init, std', [('normal', 0.01), ('timm', 0.02), ('trunc_normal', 2e-5)]
)
def test_spread_of_the_heads_start(head_init, std):
    network = ClassifierNetwork(tiny(), classes=100, head_init=head_init)
    params, _ = made(network)
    kernel = np.asarray(params['classifier']['kernel'])
    assert np.std(kernel) == pytest.approx(std, rel=0.05)
    assert not params['classifier']['bias'].any()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="head_init='ones'"):
        made(ClassifierNetwork(tiny(), head_init='ones'))
    with pytest.raises(ValueError, match='needs a projector'):
        made(ClassifierNetwork(tiny(), head_layers=1))
    with pytest.raises(ValueError, match='there are 3 stages'):
        made(ClassifierNetwork(tiny(first_trained=4)))
    with pytest.raises(ValueError, match='there are 3 blocks'):
        made(ClassifierNetwork(vit(first_trained=4)))
    with pytest.raises(ValueError, match="frozen_norm='eval'"):
        made(ClassifierNetwork(tiny(frozen_norm='eval')))


def test_a_frozen_encoder_gets_no_gradient_and_keeps_its_statistics():
    projector = MLPHead(hidden_dim=16, output_dim=5, num_layers=3)
    network = ClassifierNetwork(tiny(), projector, 1, classes=3, frozen_encoder=True)
    params, rest = made(network)
    grads, updated = gradients(network, params, rest)
    trained = {name for name, grad in grads.items() if np.any(grad)}
    assert trained == {'classifier/kernel', 'classifier/bias'}
    jax.tree.map(np.testing.assert_array_equal, updated, rest)


@pytest.mark.parametrize('remat', [pytest.param('none', marks=pytest.mark.slow), 'full'])
@pytest.mark.parametrize('frozen_norm', ['running', pytest.param('batch', marks=pytest.mark.slow)])
def test_a_resnet_from_a_stage_on(frozen_norm, remat):
    encoder = tiny(first_trained=2, frozen_norm=frozen_norm, remat=remat)
    network = ClassifierNetwork(encoder, classes=3, head_init='normal')
    params, rest = made(network)
    grads, updated = gradients(network, params, rest)
    frozen = ('encoder/stem', 'encoder/stage1')
    for name, grad in grads.items():
        assert np.any(grad) != name.startswith(frozen), name
    before, after = flatten_dict(rest, sep='/'), flatten_dict(updated, sep='/')
    for name, value in before.items():
        kept = name.removeprefix('batch_stats/').startswith(frozen) and frozen_norm == 'running'
        assert np.array_equal(value, after[name]) == kept, name


def test_a_vit_from_a_block_on():
    network = ClassifierNetwork(vit(first_trained=2), classes=3, head_init='normal')
    params, rest = made(network)
    grads, _ = gradients(network, params, rest)
    frozen = {
        name
        for name in grads
        if name.split('/')[1] in ('class_token', 'patch_projection', 'block0')
    }
    for name, grad in grads.items():
        if not name.endswith('key/bias'):  # which softmax does not see
            assert np.any(grad) != (name in frozen), name


@pytest.mark.slow
def test_what_is_trained_changes_no_output():
    whole, part = (
        ClassifierNetwork(tiny(**fields), classes=3, head_init='normal')
        for fields in ({}, {'first_trained': 2, 'frozen_norm': 'batch'})
    )
    params, rest = made(whole)
    outputs = [
        network.apply({'params': params, **rest}, IMAGES, train=True, mutable=['batch_stats'])[0]
        for network in (whole, part)
    ]
    jax.tree.map(np.testing.assert_array_equal, *outputs)


def test_drop_path_drops_whole_branches_of_pictures_at_its_rate():
    block = Block(num_heads=2, dtype=jnp.float32, drop_path=0.25)
    x = np.random.default_rng(0).normal(size=(400, 3, 8)).astype(np.float32)
    variables = block.init(jax.random.key(0), x, False)
    whole = block.apply(variables, x, False)
    dropped = block.apply(variables, x, True, rngs={'drop_path': jax.random.key(1)})
    untouched = (np.asarray(dropped) == x).all(axis=(1, 2))  # both branches are skipped
    assert untouched.mean() == pytest.approx(0.25**2, abs=0.04)
    # Attention kept and the perceptron skipped, or the other way round, or both kept, scaled up.
    assert not (np.asarray(dropped) == np.asarray(whole)).all(axis=(1, 2)).any()
    branch = block.apply(
        variables,
        jnp.ones((400, 1, 1)),
        True,
        method=Block._drop,
        rngs={'drop_path': jax.random.key(2)},
    )
    assert set(np.unique(branch)) == {0.0, np.float32(1 / 0.75)}
    assert np.mean(branch) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_drop_path_is_off_in_evaluation_and_drawn_by_its_key():
    encoder = vit(drop_path=0.4)
    variables = encoder.init(jax.random.key(0), IMAGES, train=False)
    evaluated = encoder.apply(variables, IMAGES, train=False)
    np.testing.assert_array_equal(evaluated, vit().apply(variables, IMAGES, train=True))
    trained = [
        encoder.apply(variables, IMAGES, train=True, rngs={'drop_path': jax.random.key(seed)})
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert np.any(trained[0] != trained[2])
    remat = vit(drop_path=0.4, remat='blocks').apply(
        variables, IMAGES, train=True, rngs={'drop_path': jax.random.key(0)}
    )
    np.testing.assert_allclose(remat, trained[0], rtol=1e-5, atol=1e-6)
