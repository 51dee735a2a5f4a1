"""`tf.train.Example` without TensorFlow: `image`, `label` and `orientation`, to and fro.

The wire format is that of protocol buffers (protobuf.dev/programming-guides/encoding): a message
is a sequence of tags, each with a number (type 0) or with bytes (type 2).
"""

from collections.abc import Iterator
from typing import NamedTuple

PILLOW = 0  # an orientation: for Pillow, which decodes the picture and turns it


class Example(NamedTuple):
    """What of a record is used.

    Attributes:
      image: the encoded picture.
      label: -1 where there is none.
      orientation: EXIF's number, by which the picture is turned after it was decoded; 1 where the
        record has none, PILLOW where Pillow does all.
    """

    image: bytes
    label: int
    orientation: int


def parse(record: bytes) -> Example:
    """Reads a record.

    Raises:
      ValueError: the record holds no `image`.
    """
    image, numbers = None, {b'label': -1, b'orientation': 1}
    for features in _values(record, 1):
        for entry in _values(features, 1):
            name = bytes(next(_values(entry, 1)))
            if name == b'image':
                image = _first(entry, (2, 1, 1))  # Feature.bytes_list.value
            elif name in numbers:
                numbers[name] = _first(entry, (2, 3, 1))  # Feature.int64_list.value
    if image is None:
        raise ValueError('a record without an image')
    return Example(bytes(image), *map(_signed, numbers.values()))


def integers(record: bytes, name: str) -> list[int]:
    """Returns a list of numbers that a record holds; [] where it is empty, or not there."""
    for features in _values(record, 1):
        for entry in _values(features, 1):
            if bytes(next(_values(entry, 1))) != name.encode():
                continue
            lists = [numbers for feature in _values(entry, 2) for numbers in _values(feature, 3)]
            return [number for one in lists for number in _integers(one)]
    return []


def content(record: bytes, name: str) -> bytes:
    """Returns the bytes that a record holds under a name.

    Raises:
      ValueError: it holds none.
    """
    for features in _values(record, 1):
        for entry in _values(features, 1):
            if bytes(next(_values(entry, 1))) == name.encode():
                return bytes(_first(entry, (2, 1, 1)))  # Feature.bytes_list.value
    raise ValueError(f'a record without {name}')


def serialize(image: bytes, label: int | None = None, orientation: int = 1) -> bytes:
    """Returns the record of an encoded image and, where it has one, its label."""
    entries = [_field(1, b'image') + _field(2, _field(1, _field(1, image)))]
    numbers = {b'label': label, b'orientation': None if orientation == 1 else orientation}
    for name, number in numbers.items():
        if number is not None:
            encoded = _encode_varint(number % (1 << 64))
            entries.append(_field(1, name) + _field(2, _field(3, _field(1, encoded))))
    return _field(1, b''.join(_field(1, entry) for entry in entries))


def without_label(record: bytes) -> bytes:
    """Returns a record with the label -1: that there is none."""
    image, _, orientation = parse(record)
    return serialize(image, -1, orientation)


def _integers(message: memoryview) -> Iterator[int]:
    """The numbers of an Int64List, packed or not."""
    for value in _values(message, 1):
        if isinstance(value, int):
            yield _signed(value)
            continue
        position = 0
        while position < len(value):
            number, position = _varint(value, position)
            yield _signed(number)


def _signed(number: memoryview | int) -> int:
    if not isinstance(number, int):  # packed
        number = _varint(number, 0)[0]
    return number if number < 1 << 63 else number - (1 << 64)


def _first(message: memoryview, path: tuple[int, ...]) -> memoryview | int:
    for field in path:
        message = next(_values(message, field))
    return message


def _values(message: bytes | memoryview, wanted: int) -> Iterator[memoryview | int]:
    """The values of one field of a message."""
    message, position = memoryview(message), 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
        elif kind == 2:
            length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        else:  # fixed numbers, which no image or label is
            value, position = None, position + (8 if kind == 1 else 4)
        if tag >> 3 == wanted:
            yield value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
        shift += 7


def _field(number: int, value: bytes) -> bytes:
    return _encode_varint(number << 3 | 2) + _encode_varint(len(value)) + value


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
