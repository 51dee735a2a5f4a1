"""The picture of one record in tf.data: whole, a window of it, or in a canvas.

TensorFlow decodes what it decodes to the same pixels as Pillow; a record of a file says which of
the two it is for, and how the picture has to be turned (`example.py`). A picture is not turned
before it is small: its boxes are looked up where they lie as it is stored.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from simclr_jax.augment import tf_ops
from simclr_jax.data import deep, example, pictures

# Pillow's cosine transform: TensorFlow's own choice is some levels apart, and takes as long.
_ACCURATE = {'dct_method': 'INTEGER_ACCURATE'}

# From height and width of an upright picture to a box `[4]` in whole pixels: y, x, height, width.
BoxOf = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Stored(NamedTuple):
    """A picture as it is stored.

    Attributes:
      encoded: the file, scalar.
      orientation: as in `example.Example`, scalar int64; None where no record has one.
    """

    encoded: tf.Tensor
    orientation: tf.Tensor | None


def stored(example: dict[str, tf.Tensor]) -> Stored:
    """Takes the picture out of a parsed record."""
    return Stored(example.pop('image'), example.pop('orientation', None))


class Decoded(NamedTuple):
    """Pixels that are not turned yet.

    Attributes:
      pixels: uint8 `[height, width, channel]`.
      orientation: EXIF's number that is left to be done; None for none.
    """

    pixels: tf.Tensor
    orientation: tf.Tensor | None

    def size(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Height and width of the upright picture."""
        return _upright_size(tf.shape(self.pixels)[:2], self.orientation)

    def upright(self) -> tf.Tensor:
        return turn(self.pixels, self.orientation)

    def view(
        self, box: tf.Tensor, size: int, interpolation: str, antialias: bool = False
    ) -> tf.Tensor:
        """Resizes `box` `[4]` of the upright picture; float32 `[size, size, channel]` in [0, 1]."""
        box = stored_box(box, self.size(), self.orientation)
        view = tf_ops.cut_and_resize(self.pixels, box, size, interpolation, antialias)
        return turn(view, self.orientation)

    def everything(self) -> tf.Tensor:
        """Returns the box `[4]` that is the whole upright picture."""
        return tf.stack([0, 0, *self.size()])


def whole(stored: Stored, channels: int, intensity: deep.Range) -> Decoded:
    """Decodes a picture at its full size."""
    encoded, orientation = stored

    def tensorflow():
        return tf.cond(
            tf.io.is_jpeg(encoded),
            lambda: tf.io.decode_jpeg(encoded, channels, **_ACCURATE),
            lambda: tf.io.decode_image(encoded, channels, expand_animations=False),
        )

    if orientation is None:
        return Decoded(tf.ensure_shape(tensorflow(), [None, None, channels]), None)
    pixels = tf.cond(
        tf.equal(orientation, example.PILLOW),
        lambda: _by_pillow(encoded, channels, None, intensity),
        tensorflow,
    )
    return Decoded(tf.ensure_shape(pixels, [None, None, channels]), orientation)


def window(stored: Stored, box_of: BoxOf, channels: int, intensity: deep.Range) -> Decoded:
    """Decodes a box of the upright picture, and of a JPEG no more than that."""
    encoded, orientation = stored

    def of_jpeg():
        size = _upright_size(tf.io.extract_jpeg_shape(encoded)[:2], orientation)
        return tf.io.decode_and_crop_jpeg(
            encoded, stored_box(box_of(*size), size, orientation), channels, **_ACCURATE
        )

    def of_others():
        picture = whole(stored, channels, intensity)
        size = picture.size()
        y, x, height, width = tf.unstack(stored_box(box_of(*size), size, orientation))
        return picture.pixels[y : y + height, x : x + width]

    jpeg = tf.io.is_jpeg(encoded)
    if orientation is not None:
        jpeg &= tf.not_equal(orientation, example.PILLOW)
    pixels = tf.cond(jpeg, of_jpeg, of_others)
    return Decoded(tf.ensure_shape(pixels, [None, None, channels]), orientation)


def shrunk(stored: Stored, canvas: tuple[int, int, int], intensity: deep.Range) -> tf.Tensor:
    """Decodes a picture, upright and no larger than `canvas` `(height, width, channel)`.

    A JPEG is made smaller while it is decoded, as far as that leaves it as large as the canvas.
    """
    encoded, orientation = stored
    height, width, channels = canvas
    side = tf.constant([height, width])

    def jpeg():
        def at(ratio):
            return lambda: tf.io.decode_jpeg(encoded, channels, ratio=ratio, **_ACCURATE)

        # The largest reduction after which the picture is still too large, or just fits.
        times = tf.reduce_max(tf.math.floordiv(tf.io.extract_jpeg_shape(encoded)[:2], side))
        return tf.switch_case(
            tf.searchsorted([2, 4, 8], [times], side='right')[0], [at(r) for r in (1, 2, 4, 8)]
        )

    def tensorflow():
        return tf.cond(
            tf.io.is_jpeg(encoded),
            jpeg,
            lambda: tf.io.decode_image(encoded, channels, expand_animations=False),
        )

    if orientation is None:
        image = tensorflow()
    else:  # of a file: the canvas is a square
        image = tf.cond(
            tf.equal(orientation, example.PILLOW),
            lambda: _by_pillow(encoded, channels, max(height, width), intensity),
            tensorflow,
        )
    image = tf.ensure_shape(image, [None, None, channels])
    size = tf.shape(image)[:2]
    scale = tf.reduce_min(tf.cast(side, tf.float32) / tf.cast(size, tf.float32))

    def smaller():
        fitting = tf.cast(tf.round(tf.cast(size, tf.float32) * scale), tf.int32)
        return to_uint8(tf.image.resize(image, tf.maximum(fitting, 1), 'area') / 255.0)

    return turn(tf.cond(scale < 1, smaller, lambda: image), orientation)


