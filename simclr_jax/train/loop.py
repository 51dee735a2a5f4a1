"""The train loop: draw a batch, step, write the metrics of the step before, save."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from etils import epath

from simclr_jax import files, interruption, parallel
from simclr_jax.command import command
from simclr_jax.config import ConfigError, RunError
from simclr_jax.methods.base import is_dense
from simclr_jax.optim.factory import excluded_names
from simclr_jax.progress import Progress
from simclr_jax.train import inputs, memory
from simclr_jax.train.clock import Clock
from simclr_jax.train.health import BY_TIME, Monitor, NotFinite, embedding_metrics
from simclr_jax.train.out_of_memory import TRAINING, explained
from simclr_jax.train.pace import Pace, Saves
from simclr_jax.train.setup import Run
from simclr_jax.train.state import TrainState
from simclr_jax.workdir.checkpoint import Checkpoints
from simclr_jax.workdir.metrics import MetricWriter, read_metrics

_EXCLUDED = 'no_weight_decay.txt'  # in the workdir: the names of those parameters


@explained('training', TRAINING)
def train(run: Run, workdir: str) -> tuple[TrainState, dict[str, float], np.ndarray | None]:
    """Trains to the end, or to a step after SIGTERM or Ctrl-C: then it saves and exits.

    Returns:
      The final state; `seconds`, `steps`, `images_per_second` and `input_wait` (the share of this
      process's time) of the training; the first augmented pairs `[pair, view, height, width,
      channel]` uint8, None if the run was already complete. Then nothing is read or compiled.
    """
    config, length = run.config, run.length
    room = memory.available(run.mesh)

    # ---- Input first: TensorFlow is imported and fills its buffers while JAX compiles.
    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    start = checkpoints.latest_step() or 0
    if start == length.total_steps:
        return _complete(run, workdir, checkpoints), _figures_of(run, workdir), None
    with ThreadPoolExecutor(1) as executor:
        batches = executor.submit(inputs.train_batches, run, start)
        step_fn = memory.compile_step(run, room)
        state = _first_state(run, workdir, checkpoints, start)
        batches = batches.result()

    # ---- The loop: draw, step, write the metrics of the step before, save.
    log = _Log(run, workdir, start)
    pace = Pace(start, length.total_steps, memory.IN_FLIGHT)
    saves = Saves(
        pace,
        start,
        length.total_steps,
        config.checkpoint.every_steps,
        config.checkpoint.every_minutes,
    )
    interruption.defer()
    views, stop = None, False
    with _closed(checkpoints, log):
        for step in range(start + 1, length.total_steps + 1):
            try:
                with log.clock.waiting():
                    batch = next(batches)
            except (RunError, ConfigError):  # the pictures have gone
                _save_unfed(checkpoints, state, log)
                raise
            if views is None:
                views = inputs.sheet(batch, run, step - 1)
                pace.begin()
            batch = parallel.put_batch(inputs.for_step(batch, run), run.mesh)
            state, metrics = step_fn(state, batch, *run.fixed)
            pace.add(step, metrics['loss'][0])
            stop = interruption.asked(step) and step < length.total_steps
            save = saves.due(step) or stop
            if estimate := pace.estimate(now=log.due or save):
                _say(estimate)
            try:
                if log.due:  # read while this step runs, so the loop never waits for a number
                    log.read()
                log.add(step, metrics)
                log.show(pace.done)
                if save:  # the metrics up to a checkpoint are on disk before it is
                    log.read()
            except NotFinite:
                _save_before(checkpoints, state, log)
                raise
            if stop or step == length.total_steps:
                checkpoints.save_and_wait(step, state, log.sync)
            elif save:
                checkpoints.save(step, state, log.sync)
            if stop:
                break
    if stop:
        _say(f'saved step {step} in {workdir}; the same command goes on from there:\n')
        _say(f'  {command()}')
        sys.exit(interruption.status())
    interruption.finish()
    seconds = log.clock.seconds()
    figures = {
        'seconds': seconds,
        'steps': length.total_steps,
        'images_per_second': length.total_steps * config.batch_size / max(seconds, 1e-9),
        'input_wait': log.clock.input_share(),
    }
    return state, figures, views


def _complete(run: Run, workdir: str, checkpoints: Checkpoints) -> TrainState:
    state = checkpoints.restore(run.length.total_steps, run.abstract_state())
    checkpoints.close()
    interruption.finish()
    _say(f'all {run.length.total_steps} steps are done: the last checkpoint is in {workdir}')
    return state


def _figures_of(run: Run, workdir: str) -> dict[str, float]:
    """What `train` returned to the process that trained, as far as its metrics tell."""
    rows, steps = read_metrics(workdir), run.length.total_steps
    if not rows:
        return {'steps': steps}
    seconds = rows[-1]['seconds']
    return {
        'seconds': seconds,
        'steps': steps,
        'images_per_second': steps * run.config.batch_size / max(seconds, 1e-9),
        'input_wait': float(np.mean([row['input_wait'] for row in rows])),
    }


@contextlib.contextmanager
def _closed(*things: Any) -> Iterator[None]:
    """Closes `things` at the end, whatever it is.

    Except where another process may be dead: closing waits for what all of them do together.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1 or isinstance(error, (RunError, ConfigError)):
            for thing in things:
                thing.close()
        raise
    for thing in things:
        thing.close()


def _save_before(checkpoints: Checkpoints, state: TrainState, log: '_Log') -> None:
    """Saves the state that stayed as it was when an update was not finite."""
    step = int(state.step)
    if step and step != checkpoints.latest_step():
        checkpoints.save_and_wait(step, state.thawed(), log.sync)


def _save_unfed(checkpoints: Checkpoints, state: TrainState, log: '_Log') -> None:
    """Saves what was trained when nothing more can be read.

    Of several processes the others may not know, and a save needs all of them.
    """
    if jax.process_count() == 1:
        with contextlib.suppress(NotFinite):  # comes again when the run goes on
            log.read()
        checkpoints.wait()
        _save_before(checkpoints, state, log)


def _first_state(run: Run, workdir: str, checkpoints: Checkpoints, start: int) -> TrainState:
    """Returns the state after `start` steps, restored or new."""
    if start:
        state = checkpoints.restore(start, run.abstract_state())
        _say(f'going on from the checkpoint of step {start} in {workdir}')
        return state
    state = run.init()
    if run.config.optimizer.exclude_bias_and_norm:
        names = excluded_names(state.params, run.groups)
        _say(f'no weight decay for {len(names)} biases and normalization scales ({_EXCLUDED})')
        if parallel.is_main_process():
            with contextlib.suppress(OSError):  # a full disk: checkpoints will say so
                files.write_text(epath.Path(workdir) / _EXCLUDED, '\n'.join(names) + '\n')
    return state


class _Log:
    """Reads the metrics of every step, some steps later, and writes those that are to be logged.

    Every process reads and judges them, so that all stop alike; the first one writes.
    """

    def __init__(self, run: Run, workdir: str, start: int):
        config = run.config
        self.clock = Clock(workdir, start, config.batch_size)
        self.due = False  # a step to be logged was added
        self._run = run
        self._unread: list[tuple[int, dict]] = []
        self._skipped = 0
        health = config.health.to_dict()
        del health['on_memory']  # which was before the first step
        self._monitor = Monitor(
            **health | {'patience': math.ceil(config.health.patience * run.length.total_steps)}
        )
        rows = [row for row in read_metrics(workdir) if row['step'] <= start]
        self._monitor.replay(rows)
        if rows:
            self._skipped = int(rows[-1].get('skipped_updates', 0))
        self._writer = self._progress = None
        self._put_last = time.monotonic()
        if parallel.is_main_process():
            self._writer = MetricWriter(workdir, config.log.tensorboard, resume_step=start)
            self._progress = Progress(run.length.total_steps)

    def add(self, step: int, metrics) -> None:
        """Remembers what the train step of `step` gave."""
        logged = self._is_logged(step)
        self.due |= logged
        self._unread.append((step, metrics if logged else _without_embeddings(metrics)))

    def read(self) -> None:
        """Reads what was added; writes a row for each step that is due or was skipped.

        Raises:
          RunError: the run has to stop.
          ConfigError: more pictures are bad than `data.max_bad_fraction`.
        """
        unread, self._unread, self.due = self._unread, [], False
        values = jax.device_get([metrics for _, metrics in unread])  # every process has them whole
        for (step, _), host in zip(unread, values, strict=True):
            skipped = int(host['skipped_updates'][0])
            if self._is_logged(step) or skipped > self._skipped:
                self._write(step, host)
            self._skipped = skipped

    def show(self, step: int) -> None:
        """Writes a row of `step`, which is done, where the last one is `log.every_seconds` ago.

        When that is depends on the machine, so such rows are marked and judge nothing. Only the
        first process has them.
        """
        every = self._run.config.log.every_seconds
        if not (self._writer and every and time.monotonic() - self._put_last >= every):
            return
        for added, metrics in self._unread:
            if added == step and not self._is_logged(step):
                host = jax.device_get(_without_embeddings(metrics))
                if int(host['skipped_updates'][0]) == self._skipped:  # else rows before it come
                    self._put(step, self._row(step, host) | {BY_TIME: 1.0})

    def sync(self) -> None:
        """Returns when what was written is on disk; raises OSError where it cannot be."""
        if self._writer:
            self._writer.sync()

    def close(self) -> None:
        if self._writer:
            self._progress.finish()
            self._writer.close()

    def _is_logged(self, step: int) -> bool:
        return step % self._run.config.log.every_steps == 0 or step == self._run.length.total_steps

    def _write(self, step: int, host: dict) -> None:
        row = self._row(step, host)
        try:
            warning = self._monitor.check(step, row)
        finally:  # the row of a step that ends the run is kept
            self._put(step, row)
        if warning:
            _warn(warning)
        inputs.check_bad(self._run)
        if is_dense(self._run.method):
            return  # its crops can be made in one way only
        config = self._run.config
        advice = self.clock.advise(
            backend=config.augment.backend,
            cache=config.data.cache,
            workers=config.data.workers,
            canvas=self._run.source.canvas_side,
            on_cpu=self._run.mesh.devices.flat[0].platform == 'cpu',
        )
        if advice:
            _say(f'\n{advice}')

    def _row(self, step: int, host: dict) -> dict[str, float]:
        embeddings, _ = host.pop('embeddings', (None, None))
        row = {name: float(total / max(count, 1e-9)) for name, (total, count) in host.items()}
        if embeddings is not None:
            row |= embedding_metrics(embeddings)
        row |= {
            'epoch': self._run.length.epoch(step),
            'learning_rate': float(self._run.schedule(step - 1)),  # the one that this step used
            **self.clock.since_last(step),
        }
        if self._run.source.bad:
            row['bad_pictures'] = float(len(self._run.source.bad))
        return row

    def _put(self, step: int, row: dict[str, float]) -> None:
        if self._writer:
            self._writer.write(step, row)
            self._progress.update(step, row)
            self._put_last = time.monotonic()


def _without_embeddings(metrics: dict) -> dict:
    return {name: value for name, value in metrics.items() if name != 'embeddings'}


def _say(text: str) -> None:
    if parallel.is_main_process():
        print(text, flush=True)


def _warn(text: str) -> None:
    if parallel.is_main_process():
        print(f'\nwarning: {text}', file=sys.stderr, flush=True)
