"""Augmentation of whole batches: `pad_crop 4`, `crop 24`, `flip`, `cutout 8`, `random_resized_crop 224`.

Each is a function of a batch [n, channels, height, width] and of a random generator. Where training images are parts of
the whole, the middle of test images is used. Where pixels are missing stands zero, the mean of standardised images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ruledsl.data.dataset import Augmentation, Draws, Images
from ruledsl.errors import UserError, suggest


@dataclass(frozen=True)
class PadCrop:
    """Zeros around each image, then a random window of its old size (He et al. 2016, section 4.2)."""

    pixels: int

    def train(self, images: Images, draws: Draws) -> Images:
        around = (self.pixels, self.pixels)
        padded = np.pad(images, ((0, 0), (0, 0), around, around))
        return _windows(padded, draws.integers(0, 2 * self.pixels + 1, (2, len(images))), *images.shape[2:])

    def test(self, images: Images) -> Images:
        return images


@dataclass(frozen=True)
class Crop:
    """A random window; tested is the middle (Moskovitz et al. 2018, Table 2: 24)."""

    size: int

    def train(self, images: Images, draws: Draws) -> Images:
        room = [side - self.size for side in images.shape[2:]]
        _must_fit(self.size, images)
        starts = np.stack([draws.integers(0, each + 1, len(images)) for each in room])
        return _windows(images, starts, self.size, self.size)

    def test(self, images: Images) -> Images:
        _must_fit(self.size, images)
        top, left = ((side - self.size) // 2 for side in images.shape[2:])
        return np.ascontiguousarray(images[:, :, top : top + self.size, left : left + self.size])


@dataclass(frozen=True)
class Flip:
    """Left and right exchanged, in half of the images."""

    def train(self, images: Images, draws: Draws) -> Images:
        turned = draws.random(len(images)) < 0.5
        flipped = images.copy()
        flipped[turned] = images[turned][..., ::-1]
        return flipped

    def test(self, images: Images) -> Images:
        return images


@dataclass(frozen=True)
class Cutout:
    """A square of zeros around a random pixel, cut off at the border (DeVries & Taylor 2017)."""

    size: int

    def train(self, images: Images, draws: Draws) -> Images:
        covered = []
        for side in images.shape[2:]:
            start = draws.integers(0, side, len(images))[:, None] - self.size // 2
            places = np.arange(side)[None]
            covered.append((places >= start) & (places < start + self.size))
        rows, columns = covered
        return np.where((rows[:, :, None] & columns[:, None, :])[:, None], np.float32(0), images)

    def test(self, images: Images) -> Images:
        return images


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, 8 to 100 % of its area and between 3:4 and 4:3 in shape, brought to `size`
    (Szegedy et al. 2015); tested is the middle, of which as much is left out as 224 leave out of 256.
    """

    size: int

    def train(self, images: Images, draws: Draws) -> Images:
        boxes = np.array([random_box(images.shape[2], images.shape[3], draws) for _ in images])
        return _resized(images, boxes, self.size)

    def test(self, images: Images) -> Images:
        return _resized(images, np.tile(middle_box(*images.shape[2:]), (len(images), 1)), self.size)


def random_box(height: int, width: int, draws: Draws) -> tuple[float, float, float, float]:
    """(top, left, height, width) of a random part: see RandomResizedCrop."""
    for _ in range(10):
        area = height * width * draws.uniform(0.08, 1)
        ratio = math.exp(draws.uniform(math.log(3 / 4), math.log(4 / 3)))
        tall, wide = math.sqrt(area / ratio), math.sqrt(area * ratio)
        if tall <= height and wide <= width:
            return draws.uniform(0, height - tall), draws.uniform(0, width - wide), tall, wide
    return middle_box(height, width, 1.0)


def middle_box(height: int, width: int, share: float = 224 / 256) -> tuple[float, float, float, float]:
    """(top, left, height, width) of the square in the middle, that share of the shorter side long."""
    side = share * min(height, width)
    return (height - side) / 2, (width - side) / 2, side, side


KINDS: Mapping[str, Any] = {
    "pad_crop": PadCrop,
    "crop": Crop,
    "flip": Flip,
    "cutout": Cutout,
    "random_resized_crop": RandomResizedCrop,
}


def augmentations(texts: Sequence[str]) -> tuple[Augmentation, ...]:
    """From `pad_crop 4` to what does it. Raises UserError."""
    return tuple(map(_augmentation, texts))


def _augmentation(text: str) -> Augmentation:
    name, *numbers = text.split()
    if name not in KINDS:
        raise UserError(f"there is no augmentation called `{name}`", suggest(name, KINDS))
    fields = KINDS[name].__dataclass_fields__
    if len(numbers) != len(fields) or not all(number.isdigit() and int(number) > 0 for number in numbers):
        form = " ".join([name, *("N" for _ in fields)])
        raise UserError(f"cannot read the augmentation `{text}`", f'write it as "{form}", with a number of pixels')
    made: Augmentation = KINDS[name](*map(int, numbers))
    return made


def _must_fit(size: int, images: Images) -> None:
    if size > min(images.shape[2:]):
        height, width = images.shape[2:]
        raise UserError(f"a window of {size} x {size} does not fit into images of {height} x {width}")


def _windows(
    images: Images, starts: np.ndarray[tuple[int, ...], np.dtype[np.int64]], height: int, width: int
) -> Images:
    """Of each image the window that starts there: `starts` is [2, n]."""
    each = np.arange(len(images))[:, None, None]
    rows = starts[0][:, None, None] + np.arange(height)[None, :, None]
    columns = starts[1][:, None, None] + np.arange(width)[None, None, :]
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)[each, rows, columns].transpose(0, 3, 1, 2))


def _resized(images: Images, boxes: np.ndarray[tuple[int, ...], np.dtype[np.float64]], size: int) -> Images:
    """Parts of images, (top, left, height, width) each, brought to size x size by linear interpolation."""
    each = np.arange(len(images))[:, None, None]
    pixels = images.transpose(0, 2, 3, 1)
    lows, highs, weights = [], [], []
    for axis, side in enumerate(images.shape[2:]):
        at = boxes[:, axis, None] + (np.arange(size) + 0.5) * boxes[:, axis + 2, None] / size - 0.5
        low = np.clip(np.floor(at), 0, side - 1).astype(np.int64)
        lows.append(low)
        highs.append(np.minimum(low + 1, side - 1))
        weights.append(np.clip(at - low, 0, 1).astype(np.float32))
    down, across = weights[0][:, :, None, None], weights[1][:, None, :, None]
    upper, lower = (
        pixels[each, rows[:, :, None], lows[1][:, None]] * (1 - across)
        + pixels[each, rows[:, :, None], highs[1][:, None]] * across
        for rows in (lows[0], highs[0])
    )
    return np.ascontiguousarray((upper * (1 - down) + lower * down).transpose(0, 3, 1, 2))