def into_canvas(image: tf.Tensor, canvas: tuple[int, int, int]) -> tf.Tensor:
    """Puts a picture into the upper left of a canvas `(height, width, channel)` of zeros."""
    height, width, channels = canvas
    size = tf.shape(image)[:2]
    # Rows of bytes: of three dimensions, padding takes five times as long, as long as decoding.
    rows = tf.reshape(image, [size[0], size[1] * channels])
    rows = tf.pad(rows, [[0, height - size[0]], [0, (width - size[1]) * channels]])
    return tf.reshape(rows, canvas)


def turn(image: tf.Tensor, orientation: tf.Tensor | None) -> tf.Tensor:
    """Shows `[height, width, channel]` upright, by EXIF's number; 0 and 1 are upright."""
    if orientation is None:
        return image
    transposed, mirrored_y, mirrored_x = _parts(orientation)

    def turned():
        changed = tf.cond(transposed, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        changed = tf.cond(mirrored_y, lambda: tf.reverse(changed, [0]), lambda: changed)
        return tf.cond(mirrored_x, lambda: tf.reverse(changed, [1]), lambda: changed)

    result = tf.cond(orientation > 1, turned, lambda: image)
    square = image.shape[0] == image.shape[1]
    return tf.ensure_shape(result, image.shape if square else [None, None, image.shape[2]])


def stored_box(
    box: tf.Tensor, size: tuple[tf.Tensor, tf.Tensor], orientation: tf.Tensor | None
) -> tf.Tensor:
    """Returns where a box `[4]` (y, x, height, width) of the upright picture lies as it is stored.

    Args:
      box: whole pixels.
      size: height and width of the upright picture.
      orientation: EXIF's number.
    """
    if orientation is None:
        return box
    transposed, mirrored_y, mirrored_x = _parts(orientation)
    y, x, height, width = tf.unstack(box)
    y = tf.where(mirrored_y, size[0] - y - height, y)
    x = tf.where(mirrored_x, size[1] - x - width, x)
    return tf.where(transposed, tf.stack([x, y, width, height]), tf.stack([y, x, height, width]))


def central_view(
    stored: Stored,
    *,
    image_size: int,
    crop: float = 1.0,
    interpolation: str = 'bicubic',
    antialias: bool = False,
    channels: int,
    intensity: deep.Range,
    canvas: tuple[int, int, int] | None,
) -> tf.Tensor:
    """Returns the central square of a picture, uint8 `[image_size, image_size, channel]`.

    Args:
      stored: the picture.
      image_size: height and width of the view, in pixels.
      crop: side of the square, as a share of the picture's shorter side.
      interpolation: 'bicubic' or 'bilinear'.
      antialias: whether to average over all pixels also where few become one.
      channels: 1 or 3.
      intensity: as in `pictures.decode`.
      canvas: what the picture is shrunk into before; None for its full size.
    """

    def box_of(height, width):
        side = tf.cast(tf.round(tf.cast(tf.minimum(height, width), tf.float32) * crop), tf.int32)
        return tf.stack([(height - side) // 2, (width - side) // 2, side, side])

    if canvas is None:
        square = window(stored, box_of, channels, intensity)
    else:
        picture = shrunk(stored, canvas, intensity)
        y, x, side, _ = tf.unstack(box_of(*tf.unstack(tf.shape(picture)[:2])))
        square = Decoded(picture[y : y + side, x : x + side], None)

    def view(antialias):
        return square.view(square.everything(), image_size, interpolation, antialias)

    if antialias:
        return to_uint8(view(True))
    many = tf.shape(square.pixels)[0] > pictures.MAX_ALIASED_RATIO * image_size
    return to_uint8(tf.cond(many, lambda: view(True), lambda: view(False)))


def to_uint8(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(images * 255.0), tf.uint8)


def _by_pillow(
    encoded: tf.Tensor, channels: int, fit: int | None, intensity: deep.Range
) -> tf.Tensor:
    decode = functools.partial(pictures.decode, channels=channels, fit=fit, intensity=intensity)
    if tf.executing_eagerly():  # numpy_function would cut off the zeros that a file ends in
        return tf.constant(decode(encoded.numpy()))
    return tf.ensure_shape(
        tf.numpy_function(decode, [encoded], tf.uint8, stateful=False), [None, None, channels]
    )


def _upright_size(size: tf.Tensor, orientation: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    if orientation is not None:
        size = tf.where(_parts(orientation)[0], size[::-1], size)
    return size[0], size[1]


def _parts(orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What shows a picture upright: whether to swap its axes, then to mirror rows, then columns."""
    among = lambda *numbers: tf.reduce_any(tf.equal(orientation, numbers))  # noqa: E731
    return orientation >= 5, among(3, 4, 7, 8), among(2, 3, 6, 7)
