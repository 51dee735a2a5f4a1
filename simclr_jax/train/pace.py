"""How fast steps go: how many are on their way, how long the run takes, when to save."""

import collections
import time
from collections.abc import Callable

import jax

from simclr_jax import parallel
from simclr_jax.progress import format_duration

_MEASURED = 3  # steps, before their time says how long the run takes
_LONG = 10.0  # seconds; one step of this length says enough


class Pace:
    """Follows the steps of this process: bounds those in flight, and measures them.

    Args:
      start: steps that an earlier process has made.
      total_steps: of the run.
      in_flight: steps that may be on their way on the devices beside the newest.
      clock: seconds, from any moment on.
    """

    def __init__(
        self,
        start: int,
        total_steps: int,
        in_flight: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._start, self._total = start, total_steps
        self._in_flight, self._clock = in_flight, clock
        self._flying: collections.deque[tuple[int, jax.Array]] = collections.deque()
        self._began = clock()
        self._done: tuple[int, float] = (start, self._began)  # the newest step known to be done
        self._said = False

    def begin(self) -> None:
        """Takes the time before the first step."""
        self._began = self._clock()

    def add(self, step: int, result: jax.Array) -> None:
        """Takes what a step will give; waits until no more than `in_flight` others are under way.

        The host would otherwise run ahead by some thirty steps, whose batches all take memory.
        """
        self._flying.append((step, result))
        while len(self._flying) > self._in_flight + 1:
            oldest, result = self._flying.popleft()
            jax.block_until_ready(result)
            self._done = oldest, self._clock()

    @property
    def done(self) -> int:
        """The newest step that is known to be done."""
        return self._done[0]

    def seconds_a_step(self) -> float | None:
        """Returns the mean over this process's steps; None before the first is done."""
        step, when = self._done
        return (when - self._began) / (step - self._start) if step > self._start else None

    def estimate(self, *, now: bool = False) -> str | None:
        """Returns, once, how long the rest will take: when a few steps, or a long one, are done.

        Args:
          now: do not wait for more of them, and for the first one if there is none yet.
        """
        if self._said:
            return None
        if now and self.done == self._start and self._flying:
            step, result = self._flying.popleft()
            jax.block_until_ready(result)
            self._done = step, self._clock()
        seconds = self.seconds_a_step()
        if seconds is None or not (now or self.done >= self._start + _MEASURED or seconds >= _LONG):
            return None
        self._said = True
        left = self._total - self.done
        if not left:
            return None
        return (
            f'{left:,} steps are left, of about {_seconds(seconds)} each: '
            f'{format_duration(left * seconds)} of training'
        )


class Saves:
    """Which steps are saved: every so many, and every so many minutes.

    Processes agree on the step of the next save by time: the first one's clock turns minutes into
    steps when a few were measured, and again at each save. So none has to ask the others at every
    step.
    """

    def __init__(
        self, pace: Pace, start: int, total_steps: int, every_steps: int, every_minutes: float
    ):
        self._pace, self._total = pace, total_steps
        self._every_steps, self._seconds = every_steps, 60 * every_minutes
        self._measure_at = start + _MEASURED + 2  # as many are done by then, in every process
        self._next: int | None = None

    def due(self, step: int) -> bool:
        """Whether the state after `step` is saved. To be called by all processes at each step."""
        if self._seconds and self._next is None and step >= self._measure_at:
            self._plan(step)
        due = step % self._every_steps == 0 or step == self._next or step == self._total
        if due and self._next is not None:
            self._plan(step)
        return due

    def _plan(self, step: int) -> None:
        seconds = self._pace.seconds_a_step()
        steps = self._seconds / seconds if seconds else self._total
        [steps] = parallel.from_main_process([int(min(max(1, steps), self._total))])
        self._next = step + steps


def _seconds(seconds: float) -> str:
    return f'{seconds:.1f} s' if seconds >= 1 else f'{1000 * seconds:.0f} ms'
