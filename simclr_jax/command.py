"""The command that started this process, as it would be typed again."""

import pathlib
import shlex
import sys


def program() -> str:
    """Returns what comes before the flags: `python run.py` or one of the other two ways."""
    name = pathlib.Path(sys.argv[0]).name
    if name == '__main__.py':
        return 'python -m simclr_jax'
    if name.removesuffix('.exe') == 'simclr-jax':
        return 'simclr-jax'
    return f'python {shlex.quote(sys.argv[0])}' if name.endswith('.py') else 'python -m simclr_jax'


def command() -> str:
    """Returns the whole command, quoted for a shell."""
    return shlex.join([*shlex.split(program()), *sys.argv[1:]])
