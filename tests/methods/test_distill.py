import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import parallel
from simclr_jax.augment.pixels import normalize_images
from simclr_jax.methods.distill import Distill, Teacher
from simclr_jax.models.classifier import ClassifierNetwork
from simclr_jax.models.factory import create_encoder
from simclr_jax.models.vit import VisionTransformer
from simclr_jax.train.state import init_state
from simclr_jax.train.step import make_train_step

VIEWS = np.random.default_rng(0).normal(size=(8, 1, 8, 8, 3)).astype(np.float32)
LABELS = jnp.array([0, 1, 2, -1, 1, -1, -1, 2], jnp.int32)
CLASSES = 3
VIT = VisionTransformer(
    dim=8, depth=1, num_heads=2, patch_size=4, freeze_patch_projection=False, drop_path=0.0
)
# Another architecture, with batch normalization, and large logits: its classes are not all alike.
NETWORK = ClassifierNetwork(
    create_encoder('resnet_tiny', image_size=8), classes=CLASSES, head_init='normal'
)
SAME = Teacher(NETWORK, (1.0,), (0.0,), 8)


@pytest.fixture(scope='module')
def knows():
    """The teacher's variables: running averages that are not those of a batch."""
    variables = jax.jit(NETWORK.init, static_argnames='train')(
        jax.random.key(7), VIEWS[:1, 0], train=False
    )
    params = {**variables['params']}
    params['classifier'] = {
        'kernel': 3 * jax.random.normal(jax.random.key(8), params['classifier']['kernel'].shape),
        'bias': jnp.array([0.5, -0.5, 0.0]),
    }
    moved = jax.tree.map(lambda x: 1.3 * x + 0.2, variables['batch_stats'])
    return {'params': params, 'batch_stats': moved}


def student(**fields):
    fields = {'encoder': VIT, 'classes': CLASSES, 'head_init': 'normal', 'teacher': SAME} | fields
    return Distill(**fields)


def made(method):
    variables, extra = method.init(jax.random.key(0), VIEWS)
    assert extra == ()
    return variables.pop('params'), variables


def loss_of(method, knows, params, variables, labels=None, views=VIEWS):
    labels = {} if labels is None else {'labels': labels}
    key = jax.random.key(0)
    return method.loss(params, variables, (), views, key, 0, teacher=knows, **labels)


def softmax(logits):
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


@pytest.mark.parametrize('temperature', [0.1, 1.0, 3.0])
@pytest.mark.parametrize('alpha', [1.0, 0.7])
def test_the_loss_is_the_papers_in_float64(knows, temperature, alpha):
    method = student(temperature=temperature, alpha=alpha)
    params, variables = made(method)
    labels = LABELS if alpha < 1 else None
    loss, aux = loss_of(method, knows, params, variables, labels)
    said = np.float64(NETWORK.apply(knows, VIEWS[:, 0], train=False)[1])
    own = np.float64(method.network.apply({'params': params}, VIEWS[:, 0], train=True)[1])
    # Equation 2, over the batch, times the T^2 of the notebook's `add_kd_loss`.
    targets, shares = softmax(said / temperature), softmax(own / temperature)
    want = alpha * temperature**2 * -(targets * np.log(shares)).sum(1).mean()
    # Equation 3: of the labelled pictures alone, at a temperature of 1, over the same batch.
    known = np.asarray(LABELS) >= 0
    if alpha < 1:
        logs = np.log(softmax(own))[known, np.asarray(LABELS)[known]]
        want += (1 - alpha) * -logs.sum() / len(VIEWS)
        right = own.argmax(1) == np.asarray(LABELS)
        assert aux.metrics['accuracy'] == (right[known].sum(), known.sum())
    else:
        assert aux.metrics.keys() == {'agreement'} and not method.supervised
    np.testing.assert_allclose(loss, want, rtol=1e-4)
    agree, count = aux.metrics['agreement']
    assert (agree, count) == ((said.argmax(1) == own.argmax(1)).sum(), 8)


@pytest.mark.slow
def test_the_gradient_is_the_students_and_as_the_paper_has_it(knows):
    method = student(temperature=0.5)
    params, variables = made(method)
    gradient = jax.grad(lambda p: loss_of(method, knows, p, variables)[0])(params)
    assert gradient.keys() == {'encoder', 'classifier'}
    said = np.float64(NETWORK.apply(knows, VIEWS[:, 0], train=False)[1])
    own = np.float64(method.network.apply({'params': params}, VIEWS[:, 0], train=True)[1])
    # d loss / d bias = T (softmax(s / T) - softmax(t / T)), the mean over the batch.
    want = 0.5 * (softmax(own / 0.5) - softmax(said / 0.5)).mean(0)
    np.testing.assert_allclose(gradient['classifier']['bias'], want, rtol=1e-4, atol=1e-6)
    # The best student says what the teacher does: then nothing is left to learn.
    own_kind = dataclasses.replace(method, encoder=NETWORK.encoder, frozen_encoder=True)
    stats = {'batch_stats': knows['batch_stats']}
    still = jax.grad(lambda p: loss_of(own_kind, knows, p, stats)[0])(knows['params'])
    for leaf in jax.tree.leaves(still):
        np.testing.assert_allclose(leaf, 0, atol=1e-6)


