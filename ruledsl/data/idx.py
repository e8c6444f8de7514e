"""The IDX files of MNIST and Fashion-MNIST (big-endian header, then bytes), usually gzipped."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from ruledsl.data.dataset import Dataset, Split
from ruledsl.data.files import broken, find, folders, missing, verified
from ruledsl.errors import UserError

PUBLISHED = {
    "mnist": "the MNIST database of handwritten digits (LeCun, Cortes & Burges)",
    "fashion_mnist": "Fashion-MNIST (Xiao, Rasul & Vollgraf; Zalando Research)",
}
# MD5: of MNIST's files unzipped, as they go about packed anew; of Fashion-MNIST's as they are published, gzipped.
CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}
UNSIGNED_BYTE = 8


def mnist(data_dir: Path | None = None, *, verify: bool = True) -> Dataset:
    """MNIST: 60,000 and 10,000 images of 1 x 28 x 28 in [0, 1], in the original order.

    verify  whether the files must have the published checksums
    """
    return _load("mnist", data_dir, verify)


def fashion_mnist(data_dir: Path | None = None, *, verify: bool = True) -> Dataset:
    """Fashion-MNIST: the same sizes and files as MNIST, pictures of clothes."""
    return _load("fashion_mnist", data_dir, verify)


def read_idx(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The bytes of an IDX file, gzipped or not, in the shape that its header gives. Raises UserError."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except EOFError:
        raise broken(path, "the file is truncated") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise broken(path, f"it is not a valid gzip file ({error})") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise broken(path, "it does not begin like an IDX file of bytes")
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if len(content) - start != prod(shape):
        promised = " x ".join(map(str, shape))
        raise broken(path, f"its header promises {promised} bytes, but {max(0, len(content) - start)} follow")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _load(name: str, data_dir: Path | None, verify: bool) -> Dataset:
    searched = folders(name, data_dir)
    train, test = (_split(name, prefix, searched, verify) for prefix in ("train", "t10k"))
    return Dataset(name, 10, train, test, model="liao_mnist")


def _split(name: str, prefix: str, searched: Sequence[Path], verify: bool) -> Split:
    image_path, label_path = (
        _file(name, f"{prefix}-{kind}", searched, verify) for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.ndim != 3 or not images.size:
        raise broken(image_path, f"its shape is {images.shape}, not images x height x width")
    if labels.ndim != 1 or len(labels) != len(images):
        raise broken(label_path, f"its shape is {labels.shape}, but there are {len(images)} images")
    if labels.max() > 9:
        raise broken(label_path, f"it has the label {labels.max()}, but the classes are 0 to 9")
    return Split(images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64))


def _file(name: str, file: str, searched: Sequence[Path], verify: bool) -> Path:
    path = find([f"{file}.gz", file], searched)
    if path is None:
        raise missing(name, f"{file}.gz", searched, PUBLISHED[name])
    if name == "fashion_mnist" and path.suffix != ".gz":
        return path
    return verified(path, CHECKSUMS[name][file], verify, unzipped=name == "mnist")
