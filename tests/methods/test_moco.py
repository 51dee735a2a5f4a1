"""MoCo's and MoCo v3's steps against the original's order of events, written out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from simclr_jax import parallel
from simclr_jax.config import default
from simclr_jax.methods.moco import MoCo
from simclr_jax.methods.moco_v3 import MoCoV3
from simclr_jax.models.vit import PATCH_PROJECTION, VisionTransformer
from simclr_jax.optim.factory import create_optimizer
from simclr_jax.train.probe import OnlineProbe
from simclr_jax.train.state import init_state
from simclr_jax.train.step import make_train_step, normalize_images
from simclr_jax.workdir.checkpoint import Checkpoints, abstract_like

BATCH, STEPS, RATE = 8, 5, 0.5
SHAPE = (BATCH, 2, 4, 4, 1)
VIEWS = jnp.zeros((2, *SHAPE[1:]))
BATCHES = np.random.default_rng(0).integers(0, 256, (STEPS, *SHAPE)).astype(np.uint8)
MOCO = {'queue_size': 2 * BATCH, 'decay': 0.7, 'hidden_dim': 16, 'output_dim': 8}


class Flat(nn.Module):
    """The smallest encoder, quick to compile."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(12)(images.reshape(len(images), -1))


def moco(**fields):
    return MoCo(encoder=Flat(), total_steps=STEPS, **MOCO | fields)


def moco_v3(**fields):
    sizes = {'hidden_dim': 16, 'output_dim': 8, 'base_decay': 0.6, 'temperature': 0.3}
    return MoCoV3(encoder=Flat(), total_steps=STEPS, **sizes | fields)


def train(method, devices):
    """Returns the first state, the losses and the last state of SGD without momentum."""
    mesh = parallel.make_mesh(jax.devices()[:devices])
    tx = optax.sgd(RATE)
    init = jax.jit(
        lambda: init_state(method, tx, None, 0, SHAPE), out_shardings=parallel.replicated(mesh)
    )
    state, losses = init(), []
    first = jax.tree.map(np.array, state)  # copies: the step uses the state up
    step = make_train_step(method, tx, None, mesh, seed=0, mean=(0.5,), std=(0.25,))
    for images in BATCHES:
        state, metrics = step(state, parallel.put_batch({'image': images}, mesh))
        losses.append(float(metrics['loss'][0]))
    return first, losses, state


def views_of(images):
    views = normalize_images(jnp.asarray(images), (0.5,), (0.25,))
    return views[:, 0], views[:, 1]


def unit(x):
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def average(decay, keys, queries):
    return jax.tree.map(lambda k, q: decay * k + (1 - decay) * q, keys, queries)


def descend(params, grads):
    return jax.tree.map(lambda p, g: p - RATE * g, params, grads)


def assert_trees_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('num_layers', 'devices'), [(1, 8), (2, 1)])
def test_moco_is_the_originals_sequence(num_layers, devices, tmp_path):
    """`moco/builder.py`: average, keys, loss, enqueue, then the optimizer's update."""
    method = moco(num_layers=num_layers, temperature=0.3)
    first, losses, state = train(method, devices)
    query, key, queue = first.params, first.params, jnp.asarray(first.extra['queue'])

    def project(params, images):
        dense = params['encoder']['Dense_0']
        x = images.reshape(BATCH, -1) @ dense['kernel'] + dense['bias'][None]
        for i in range(1, num_layers + 1):
            x = nn.relu(x) if i > 1 else x
            dense = params['projector'][f'dense{i}']
            x = x @ dense['kernel'] + dense['bias'][None]
        return unit(x)

    @jax.jit
    def original(query, key, queue, images):
        view1, view2 = views_of(images)
        key = average(0.7, key, query)
        keys = project(key, view2)

        def loss(params):
            q = project(params, view1)
            logits = jnp.concatenate([(q * keys).sum(1, keepdims=True), q @ queue.T], axis=1)
            return cross_entropy(logits / 0.3, jnp.zeros(BATCH, int))

        value, grads = jax.value_and_grad(loss)(query)
        return descend(query, grads), key, keys, value

    expected = []
    for step, images in enumerate(BATCHES):
        query, key, keys, value = original(query, key, queue, images)
        expected.append(value)
        start = step % 2 * BATCH
        queue = queue.at[start : start + BATCH].set(keys)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_trees_close(state.params, query)
    assert_trees_close(state.extra['queue'], queue)
    assert_trees_close(state.extra['key_network']['params'], average(0.7, key, query))
    assert int(state.extra['pointer']) == STEPS % 2 * BATCH
    # The rule for the queue: every device holds all of it.
    assert state.extra['queue'].sharding.is_fully_replicated
    assert len(state.extra['queue'].sharding.device_set) == devices
    if devices == 8:
        assert_checkpointed(state, tmp_path)


