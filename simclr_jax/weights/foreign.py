"""Files that other programs wrote: what one is, and the tensors that it names.

Nothing is executed, and tensors are views of the file until somebody takes them.
"""

import dataclasses
import hashlib
import json
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from simclr_jax.config import ConfigError
from simclr_jax.weights import torch_files
from simclr_jax.weights.pickled_arrays import as_array
from simclr_jax.weights.pickles import UnreadableError, as_dict, read

_LONGEST_HEADER = 8 << 20  # bytes; that of a ViT-L has 40,000
_LONGEST_KEY = 200
_SAFETENSORS = {
    'F64': np.float64,
    'F32': np.float32,
    'F16': np.float16,
    'BF16': ml_dtypes.bfloat16,
    'I64': np.int64,
    'I32': np.int32,
    'I16': np.int16,
    'I8': np.int8,
    'U8': np.uint8,
    'BOOL': np.bool_,
}
_RAW = 'give weights of a layout that is known, such as the state dict of the model'
_BEGINNINGS = {  # first bytes -> what it is
    b'\x89HDF\r\n': f'an HDF5 file, as Keras writes them; {_RAW}',
    b'\x89PNG': 'a PNG picture, not weights; pictures are what --data is for',
    b'\xff\xd8\xff': 'a JPEG picture, not weights; pictures are what --data is for',
    b'GIF8': 'a GIF picture, not weights; pictures are what --data is for',
    b'RIFF': 'a WebP picture or a sound, not weights; pictures are what --data is for',
    b'II*\x00': 'a TIFF picture, not weights; pictures are what --data is for',
    b'MM\x00*': 'a TIFF picture, not weights; pictures are what --data is for',
    b'\x1f\x8b': 'compressed by gzip; unpack it, and give the file of weights in it',
    b'GGUF': f'a GGUF file; {_RAW}',
    b'PAR1': 'a Parquet file, not weights',
    b'\x93NUMPY': f'one NumPy array; {_RAW}',
    b'version https://git-lfs': 'a pointer of Git LFS, not the file; fetch that: git lfs pull',
    b'<!DOCTYPE': 'a web page, not weights; download the file itself',
    b'<html': 'a web page, not weights; download the file itself',
    b'{': 'JSON, not weights; give the file of weights beside it, or the folder of both',
}


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
      tree: what was saved, nested dicts; as `pickles.read` gives it.
      array: makes the tensor of one of its nodes, None of what is no tensor.
      metadata: of a safetensors file.
      size: in bytes.
      sha256: of the whole file.
    """

    tree: Any
    array: Callable[[Any], np.ndarray | None]
    metadata: Mapping[str, str]
    size: int
    sha256: str

    def tensors(self, node: Any) -> dict[str, np.ndarray]:
        """Returns the tensors that a dict of the tree holds by name, and nothing else in it.

        Raises:
          UnreadableError: one is damaged, or its name is none.
        """
        found = {}
        for key, value in (as_dict(node) or {}).items():
            tensor = self.array(value)
            if tensor is None or not isinstance(key, str):
                continue
            if not key.isprintable() or len(key) > _LONGEST_KEY:
                raise UnreadableError(f'is damaged: it has the key {key[:_LONGEST_KEY]!a}')
            found[key] = tensor
        return found


def open_file(path: str | os.PathLike) -> Content:
    """Reads a safetensors file, one of `torch.save`, or a pickle of arrays.

    Raises:
      ConfigError: it is not there, is none of these, or is damaged; the error says what it is.
    """
    data = _map(path)
    try:
        tree, array, metadata = _read(data, path)
    except UnreadableError as error:
        raise ConfigError(f'{path}: {error}') from error
    return Content(tree, array, metadata, len(data), hashlib.sha256(data).hexdigest())


def _map(path: str | os.PathLike) -> memoryview:
    """Returns the file's bytes: mapped into memory, or read, where it is in a bucket."""
    if '://' in str(path):
        return memoryview(epath.Path(path).read_bytes())
    try:
        with open(os.path.expanduser(path), 'rb') as file:
            if not os.fstat(file.fileno()).st_size:
                raise ConfigError(f'{path}: is empty')
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ConfigError(f'{path}: cannot be read: {error.strerror}') from error


def _read(data: memoryview, path: str | os.PathLike) -> tuple[Any, Callable, Mapping[str, str]]:
    suffix = os.path.splitext(path)[1].lower()
    if _looks_like_safetensors(data):
        tensors, metadata = _read_safetensors(data, path)
        return tensors, lambda node: node if isinstance(node, np.ndarray) else None, metadata
    if torch_files.is_zip(data):
        return *torch_files.read_zip(data), {}
    if torch_files.is_legacy(data):
        return *torch_files.read_legacy(data), {}
    for beginning, what in _BEGINNINGS.items():
        if data[: len(beginning)] == beginning:
            raise UnreadableError(f'is {what}')
    if suffix == '.safetensors':
        raise UnreadableError('is no safetensors file, or is cut off: download or write it again')
    if suffix == '.onnx':
        raise UnreadableError(f'is an ONNX graph, which names no layers; {_RAW}')
    if suffix in ('.h5', '.keras', '.tflite', '.pb', '.msgpack', '.mlmodel'):
        raise UnreadableError(f'is a file of another program ({suffix}); {_RAW}')
    if data[257:262] == b'ustar':
        raise UnreadableError(
            'is a tar archive; unpack it, or, if PyTorch before 0.4 wrote it, load it with '
            'torch.load and save it again with torch.save'
        )
    if data[0] == 0x80:  # how a pickle of protocol 2 or later begins
        return read(data).tree, as_array, {}
    raise UnreadableError(
        'is neither a safetensors file nor one of torch.save nor a pickle of arrays; if it is a '
        'TensorFlow checkpoint, give the name without .index or .data-00000-of-00001'
    )


def _looks_like_safetensors(data: memoryview) -> bool:
    return data[8:9] == b'{' and _header_length(data) <= len(data) - 8


def _header_length(data: memoryview) -> int:
    return struct.unpack('<Q', data[:8])[0]


def _read_safetensors(
    data: memoryview, path: str | os.PathLike
) -> tuple[dict[str, np.ndarray], Mapping[str, str]]:
    length = _header_length(data)
    if length > _LONGEST_HEADER:
        raise UnreadableError(f'is no file of weights: it has a header of {length:,} bytes')
    try:  # the library checks names, types, shapes and places
        if '://' in str(path):
            safetensors.deserialize(bytes(data))
        else:
            with safetensors.safe_open(os.path.expanduser(path), 'numpy'):
                pass
        header = json.loads(bytes(data[8 : 8 + length]))
        metadata = header.pop('__metadata__', {})
        body, tensors = data[8 + length :], {}
        for name, entry in header.items():
            start, end = entry['data_offsets']
            dtype = np.dtype(_SAFETENSORS[entry['dtype']])
            tensors[name] = np.frombuffer(body[start:end], dtype).reshape(entry['shape'])
    except (
        safetensors.SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise UnreadableError(f'is no safetensors file, or is damaged: {error}') from error
    return tensors, metadata
