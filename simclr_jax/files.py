"""Files that are whole or absent, whatever moment a process dies at."""

import contextlib
import io
import os

from etils import epath


def write_text(path: epath.PathLike, text: str) -> None:
    """Replaces the file at `path` in one move: a reader finds the old text or all of the new."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Replaces the file at `path` in one move, as `write_text` does.

    Raises:
      OSError: the disk is full, or failed; it names `path`, and the old file is as it was.
    """
    path = epath.Path(path)
    temporary = path.with_name(f'{path.name}.tmp')
    try:
        with temporary.open('wb') as file:
            file.write(content)
            flush_to_disk(file)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno is None:  # of a bucket's library
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def flush_to_disk(file) -> None:
    """Flushes an open file and, where it is a local one, waits until it would survive a power cut.

    Raises:
      OSError: the disk is full, or failed.
    """
    file.flush()
    with contextlib.suppress(io.UnsupportedOperation, AttributeError):  # a file in a bucket
        os.fsync(file.fileno())