def assert_checkpointed(state, path):
    """Queue and pointer come back as they were, on every device."""
    for action in ('save', 'restore'):
        checkpoints = Checkpoints(str(path), keep=1)
        if action == 'save':
            checkpoints.save(STEPS, state)
        else:
            restored = checkpoints.restore(STEPS, abstract_like(state, state.step.sharding))
        checkpoints.close()
    for name in ('queue', 'pointer'):
        np.testing.assert_array_equal(restored.extra[name], state.extra[name])
        assert restored.extra[name].sharding.is_fully_replicated
        assert restored.extra[name].sharding.device_set == state.extra[name].sharding.device_set


@pytest.mark.slow
def test_moco_v3_is_the_originals_sequence():
    """`moco/builder.py`: average by the step's own decay, keys of both views, both losses."""
    method = moco_v3()
    first, losses, state = train(method, devices=8)
    query, key = (dict(tree) for tree in (first.params, first.params))
    key.pop('predictor')
    # Training mode looks at no running statistics.
    statistics = {'batch_stats': first.variables['batch_stats']}

    def forward(params, images, name=None):
        return method.network.apply(
            {'params': params, **statistics},
            images,
            train=True,
            mutable=['batch_stats'],
            method=name,
        )[0]

    @jax.jit
    def original(query, key, images, decay):
        key = average(decay, key, {part: query[part] for part in key})
        keys = [unit(forward(key, view, 'project')) for view in views_of(images)]

        def loss(params):
            q1, q2 = (unit(forward(params, view)[1]) for view in views_of(images))
            labels = jnp.arange(BATCH)
            both = [cross_entropy(q @ k.T / 0.3, labels) for q, k in ((q1, keys[1]), (q2, keys[0]))]
            return 2 * 0.3 * sum(both)

        value, grads = jax.value_and_grad(loss)(query)
        return descend(query, grads), key, value

    expected = []
    for step, images in enumerate(BATCHES):
        decay = 1 - 0.5 * (1 + np.cos(np.pi * step / STEPS)) * (1 - 0.6)  # main_moco.py
        query, key, value = original(query, key, images, decay)
        expected.append(value)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_trees_close(state.params, query)
    # At the end the decay is 1: the last update changes nothing.
    assert_trees_close(state.extra['params'], key)


@pytest.mark.parametrize('make', [moco, moco_v3])
def test_keys_start_as_a_copy_and_get_no_gradient(make):
    method = make()
    variables, extra = jax.jit(method.init)(jax.random.key(0, impl='rbg'), VIEWS)
    params = variables.pop('params')
    keys = extra.get('key_network', extra)
    for part in keys['params']:
        jax.tree.map(np.testing.assert_array_equal, keys['params'][part], params[part])
    assert set(keys['params']) == {'encoder', 'projector'}

    views = jnp.asarray(BATCHES[0], jnp.float32) / 255
    loss = jax.jit(lambda extra: method.loss(params, variables, extra, views, None, 0)[0])
    grads = jax.grad(loss, allow_int=True)(extra)
    keys = grads.get('key_network', grads)
    assert all((g == 0).all() for g in jax.tree.leaves(keys['params']))


def test_the_queue_starts_random_on_the_sphere():
    _, extra = jax.jit(moco(queue_size=512).init)(jax.random.key(0, impl='rbg'), VIEWS)
    queue = extra['queue']
    assert queue.shape == (512, 8)
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(queue.T @ queue / 512, np.eye(8) / 8, atol=0.03)


