"""Where the time of a run goes."""

import time

from simclr_jax.train.advice import input_advice
from simclr_jax.workdir.metrics import read_metrics

_SETTLED = 10.0  # seconds, after which buffers have filled and shares mean something


class Clock:
    """Time spent training, over all the processes that a run took, and waiting for input."""

    def __init__(self, workdir: str, start_step: int, batch_size: int):
        before = [row for row in read_metrics(workdir) if row['step'] <= start_step]
        self._before = before[-1].get('seconds', 0.0) if before else 0.0
        self._start = self._last = time.monotonic()
        self._last_step = start_step
        self._batch_size = batch_size
        self._waited = self._waited_in_all = 0.0
        self._advised = False

    def waiting(self) -> 'Clock':
        return self

    def __enter__(self) -> None:
        self._wait_start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        waited = time.monotonic() - self._wait_start
        self._waited += waited
        self._waited_in_all += waited

    def input_share(self) -> float:
        """Returns the share of this process's time that went into waiting for input."""
        return self._waited_in_all / max(time.monotonic() - self._start, 1e-9)

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    def since_last(self, step: int) -> dict[str, float]:
        """Returns the rates since the call before: `images_per_second`, `input_wait` in [0, 1]."""
        now = time.monotonic()
        elapsed = max(now - self._last, 1e-9)
        images = (step - self._last_step) * self._batch_size
        rates = {'images_per_second': images / elapsed, 'input_wait': self._waited / elapsed}
        self._last, self._last_step, self._waited = now, step, 0.0
        return {**rates, 'seconds': self.seconds()}

    def advise(self, **run: object) -> str | None:
        """Returns, once, what to do about waiting for input; the arguments are `input_advice`'s."""
        if time.monotonic() - self._start < _SETTLED:
            return None
        share = self.input_share()
        advice = input_advice(share, **run)
        if not advice or self._advised:
            return None
        self._advised = True
        return f'{share:.0%} of the time went into waiting for input; {advice}'
