import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from simclr_jax import parallel
from simclr_jax.augment import mixing
from simclr_jax.augment.mixing_recipe import Mixing
from simclr_jax.methods.finetune import FineTune
from simclr_jax.models.factory import create_encoder
from simclr_jax.models.heads import MLPHead
from simclr_jax.models.vit import VisionTransformer
from simclr_jax.optim.groups import Groups
from simclr_jax.train.state import init_state
from simclr_jax.train.step import make_train_step

VIEWS = np.random.default_rng(0).normal(size=(8, 1, 8, 8, 3)).astype(np.float32)
LABELS = jnp.array([0, 1, 2, -1, 1, 0, -1, 2], jnp.int32)
VIT = VisionTransformer(
    dim=8, depth=2, num_heads=2, patch_size=4, freeze_patch_projection=False, drop_path=0.0
)


def tiny(**fields):
    return create_encoder('resnet_tiny', image_size=8, zero_init_last_scale=False, **fields)


def made(method):
    variables, extra = jax.jit(method.init)(jax.random.key(0), VIEWS)
    assert extra == ()
    return variables.pop('params'), variables


def loss_of(method, params, variables, labels=LABELS, views=VIEWS, seed=0):
    return method.loss(params, variables, (), views, jax.random.key(seed), 0, labels=labels)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_of_those_that_have_a_label(smoothing):
    method = FineTune(VIT, 3, head_init='normal', label_smoothing=smoothing)
    params, variables = made(method)
    loss, aux = loss_of(method, params, variables)
    _, logits = method.network.apply({'params': params}, VIEWS[:, 0], train=True)
    logs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    rows = [
        -(1 - smoothing) * logs[i, label] - smoothing * logs[i].mean()
        for i, label in enumerate(np.asarray(LABELS))
        if label >= 0
    ]
    np.testing.assert_allclose(loss, np.mean(rows), rtol=1e-5)
    right, count = aux.metrics['accuracy']
    known = np.asarray(LABELS) >= 0
    assert count == 6 and right == (logits.argmax(1) == LABELS)[known].sum()
    assert aux.features.shape == (8, 1, 8)
    # A picture without a label changes nothing, whatever it is; without any label the loss is 0.
    other = np.where((LABELS < 0)[:, None, None, None, None], -VIEWS, VIEWS)
    np.testing.assert_allclose(loss_of(method, params, variables, views=other)[0], loss, rtol=1e-6)
    nothing = loss_of(method, params, variables, labels=jnp.full(8, -1))
    assert nothing[0] == 0 and nothing[1].metrics['accuracy'][1] == 0


@pytest.mark.slow
def test_micro_batches_have_the_gradient_of_the_whole_batch():
    whole, parts = (
        FineTune(VIT, 3, head_init='normal', accumulation_steps=steps) for steps in (1, 4)
    )
    params, variables = made(whole)
    gradients = [
        jax.jit(jax.grad(lambda params, method=method: loss_of(method, params, variables)[0]))(
            params
        )
        for method in (whole, parts)
    ]
    # Relative to a parameter's largest gradient: single ones may be sums of what nearly cancels.
    # The softmax does not see a key's bias, whose gradient is rounding alone.
    for name, one in flatten_dict(gradients[0], sep='/').items():
        other, largest = flatten_dict(gradients[1], sep='/')[name], np.abs(one).max()
        if not name.endswith('key/bias'):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * largest, err_msg=name)
        assert np.abs(other).max() < 1e-6 if name.endswith('key/bias') else largest > 0, name


@pytest.mark.parametrize(
    'recipe',
    [Mixing(mixup_alpha=0.8), pytest.param(Mixing(cutmix_alpha=1.0), marks=pytest.mark.slow)],
)
def test_mixed_pictures_have_mixed_labels(recipe):
    """By hand: what a step sees, at its key, and the cross-entropy in float64 of its logits."""
    method = FineTune(VIT, 3, head_init='normal', label_smoothing=0.1, mixing=recipe)
    params, variables = made(method)
    loss, aux = loss_of(method, params, variables)
    drawn = mixing.sample_parameters(
        recipe, jax.random.fold_in(jax.random.key(0), len(VIEWS)), *VIEWS.shape[2:4]
    )
    share = float(drawn['share'])
    assert 0 < share < 1
    seen = mixing.mix_images(jnp.asarray(VIEWS[:, 0]), drawn)
    features, logits = method.network.apply({'params': params}, seen, train=True)
    np.testing.assert_allclose(aux.features[:, 0], features, rtol=1e-5, atol=1e-6)
    logs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    total, own_labels = 0.0, np.asarray(LABELS)
    for row, (own, other) in enumerate(zip(own_labels, own_labels[::-1], strict=True)):
        for label, weight in ((own, share), (other, 1 - share)):
            if label >= 0:
                total -= weight * (0.9 * logs[row, label] + 0.1 * logs[row].mean())
    np.testing.assert_allclose(loss, total / 6, rtol=1e-5)  # six of the pictures have a label
    right, count = aux.metrics['accuracy']
    assert 0 <= right <= count == (np.maximum(LABELS, LABELS[::-1]) >= 0).sum()


