"""The command that started this process, as it would be typed again."""

import pathlib
import shlex
import sys

_PACKAGE = pathlib.Path(__file__).resolve().parent
_MODULE = ['python', '-m', 'simclr_jax']


def program() -> str:
    """Returns what comes before the flags: `python run.py` or another way to the command line.

    A program of the user's may have imported the library; it then is the way that always works.
    """
    return shlex.join(_own() or _MODULE)


def command() -> str:
    """Returns the whole command, quoted for a shell."""
    return shlex.join([*(_own() or ['python', sys.argv[0]]), *sys.argv[1:]])


def _own() -> list[str] | None:
    """Returns how the command line was called; None where this is another program."""
    started = pathlib.Path(sys.argv[0])
    if started.name.removesuffix('.exe') == 'simclr-jax':
        return ['simclr-jax']
    if started.resolve() == _PACKAGE.parent / 'run.py':
        return ['python', sys.argv[0]]
    return _MODULE if started.resolve() == _PACKAGE / '__main__.py' else None
