"""PyTorch's files, read without PyTorch: nothing in them is executed.

`torch.save` writes a zip archive, with a pickle of what was saved and one entry a storage; before
version 1.6 it wrote several pickles, one after the other, and then the storages. The pickle is read
as data (`pickles.py`), and only the functions that make tensors mean anything here. Tensors are
views of the file, which is mapped into memory; what is not looked at costs nothing.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from simclr_jax.weights.pickled_arrays import as_array
from simclr_jax.weights.pickles import Call, Global, Persistent, UnreadableError, read

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the format before version 1.6
_STORAGES = {
    'FloatStorage': np.float32,
    'HalfStorage': np.float16,
    'BFloat16Storage': ml_dtypes.bfloat16,
    'DoubleStorage': np.float64,
    'LongStorage': np.int64,
    'IntStorage': np.int32,
    'ShortStorage': np.int16,
    'CharStorage': np.int8,
    'ByteStorage': np.uint8,
    'BoolStorage': np.bool_,
}
_WRAPPERS = {'torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state'}
_TENSORS = {'torch._utils._rebuild_tensor', 'torch._utils._rebuild_tensor_v2'}
_MAX_SIDES = 16
_MAX_ENTRIES = 100_000

Array = Callable[[Any], np.ndarray | None]  # the tensor that a node describes, or None


def is_zip(data: memoryview) -> bool:
    return data[:4] == b'PK\x03\x04'


def read_zip(data: memoryview) -> tuple[Any, Array]:
    """Reads what `torch.save` of version 1.6 or later wrote.

    Returns:
      What was saved, as `pickles.read` gives it, and the function that makes a tensor of a node.

    Raises:
      UnreadableError: it is another archive, or damaged.
    """
    entries = _entries(data)
    pickles = [name for name in entries if name.split('/')[-1] == 'data.pkl']
    if len(pickles) != 1:
        raise UnreadableError(_what_archive(entries))
    root = pickles[0].removesuffix('data.pkl')
    if any(name.startswith(f'{root}code/') for name in entries):
        raise UnreadableError(
            'is a TorchScript archive, a program; give the state dict of its model instead: '
            'torch.save(torch.jit.load(path).state_dict(), new_path)'
        )
    order = bytes(entries.get(f'{root}byteorder', b'little'))
    if order not in (b'little', b'big'):
        raise UnreadableError(f'is damaged: its byte order is {order[:20]!r}')

    storages = {
        name.removeprefix(f'{root}data/'): content
        for name, content in entries.items()
        if name.startswith(f'{root}data/')
    }
    tree = read(entries[pickles[0]]).tree
    return tree, _Tensors(storages.get, '>' if order == b'big' else '<')


def _entries(data: memoryview) -> dict[str, memoryview]:
    """Returns the entries of an archive, none of which is compressed: PyTorch compresses none."""
    try:
        with zipfile.ZipFile(_File(data)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OSError) as error:
        raise UnreadableError(f'is a damaged zip archive: {error}') from error
    if len(infos) > _MAX_ENTRIES:
        raise UnreadableError(f'has {len(infos)} entries, more than a file of weights has')
    entries = {}
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            if info.filename.endswith(('data.pkl', 'byteorder')) or '/data/' in info.filename:
                raise UnreadableError(
                    f'is a zip archive with the compressed entry {info.filename[:80]!r}; PyTorch '
                    'compresses none: load it with torch.load and save it again with torch.save'
                )
            entries[info.filename] = memoryview(b'')
            continue
        header = data[info.header_offset : info.header_offset + 30]
        if len(header) < 30 or header[:4] != b'PK\x03\x04':
            raise UnreadableError(f'is a damaged zip archive: {info.filename[:80]!r} is not in it')
        name_length, extra_length = struct.unpack('<HH', header[26:30])
        start = info.header_offset + 30 + name_length + extra_length
        entries[info.filename] = data[start : start + info.file_size]
    return entries


class _File(io.RawIOBase):
    """A file of what is mapped into memory; reading copies no more than is asked for."""

    def __init__(self, data: memoryview):
        self._data, self._place = data, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        place = (0, self._place, len(self._data))[whence] + offset
        if place < 0:
            raise ValueError('a place before the start')
        self._place = place
        return place

    def readinto(self, buffer) -> int:
        part = self._data[self._place : self._place + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)


def _what_archive(entries: dict[str, memoryview]) -> str:
    if any(name.endswith('.npy') for name in entries):
        return 'is an .npz archive of arrays, whose layout is not known'
    if 'model.weights.h5' in entries or 'metadata.json' in entries:
        return (
            'is a Keras model; give weights of one of the layouts below instead, or the original '
            'file that it was made from'
        )
    if any(name.endswith(('pickle', 'weights.bin')) for name in entries):
        return 'is an archive of another program'
    few = ', '.join(list(entries)[:3])
    return (
        f'is a zip archive, but not one of torch.save: it has {len(entries)} entries ({few[:200]})'
    )


def is_legacy(data: memoryview) -> bool:
    """Whether `torch.save` of a version before 1.6 wrote it: the magic number comes first."""
    try:
        return read(data[:64]).tree == MAGIC
    except UnreadableError:
        return False


def read_legacy(data: memoryview) -> tuple[Any, Array]:
    """Reads what `torch.save` wrote before version 1.6; returns what `read_zip` does.

    Raises:
      UnreadableError: it is damaged.
    """
    place, parts = 0, []
    for _ in range(5):  # magic number, protocol, system, what was saved, keys of the storages
        parts.append(read(data, place))
        place = parts[-1].end
    protocol, system, saved, keys = parts[1].tree, parts[2].tree, parts[3], parts[4].tree
    if protocol != PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
        raise UnreadableError(f'is damaged: it says neither protocol {PROTOCOL} nor its storages')
    order = '<' if system.get('little_endian', True) else '>'
    kinds = {id_.key: id_.kind for id_ in map(_storage_id, saved.persistent) if id_}
    storages, rest = {}, data[place:]
    for key in keys:
        if not isinstance(key, str) or key not in kinds or key in storages:
            raise UnreadableError('is damaged: it has a storage that no tensor uses')
        if len(rest) < 8:
            raise UnreadableError('is cut off: storages are missing')
        size = struct.unpack(f'{order}q', rest[:8])[0] * kinds[key].itemsize
        if not 0 <= size <= len(rest) - 8:
            raise UnreadableError(f'is cut off, or damaged: its storage {key[:40]!r} is not whole')
        storages[key], rest = rest[8 : 8 + size], rest[8 + size :]
    return saved.tree, _Tensors(storages.get, order)


class _Storage(NamedTuple):
    kind: np.dtype
    key: str
    count: int
    first: int  # where a view of it begins


def _storage_id(identity: Any) -> _Storage | None:
    """Returns what `('storage', type, key, location, count)` says; None where it says less."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != 'storage':
        return None
    _, kind, key, _, count, *view = identity
    first = 0
    if view and isinstance(view[0], tuple) and len(view[0]) == 3:  # (key, first, count), until 0.4
        _, first, count = view[0]
    name = str(kind).removeprefix('torch.') if isinstance(kind, Global) else ''
    if name not in _STORAGES or not isinstance(key, str) or not _are_sizes((count, first)):
        return None
    return _Storage(np.dtype(_STORAGES[name]), key, count, first)


