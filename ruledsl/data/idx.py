"""The IDX files of MNIST and Fashion-MNIST (big-endian header, then bytes), usually gzipped."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from ruledsl.data.dataset import Dataset, Split
from ruledsl.errors import UserError
from ruledsl.folders import cache_folder

PUBLISHED = {
    "mnist": "the MNIST database of handwritten digits (LeCun, Cortes & Burges)",
    "fashion_mnist": "Fashion-MNIST (Xiao, Rasul & Vollgraf; Zalando Research)",
}
UNSIGNED_BYTE = 8


def mnist(data_dir: Path | None = None) -> Dataset:
    """MNIST: 60,000 and 10,000 images of 1 x 28 x 28 in [0, 1], in the original order."""
    return _load("mnist", data_dir)


def fashion_mnist(data_dir: Path | None = None) -> Dataset:
    """Fashion-MNIST: the same sizes and files as MNIST, pictures of clothes."""
    return _load("fashion_mnist", data_dir)


def folders(name: str, data_dir: Path | None) -> list[Path]:
    """Where the files of a dataset are looked for, in order.

    In `data_dir` alone if it is given, else in $RULEDSL_DATA and the user's cache folder: in the subfolder called
    like the dataset, then in the folder itself. MNIST and Fashion-MNIST have files of the same names; a folder that
    says it is the other one is left out.
    """
    cache = cache_folder()
    given = os.environ.get("RULEDSL_DATA")
    roots = [data_dir] if data_dir else [Path(given), cache] if given else [cache]
    fashion = name == "fashion_mnist"
    return [
        folder
        for root in roots
        for folder in (root / name, root)
        if folder.name == name or ("fashion" in folder.name.lower()) == fashion
    ]


def read_idx(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The bytes of an IDX file, gzipped or not, in the shape that its header gives. Raises UserError."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except EOFError:
        raise _broken(path, "the file is truncated") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _broken(path, f"it is not a valid gzip file ({error})") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise _broken(path, "it does not begin like an IDX file of bytes")
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if len(content) - start != prod(shape):
        promised = " x ".join(map(str, shape))
        raise _broken(path, f"its header promises {promised} bytes, but {max(0, len(content) - start)} follow")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _load(name: str, data_dir: Path | None) -> Dataset:
    searched = folders(name, data_dir)
    train, test = (_split(name, prefix, searched) for prefix in ("train", "t10k"))
    return Dataset(name, 10, train, test, model="liao_mnist")


def _split(name: str, prefix: str, searched: Sequence[Path]) -> Split:
    image_path = _find(name, f"{prefix}-images-idx3-ubyte", searched)
    label_path = _find(name, f"{prefix}-labels-idx1-ubyte", searched)
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.ndim != 3 or not images.size:
        raise _broken(image_path, f"its shape is {images.shape}, not images x height x width")
    if labels.ndim != 1 or len(labels) != len(images):
        raise _broken(label_path, f"its shape is {labels.shape}, but there are {len(images)} images")
    if labels.max() > 9:
        raise _broken(label_path, f"it has the label {labels.max()}, but the classes are 0 to 9")
    return Split(images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64))


def _find(name: str, file: str, searched: Sequence[Path]) -> Path:
    for folder in searched:
        for path in (folder / f"{file}.gz", folder / file):
            if path.is_file():
                return path
    places = ", ".join(str(folder) for folder in searched)
    raise UserError(
        f"the file {file}.gz of {name} is missing; looked in: {places}",
        f"it is published as {PUBLISHED[name]}; put its four files into one of these folders, "
        "or say where they are with --data-dir or $RULEDSL_DATA",
    )


def _broken(path: Path, problem: str) -> UserError:
    return UserError(f"{path} cannot be used: {problem}", "fetch the file again")
