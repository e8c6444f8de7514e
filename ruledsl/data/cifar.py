"""CIFAR-10 and CIFAR-100, from the archives for Python or the binary ones, packed or unpacked."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ruledsl.data.dataset import Dataset, Split
from ruledsl.data.files import broken, contents, find, folders, missing, verified

PIXELS = 3 * 32 * 32
Bytes = NDArray[np.uint8]
Pictures = tuple[Bytes, Bytes]
"""Pixels [n, 3072] and labels [n]."""


@dataclass(frozen=True)
class Form:
    """One of the ways in which a set is published: an archive, its folder, and the files in that."""

    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[bytes], Pictures]


def cifar10(data_dir: Path | None = None, *, verify: bool = True) -> Dataset:
    """CIFAR-10: 50,000 and 10,000 images of 3 x 32 x 32 in [0, 1], 10 classes.

    verify  whether an archive must have the published checksum
    """
    return load("cifar10", data_dir, FORMS["cifar10"](""), 10, (50_000, 10_000), verify)


def cifar100(data_dir: Path | None = None, *, coarse: bool = False, verify: bool = True) -> Dataset:
    """CIFAR-100: as CIFAR-10, 100 classes, or the 20 `coarse` ones above them."""
    kind = "coarse" if coarse else "fine"
    return load("cifar100", data_dir, FORMS["cifar100"](kind), 20 if coarse else 100, (50_000, 10_000), verify)


def load(
    name: str, data_dir: Path | None, forms: Sequence[Form], classes: int, sizes: tuple[int, int], verify: bool
) -> Dataset:
    """The set in whichever form it is there; `sizes`: the images to learn from and to test with. Raises UserError."""
    searched = folders(name, data_dir)
    for form in forms:
        path = find([form.folder, form.archive], searched)
        if path is not None:
            if not path.is_dir():
                verified(path, form.md5, verify)
            files = contents(path, form.folder, (*form.train, *form.test))
            train, test = (
                _split(path, names, files, form.read, classes, size)
                for names, size in zip((form.train, form.test), sizes, strict=True)
            )
            return Dataset(name, classes, train, test, model="liao_cifar")
    names = " or ".join(form.archive for form in forms)
    raise missing(name, names, searched, "the CIFAR datasets (Krizhevsky 2009; University of Toronto)")


def _split(
    path: Path,
    names: Sequence[str],
    files: Mapping[str, bytes],
    read: Callable[[bytes], Pictures],
    classes: int,
    size: int,
) -> Split:
    pixels, labels = [], []
    for name in names:
        try:
            some = read(files[name])
        except (ValueError, KeyError, EOFError, pickle.UnpicklingError, AttributeError, IndexError, TypeError) as error:
            raise broken(f"{name} of {path}", str(error) or type(error).__name__) from None
        pixels.append(some[0])
        labels.append(some[1])
    images, targets = np.concatenate(pixels), np.concatenate(labels).astype(np.int64)
    if images.shape != (size, PIXELS) or targets.shape != (size,):
        raise broken(path, f"it has {len(images)} images and {len(targets)} labels, where there are {size}")
    if targets.max() >= classes:
        raise broken(path, f"it has the label {targets.max()}, but the classes are 0 to {classes - 1}")
    return Split(images.reshape(-1, 3, 32, 32).astype(np.float32) / np.float32(255), targets)


class _OnlyArrays(pickle.Unpickler):
    """Reads what the batches hold, arrays, lists and texts; whatever else a pickle may name is not loaded."""

    ALLOWED = frozenset(
        (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        )
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which is no part of such a file")
        return super().find_class("numpy._core.multiarray" if module == "numpy.core.multiarray" else module, name)


def _pickled(label: bytes) -> Callable[[bytes], Pictures]:
    def read(content: bytes) -> Pictures:
        batch = _OnlyArrays(io.BytesIO(content), encoding="bytes").load()
        return np.asarray(batch[b"data"], np.uint8), np.asarray(batch[label], np.uint8)

    return read


def _binary(before: int, column: int) -> Callable[[bytes], Pictures]:
    """Records of so many labels, of which one counts, and the pixels."""

    def read(content: bytes) -> Pictures:
        if len(content) % (before + PIXELS):
            raise ValueError(f"its {len(content)} bytes are no whole number of images")
        records = np.frombuffer(content, np.uint8).reshape(-1, before + PIXELS)
        return records[:, before:], records[:, column]

    return read


def _ten(kind: str) -> Sequence[Form]:
    batches = range(1, 6)
    return (
        Form(
            "cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
            "cifar-10-batches-py",
            tuple(f"data_batch_{number}" for number in batches),
            ("test_batch",),
            _pickled(b"labels"),
        ),
        Form(
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-batches-bin",
            tuple(f"data_batch_{number}.bin" for number in batches),
            ("test_batch.bin",),
            _binary(1, 0),
        ),
    )


def _hundred(kind: str) -> Sequence[Form]:
    python = "eb9058c3a382ffc7106e4002c42a8d85"
    binary = "03b5dce01913d631647c71ecec9e9cb8"
    read = _pickled(f"{kind}_labels".encode())
    column = 0 if kind == "coarse" else 1
    return (
        Form("cifar-100-python.tar.gz", python, "cifar-100-python", ("train",), ("test",), read),
        Form("cifar-100-binary.tar.gz", binary, "cifar-100-binary", ("train.bin",), ("test.bin",), _binary(2, column)),
    )


FORMS: Mapping[str, Callable[[str], Sequence[Form]]] = {"cifar10": _ten, "cifar100": _hundred}
