"""A dataset in memory, and batches of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ruledsl.errors import UserError

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """`images`: [batch, channels, height, width] or [batch, units], float32; `labels`: [batch], int64."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """Images and their labels in a fixed order."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, number: int | None) -> Split:
        """The first `number` images, or all of them for None."""
        return self if number is None else Split(self.images[:number], self.labels[:number])

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
        return self.train.images.shape[1:]

    def limited(self, train: int | None, test: int | None) -> Dataset:
        """The first images of each split only."""
        return replace(self, train=self.train.first(train), test=self.test.first(test))

    def standardized(self) -> Dataset:
        """All pixels shifted and scaled alike, so that those of the training images have mean 0 and variance 1."""
        mean = np.float32(self.train.images.mean(dtype=np.float64))
        std = np.float32(self.train.images.std(dtype=np.float64))
        if not std > 0:
            raise UserError(f"all pixels of {self.name} are the same: there is nothing to standardize")
        train, test = (Split((split.images - mean) / std, split.labels) for split in (self.train, self.test))
        return replace(self, train=train, test=test)
