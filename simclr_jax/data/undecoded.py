"""Pictures that do not decode when they should: read another way, or left out; the run goes on."""

import io
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from PIL import Image

from simclr_jax.config import RunError
from simclr_jax.data import example, pictures
from simclr_jax.data.sources import Source

_NAMED = 5  # pictures named that TensorFlow refuses


def set_aside(source: Source, indices: Iterable[int], error: Exception) -> None:
    """Finds the pictures among `indices` that a stream cannot decode, so that it need not again.

    One that Pillow alone can decode joins `source.refused`; any other leaves a source of files.

    Raises:
      RunError: a record of a data set cannot be decoded.
      Exception: what reading raises; `error` where every picture can be decoded.
    """
    found = False
    for index in map(int, indices):
        if index in source.refused:
            continue
        (record,) = source.read([index])
        encoded, _, orientation = example.parse(record)
        if orientation != example.PILLOW and _tensorflow_decodes(encoded, source.image_shape[-1]):
            continue
        try:
            _by_pillow(record, source)
        except Exception as reason:  # Pillow's decoders raise anything on damage
            if source.leave_out is None:
                raise RunError(f'record {index} cannot be decoded: {reason}') from reason
            source.leave_out(index, str(reason))
            found = True
        else:
            if orientation != example.PILLOW:
                source.refused.add(index)
                if len(source.refused) <= _NAMED:
                    name = source.name(index) if source.name else f'picture {index}'
                    print(f'{name}: TensorFlow does not decode it, Pillow does', flush=True)
                found = True
    if not found:
        raise error


def replace(source: Source, indices: Iterable[int], records: list[bytes]) -> list[bytes]:
    """Returns records of `indices`, those that TensorFlow refuses in another form."""
    if not source.refused:
        return records
    return [
        _for_pillow(record, source) if int(index) in source.refused else record
        for index, record in zip(indices, records, strict=True)
    ]


def _tensorflow_decodes(encoded: bytes, channels: int) -> bool:
    try:
        tf.io.decode_image(encoded, channels, expand_animations=False)
    except tf.errors.OpError:
        return False
    return True


def _by_pillow(record: bytes, source: Source) -> np.ndarray:
    encoded, _, orientation = example.parse(record)
    return pictures.decode(
        encoded, source.image_shape[-1], intensity=source.intensity, turn=orientation != 1
    )


def _for_pillow(record: bytes, source: Source) -> bytes:
    encoded, label, _ = example.parse(record)
    label = label if source.label_names is not None else None
    if source.from_files:
        return example.serialize(encoded, label, example.PILLOW)
    pixels, stream = _by_pillow(record, source), io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(stream, 'PNG', compress_level=1)
    return example.serialize(stream.getvalue(), label)
