"""Folders of images, as ImageNet is kept: `train/CLASS/NAME.jpg`, and `val/` or `test/` beside it; read while used."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ruledsl.data.augment import RandomResizedCrop, middle_box, random_box
from ruledsl.data.dataset import Augmentation, Batch, Dataset, Images, Labels, ReadersEnded, Split, draws_of, some_rows
from ruledsl.data.files import folders
from ruledsl.errors import UserError, need

ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"))
SAMPLE = 1000
"""So many images say what the mean and the variance of the pixels are."""
AHEAD = 2
"""Batches that a worker has ready."""


def image_folder(data_dir: Path | None = None, *, size: int = 0) -> Dataset:
    """Images in folders called like their classes, below `train` and `val` (or `test`), read while they are used.

    size   height and width: the middle of each image; 0: those that the first image has
    """
    root = _root(data_dir)
    classes, train = _listed(root / "train")
    tested = next((root / name for name in ("val", "test") if (root / name).is_dir()), root / "val")
    others, test = _listed(tested)
    for name in others:
        if name not in classes:
            raise UserError(f"{tested / name} is a class that {root / 'train'} does not have")
    empty = sorted({*classes} - {name for _, name in train})
    if empty:
        raise UserError(f"{root / 'train' / empty[0]} has no images", f"they end in {', '.join(sorted(ENDINGS))}")
    numbers = {name: index for index, name in enumerate(classes)}
    reader = Reader(size or _size_of(train[0][0]))
    learnt, tested_with = (
        Folder.of([str(path) for path, _ in found], np.array([numbers[name] for _, name in found], np.int64), reader)
        for found in (train, test)
    )
    model = "resnet18" if reader.size > 64 else "resnet18_cifar"
    return Streamed("image_folder", len(classes), learnt, tested_with, model)


@dataclass(frozen=True)
class Reader:
    """From a file to an image [3, size, size]: the middle, or a random part where there is a generator."""

    size: int
    random: bool = False
    mean: float = 0.0
    std: float = 1.0

    def read(self, path: str, draws: np.random.Generator | None) -> NDArray[np.uint8]:
        """Raises UserError for a file that is no image."""
        pillow = need("PIL.Image", "reading images", "train")
        try:
            with pillow.open(path) as image:
                image.draft("RGB", (2 * self.size, 2 * self.size))  # what a JPEG decodes faster, and large enough
                image = _of_bytes(image).convert("RGB")
                width, height = image.size
                if draws is not None and self.random:
                    top, left, tall, wide = random_box(height, width, draws)
                else:
                    top, left, tall, wide = middle_box(height, width, 1.0 if min(height, width) <= self.size else 0.875)
                part = (left, top, left + wide, top + tall)
                if (part, image.size) != ((0, 0, width, height), (self.size, self.size)):
                    image = image.resize((self.size, self.size), pillow.Resampling.BILINEAR, part)
                pixels = np.asarray(image, np.uint8)
        except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
            raise UserError(f"{path} is no image that can be read: {error}") from None
        return pixels.transpose(2, 0, 1)

    def ready(self, pixels: Any) -> Images:
        """Bytes as the numbers that a network sees."""
        images: Images = np.ascontiguousarray(pixels).astype(np.float32)
        images *= np.float32(1 / (255 * self.std))
        images -= np.float32(self.mean / self.std)
        return images


@dataclass(frozen=True)
class Folder(Split):
    """Files and their classes. `images` is empty: they are read when they are wanted."""

    files: tuple[str, ...] = ()
    reader: Reader = Reader(0)
    workers: int = 0
    augmentations: tuple[Augmentation, ...] = ()
    _under_way: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, files: Sequence[str], labels: Labels, reader: Reader) -> Folder:
        """Files with their classes."""
        return cls(np.zeros((0, 3, 0, 0), np.float32), labels, tuple(files), reader)

    @property
    def resident(self) -> bool:
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        return 3, self.reader.size, self.reader.size

    def some(self, number: int | None) -> Folder:
        """See `Split.some`."""
        if number is None or number >= len(self):
            return self
        rows = some_rows(self.labels, number)
        chosen = np.arange(len(self))[rows]
        return replace(self, files=tuple(self.files[index] for index in chosen), labels=self.labels[rows])

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The images of these rows, with nothing random."""
        pixels = np.stack([self.reader.read(self.files[row], None) for row in rows])
        return Batch(self.reader.ready(pixels), self.labels[rows])

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every image once, in the split's order; the last batch may be smaller."""
        order = [np.arange(at, min(at + batch_size, len(self))) for at in range(0, len(self), batch_size)]
        for rows, pixels in zip(order, _piped(_Wanted(self, order), self.workers), strict=True):
            yield Batch(self.reader.ready(pixels), self.labels[rows])

    def batches(self, order: NDArray[np.int64], start: int, count: int, seed: int, epoch: int) -> Iterator[Batch]:
        """See `Split.batches`. The workers go on reading between two calls that follow each other."""
        place = seed, epoch, start, id(order)
        if self._under_way.get("place") != place:
            wanted = _Wanted(self, list(order), start, (seed, epoch))
            self._under_way.update(place=place, pipe=iter(_piped(wanted, self.workers)))
        for index in range(start, min(start + count, len(order))):
            images = self.reader.ready(next(self._under_way["pipe"]))
            self._under_way["place"] = seed, epoch, index + 1, id(order)
            draws = draws_of(seed, epoch, index)
            for each in self.augmentations:
                images = each.train(images, draws)
            yield Batch(np.ascontiguousarray(images, np.float32), self.labels[order[index]])


