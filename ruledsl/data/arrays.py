"""Any other set: arrays in one `.npz` file."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ruledsl.data.dataset import Dataset, Labels, Split
from ruledsl.data.files import roots
from ruledsl.errors import UserError

# NumPy reads a damaged file until something gives way: the archive, a stream in it, or the header of an array.
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)
NAMES = {
    "train_images": "x_train",
    "train_labels": "y_train",
    "test_images": "x_test",
    "test_labels": "y_test",
}


def npz(data_dir: Path | None = None, *, file: str = "") -> Dataset:
    """Arrays `train_images`, `train_labels`, `test_images`, `test_labels` (or x_train, y_train, x_test, y_test).

    file  its path, or its name in the data folder

    Images are vectors [n, units], grey [n, height, width], or [n, channels, height, width], or have 1 or 3 channels at
    the end. Whole numbers are pixels of 0 to 255, and are divided by 255. Labels are whole numbers from 0.
    Raises UserError.
    """
    if not file:
        raise UserError("the dataset npz needs a file", "--set data.options.file=faces.npz")
    path = next((found for root in (Path(), *roots(data_dir)) if (found := root / file).is_file()), None)
    if path is None:
        places = ", ".join(map(str, (Path(), *roots(data_dir))))
        raise UserError(f"there is no file {file}; looked in: {places}", "say where it is with --data-dir")
    try:
        with zipfile.ZipFile(path):  # an array alone is a file of another kind
            pass
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: _array(held, path, name) for name in NAMES}
    except DAMAGED as error:
        raise UserError(f"{path} is no .npz file that can be read: {error}") from None
    train, test = (_split(path, part, arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
    if train.shape != test.shape:
        raise UserError(f"{path} has training images of {train.shape} and test images of {test.shape}")
    if _whole(arrays["train_images"]) != _whole(arrays["test_images"]):
        kinds = [arrays[f"{part}_images"].dtype for part in ("train", "test")]
        raise UserError(
            f"{path} has training images of {kinds[0]} and test images of {kinds[1]}",
            "whole numbers are divided by 255, and others are not",
        )
    classes = _classes(path, train.labels, test.labels)
    return Dataset(path.stem, classes, train, test, model="mlp")


def _array(held: Any, path: Path, name: str) -> NDArray[Any]:
    found = next((each for each in (name, NAMES[name]) if each in held), None)
    if found is None:
        raise UserError(f"{path} has no array {name} (or {NAMES[name]})", f"it has: {', '.join(held)}")
    array: NDArray[Any] = held[found]
    return array


def _whole(images: NDArray[Any]) -> bool:
    return images.dtype.kind in "ui"


def _classes(path: Path, train: Labels, test: Labels) -> int:
    """How many there are: 0, 1, ... Raises UserError for a class that training never sees."""
    most, seen = int(max(train.max(), test.max())), np.unique(train)
    if len(seen) < most + 1:
        unseen = sorted({*range(min(most + 1, len(seen) + 6))} - {*seen.tolist()})
        listed = ", ".join(map(str, unseen[:5])) + (", ..." if len(unseen) > 5 else "")
        raise UserError(
            f"train_labels of {path} have no image of class {listed}, and go up to {most}: classes are 0, 1, 2, ...",
            "train_labels = np.unique(train_labels, return_inverse=True)[1] numbers them so; test_labels likewise",
        )
    return most + 1


def _split(path: Path, part: str, images: NDArray[Any], labels: NDArray[Any]) -> Split:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{part}_labels of {path} are {labels.dtype} of {labels.shape}, not one whole number per image")
    if images.ndim not in (2, 3, 4) or len(images) != len(labels) or not images.size:
        raise UserError(f"{part}_images of {path} are {images.shape}, and there are {len(labels)} labels")
    if labels.max() > np.iinfo(np.int32).max:
        raise UserError(f"{part}_labels of {path} has {labels.max()}: classes are 0, 1, 2, ...")
    if labels.min() < 0:
        raise UserError(f"{part}_labels of {path} has {labels.min()}: classes count from 0")
    if images.dtype.kind not in "uifb":
        raise UserError(f"{part}_images of {path} are {images.dtype}, and images are numbers")
    if _whole(images) and not (images.min() >= 0 and images.max() <= 255):
        raise UserError(
            f"{part}_images of {path} are whole numbers from {images.min()} to {images.max()}, and pixels are 0 to 255",
            "images.astype(np.float32) are taken as they are",
        )
    values = images.astype(np.float32) / np.float32(255 if _whole(images) else 1)
    if not np.isfinite(values).all():
        raise UserError(f"{part}_images of {path} has values that are no finite numbers")
    if values.ndim == 3:
        values = values[:, None]
    elif values.ndim == 4 and values.shape[3] in (1, 3) and values.shape[1] not in (1, 3):
        values = values.transpose(0, 3, 1, 2)
    return Split(np.ascontiguousarray(values), labels.astype(np.int64))
