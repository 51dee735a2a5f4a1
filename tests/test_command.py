"""What is said to be typed again can be: it is pasted into a shell, and is the same command."""

import pathlib
import shlex
import sys

import pytest

import simclr_jax
from simclr_jax import command as command_module
from simclr_jax.command import command, program

PACKAGE = pathlib.Path(simclr_jax.__file__).parent
FLAGS = ['--config.eval.train_split=train[:10%]', "--workdir=my 'runs'", '--mode=knn']


@pytest.mark.parametrize(
    ('started', 'words'),
    [
        ('run.py', ['python', 'run.py']),
        (str(PACKAGE.parent / 'run.py'), ['python', str(PACKAGE.parent / 'run.py')]),
        (str(PACKAGE / '__main__.py'), ['python', '-m', 'simclr_jax']),
        ('/usr/bin/simclr-jax', ['simclr-jax']),
        ('simclr-jax.exe', ['simclr-jax']),
    ],
)
def test_the_command_can_be_pasted_into_a_shell(monkeypatch, started, words):
    monkeypatch.chdir(PACKAGE.parent)
    monkeypatch.setattr(sys, 'argv', [started, *FLAGS])
    assert shlex.split(program()) == words
    assert shlex.split(command()) == [*words, *FLAGS]


def test_a_clone_may_lie_in_a_folder_of_any_name(monkeypatch, tmp_path):
    folder = tmp_path / "it's a clone"
    monkeypatch.setattr(command_module, '_PACKAGE', folder / 'simclr_jax')
    monkeypatch.setattr(sys, 'argv', [str(folder / 'run.py'), *FLAGS])
    assert shlex.split(program()) == ['python', str(folder / 'run.py')]


@pytest.mark.parametrize('started', ['run.py', 'mine.py', '/lib/pytest/__main__.py'])
def test_a_program_of_a_users_is_not_taken_for_the_command_line(monkeypatch, tmp_path, started):
    monkeypatch.chdir(tmp_path)  # its run.py is not ours
    monkeypatch.setattr(sys, 'argv', [started, '--mine=3'])
    assert program() == 'python -m simclr_jax'
    assert shlex.split(command()) == ['python', started, '--mine=3']
