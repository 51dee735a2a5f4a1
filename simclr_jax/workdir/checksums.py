"""Checksums of every file of a folder, in the format of `sha256sum`.

`sha256sum --check checksums.sha256` in the folder does by hand what `damage` does, but for the last
line: it is the checksum of the lines before it, since the list may be damaged too.
"""

import errno
import hashlib

from etils import epath

from simclr_jax import files

NAME = 'checksums.sha256'
_BLOCK = 1 << 20


def write(folder: epath.Path) -> None:
    """Writes the list into the folder; a folder with a list is complete."""
    lines = [f'{_hash(path)}  {name}\n' for name, path in sorted(_files(folder))]
    files.write_text(folder / NAME, _sealed(''.join(lines)))


def damage(folder: epath.Path) -> list[str]:
    """Returns what is wrong with the folder, a file each; nothing where it is whole.

    Raises:
      OSError: a file may be whole, but cannot be read: permissions, or a mount that is gone.
    """
    listing = folder / NAME
    try:
        text = listing.read_bytes().decode(errors='replace')
    except OSError as error:
        return [f'{listing}: {_broken(error)}']
    lines = text.splitlines(keepends=True)
    if not lines or _sealed(''.join(lines[:-1])) != text:
        return [f'{listing}: is damaged']
    problems = []
    for line in lines[:-1]:
        want, _, name = line.rstrip('\n').partition('  ')
        path = folder / name
        try:
            if _hash(path) != want:
                problems.append(f'{path}: is damaged')
        except OSError as error:
            problems.append(f'{path}: {_broken(error)}')
    return problems


def _broken(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return 'is missing'
    if error.errno in (errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ELOOP):
        return f'is damaged ({error.strerror})'
    raise error


def _sealed(text: str) -> str:
    return f'{text}{hashlib.sha256(text.encode()).hexdigest()}  {NAME}\n'


def _files(folder: epath.Path, prefix: str = ''):
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path, f'{prefix}{path.name}/')
        elif path.name not in (NAME, f'{NAME}.tmp'):
            yield f'{prefix}{path.name}', path


def _hash(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