@pytest.mark.slow
def test_moco_v3_leaves_a_vit_s_patch_projection_alone():
    """Neither gradient nor weight decay moves it; all else learns."""
    encoder = VisionTransformer(dim=16, depth=1, num_heads=2, patch_size=2)
    method = dataclasses.replace(moco_v3(num_layers=3, predictor_norm=True), encoder=encoder)
    config = default().optimizer
    config.update(name='adamw', learning_rate=0.1, weight_decay=0.1, exclude_bias_and_norm=False)
    config.warmup_epochs = 0.0
    tx, _ = create_optimizer(config, 256, 1, 10, frozen=(PATCH_PROJECTION,))
    probe, mesh = OnlineProbe(3, 0.01), parallel.make_mesh(jax.devices()[:1])
    quickly = {'xla_backend_optimization_level': 0}
    init = jax.jit(lambda: init_state(method, tx, probe, 0, SHAPE), compiler_options=quickly)
    state = init()
    assert set(state.encoder_variables()) == {'params'}  # it has no batch normalization
    first = jax.tree.map(np.array, state.params)
    batch = {'image': BATCHES[0], 'label': np.arange(BATCH, dtype=np.int32) % 3}
    batch = parallel.put_batch(batch, mesh)
    step = make_train_step(method, tx, probe, mesh, seed=0, mean=(0.5,), std=(0.25,))
    step = step.lower(state, batch).compile(quickly)
    for _ in range(2):
        state, _ = step(state, batch)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, first)
    frozen = moved['encoder'].pop(PATCH_PROJECTION)
    assert frozen == {'kernel': False, 'bias': False}
    moved['encoder']['block0']['attention']['key'].pop('bias')  # a softmax does not see it
    assert all(jax.tree.leaves(moved)), moved


def test_a_vit_s_predictor_ends_with_batch_normalization():
    method = moco_v3(num_layers=3, predictor_norm=True)
    variables, _ = jax.eval_shape(lambda: method.init(jax.random.key(0), VIEWS))
    norms = {part: sorted(tree) for part, tree in variables['batch_stats'].items()}
    assert norms == {'projector': ['norm1', 'norm2', 'norm3'], 'predictor': ['norm1', 'norm2']}
    assert 'norm3' not in variables['params']['projector']  # neither scale nor bias


@pytest.mark.parametrize('queue_size', [BATCH - 1, BATCH + 1, 3 * BATCH // 2])
def test_a_queue_that_holds_no_whole_batches_is_refused(queue_size):
    method = moco(queue_size=queue_size)
    with pytest.raises(ValueError, match=rf'moco\.queue_size={queue_size}: .* {BATCH}'):
        jax.eval_shape(lambda: init_and_loss(method))


def init_and_loss(method):
    variables, extra = method.init(jax.random.key(0), VIEWS)
    params = variables.pop('params')
    return method.loss(params, variables, extra, jnp.zeros(SHAPE), None, 0)


@pytest.mark.parametrize(
    ('make', 'fields', 'projector', 'predictor'),
    [  # parameters after 12 features
        (moco, {'num_layers': 1}, 12 * 8 + 8, 0),
        (moco, {'num_layers': 2}, 12 * 16 + 16 + 16 * 8 + 8, 0),
        (moco_v3, {}, 12 * 16 + 2 * 16 + 16 * 8, 8 * 16 + 2 * 16 + 16 * 8),
        (
            moco_v3,
            {'num_layers': 3, 'predictor_norm': True},
            12 * 16 + 16 * 16 + 2 * 2 * 16 + 16 * 8,
            8 * 16 + 2 * 16 + 16 * 8,
        ),
    ],
)
def test_heads_have_the_layers_of_the_original(make, fields, projector, predictor):
    method = make(**fields)
    variables, _ = jax.eval_shape(lambda: method.init(jax.random.key(0), VIEWS))
    sizes = {
        part: sum(x.size for x in jax.tree.leaves(tree))
        for part, tree in variables['params'].items()
    }
    assert sizes['projector'] == projector
    assert sizes.get('predictor', 0) == predictor