def _are_sizes(sizes: Any) -> bool:
    return (
        isinstance(sizes, tuple)
        and len(sizes) <= _MAX_SIDES
        and all(type(size) is int and 0 <= size < 1 << 48 for size in sizes)
    )


class _Tensors:
    """From a node of the pickle to the tensor that it describes, a view of its storage."""

    def __init__(self, storage: Callable[[str], memoryview | None], order: str):
        self.storage, self.order = storage, order

    def __call__(self, node: Any) -> np.ndarray | None:
        while isinstance(node, Call) and isinstance(node.arguments, tuple) and node.arguments:
            arguments = node.arguments
            if node.function in _WRAPPERS:
                node = arguments[0]
            elif node.function == 'torch._tensor._rebuild_from_type_v2' and len(arguments) > 2:
                node = Call(arguments[0], arguments[2])
            elif node.function in _TENSORS and len(arguments) >= 4:
                return self.tensor(*arguments[:4])
            else:
                return as_array(node)
        return None

    def tensor(self, reference: Any, first: Any, shape: Any, strides: Any) -> np.ndarray:
        identity = _storage_id(reference.id) if isinstance(reference, Persistent) else None
        shape, strides = (
            part.arguments[0] if isinstance(part, Call) and part.arguments else part
            for part in (shape, strides)  # torch.Size((2, 3)) is a call
        )
        if not identity or not _are_sizes((first,)) or not _are_sizes(shape):
            raise UnreadableError('is damaged: a tensor has no storage, or a shape that is none')
        if not _are_sizes(strides) or len(strides) != len(shape):
            raise UnreadableError('is damaged: a tensor has strides that are none')
        size, dtype = math.prod(shape), identity.kind.newbyteorder(self.order)
        reach = sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        # A tensor that repeats its numbers could be any size; no weights do.
        if size and (first + reach >= identity.count or size > identity.count):
            raise UnreadableError(f'is damaged: a tensor of shape {shape} is not in its storage')
        content = self.storage(identity.key)
        end = (identity.first + identity.count) * dtype.itemsize
        if content is None or len(content) < end:
            key = identity.key[:40]
            raise UnreadableError(f'is damaged: its storage {key!r} is missing or cut off')
        if not size:
            return np.zeros(shape, dtype)
        start = (identity.first + first) * dtype.itemsize
        flat = np.frombuffer(content[start:end], dtype)
        strides = [stride * dtype.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)