def test_a_teacher_sees_pixels_as_it_was_trained_to(knows):
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), np.uint8)
    mean, std = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)
    of_student = normalize_images(jnp.asarray(images), mean, std)
    of_teacher = normalize_images(jnp.asarray(images), (0.5,), (0.25,))
    scale = tuple(s / 0.25 for s in std)
    shift = tuple((m - 0.5) / 0.25 for m in mean)
    got = Teacher(NETWORK, scale, shift, 8).logits(knows, of_student)
    want = NETWORK.apply(knows, of_teacher, train=False)[1]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert np.abs(SAME.logits(knows, of_student) - want).max() > 0.1


def test_a_teacher_sees_pictures_of_its_own_size(knows):
    large = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype(np.float32)
    teacher = Teacher(NETWORK, (1.0,), (0.0,), 8, 'bilinear', antialias=True)
    # Antialiased, by half: the weights 1 3 3 1 over 8 in each direction, cut off at the border.
    weights = np.zeros((8, 16))
    for i in range(8):
        for j, weight in zip(range(2 * i - 1, 2 * i + 3), (1, 3, 3, 1), strict=True):
            if 0 <= j < 16:
                weights[i, j] = weight
    weights /= weights.sum(1, keepdims=True)
    small = np.einsum('ij,njkc,lk->nilc', weights, large, weights).astype(np.float32)
    want = NETWORK.apply(knows, small, train=False)[1]
    np.testing.assert_allclose(teacher.logits(knows, large), want, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_micro_batches_have_the_gradient_of_the_whole_batch(knows):
    whole, parts = (student(alpha=0.5, accumulation_steps=steps) for steps in (1, 4))
    params, variables = made(whole)
    values, gradients = zip(
        *(
            jax.value_and_grad(lambda p, m=m: loss_of(m, knows, p, variables, LABELS)[0])(params)
            for m in (whole, parts)
        ),
        strict=True,
    )
    np.testing.assert_allclose(*values, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *gradients)


def trained(method, knows, devices, steps=3):
    tx = optax.sgd(0.3, 0.9)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    everywhere = parallel.replicated(mesh)
    state = jax.jit(
        lambda: init_state(method, tx, None, 0, VIEWS.shape), out_shardings=everywhere
    )()
    step = make_train_step(method, tx, None, mesh, seed=0, mean=(0.5,), std=(0.25,))
    images = np.random.default_rng(1).integers(0, 256, VIEWS.shape, np.uint8)
    batch = {'image': images} | ({'label': np.asarray(LABELS)} if method.supervised else {})
    batch, fixed = parallel.put_batch(batch, mesh), jax.device_put(knows, everywhere)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch, fixed)
        losses.append(float(metrics['loss'][0]))
    return losses, jax.device_get(state), jax.device_get(fixed)


@pytest.mark.slow
def test_one_device_and_several_learn_alike_and_the_teacher_stays_as_it_is(knows):
    method = student(alpha=0.8)
    (one, state, after), (two, *_) = (trained(method, knows, devices) for devices in (1, 2))
    assert one[-1] < one[0]
    np.testing.assert_allclose(two, one, rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, after, knows)
    # The state, which checkpoints hold, has the student alone.
    assert state.extra == ()
    own = method.network.init(jax.random.key(0), VIEWS[:, 0], train=False)
    assert jax.tree.map(np.shape, state.params) == jax.tree.map(np.shape, own['params'])


@pytest.mark.slow
def test_the_teacher_is_an_input_of_the_step_and_no_constant_of_its_program(knows):
    method, tx, mesh = student(), optax.sgd(0.1), parallel.make_mesh(jax.devices()[:1])
    step = make_train_step(method, tx, None, mesh, seed=0, mean=(0.5,), std=(0.25,))
    state = init_state(method, tx, None, 0, VIEWS.shape)
    text = step.lower(state, {'image': VIEWS}, knows).as_text()
    arguments = text[text.index('@main(') : text.index('->', text.index('@main('))]
    leaves = len(jax.tree.leaves((state, knows))) + 1
    # Some are not kept: what the step does not look at.
    assert leaves - 3 <= arguments.count('%arg') <= leaves
    sizes = [len(line) for line in text.splitlines() if 'stablehlo.constant' in line]
    assert max(sizes) < 2000


def test_what_a_student_that_knows_nothing_loses(knows):
    method = student(head_init='zero', temperature=0.5)
    params, variables = made(method)
    loss, _ = loss_of(method, knows, params, variables)
    np.testing.assert_allclose(loss, method.chance_loss(8), rtol=1e-5)
    assert student(alpha=0.5).chance_loss(8) is None
