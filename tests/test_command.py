"""What is said to be typed again can be: it is pasted into a shell, and is the same command."""

import shlex
import sys

import pytest

from simclr_jax.command import command, program


@pytest.mark.parametrize(
    ('started', 'words'),
    [
        ('run.py', ['python', 'run.py']),
        ("/a b/it's/run.py", ['python', "/a b/it's/run.py"]),
        ('/usr/lib/python3/site-packages/simclr_jax/__main__.py', ['python', '-m', 'simclr_jax']),
        ('/usr/bin/simclr-jax', ['simclr-jax']),
        ('simclr-jax.exe', ['simclr-jax']),
    ],
)
def test_the_command_can_be_pasted_into_a_shell(monkeypatch, started, words):
    flags = ['--config.eval.train_split=train[:10%]', "--workdir=my 'runs'", '--mode=knn']
    monkeypatch.setattr(sys, 'argv', [started, *flags])
    assert shlex.split(program()) == words
    assert shlex.split(command()) == [*words, *flags]
