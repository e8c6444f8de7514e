"""A dataset in memory, and batches of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ruledsl.errors import UserError
from ruledsl.streams import number

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Draws = np.random.Generator


class ReadersEnded(UserError):
    """A process that reads images has ended before it was told to."""


class Augmentation(Protocol):
    """What changes images at random: see `ruledsl.data.augment`."""

    def train(self, images: Images, draws: Draws) -> Images:
        """What is learnt from."""

    def test(self, images: Images) -> Images:
        """What is tested with: the same size, and nothing random."""


@dataclass(frozen=True)
class Batch:
    """`images`: [batch, channels, height, width] or [batch, units], float32; `labels`: [batch], int64."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


def some_rows(labels: Labels, number: int) -> slice | Labels:
    """A part of a split that is in no particular order: the first images. Where these lack classes that the split has,
    as in sets that are sorted by class, images at even distances."""
    if len(np.unique(labels[:number])) == len(np.unique(labels)):
        return slice(number)
    return np.linspace(0, len(labels) - 1, number).astype(np.int64)


@dataclass(frozen=True)
class Split:
    """Images and their labels in a fixed order."""

    images: Images
    labels: Labels

    @property
    def resident(self) -> bool:
        """Whether its images are in memory as they are learnt from, so that a device may hold them."""
        return True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, number: int | None) -> Split:
        """As many images as `number`, or all of them for None: see `some_rows`."""
        if number is None or number >= len(self):
            return self
        rows = some_rows(self.labels, number)
        return Split(self.images[rows], self.labels[rows])

    def sample(self, number: int) -> Batch:
        """As many images as `number`, always the same ones, with nothing random."""
        return self.batch(np.arange(len(self))[some_rows(self.labels, number)])

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every image once, in the split's order; the last batch may be smaller."""
        for start in range(0, len(self), batch_size):
            yield Batch(self.images[start : start + batch_size], self.labels[start : start + batch_size])

    def order(self, batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """The batches of one epoch as rows of the split, [batches, batch]: (seed, epoch) alone determines them.

        What does not fill the last batch waits for another epoch, so that all batches have the same size.
        """
        order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(len(self))
        batches, size = self.batches_per_epoch(batch_size), min(batch_size, len(self))
        return order[: batches * size].reshape(batches, size)

    def batches(self, order: NDArray[np.int64], start: int, count: int, seed: int, epoch: int) -> Iterator[Batch]:
        """So many batches of an epoch, from one on; `order` has the rows of all batches of that epoch.

        What is random in them follows from (seed, epoch) and their number in the epoch.
        """
        yield from map(self.batch, order[start : start + count])

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The images of these rows."""
        return Batch(self.images[rows], self.labels[rows])

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of `order`."""
        yield from map(self.batch, self.order(batch_size, seed, epoch))

    def batches_per_epoch(self, batch_size: int) -> int:
        """How many batches an epoch has."""
        return len(self) // min(batch_size, len(self))


@dataclass(frozen=True)
class Dataset:
    """Images to learn from and images to test with. `model` is the network that fits it when none is asked for."""

    name: str
    classes: int
    train: Split
    test: Split
    model: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, (channels, height, width)."""
        return self.train.shape

    def limited(self, train: int | None, test: int | None) -> Dataset:
        """As many images of each split, or all for None: see `some_rows`."""
        return replace(self, train=self.train.some(train), test=self.test.some(test))

    def standardized(self) -> Dataset:
        """All pixels shifted and scaled alike, so that those of the training images have mean 0 and variance 1."""
        mean = np.float32(self.train.images.mean(dtype=np.float64))
        std = np.float32(self.train.images.std(dtype=np.float64))
        if not std > 0:
            raise UserError(f"all pixels of {self.name} are the same: there is nothing to standardize")
        train, test = (Split((split.images - mean) / std, split.labels) for split in (self.train, self.test))
        return replace(self, train=train, test=test)

    def read_by(self, workers: int) -> Dataset:
        """Images that are read while they are used are read by so many processes; these here are in memory."""
        return self

    def augmented(self, augmentations: Sequence[Augmentation]) -> Dataset:
        """Training images changed at random each time that they are seen; test images of the same size.

        Raises UserError for images that cannot be changed so.
        """
        if not augmentations:
            return self
        if len(self.shape) != 3:
            raise UserError(f"{self.name} has vectors, and augmentation is for images")
        test = self.test.images
        for each in augmentations:
            test = each.test(test)
        train = Augmented(self.train.images, self.train.labels, tuple(augmentations))
        return replace(self, train=train, test=Split(test, self.test.labels))


@dataclass(frozen=True)
class Augmented(Split):
    """Images in memory that are changed at random, in whole batches."""

    augmentations: tuple[Augmentation, ...] = ()

    @property
    def resident(self) -> bool:
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        return self._unchanged(self.images[:1]).shape[1:]

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The images of these rows, with nothing random."""
        return Batch(self._unchanged(self.images[rows]), self.labels[rows])

    def batches(self, order: NDArray[np.int64], start: int, count: int, seed: int, epoch: int) -> Iterator[Batch]:
        for index in range(start, min(start + count, len(order))):
            images, draws = self.images[order[index]], draws_of(seed, epoch, index)
            for each in self.augmentations:
                images = each.train(images, draws)
            yield Batch(np.ascontiguousarray(images, np.float32), self.labels[order[index]])

    def _unchanged(self, images: Images) -> Images:
        for each in self.augmentations:
            images = each.test(images)
        return images


def draws_of(seed: int, epoch: int, *names: int) -> np.random.Generator:
    """What is random in a batch or an image of an epoch."""
    return np.random.Generator(np.random.Philox(key=number(seed, "augment", epoch, *names)))
