"""Classifiers of pixels: their loss, what they share, and PyTorch's on the same maps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import parallel
from simclr_jax.config import default
from simclr_jax.data.sources import Source
from simclr_jax.methods.segment import Maps, Segment
from simclr_jax.models.factory import create_encoder
from simclr_jax.models.maps import to_pixels
from simclr_jax.models.segmentation_heads import FCNHead, LinearHead
from simclr_jax.train.setup import assemble

RANDOM = np.random.default_rng(0)
VIEWS = RANDOM.normal(size=(4, 1, 14, 16, 3)).astype(np.float32)
LABELS = RANDOM.integers(-1, 3, (4, 14, 16)).astype(np.int32)
ENCODER = create_encoder('resnet_tiny', image_size=16, zero_init_last_scale=False)
OWN = Maps(ENCODER, (2, 3), 2)
RAW = Maps(None, (), 2)
HEADS = {'linear': LinearHead(3), 'plain': LinearHead(3, norm=False)}


@pytest.fixture(scope='module')
def frozen():
    init = jax.jit(lambda: ENCODER.init(jax.random.key(1), VIEWS[:, 0], train=False))
    return {'encoder': init()}


def made(method):
    variables, extra = jax.jit(method.init)(jax.random.key(0), VIEWS)
    assert extra == ()
    return variables.pop('params'), variables


def loss_of(method, params, variables, frozen, labels=LABELS):
    def loss(params, variables, labels, teacher):
        rng = jax.random.key(2)
        return method.loss(params, variables, (), VIEWS, rng, 0, labels=labels, teacher=teacher)

    return jax.jit(loss)(params, variables, labels, frozen)


@pytest.mark.slow
def test_the_loss_is_the_sum_over_heads_of_the_mean_over_labelled_pixels(frozen):
    method = Segment(ENCODER, {'encoder': OWN, 'raw_pixels': RAW}, HEADS, 3)
    params, variables = made(method)
    loss, aux = loss_of(method, params, variables, frozen)
    total, known = 0.0, LABELS >= 0
    for name, maps in method.maps.items():
        features = maps.apply(frozen.get(name), VIEWS[:, 0])
        assert features.shape == (4, 7, 8, {'encoder': 256, 'raw_pixels': 12}[name])
        for head, module in HEADS.items():
            own = {'params': params['heads'][name][head]}
            logits, _ = module.apply(own, features, train=True, mutable=['batch_stats'])
            pixels = to_pixels(logits, 2, 14, 16)
            logs = np.asarray(jax.nn.log_softmax(pixels), np.float64)
            picked = np.take_along_axis(logs, np.maximum(LABELS, 0)[..., None], -1)[..., 0]
            total -= picked[known].mean()
            right = (pixels.argmax(-1) == LABELS)[known].sum()
            assert aux.metrics[f'accuracy_{name}_{head}'] == (right, known.sum())
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    assert float(loss_of(method, params, variables, frozen, np.full_like(LABELS, -1))[0]) == 0


def test_raw_pixels_are_patches_row_by_row():
    images = np.arange(4 * 6 * 2, dtype=np.float32).reshape(1, 4, 6, 2)
    patches = Maps(None, (), 4).apply({}, images)
    assert patches.shape == (1, 1, 2, 32)
    np.testing.assert_array_equal(patches[0, 0, 0].reshape(4, 4, 2), images[0, :, :4])
    np.testing.assert_array_equal(patches[0, 0, 1].reshape(4, 4, 2)[:, :2], images[0, :, 4:])
    assert not patches[0, 0, 1].reshape(4, 4, 2)[:, 2:].any()  # what was padded


def test_heads_learn_as_if_each_were_alone(frozen):
    """The same start and the same gradients, whatever else is trained beside."""
    both = Segment(ENCODER, {'encoder': OWN, 'raw_pixels': RAW}, HEADS, 3)
    alone = Segment(ENCODER, {'encoder': OWN}, {'linear': HEADS['linear']}, 3)
    found = []
    for method in (both, alone):
        params, variables = made(method)
        grads = jax.jit(jax.grad(lambda p, m=method, v=variables: loss_of(m, p, v, frozen)[0]))(
            params
        )
        found.append((params['heads']['encoder']['linear'], grads['heads']['encoder']['linear']))
    for one, other in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_trained_encoder_learns_and_starts_from_what_is_given(frozen):
    own = dataclasses.replace(OWN, layers=(3,))
    method = Segment(ENCODER, {'encoder': own}, {'fcn': FCNHead(3, width=8)}, 3, trained=True)
    assert not method.taught
    start = frozen['encoder']
    variables, _ = jax.jit(method.init)(jax.random.key(0), VIEWS, start)
    jax.tree.map(np.testing.assert_array_equal, variables['params']['encoder'], start['params'])
    params = variables.pop('params')
    (_, aux), grads = jax.jit(
        jax.value_and_grad(lambda p: loss_of(method, p, variables, None), has_aux=True)
    )(params)
    assert np.abs(grads['encoder']['stem_conv']['kernel']).max() > 0
    old, new = variables['batch_stats'], aux.variables['batch_stats']
    changed = jax.tree.map(lambda old, new: bool((old != new).any()), old, new)
    assert changed['encoder']['stem_norm']['mean']
    assert changed['heads']['encoder']['fcn']['norm1']['mean']
    logits = jax.jit(method.logits)({'params': params, **variables}, {}, VIEWS[:, 0])
    assert logits['encoder']['fcn'].shape == (4, 14, 16, 3)


def run_of(frozen, devices=1):
    """A run of probes on a few made-up crops."""
    config = default()
    config.method, config.batch_size, config.epochs = 'segment', 8, 12.0
    config.data.image_size, config.data.mean, config.data.std = 16, (0.5,), (0.25,)
    config.model.encoder, config.segment.baselines = 'resnet_tiny', False
    config.optimizer.update(
        {
            'name': 'adamw',
            'learning_rate': 1e-2,
            'learning_rate_scaling': 'none',
            'schedule': 'linear',
            'warmup_epochs': 3.0,
            'weight_decay': 1e-2,
            'exclude_bias_and_norm': False,
        }
    )
    source = Source(lambda _: [], 8, (16, 16, 3), ('a', 'b', 'c'))
    run = assemble(config, parallel.make_mesh(jax.devices()[:devices]), source)
    return dataclasses.replace(run, frozen=jax.tree.map(np.asarray, frozen))


IMAGES = np.random.default_rng(3).integers(0, 256, (8, 1, 16, 16, 3), np.uint8)
PIXELS = np.random.default_rng(4).integers(-1, 3, (8, 16, 16)).astype(np.int32)


def losses_of(run, steps):
    """The loss of every step, and the heads that the run began with."""
    state = run.init()
    first = jax.tree.map(np.asarray, state.params['heads']['encoder'])
    program, losses = run.lower_step().compile(), []
    for _ in range(steps):
        batch = parallel.put_batch({'image': IMAGES, 'label': PIXELS}, run.mesh)
        state, metrics = program(state, batch, *run.fixed)
        losses.append(float(metrics['loss'][0]))
    return losses, first


@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one(frozen):
    one, eight = (losses_of(run_of(frozen, devices), 6)[0] for devices in (1, 8))
    np.testing.assert_allclose(one, eight, rtol=1e-5)


def test_probes_equal_pytorchs(frozen):
    """Twelve steps of DINOv2's head (AdamW, linear fall) and of STEGO's (Adam) on the same maps."""
    torch = pytest.importorskip('torch', reason="needs PyTorch: pip install -e '.[export]'")
    run = run_of(frozen)
    ours, first = losses_of(run, 12)
    maps = run.method.maps['encoder'].apply(frozen['encoder'], (IMAGES[:, 0] / 255 - 0.5) / 0.25)
    maps = torch.tensor(np.array(maps)).permute(0, 3, 1, 2)
    dim, theirs = maps.shape[1], np.zeros(12)
    for head, norm in (('linear', True), ('plain', False)):
        conv = torch.nn.Conv2d(dim, 3, 1)
        dense = first[head]['classifier']
        conv.weight.data = torch.tensor(dense['kernel'].T[..., None, None])
        conv.bias.data = torch.tensor(dense['bias'])
        layers = [torch.nn.BatchNorm2d(dim)] if norm else []
        model = torch.nn.Sequential(*layers, conv).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=1e-2)
        if not norm:
            optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for step in range(12):
            if norm:
                rate = 1e-2 * (step / 3 if step < 3 else (12 - step) / 9)
                optimizer.param_groups[0]['lr'] = rate
            logits = torch.nn.functional.interpolate(model(maps), (16, 16), mode='bilinear')
            loss = torch.nn.functional.cross_entropy(
                logits, torch.tensor(PIXELS).long(), ignore_index=-1
            )
            theirs[step] += loss.item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert ours[-1] < ours[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_linear_fall():
    from simclr_jax.optim.schedules import warmup_linear

    schedule = warmup_linear(2.0, 4, 20)
    want = optax.join_schedules(
        [optax.linear_schedule(0.0, 2.0, 4), optax.linear_schedule(2.0, 0.0, 16)], [4]
    )
    steps = np.arange(22)
    np.testing.assert_allclose(
        jax.vmap(schedule)(jnp.array(steps)), [want(step) for step in steps], atol=1e-6
    )
