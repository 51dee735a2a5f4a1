"""Divergence and collapse: what is measured, and when the alarm is raised."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import parallel
from simclr_jax.config import RunError
from simclr_jax.methods.base import Aux
from simclr_jax.train.health import COLLAPSED, Monitor, NotFinite, alarms, embedding_metrics
from simclr_jax.train.state import TrainState
from simclr_jax.train.step import make_train_step

HEALTHY = {'loss': 4.0, 'gradient_norm': 1.0, 'learning_rate': 0.1, 'skipped_updates': 0}
HEALTHY |= {'embedding_std': 0.9, 'effective_rank': 50.0}


def monitor(**changes) -> Monitor:
    fields = {'on_nonfinite': 'stop', 'max_skips': 2, 'loss_band': 3.0, 'min_std': 0.1}
    fields |= {'min_rank': 2.0, 'patience': 20, 'on_collapse': 'warn'}
    return Monitor(**(fields | changes))


def test_embedding_metrics_against_float64_by_the_formulas():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((40, 2, 12)) * np.geomspace(1, 0.01, 12)
    got = embedding_metrics(z.astype(np.float32))
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    p = np.linalg.svd(z.reshape(80, 12), compute_uv=False)
    p = p / p.sum() + 1e-7
    pairs = [((z[i, 0] - z[j, 0]) ** 2).sum() for i in range(40) for j in range(i)]
    np.testing.assert_allclose(got['effective_rank'], np.exp(-(p * np.log(p)).sum()), rtol=1e-5)
    np.testing.assert_allclose(
        got['uniformity'], np.log(np.mean(np.exp(-2 * np.array(pairs)))), 1e-5
    )
    want = np.mean([((z[i, 0] - z[i, 1]) ** 2).sum() for i in range(40)])
    np.testing.assert_allclose(got['alignment'], want, rtol=1e-5)


def test_embedding_metrics_at_the_ends():
    constant = embedding_metrics(np.ones((30, 2, 16), np.float32))
    assert constant['effective_rank'] < 1.001 and abs(constant['uniformity']) < 1e-6
    orthogonal = embedding_metrics(np.repeat(np.eye(16)[:, None], 2, axis=1))
    np.testing.assert_allclose(orthogonal['effective_rank'], 16, rtol=1e-3)
    assert orthogonal['alignment'] == 0
    assert embedding_metrics(np.full((4, 2, 3), np.nan)) == {}


def test_collapse_is_believed_after_patience_and_said_once():
    watch, said = monitor(), []
    for step in range(10, 210, 10):
        row = HEALTHY | {'effective_rank': 1.2 if 50 <= step < 150 else 60.0}
        said.append(watch.check(step, row))
        assert row[COLLAPSED] == (70 <= step < 150)
    assert [i for i, text in enumerate(said) if text] == [6]
    assert 'effective_rank 1.2 below health.min_rank=2' in said[6] and 'since step 50' in said[6]


def test_a_dip_is_no_collapse_and_stop_stops():
    watch = monitor(on_collapse='stop')
    for step in range(10, 400, 10):
        std = 0.01 if step % 30 else 0.5
        assert watch.check(step, HEALTHY | {'embedding_std': std}) is None
    with pytest.raises(RunError, match=r'embedding_std 0.01 below health.min_std=0.1'):
        for step in range(400, 500, 10):
            watch.check(step, HEALTHY | {'embedding_std': 0.01})


def test_rows_of_an_earlier_process_count():
    rows = [{'step': step, **HEALTHY, 'embedding_std': 0.01} for step in range(10, 30, 10)]
    watch = monitor()
    watch.replay(rows)
    assert 'has collapsed' in watch.check(30, HEALTHY | {'embedding_std': 0.01})


def test_the_report_tells_of_alarms():
    rows = [{'step': 1, **HEALTHY, COLLAPSED: 0.0}, {'step': 2, **HEALTHY, COLLAPSED: 1.0}]
    assert alarms(rows) == {'collapsed': '1 rows, steps 2 to 2'}
    rows.append({'step': 3, **HEALTHY, 'skipped_updates': 2.0})
    assert alarms(rows)['updates_left_out'].startswith('2')
    assert alarms([]) == alarms(rows[:1]) == {}


def test_a_loss_that_leaves_its_band():
    watch = monitor()
    for step in range(10):
        watch.check(step, HEALTHY | {'loss': 4.0 - step / 10})
    watch.check(10, HEALTHY | {'loss': 10.0})
    with pytest.raises(RunError, match=r'loss \(11 at step 11\) is above 10\.65.*loss_band=3'):
        watch.check(11, HEALTHY | {'loss': 11.0})


def test_a_loss_below_zero_has_a_band_too():
    watch = monitor()
    for step in range(10):  # minus a cosine: it falls towards -1
        watch.check(step, HEALTHY | {'loss': -0.33})
    for step in range(10, 100):
        watch.check(step, HEALTHY | {'loss': -0.33 - 0.0067 * (step - 9)})
    watch.check(100, HEALTHY | {'loss': 0.3})
    with pytest.raises(RunError, match='training diverged'):
        watch.check(101, HEALTHY | {'loss': 0.4})


def test_updates_left_out_stop_or_are_counted():
    bad = HEALTHY | {'loss': float('nan')}
    with pytest.raises(NotFinite, match=r'loss nan, gradient norm 1 at step 7'):
        monitor().check(7, bad | {'skipped_updates': 1})
    watch = monitor(on_nonfinite='skip')
    assert '1 of at most health.max_skips=2' in watch.check(7, bad | {'skipped_updates': 1})
    assert watch.check(8, HEALTHY | {'skipped_updates': 1}) is None
    assert watch.check(9, bad | {'skipped_updates': 2})
    with pytest.raises(RunError, match='the last of 3'):
        watch.check(10, bad | {'skipped_updates': 3})


@dataclasses.dataclass(frozen=True)
class Mean:
    """A method whose loss, and gradient, is not finite where a batch is all white."""

    def loss(self, params, variables, extra, views, rng, step):
        brightness = views.mean()
        loss = params['w'] * brightness / (1.0 - brightness)
        return loss, Aux({'count': variables['count'] + 1}, views[..., 0, 0, 0], {})

    def update_extra(self, extra, state, aux, step):
        return extra + state.params['w']


@pytest.mark.parametrize('skip', [False, True])
def test_a_step_that_is_not_finite_changes_nothing(skip):
    tx = optax.sgd(0.1, momentum=0.9)
    params, zero = {'w': jnp.ones(())}, jnp.zeros((), jnp.int32)
    variables, extra = {'count': jnp.zeros(())}, jnp.ones(())
    state = TrainState(zero, params, variables, tx.init(params), extra, None, zero)
    step_fn = make_train_step(
        Mean(), tx, None, parallel.make_mesh(), seed=0, mean=(0.0,), std=(1.0,), skip_nonfinite=skip
    )

    def step(state, pixel):
        images = np.full((8, 2, 4, 4, 1), pixel, np.uint8)
        copy = jax.tree.map(jnp.copy, state)
        return step_fn(copy, {'image': images})

    before, metrics = step(state, 100)
    assert float(before.params['w']) != 1 and metrics['skipped_updates'][0] == 0
    after, metrics = step(before, 255)
    assert not np.isfinite(metrics['loss'][0]) and metrics['skipped_updates'][0] == 1
    same = before.replace(skipped=after.skipped, step=before.step + skip)
    jax.tree.map(np.testing.assert_array_equal, after, same)
    later, metrics = step(after, 100)
    assert np.isfinite(metrics['loss'][0])
    if skip:
        assert int(later.step) == 3 and float(later.params['w']) != float(after.params['w'])
    else:  # it stays as it was, so that the loop can save it
        jax.tree.map(np.testing.assert_array_equal, later, after)
        later, metrics = step(step(later, 255)[0], 255)
        assert metrics['skipped_updates'][0] == 1
        jax.tree.map(np.testing.assert_array_equal, later.thawed(), before)


def test_from_skip_back_to_stop_trains_on_and_still_stops():
    tx, zero = optax.sgd(0.1), jnp.zeros((), jnp.int32)
    params = {'w': jnp.ones(())}
    state = TrainState(
        zero, params, {'count': jnp.zeros(())}, tx.init(params), jnp.ones(()), None, zero + 3
    )  # as a run that has skipped three updates saves it
    options = {'seed': 0, 'mean': (0.0,), 'std': (1.0,), 'skip_nonfinite': False}
    step = make_train_step(Mean(), tx, None, parallel.make_mesh(), **options)

    def batch(pixel):
        return {'image': np.full((8, 2, 4, 4, 1), pixel, np.uint8)}

    trained, metrics = step(state, batch(100))
    assert int(trained.step) == 1 and float(trained.params['w']) != 1
    assert metrics['skipped_updates'][0] == 3
    weight = float(trained.params['w'])
    frozen, metrics = step(trained, batch(255))
    assert metrics['skipped_updates'][0] == 4  # one more than the rows before: the host stops
    later, metrics = step(frozen, batch(100))
    assert int(later.step) == 1 and float(later.params['w']) == weight
    assert metrics['skipped_updates'][0] == 4 and int(later.thawed().skipped) == 3
