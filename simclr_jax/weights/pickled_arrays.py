"""NumPy's arrays in a pickle that `pickles.py` has read."""

import codecs
import math
import re
from typing import Any

import numpy as np

from simclr_jax.weights.pickles import Call, Text, UnreadableError

_NUMBERS = re.compile(r'[<>|=]?([fiu][1248]|b1|f16)')
_CHUNK = 1 << 20  # bytes of a text that are decoded at once


def as_array(node: Any) -> np.ndarray | None:
    """Returns the array of numbers that `node` describes, or None where it describes none.

    Its numbers stay in the file wherever they are as bytes there.

    Raises:
      UnreadableError: its bytes are not those of its shape and type.
    """
    if not isinstance(node, Call) or not isinstance(node.arguments, tuple):
        return None
    name = str(node.function)
    # Of JAX, and of dill: both take apart what NumPy says of an array.
    if name.endswith(('._reconstruct_array', '._create_array')) and len(node.arguments) >= 3:
        inner = Call(node.arguments[0], node.arguments[1])
        inner.state = node.arguments[2]
        return as_array(inner)
    if name.endswith('multiarray._reconstruct') and isinstance(node.state, tuple):
        *_, shape, kind, fortran, data = node.state
        return _array(data, kind, shape, 'F' if fortran else 'C')
    if name.endswith('._frombuffer') and len(node.arguments) == 4:
        data, kind, shape, order = node.arguments
        return _array(data, kind, shape, order)
    return None


def _array(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray | None:
    dtype = _dtype(kind)
    if dtype is None:
        return None
    if not (isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)):
        raise UnreadableError('an array has a shape that is none')
    if len(shape) > 16 or order not in ('C', 'F'):
        raise UnreadableError('an array has a shape or an order that is none')
    size = math.prod(shape) * dtype.itemsize
    try:
        data = _bytes(data, size)
    except UnicodeError as error:
        raise UnreadableError('an array has a text for bytes that is none') from error
    if data is None or len(data) != size:
        raise UnreadableError(f'an array of shape {shape} has not the bytes for it')
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _dtype(node: Any) -> np.dtype | None:
    """Of `numpy.dtype('f4', False, True)`, whose state says which byte comes first."""
    if not isinstance(node, Call) or node.function != 'numpy.dtype' or not node.arguments:
        return None
    name = node.arguments[0]
    if not isinstance(name, str) or not _NUMBERS.fullmatch(name):
        return None
    order = node.state[1] if isinstance(node.state, tuple) and len(node.state) > 1 else '='
    dtype = np.dtype(name)
    return dtype.newbyteorder(order) if order in ('<', '>', '=') else dtype


def _bytes(node: Any, size: int) -> Any:
    """Returns what `node` says in bytes, `size` of them; None where it does not."""
    if isinstance(node, Call) and node.function == '_codecs.encode' and node.arguments:
        # Protocol 2 has no bytes: Python 3 writes them as the text whose Latin-1 they are.
        return _bytes(node.arguments[0], size)
    if isinstance(node, str):
        return node.encode('latin1') if len(node) == size else None
    if isinstance(node, Text):
        return _latin1(node.data, size)
    return node if isinstance(node, bytes | memoryview) else None


def _latin1(data: memoryview, size: int) -> bytearray | None:
    if not size <= len(data) <= 2 * size:
        return None
    result, place, decoder = bytearray(size), 0, codecs.getincrementaldecoder('utf-8')()
    for start in range(0, len(data), _CHUNK):
        chunk = decoder.decode(data[start : start + _CHUNK]).encode('latin1')
        if place + len(chunk) > size:
            return None
        result[place : place + len(chunk)] = chunk
        place += len(chunk)
    return result if place == size else None
