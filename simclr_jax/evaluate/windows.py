"""Pictures of any size, seen through windows of one size that overlap."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Windows:
    """How a picture is cut into windows, and put together again from what is said of them.

    As in mmsegmentation's `slide_inference`: the last window ends with the picture, and where
    windows overlap their values are averaged.

    Attributes:
      side: height and width of a window, in pixels.
      step: from a window to the next, in pixels; at most `side`.
      resize: pixels that the shorter side of a picture gets before; 0 leaves it as large as it is.
      fill: pixel `[channel]` uint8 where a picture is smaller than a window.
    """

    side: int
    step: int
    resize: int
    fill: Sequence[int]

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """Returns the windows `[n, side, side, channel]` of a picture `[height, width, channel]`.

        Both are uint8.
        """
        size = self.seen(picture.shape[:2])
        if size != picture.shape[:2]:
            image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
            resized = image.resize(size[::-1], Image.Resampling.BILINEAR)
            picture = np.asarray(resized).reshape(*size, -1)
        height, width = size
        if min(size) < self.side:
            shape = max(height, self.side), max(width, self.side), picture.shape[-1]
            canvas = np.broadcast_to(np.array(self.fill, np.uint8), shape).copy()
            canvas[:height, :width] = picture
            picture = canvas
        side = self.side
        return np.stack([picture[y : y + side, x : x + side] for y, x in self.corners(size)])

    def join(self, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Returns what is said of a picture's pixels, `[height, width, dim]` float32.

        Args:
          values: of its windows, float `[n, side, side, dim]`.
          size: height and width of the picture.
        """
        height, width = seen = self.seen(size)
        shape = max(height, self.side), max(width, self.side)
        total = np.zeros((*shape, values.shape[-1]), np.float32)
        times = np.zeros((*shape, 1), np.float32)
        for (y, x), window in zip(self.corners(seen), values, strict=True):
            total[y : y + self.side, x : x + self.side] += window
            times[y : y + self.side, x : x + self.side] += 1
        joined = total[:height, :width] / times[:height, :width]
        if seen == size:
            return joined
        layers = [
            np.asarray(Image.fromarray(layer).resize(size[::-1], Image.Resampling.BILINEAR))
            for layer in np.moveaxis(joined, -1, 0)
        ]
        return np.stack(layers, axis=-1)

    def seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns height and width of a picture when windows are cut out of it."""
        if not self.resize:
            return size
        height, width = (round(side * self.resize / min(size)) for side in size)
        return height, width

    def corners(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Returns top and left of each window of a picture of `size`, as it is seen."""
        rows, columns = (self._starts(side) for side in size)
        return [(y, x) for y in rows for x in columns]

    def _starts(self, side: int) -> list[int]:
        last = max(side - self.side, 0)
        return [min(start, last) for start in range(0, last + self.step, self.step)]