@dataclass(frozen=True)
class Streamed(Dataset):
    """A dataset whose images are read while they are used."""

    def standardized(self) -> Dataset:
        """All pixels shifted and scaled alike, by what a sample of the training images says."""
        assert isinstance(self.train, Folder)
        sample = self.train.some(SAMPLE)
        pixels = np.concatenate([batch.images for batch in sample.in_order(100)])
        mean, std = float(pixels.mean(dtype=np.float64)), float(pixels.std(dtype=np.float64))
        if not std > 0:
            raise UserError(f"all pixels of {self.name} are the same: there is nothing to standardize")
        return self._changed(mean=mean, std=std)

    def augmented(self, augmentations: Sequence[Augmentation]) -> Dataset:
        """See `Dataset.augmented`. A random part of an image is taken when it is read, and has to come first."""
        if not augmentations:
            return self
        first, *rest = augmentations
        if any(isinstance(each, RandomResizedCrop) for each in rest):
            raise UserError("random_resized_crop of a folder of images comes first", "it is done while they are read")
        if isinstance(first, RandomResizedCrop):
            dataset = self._changed(size=first.size, random=True)
        else:
            rest, dataset = list(augmentations), self
        assert isinstance(dataset.train, Folder)
        blank = np.zeros((1, *dataset.shape), np.float32)
        for each in rest:
            if each.test(blank).shape != blank.shape:
                raise UserError("windows of a folder's images are random_resized_crop's", "or set data.options.size")
        return replace(dataset, train=replace(dataset.train, augmentations=tuple(rest)))

    def read_by(self, workers: int) -> Dataset:
        """See `Dataset.read_by`."""
        train, test = (replace(split, workers=workers) for split in self._folders())
        return replace(self, train=train, test=test)

    def _changed(self, **reader: Any) -> Dataset:
        train, test = (replace(split, reader=replace(split.reader, **reader)) for split in self._folders())
        return replace(self, train=train, test=test)

    def _folders(self) -> Iterator[Folder]:
        for split in (self.train, self.test):
            assert isinstance(split, Folder)
            yield split


class _Wanted:
    """Batches of pixels by their number, for workers: [batch, 3, size, size] bytes."""

    def __init__(self, split: Folder, order: Sequence[Any], start: int = 0, key: tuple[int, int] | None = None) -> None:
        self.files, self.reader = split.files, split.reader
        self.order, self.start, self.key = order, start, key

    def __len__(self) -> int:
        return len(self.order) - self.start

    def __getitem__(self, index: Any) -> Any:
        rows = self.order[self.start + int(index)]
        draws = [None if self.key is None else draws_of(*self.key, -1, int(row)) for row in rows]
        return np.stack([self.reader.read(self.files[row], each) for row, each in zip(rows, draws, strict=True)])


def _piped(wanted: _Wanted, workers: int) -> Iterator[Any]:
    """All of them in order, read by so many processes ahead of time."""
    if workers == 0:
        yield from (wanted[index] for index in range(len(wanted)))
        return
    grain = need("grain", "reading images in several processes", "train")
    flags = need("absl.flags", "reading images in several processes", "train").FLAGS
    if not flags.is_parsed():  # Grain looks for flags of the command line, and there are none
        flags(["ruledsl"])
    pipe = grain.MapDataset.source(wanted).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD)
    try:
        yield from pipe.mp_prefetch(options, worker_init_fn=_serving)
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        said = str(error).partition("\n")[0]
        help = "is the memory enough for data.workers?"
        raise ReadersEnded(f"a process that reads images has ended: {said}", help) from None


GRACE = 60
"""Seconds for which a worker goes on when everybody was asked to stop: the one that trains finishes its step first."""


def _serving(worker: int, workers: int) -> None:
    """In a process that reads: who asks a whole group to stop means the one that trains, and with that one it ends."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))  # which ends it
    threading.Thread(target=_ending_with_the_parent, daemon=True).start()


def _ending_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _root(data_dir: Path | None) -> Path:
    searched = folders("image_folder", data_dir)
    for folder in searched:
        if (folder / "train").is_dir():
            return folder
    places = ", ".join(map(str, searched))
    raise UserError(
        f"there is no folder `train` of images; looked in: {places}",
        "say where it is with --data-dir: below it are train/CLASS/NAME.jpg, and val/ or test/ likewise",
    )


def _listed(folder: Path) -> tuple[list[str], list[tuple[Path, str]]]:
    """The classes of a folder, and its files with their classes; both in the order of their names. Raises UserError."""
    try:
        classes = sorted(each.name for each in os.scandir(folder) if each.is_dir())
        found = [
            (Path(each.path), name)
            for name in classes
            for each in sorted(os.scandir(folder / name), key=lambda each: each.name)
            if os.path.splitext(each.name)[1].lower() in ENDINGS
        ]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    if not found:
        raise UserError(f"{folder} has no images", "they are in a folder for each class: CLASS/NAME.jpg")
    return classes, found


def _of_bytes(image: Any) -> Any:
    """An image with more than eight bits, as one with eight. Raises ValueError where nothing says what is white."""
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise ValueError("its pixels have 32 bits")
        return need("PIL.Image", "reading images", "train").fromarray((pixels >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are fractions, of which nothing says what is white")
    return image


def _size_of(path: Path) -> int:
    pillow = need("PIL.Image", "reading images", "train")
    try:
        with pillow.open(path) as image:
            return int(min(image.size))
    except (OSError, SyntaxError, pillow.DecompressionBombError) as error:
        raise UserError(f"{path} is no image that can be read: {error}") from None
