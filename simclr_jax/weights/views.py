"""Pictures of any kind as what an encoder sees of them, in batches, decoded by several threads."""

import collections
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from simclr_jax.config import ConfigError
from simclr_jax.data import folder_files, pictures
from simclr_jax.data.central import central_view
from simclr_jax.weights.description import Preprocess

# A file's path, a file's content, or pixels: uint8 `[height, width, channel]`.
Picture = str | os.PathLike | bytes | np.ndarray
# One array of pixels, several pictures, a folder of them, or one.
Images = np.ndarray | Iterable[Picture] | str | os.PathLike

_GROUP = 8  # pictures that a thread takes at a time
_AHEAD = 2  # batches that are made before they are asked for


class Views(NamedTuple):
    """Some pictures of a stream, in its order.

    Attributes:
      places: of the good ones in the stream, `[n]` int64, counted from 0.
      images: what the encoder sees of them, `[n, size, size, channels]` uint8.
      bad: place to the reason why a picture cannot be read.
    """

    places: np.ndarray
    images: np.ndarray
    bad: dict[int, str]


def prepare(
    items: Iterable[Picture], preprocess: Preprocess, batch_size: int, workers: int = 0
) -> Iterator[Views]:
    """Yields the views of `batch_size` pictures at a time; no more than a few batches are kept.

    Args:
      items: the pictures, read one after the other as they are needed.
      preprocess: what is to be seen of each.
      batch_size: pictures, good or bad, a batch; the last one may have fewer.
      workers: threads; 0 takes one a core.

    Raises:
      ConfigError: an item is no path, no bytes, and no uint8 array of that shape.
    """
    items, start, pending = iter(items), 0, collections.deque()
    executor = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        while batch := list(itertools.islice(items, batch_size)):
            pending.append(_Batch(batch, start, preprocess, executor))
            start += len(batch)
            if len(pending) > _AHEAD:
                yield pending.popleft().views()
        while pending:
            yield pending.popleft().views()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


class _Batch:
    """A batch that threads fill."""

    def __init__(
        self,
        items: Sequence[Picture],
        start: int,
        preprocess: Preprocess,
        executor: ThreadPoolExecutor,
    ):
        size, channels = preprocess.size, preprocess.channels
        self._start = start
        self._images = np.empty((len(items), size, size, channels), np.uint8)
        self._bad: dict[int, str] = {}
        self._futures: list[Future] = []

        def fill(first: int) -> None:
            for i, item in enumerate(items[first : first + _GROUP], first):
                try:
                    self._images[i] = view_of(item, preprocess)
                except Unreadable as error:
                    self._bad[i] = str(error)

        for first in range(0, len(items), _GROUP):
            self._futures.append(executor.submit(fill, first))

    def views(self) -> Views:
        """Waits for the threads."""
        for future in self._futures:
            future.result()
        places = np.arange(len(self._images))
        images = self._images
        if self._bad:
            places = np.delete(places, list(self._bad))
            images = images[places]
        bad = {self._start + i: self._bad[i] for i in sorted(self._bad)}
        return Views(self._start + places, images, bad)


class Unreadable(Exception):
    """Why a picture cannot be read."""


def view_of(item: Picture, preprocess: Preprocess) -> np.ndarray:
    """Returns what the encoder sees of a picture, `[size, size, channels]` uint8.

    Raises:
      Unreadable: the file cannot be read, or holds no picture.
      ConfigError: the item is nothing that may be a picture.
    """
    return central_view(
        pixels_of(item, preprocess),
        image_size=preprocess.size,
        crop=preprocess.crop,
        interpolation=preprocess.interpolation,
        antialias=preprocess.antialias,
    )


def pixels_of(item: Picture, preprocess: Preprocess) -> np.ndarray:
    """Returns a picture as large as it is, `[height, width, channels]` uint8; raises likewise."""
    if hasattr(item, '__array__') or hasattr(item, '__array_interface__'):
        pixels = np.asarray(item)
        check_images(pixels[None])
        return _with_channels(pixels, preprocess.channels)
    encoded = item if isinstance(item, bytes) else _read(item)
    try:
        return pictures.decode(encoded, preprocess.channels, intensity=preprocess.intensity)
    except Exception as error:  # Pillow's decoders raise anything on damage
        reason = pictures.check(encoded).reason or ' '.join(str(error).split())
        raise Unreadable(reason or type(error).__name__) from error


