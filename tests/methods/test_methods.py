"""Every registered method through the same checks, and what is special about each."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from simclr_jax import parallel
from simclr_jax.losses import info_nce, nt_xent, regression_loss
from simclr_jax.methods.factory import METHODS
from simclr_jax.models.factory import create_encoder
from simclr_jax.optim.schedules import one_cycle, target_decay
from simclr_jax.tools.program import collectives
from simclr_jax.train.probe import OnlineProbe
from simclr_jax.train.state import init_state
from simclr_jax.train.step import make_train_step

# One block: most of the time of these tests is compilation.
ENCODER = create_encoder('resnet_tiny', image_size=8, stage_sizes=(1,), widths=(8,), strides=(2,))
SIZES = {'hidden_dim': 16, 'output_dim': 8}
FIELDS = {
    'simclr': {'temperature': 0.5},
    'moco': {'queue_size': 32, 'decay': 0.99, 'temperature': 0.1},
    'moco_v3': {'temperature': 0.2},
}
# MoCo's queue is random at first, which is easy; after two steps it holds keys.
FIRST_STEP = {'moco': 2}
RATE = {'simclr': 0.006, 'byol': 0.015, 'moco': 0.01, 'moco_v3': 0.03}  # the highest of SGD
# Rounding grows tenfold a step in batches this small once a ReLU's input crosses zero.
STEPS_TOGETHER = {'moco_v3': 12}
COMPILE_QUICKLY = {'xla_backend_optimization_level': 0}
jit = functools.partial(jax.jit, compiler_options=COMPILE_QUICKLY)
BATCH = 16


def make(name: str, **fields):
    return METHODS[name](encoder=ENCODER, total_steps=20, **SIZES | FIELDS.get(name, {}) | fields)


def make_batch(seed: int = 0, batch: int = BATCH) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    base = random.integers(0, 200, (batch, 1, 8, 8, 1))
    views = base + random.integers(0, 55, (batch, 2, 8, 8, 1))
    return {'image': views.astype(np.uint8), 'label': np.arange(batch, dtype=np.int32) % 3}


@functools.cache
def prepare(name: str, devices: int):
    """Returns the first state, on the host, and the step: compiled once, and quickly."""
    method, mesh = make(name), parallel.make_mesh(jax.devices()[:devices])
    tx, probe = optax.sgd(one_cycle(RATE.get(name, 0.01), 20, 40), 0.9), OnlineProbe(3, 0.01)
    if devices == 1:
        first = jax.device_get(jit(lambda: init_state(method, tx, probe, 0, (BATCH, 2, 8, 8, 1)))())
    else:
        first, _ = prepare(name, 1)
    step = make_train_step(method, tx, probe, mesh, seed=0, mean=(0.2,), std=(0.5,))
    state = jax.device_put(first, parallel.replicated(mesh))
    # Compiled ahead, it refuses a state or a batch that would need another compilation.
    lowered = step.lower(state, parallel.put_batch(make_batch(), mesh))
    return first, lowered.compile(COMPILE_QUICKLY)


def train(name: str, steps: int, devices: int = 1, fresh: bool = True):
    """Returns the losses of `steps` steps and the last state."""
    mesh, losses = parallel.make_mesh(jax.devices()[:devices]), []
    first, step = prepare(name, devices)
    state = jax.device_put(first, parallel.replicated(mesh))
    for index in range(steps):
        batch = parallel.put_batch(make_batch(index if fresh else 0), mesh)
        state, metrics = step(state, batch)
        losses.append(float(metrics['loss'][0]))
    return losses, state


@pytest.fixture(scope='module', params=METHODS)
def name(request):
    return request.param


def test_it_is_frozen_and_its_initialization_is_a_function_of_the_seed(name):
    method = make(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.total_steps = 3
    views = jnp.zeros((2, 2, 8, 8, 1))
    init = jit(method.init)
    one, two, other = (init(jax.random.key(s), views) for s in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    kernels = [tree[0]['params']['encoder']['stem_conv']['kernel'] for tree in (one, other)]
    assert (kernels[0] != kernels[1]).any()


def test_every_parameter_learns_and_the_loss_goes_down(name):
    losses, state = train(name, 30, fresh=False)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[FIRST_STEP.get(name, 0)]
    assert int(state.step) == 30
    _, start = train(name, 0)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, start.params)
    assert all(jax.tree.leaves(moved)), moved


@pytest.mark.parametrize(
    'name',  # tests/methods/test_moco.py has eight devices too
    [n if n in ('simclr', 'byol') else pytest.param(n, marks=pytest.mark.slow) for n in METHODS],
)
def test_eight_devices_give_the_losses_of_one(name):
    steps = STEPS_TOGETHER.get(name, 20)
    one, state = train(name, steps)
    eight, sharded = train(name, steps, devices=8)
    np.testing.assert_allclose(eight, one, atol=1e-4)
    for path, a in jax.tree_util.tree_leaves_with_path(state.variables):
        b = jax.tree_util.tree_leaves_with_path(sharded.variables)
        np.testing.assert_allclose(a, dict(b)[path], atol=1e-3)


def test_devices_exchange_sums_and_embeddings_and_nothing_else(name):
    batch = 512  # more than the rows that are watched for collapse
    method = make(name, **{'queue_size': batch} if name == 'moco' else {})
    mesh, tx, probe = parallel.make_mesh(jax.devices()), optax.sgd(0.1), OnlineProbe(3, 0.01)
    step = make_train_step(method, tx, probe, mesh, seed=0, mean=(0.2,), std=(0.5,))
    state = jax.eval_shape(lambda: init_state(method, tx, probe, 0, (batch, 2, 8, 8, 1)))
    views = parallel.put_batch(make_batch(batch=batch), mesh)
    text = step.lower(state, views).compile(COMPILE_QUICKLY).as_text()
    dim = SIZES['output_dim']
    for kind, arrays in collectives(text):
        for _, shape in arrays:
            if kind == 'all-reduce':  # gradients, and sums over the batch
                assert math.prod(shape) <= 2 * batch * dim, shape
            else:
                assert kind in ('all-gather', 'reduce-scatter') and dim in shape, (kind, shape)
                assert math.prod(shape) <= 2 * batch * dim, (kind, shape)


def test_the_step_leaves_shapes_and_types_alone(name):
    _, before = train(name, 0)
    _, after = train(name, 1)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (before, after)]
    assert shapes[0] == shapes[1]


def test_simclr_passes_both_views_through_batch_normalization_together():
    method = make('simclr', loss_scale=2.0, temperature=0.3)
    views = jnp.asarray(make_batch()['image'] / 255.0, jnp.float32)
    variables, extra = jit(method.init)(jax.random.key(0), views)
    params = variables.pop('params')
    loss, aux = jit(method.loss)(params, variables, extra, views, jax.random.key(1), 0)
    apply = jit(functools.partial(method.network.apply, train=True, mutable=['batch_stats']))
    rows = views.reshape(-1, 8, 8, 1)  # view, view, view, view: interleaved
    (_, projections), _ = apply({'params': params, **variables}, rows)
    np.testing.assert_allclose(loss, 2 * nt_xent(projections.reshape(-1, 2, 8), 0.3), rtol=1e-6)
    assert aux.features.shape == (BATCH, 2, 32)  # four times the last width


@pytest.mark.parametrize('layer', [0, 1])
def test_simclr_evaluates_the_encoder_or_a_layer_of_its_head(layer):
    method = make('simclr', num_layers=3, eval_layer=layer)
    images = jnp.asarray(make_batch()['image'][:, 0] / 255.0, jnp.float32)
    variables, _ = jit(method.init)(jax.random.key(0, impl='rbg'), images[:2, None])
    params = variables['params']
    encoder = {name: tree['encoder'] for name, tree in variables.items()}
    found, expected = (
        jit(functools.partial(module.apply, train=False))(tree, images)
        for module, tree in ((method.representation(), variables), (ENCODER, encoder))
    )
    if layer:  # statistics start at 0 and 1
        expected = expected @ params['projector']['dense1']['kernel'] / np.sqrt(1 + 1e-5)
        expected = nn.relu(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_bfloat16_keeps_float32_parameters_statistics_and_loss(name):
    encoder = ENCODER.clone(dtype=jnp.bfloat16)
    method = dataclasses.replace(make(name, dtype='bfloat16'), encoder=encoder)
    views = jnp.zeros((BATCH, 2, 8, 8, 1))

    def first_loss():
        variables, extra = method.init(jax.random.key(0), views[:2])
        params = variables.pop('params')
        loss, aux = method.loss(params, variables, extra, views, jax.random.key(1), 0)
        return params, variables, extra, loss, aux

    for leaf in jax.tree.leaves(jax.eval_shape(first_loss)):
        assert leaf.dtype in (jnp.float32, jnp.int32)


@functools.partial(jit, static_argnums=0)
def byol_loss(method, views):
    variables, extra = method.init(jax.random.key(0), views)
    params = variables.pop('params')
    return params, variables, extra, method.loss(params, variables, extra, views, None, 0)


def test_byol_gives_each_view_its_own_statistics():
    method = make('byol')
    views = jnp.asarray(make_batch()['image'] / 255.0, jnp.float32)
    params, variables, extra, (loss, aux) = byol_loss(method, views)

    @functools.partial(jit, static_argnums=2)
    def forward(tree, images, method_name=None):
        return method.network.apply(
            tree, images, train=True, mutable=['batch_stats'], method=method_name
        )[0]

    online = [forward({'params': params, **variables}, views[:, v])[1] for v in (0, 1)]
    target = [forward(extra, views[:, v], 'project') for v in (0, 1)]
    want = regression_loss(online[0], target[1]) + regression_loss(online[1], target[0])
    np.testing.assert_allclose(loss, want.mean(), rtol=1e-5)
    # The second view alone decides its own features, whatever the first one is.
    changed = views.at[:, 0].add(0.1)
    _, _, _, (_, other) = byol_loss(method, changed)
    np.testing.assert_array_equal(other.features[:, 1], aux.features[:, 1])
    assert (other.features[:, 0] != aux.features[:, 0]).any()


def test_byol_has_no_gradient_to_its_target_which_follows_by_the_schedule():
    method = make('byol', base_decay=0.9)
    views = jnp.asarray(make_batch()['image'] / 255.0, jnp.float32)
    params, variables, extra, (_, aux) = byol_loss(method, views)
    grads = jit(
        jax.grad(
            lambda extra: method.loss(params, variables, extra, views, None, 0)[0], allow_int=True
        )
    )(extra)['params']
    assert all((g == 0).all() for g in jax.tree.leaves(grads))

    @dataclasses.dataclass
    class State:
        params: dict

    moved = method.update_extra(extra, State(jax.tree.map(jnp.ones_like, params)), aux, 5)
    decay = float(target_decay(0.9, 5, 20))
    assert 0.9 < decay < 1
    want = jax.tree.map(lambda x: decay * x + (1 - decay), extra['params'])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), moved['params'], want)
    assert set(moved['params']) == {'encoder', 'projector'}


def test_a_collapsed_embedding_shows():
    from simclr_jax.methods.base import embedding_std

    random = np.random.default_rng(0).normal(size=(512, 64))
    assert abs(float(embedding_std(jnp.asarray(random))[0]) - 1) < 0.02
    assert float(embedding_std(jnp.ones((512, 64)))[0]) < 1e-6


def test_the_head_is_a_linen_module_of_the_named_sizes():
    for name in METHODS:
        method = make(name)
        assert isinstance(method.network, nn.Module)
        assert method.network.projector.output_dim == 8


def test_the_loss_of_chance_is_that_of_equal_embeddings():
    pairs, queue = jnp.ones((BATCH, 2, 8)), jnp.ones((32, 8))
    queries, keys = pairs[:, 0], pairs[:, 1]
    found = {
        'simclr': 2.0 * nt_xent(pairs, 0.5),
        'moco': info_nce(queries, keys, 0.1, queue),
        'moco_v3': 2 * 0.2 * 2 * info_nce(queries, keys, 0.2),
    }
    for name, loss in found.items():
        method = make(name, **({'loss_scale': 2.0} if name == 'simclr' else {}))
        assert method.chance_loss(BATCH) == pytest.approx(float(loss), rel=1e-5), name
    assert make('byol').chance_loss(BATCH) is None
