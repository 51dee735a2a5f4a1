import jax
import numpy as np
import optax
import pytest

from simclr_jax.optim.schedules import (
    by_epoch,
    one_cycle,
    scaled_learning_rate,
    target_decay,
    warmup_cosine,
    warmup_step_decay,
)

GOLDENS = np.load('tests/goldens/reference_values.npz')
STEPS = GOLDENS['schedule_steps'].astype(np.int32)
TOTAL, WARMUP = 31_280, 3_128


@pytest.mark.parametrize(
    ('rate', 'batch', 'scaling', 'expected'),
    [
        (0.3, 4096, 'linear', 4.8),
        (0.075, 4096, 'sqrt', 4.8),
        (1.0, 512, 'linear', 2.0),
        (0.5, 4096, 'none', 0.5),
    ],
)
def test_scaling(rate, batch, scaling, expected):
    np.testing.assert_allclose(scaled_learning_rate(rate, batch, scaling), expected, rtol=1e-12)


def test_unknown_scaling_names_the_field():
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate_scaling='square'.*linear"):
        scaled_learning_rate(0.1, 256, 'square')


def test_rate_equals_byol():
    peak = scaled_learning_rate(0.45, 4096, 'linear')
    rates = warmup_cosine(peak, WARMUP, TOTAL)(STEPS)
    # The original cancels in float32 near the end: 1e-7 of the peak is all it has there.
    np.testing.assert_allclose(rates, GOLDENS['schedule_byol_lr'], rtol=1e-5, atol=1e-7 * peak)


def test_target_decay_equals_byol():
    decays = jax.jit(lambda steps: target_decay(0.99, steps, TOTAL))(STEPS)
    golden = GOLDENS['schedule_byol_ema']
    np.testing.assert_allclose(decays, golden, rtol=1e-6)
    np.testing.assert_allclose(1 - decays, 1 - golden, rtol=1e-5, atol=1.2e-7)


@pytest.mark.parametrize('total', [1_000, 5_000_000, 2_000_000_000])
def test_rate_is_precise_to_the_last_step_of_a_long_run(total):
    warmup = total // 10
    steps = np.array([1, warmup - 1, warmup, warmup + 1, total // 2, total - 10, total - 1])
    progress = (steps - warmup) / (total - warmup)
    # In float64 the cosine's end cancels too, so the reference takes the sine of what is left.
    left = np.sin(np.pi / 2 * (total - steps) / (total - warmup)) ** 2
    expected = 4.8 * np.where(progress < 0, steps / warmup, left)
    schedule = jax.jit(warmup_cosine(4.8, warmup, total))
    rates = [schedule(np.int32(step)) for step in steps]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_rate_at_the_ends():
    schedule = warmup_cosine(2.0, 10, 100)
    assert [float(schedule(step)) for step in (0, 5, 10, 100, 1_000)] == [0, 1, 2, 0, 0]
    assert float(warmup_cosine(2.0, 0, 100)(0)) == 2.0
    assert float(target_decay(0.5, 100, 100)) == 1.0


@pytest.mark.parametrize('warmup', [0, 20])
def test_steps_are_mocos(warmup):
    def original(step):  # main_moco.py, adjust_learning_rate; the warm-up is ours
        rate = 0.03 * (step / warmup if step < warmup else 1)
        for milestone in (120, 160):
            rate *= 0.1 if step >= milestone else 1.0
        return rate

    steps = np.arange(200)
    rates = jax.jit(warmup_step_decay(0.03, warmup, (120, 160)))(steps)
    np.testing.assert_allclose(rates, [original(step) for step in steps], rtol=1e-6)


def test_one_cycle_is_optaxs():
    expected = optax.cosine_onecycle_schedule(200, 2.0, 0.3, div_factor=1e9, final_div_factor=1e9)
    steps = np.arange(201)
    rates = jax.jit(one_cycle(2.0, 60, 200))(steps)
    np.testing.assert_allclose(rates, jax.vmap(expected)(steps), atol=1e-6)
    assert float(rates[0]) == float(rates[-1]) == 0


@pytest.mark.parametrize('warmup', [-1, 100, 101])
def test_refuses_a_warmup_as_long_as_the_run(warmup):
    with pytest.raises(ValueError, match=f'warmup_steps={warmup}'):
        warmup_cosine(1.0, warmup, 100)


def test_a_cosine_may_end_above_zero_as_maes_does():
    def original(epoch):  # util/lr_sched.py, of 100 epochs with a warm-up of 5
        if epoch < 5:
            return 2e-3 * epoch / 5
        return 1e-6 + (2e-3 - 1e-6) * 0.5 * (1 + np.cos(np.pi * (epoch - 5) / 95))

    steps = np.arange(0, 1000, 7)
    rates = jax.jit(warmup_cosine(2e-3, 50, 1000, 1e-6))(steps)
    np.testing.assert_allclose(rates, [original(step / 10) for step in steps], rtol=2e-6)
    assert float(warmup_cosine(2e-3, 50, 1000, 1e-6)(1000)) == pytest.approx(1e-6)


def test_steps_may_have_another_factor():
    rates = warmup_step_decay(0.01, 0, (12, 16), 0.2)(np.arange(20))
    expected = [0.01] * 12 + [0.002] * 4 + [0.0004] * 4
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize('per_epoch', [50, 50.04, 500.5])
def test_by_epoch_is_a_scheduler_called_once_an_epoch(per_epoch):
    total = int(20 * per_epoch)
    schedule = jax.jit(by_epoch(warmup_cosine(0.03, 0, total), per_epoch))
    for epoch in (0, 1, 7, 19):
        expected = 0.03 * 0.5 * (1 + np.cos(np.pi * epoch / 20))  # CosineAnnealingLR(T_max=20)
        first, last = round(epoch * per_epoch), round((epoch + 1) * per_epoch) - 1
        rates = [schedule(step) for step in (first, (first + last) // 2, last)]
        np.testing.assert_allclose(rates, expected, rtol=1e-3, atol=1e-5)  # whole steps
