"""SIGTERM and Ctrl-C: the process ends at once, or asks the train loop to save first.

Either way it ends with the status that a shell gives to a process that the signal has ended, 143 or
130: whoever started it learns that it has not finished, and that the same command goes on.
"""

import os
import signal
import sys

_deferred = False  # there are steps that are not on disk
_asked = ''  # what asked for the end
_goes_on = ''  # what becomes of what is done

_CTRL_C = 'Ctrl-C'
_LAST_CHECKPOINT = 'nothing is lost; the same command goes on from the last checkpoint'


def install(goes_on: str = _LAST_CHECKPOINT) -> None:
    """Handles both signals from here on.

    Args:
      goes_on: what is said of the work that is done when a signal ends the process at once.
    """
    global _goes_on
    _goes_on = goes_on
    signal.signal(signal.SIGTERM, _handle)
    signal.signal(signal.SIGINT, _handle)


def uninstall() -> None:
    """Goes back to what Python does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def defer() -> None:
    """From here on `asked` answers, and the process goes on until `finish`."""
    global _deferred
    _deferred = True


def asked(step: int) -> bool:
    """Returns whether to save and end after `step`; the same in all processes, whoever was asked.

    To be called at every step.
    """
    import jax

    if jax.process_count() == 1:
        return bool(_asked)
    from jax.experimental import multihost_utils

    # JAX listens to SIGTERM in every process of several, and agrees on a step.
    return multihost_utils.reached_preemption_sync_point(step)


def finish() -> None:
    """From here on all is on disk: a signal ends the process at once."""
    global _deferred
    _deferred = False
    if _asked:
        sys.exit(status())
    if signal.getsignal(signal.SIGTERM) is _handle:  # JAX has replaced it where it listens itself
        signal.signal(signal.SIGTERM, _handle)


def status() -> int:
    """Returns the exit status of a process that was asked to end, itself or through another."""
    return 128 + (signal.SIGINT if _asked == _CTRL_C else signal.SIGTERM)


def _handle(number: int, frame: object) -> None:
    global _asked
    name = signal.Signals(number).name if number != signal.SIGINT else _CTRL_C
    if not _deferred:
        _say(f'{name}: {_goes_on}')
        os._exit(128 + number)
    if _asked and number == signal.SIGINT:
        _say('stopped without saving; the same command goes on from the last checkpoint')
        os._exit(128 + number)
    _asked = name
    _say(f'{name}: saving at the next step; Ctrl-C stops at once')
    if number == signal.SIGINT and _several_processes():
        os.kill(os.getpid(), signal.SIGTERM)  # tells the others


def _several_processes() -> bool:
    import jax

    return jax.process_count() > 1


def _say(text: str) -> None:
    os.write(2, f'\n{text}\n'.encode())  # print may be what was interrupted