@pytest.mark.slow
def test_what_is_mixed_follows_the_step():
    method = FineTune(VIT, 3, head_init='normal', mixing=Mixing(mixup_alpha=0.8))
    params, variables = made(method)
    one, again, other = (loss_of(method, params, variables, seed=seed)[0] for seed in (0, 0, 1))
    assert one == again != other


@pytest.mark.slow
def test_drop_path_follows_the_key_and_differs_between_micro_batches():
    encoder = VIT.clone(drop_path=0.5, dim=8)
    method = FineTune(encoder, 3, head_init='normal', accumulation_steps=4)
    params, variables = made(method)
    same = np.broadcast_to(VIEWS[:1], VIEWS.shape)
    first, again, other = (
        loss_of(method, params, variables, views=same, seed=seed)[1].features for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    # Rows i, i + 4 are micro-batch i; two kinds of features at the most in each, of a branch kept
    # or dropped twice; one key for all of them would give the same ones everywhere.
    parts = np.asarray(first).reshape(2, 4, -1)
    assert np.any(parts[:, 0] != parts[:, 1]) or np.any(parts[:, 1] != parts[:, 2])


def test_encoder_and_kept_layers_start_as_the_file_and_the_classifier_does_not():
    projector = MLPHead(hidden_dim=16, output_dim=5, num_layers=3)
    method = FineTune(tiny(), 4, projector, head_layers=1)
    full = FineTune(tiny(), 7, projector, head_layers=3, head_init='normal')
    start, _ = jax.jit(full.init)(jax.random.key(1), VIEWS)
    variables, _ = jax.jit(method.init)(jax.random.key(0), VIEWS, start)
    params = variables['params']
    assert params['projector'].keys() == {'dense1', 'norm1'}
    assert variables['batch_stats']['projector'].keys() == {'norm1'}
    for part in ('encoder', 'projector'):
        want = {name: start['params'][part][name] for name in params[part]}
        jax.tree.map(np.testing.assert_array_equal, params[part], want)
    assert params['classifier']['kernel'].shape == (16, 4)
    assert not params['classifier']['kernel'].any()


def test_a_step_learns_the_labels_and_leaves_what_is_frozen():
    method = FineTune(tiny(first_trained=3), 3)
    groups = Groups(first_trained=3)
    tx = groups.wrap(
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.3, 0.9, nesterov=True))
    )
    mesh = parallel.make_mesh(jax.devices()[:2])
    everywhere = parallel.replicated(mesh)
    state = jax.jit(
        lambda: init_state(method, tx, None, 0, VIEWS.shape), out_shardings=everywhere
    )()
    before = jax.device_get(state)
    step = make_train_step(method, tx, None, mesh, seed=0, mean=(0.5,), std=(0.25,))
    images = np.random.default_rng(1).integers(0, 256, VIEWS.shape, np.uint8)
    batch = parallel.put_batch({'image': images, 'label': np.asarray(LABELS)}, mesh)
    losses = []
    for _ in range(6):
        state, metrics = step(state, batch)
        losses.append(float(metrics['loss'][0]))
    assert losses[0] == pytest.approx(np.log(3), abs=1e-6) and losses[-1] < 0.7 * losses[0]
    after = jax.device_get(state)
    for collection in ('params', 'batch_stats'):
        trees = [
            {'params': tree.params, **tree.variables}[collection]['encoder']
            for tree in (before, after)
        ]
        for name in trees[0]:
            same = jax.tree.map(np.array_equal, trees[0][name], trees[1][name])
            assert all(jax.tree.leaves(same)) == (not name.startswith('stage3')), name