def items_of(images: Images) -> list[Picture] | np.ndarray:
    """Returns `images` as a sequence of pictures.

    Raises:
      ConfigError: it is nothing of this, or a folder without pictures.
    """
    if isinstance(images, str | os.PathLike):
        return files_in(images) if is_folder(images) else [images]
    if isinstance(images, bytes):
        return [images]
    if hasattr(images, '__array__') or hasattr(images, '__array_interface__'):
        images = np.asarray(images)
        check_images(images)
        return images
    if not isinstance(images, Iterable):
        raise ConfigError(
            f'images: a {type(images).__name__} is neither pixels, uint8 [n, height, width, '
            'channel], nor a list of paths, nor a folder'
        )
    return list(images)


def name_of(item: Picture, place: int) -> str:
    """Returns what an error message calls a picture."""
    return os.fspath(item) if isinstance(item, str | os.PathLike) else f'picture {place}'


def whole_views(images: Images, preprocess: Preprocess) -> list[np.ndarray]:
    """Returns pictures as large as they are, uint8 `[height, width, channels]`, all of one size.

    Raises:
      ConfigError: there is none, one cannot be read, or sizes differ; or as `items_of`.
    """
    items, views = items_of(images), []
    for place, item in enumerate(items):
        try:
            views.append(pixels_of(item, preprocess))
        except Unreadable as error:
            raise ConfigError(f'{name_of(item, place)}: {error}') from error
        if views[-1].shape != views[0].shape:
            (height, width, _), (first_height, first_width, _) = views[-1].shape, views[0].shape
            raise ConfigError(
                f'{name_of(item, place)}: is {width} x {height} pixels, but '
                f'{name_of(items[0], 0)} is {first_width} x {first_height}; whole pictures have to '
                'be of one size: give those of each size by themselves'
            )
    if not views:
        raise ConfigError('images: are none, and whole pictures have no size of their own')
    return views


def files_in(folder: str | os.PathLike) -> list[str]:
    """Returns the paths of the pictures below a folder, sorted.

    Files count by their suffix (`pictures.SUFFIXES`); what starts with a dot is passed over.

    Raises:
      ConfigError: it is not there, or holds no picture.
    """
    opened = folder_files.open_folder(os.fspath(folder), 'folder')
    names = folder_files.walk(opened, pictures.SUFFIXES).names
    if not len(names):
        kinds = ', '.join(pictures.SUFFIXES)
        raise ConfigError(f'{folder}: holds no pictures; they end in {kinds}')
    return [os.fsdecode(os.path.join(opened.root, names.raw(i))) for i in range(len(names))]


def is_folder(path: str | os.PathLike) -> bool:
    """Whether a path is that of a folder on a disk, rather than of a picture."""
    return '://' not in os.fspath(path) and pathlib.Path(path).expanduser().is_dir()


def _read(path: str | os.PathLike) -> bytes:
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(
            f'images: a {type(path).__name__} is no picture; give uint8 arrays [height, width, '
            'channel], paths, or the bytes of files'
        )
    try:
        return epath.Path(path).expanduser().read_bytes()
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error


def check_images(images: np.ndarray) -> None:
    """Checks a batch of pixels.

    Raises:
      ConfigError: it is not uint8 `[n, height, width, channel]` with 1 or 3 channels.
    """
    shape = f'is {images.dtype} {list(images.shape)}'
    want = 'wanted is uint8 [n, height, width, 3], or 1 for grey'
    if images.dtype != np.uint8:
        fix = 'scale the values to 0 to 255 and round them'
        if images.dtype.kind == 'f':
            fix = 'of values in [0, 1], take np.uint8(np.rint(255 * images))'
        elif images.dtype.kind in 'ui':
            fix = 'of 16 bits, take np.uint8(images >> 8), or give the paths of the files'
        raise ConfigError(f'images: {shape}; {want}: {fix}')
    if images.ndim == 3:
        fix = 'images[None]' if images.shape[-1] in (1, 3) else 'images[..., None]'
        raise ConfigError(f'images: {shape}; {want}: take {fix}')
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        fix = ''
        if images.ndim == 4 and images.shape[1] in (1, 3):
            fix = ': take images.transpose(0, 2, 3, 1)'
        elif images.ndim == 4 and images.shape[-1] == 4:
            fix = ': leave out transparency, images[..., :3]'
        raise ConfigError(f'images: {shape}; {want}{fix}')
    if min(images.shape[1:3]) < pictures.MIN_SIDE:
        raise ConfigError(f'images: {shape}; each side has to have {pictures.MIN_SIDE} pixels')


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Makes grey pixels coloured or coloured ones grey, as `pictures.decode` does."""
    if pixels.shape[-1] == channels:
        return np.ascontiguousarray(pixels)
    if channels == 3:
        return pixels.repeat(3, axis=-1)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert('L'))[..., None]
