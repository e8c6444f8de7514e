"""STL-10, from its binary archive, packed or unpacked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ruledsl.data.dataset import Dataset, Split
from ruledsl.data.files import broken, contents, find, folders, missing, verified

ARCHIVE, FOLDER, MD5 = "stl10_binary.tar.gz", "stl10_binary", "91f7769df0f17e558f3565bffb0c7dfb"
SIDE, SIZES = 96, {"train": 5000, "test": 8000}


def stl10(data_dir: Path | None = None, *, verify: bool = True) -> Dataset:
    """STL-10: 5,000 and 8,000 labelled images of 3 x 96 x 96 in [0, 1], 10 classes. The unlabelled ones are not read.

    verify  whether the archive must have the published checksum
    """
    return load(data_dir, verify, SIZES)


def load(data_dir: Path | None, verify: bool, sizes: Mapping[str, int]) -> Dataset:
    """The set, of so many images. Raises UserError."""
    searched = folders("stl10", data_dir)
    path = find([FOLDER, ARCHIVE], searched)
    if path is None:
        raise missing("stl10", ARCHIVE, searched, "STL-10 (Coates, Lee & Ng 2011; Stanford)")
    wanted = [f"{part}_{kind}.bin" for part in sizes for kind in ("X", "y")]
    if not path.is_dir():
        verified(path, MD5, verify)
    files = contents(path, FOLDER, wanted)
    train, test = (_split(path, files[f"{part}_X.bin"], files[f"{part}_y.bin"], size) for part, size in sizes.items())
    return Dataset("stl10", 10, train, test, model="resnet18_cifar")


def _split(path: Path, pixels: bytes, labels: bytes, size: int) -> Split:
    if len(pixels) != size * 3 * SIDE * SIDE or len(labels) != size:
        raise broken(
            path, f"it has {len(pixels)} bytes of pixels and {len(labels)} labels, where there are {size} images"
        )
    targets = np.frombuffer(labels, np.uint8).astype(np.int64) - 1
    if targets.min() < 0 or targets.max() > 9:
        raise broken(path, f"its labels are {targets.min() + 1} to {targets.max() + 1}, not 1 to 10")
    columns_first = np.frombuffer(pixels, np.uint8).reshape(-1, 3, SIDE, SIDE)
    return Split(np.ascontiguousarray(columns_first.transpose(0, 1, 3, 2), np.float32) / np.float32(255), targets)
