"""A thousand damaged and hostile files: an error that names the file each, and nothing else.

Nothing is executed, no file appears, and no more memory is taken than twice what the file has and a
constant. A number of a tensor may change unnoticed in the files of others, which have no checksum.
"""

import contextlib
import pathlib
import sys
import time
import tracemalloc

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import made_files
from random_weights import random_weights

from simclr_jax.config import ConfigError
from simclr_jax.weights.description import flat
from simclr_jax.weights.loading import read_weights

WHOLE = made_files.whole_files()
CONSTANT = 48 << 20  # bytes; pickles.py lets the objects of a file have 32 MiB
LONGEST = 200  # seconds: a busy machine needs 3; what would be endless takes hours or all memory
# What would be the work of a file, by the name that Python's audit gives it.
FORBIDDEN = {
    'os.system',
    'os.exec',
    'os.posix_spawn',
    'os.fork',
    'os.remove',
    'os.rename',
    'os.mkdir',
    'subprocess.Popen',
    'socket.connect',
    'pickle.find_class',
    'marshal.loads',
    'exec',
    'compile',
}
_watched: list[str] | None = None


def _watch(event, arguments):
    if _watched is None:
        return
    writes = event == 'open' and arguments[1] is not None and set(arguments[1]) & set('wax+')
    if event in FORBIDDEN or writes:
        _watched.append(f'{event} {arguments!r:.200}')


sys.addaudithook(_watch)


@contextlib.contextmanager
def watched():
    """Yields a list to which everything is added that a file must not do."""
    global _watched
    _watched = events = []
    try:
        yield events
    finally:
        _watched = None


def read_or_refuse(path: pathlib.Path, content: bytes):
    """Returns the weights, or None if they are refused as they should be."""
    path.write_bytes(content)
    before = sorted(path.parent.iterdir())
    tracemalloc.start()
    start = time.monotonic()
    try:
        with watched() as events:
            weights = read_weights(path)
    except ConfigError as error:
        weights = None
        assert str(error).startswith(str(path)) and len(str(error)) < 2000
        assert 'Traceback' not in str(error) and error.args[0].isprintable()
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert time.monotonic() - start < LONGEST
    assert not events
    assert sorted(path.parent.iterdir()) == before
    assert peak < 2 * len(content) + CONSTANT, f'{peak:,} bytes for {len(content):,}'
    return weights


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, in which a command of a hostile file would leave a file."""
    monkeypatch.chdir(tmp_path)
    for name, content in WHOLE.items():  # what is imported and traced, is by now
        (tmp_path / name).write_bytes(content)
        read_weights(tmp_path / name)
        (tmp_path / name).unlink()
    return tmp_path


def test_the_audit_would_see_it(folder):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, (made_files.COMMAND,)

    with watched() as events:
        pickle.loads(pickle.dumps(Evil()))
        (folder / 'new').write_bytes(b'')
    assert {event.split()[0] for event in events} >= {'pickle.find_class', 'os.system', 'open'}
    assert (folder / 'exploded').exists()


def test_whole_files_are_read(folder):
    for name, content in WHOLE.items():
        weights = read_or_refuse(folder / name, content)
        assert weights.architecture == (made_files.SAME if 'byol' in name else made_files.TINY)
        want, found = flat(random_weights(weights.architecture).variables), flat(weights.variables)
        assert want.keys() == found.keys()
        assert all(np.array_equal(found[key], want[key]) for key in want)


def test_what_else_is_in_a_file_is_not_run_either(folder):
    """Training checkpoints hold optimizers and arguments: here they are commands."""
    evil = made_files.Call((made_files.Global('os.system'), (made_files.COMMAND,)))
    nodes, storages = made_files.described(made_files.state_dict())
    saved = made_files.pickled({'state_dict': nodes, 'optimizer': evil, 'args': [evil, (evil,)]})
    for content in (made_files.zipped(saved, storages), made_files.legacy(saved, storages)):
        weights = read_or_refuse(folder / 'x.pth', content)
        assert weights.architecture == made_files.TINY
        assert weights.origin['dropped'] == ['optimizer', 'args']


HOSTILE = made_files.hostile_files()


@pytest.mark.parametrize(
    'start', [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 12))]
)
def test_hostile_files(start, folder):
    """Every twelfth of them, in the order of their names, where a pickle stands in all archives."""
    names = sorted(HOSTILE)
    for name in names[start::12]:
        assert read_or_refuse(folder / name, HOSTILE[name]) is None, name


@pytest.mark.parametrize('count', [20, pytest.param(1000 // len(WHOLE), marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', WHOLE)
def test_mutated_files(name, count, folder):
    want = flat(read_or_refuse(folder / name, WHOLE[name]).variables)
    outcomes = {'refused': 0, 'a number': 0, 'the same': 0}
    for seed in range(count):
        content = made_files.mutated(WHOLE[name], np.random.default_rng(seed))
        weights = read_or_refuse(folder / name, content)
        if weights is None:
            outcomes['refused'] += 1
            continue
        # Ours has a checksum; in others' files a number may be another, or what nobody reads.
        assert not name.startswith('ours') or content == WHOLE[name]
        found = flat(weights.variables)
        assert {key: value.shape for key, value in found.items()} == {
            key: value.shape for key, value in want.items()
        }
        same = all(np.array_equal(found[key], want[key]) for key in want)
        outcomes['the same' if same else 'a number'] += 1
    print(name, len(WHOLE[name]), outcomes)
    assert outcomes['refused'] >= count / 4
