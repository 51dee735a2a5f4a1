"""Files are whole or absent, also where there is no room."""

import contextlib
import errno
import resource

import pytest

from simclr_jax import files


@contextlib.contextmanager
def room_for(size: int):
    """No file may become larger, as on a disk that is full; Python ignores the signal."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / 'report.html'
    for text in ('old', 'new \N{GREEK SMALL LETTER MU}'):
        files.write_text(path, text)
        assert path.read_bytes() == text.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_no_room_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / 'report.html'
    files.write_text(path, 'old')
    with room_for(100), pytest.raises(OSError) as error:
        files.write_bytes(path, bytes(1000))
    assert error.value.errno == errno.EFBIG and error.value.filename == str(path)
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]
