"""Steps under way, the time that a run takes, and saves by time, with a clock made by hand."""

import jax.numpy as jnp
import pytest

from simclr_jax import parallel
from simclr_jax.train import pace as pace_module
from simclr_jax.train.pace import Pace, Saves


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Devices:
    """Steps that are over `seconds` after one another, and only when somebody waits for them."""

    def __init__(self, clock: Clock, seconds: float, monkeypatch):
        self.finished: list[int] = []
        self._clock, self._seconds = clock, seconds
        monkeypatch.setattr(pace_module.jax, 'block_until_ready', self._wait)

    def _wait(self, step: int) -> int:
        assert step == len(self.finished) + 1
        self.finished.append(step)
        self._clock.now += self._seconds
        return step


def run(steps: int, seconds: float, monkeypatch, total: int = 1000, in_flight: int = 2):
    clock = Clock()
    devices = Devices(clock, seconds, monkeypatch)
    pace = Pace(0, total, in_flight, clock)
    pace.begin()
    for step in range(1, steps + 1):
        pace.add(step, step)
    return pace, devices


@pytest.mark.parametrize('in_flight', [0, 1, 2, 5])
def test_steps_in_flight_are_bounded(in_flight, monkeypatch):
    pace, devices = run(20, 1.0, monkeypatch, in_flight=in_flight)
    assert devices.finished == list(range(1, 20 - in_flight))
    assert pace.done == 19 - in_flight


def test_the_loop_waits_for_real_arrays():
    pace = Pace(5, 10, in_flight=1)
    pace.begin()
    for step in (6, 7, 8):
        pace.add(step, jnp.ones(()) * step)
    assert pace.done == 6 and pace.seconds_a_step() >= 0


def test_the_estimate_comes_after_a_few_short_steps(monkeypatch):
    pace, _ = run(4, 0.5, monkeypatch)
    assert pace.done == 1 and pace.estimate() is None
    pace, _ = run(6, 0.5, monkeypatch)
    assert pace.estimate() == '997 steps are left, of about 500 ms each: 8m18s of training'
    assert pace.estimate() is None  # once


def test_the_estimate_comes_after_the_first_long_step(monkeypatch):
    pace, _ = run(4, 62.0, monkeypatch)
    assert pace.done == 1
    assert pace.estimate() == '999 steps are left, of about 62.0 s each: 17h12m of training'


def test_the_estimate_comes_before_the_first_line_of_metrics(monkeypatch):
    pace, devices = run(1, 2.0, monkeypatch)
    assert pace.done == 0
    assert pace.estimate(now=True).startswith('999 steps are left, of about 2.0 s each')
    assert devices.finished == [1]
    pace.add(2, 2)  # and the steps go on being counted
    pace.add(3, 3)
    pace.add(4, 4)
    pace.add(5, 5)
    assert devices.finished == [1, 2]


def test_a_run_of_one_step_needs_no_estimate(monkeypatch):
    assert run(1, 2.0, monkeypatch, total=1)[0].estimate(now=True) is None


def saved(seconds: float, monkeypatch, *, minutes: float, every_steps: int = 1000, total=100):
    clock = Clock()
    Devices(clock, seconds, monkeypatch)
    pace = Pace(0, total, 2, clock)
    saves = Saves(pace, 0, total, every_steps, minutes)
    pace.begin()
    found = []
    for step in range(1, total + 1):
        pace.add(step, step)
        if saves.due(step):
            found.append(step)
    return found


def test_checkpoints_come_by_time_and_by_steps(monkeypatch):
    assert saved(60.0, monkeypatch, minutes=0) == [100]
    assert saved(60.0, monkeypatch, minutes=20) == [25, 45, 65, 85, 100]
    assert saved(60.0, monkeypatch, minutes=20, every_steps=40) == [25, 40, 60, 80, 100]
    assert saved(3600.0, monkeypatch, minutes=10) == list(range(6, 101))
    assert saved(0.01, monkeypatch, minutes=10) == [100]


def test_processes_save_at_the_step_that_the_first_one_says(monkeypatch):
    asked = []

    def first_processes(numbers):
        asked.append(numbers)
        return [7]

    monkeypatch.setattr(parallel, 'from_main_process', first_processes)
    assert saved(60.0, monkeypatch, minutes=20, total=30) == [12, 19, 26, 30]
    assert len(asked) == 5  # not at every step
