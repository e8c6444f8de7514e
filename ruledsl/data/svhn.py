"""SVHN, cropped digits: the MATLAB files of the Street View House Numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ruledsl.data.dataset import Dataset, Split
from ruledsl.data.files import broken, find, folders, missing, verified
from ruledsl.errors import need

PUBLISHED = "the Street View House Numbers (Netzer et al. 2011; Stanford), format 2: cropped digits"
FILES = {
    "train": ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", 73_257),
    "extra": ("extra_32x32.mat", "a93ce644f1a588dc4d68dda5feec44a7", 531_131),
    "test": ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", 26_032),
}


def svhn(data_dir: Path | None = None, *, extra: bool = False, verify: bool = True) -> Dataset:
    """SVHN: 73,257 and 26,032 images of 3 x 32 x 32 in [0, 1], 10 digits.

    extra   learn from the 531,131 easier images, too
    verify  whether the files must have the published checksums
    """
    train = _split("train", data_dir, verify)
    if extra:
        more = _split("extra", data_dir, verify)
        train = Split(np.concatenate([train.images, more.images]), np.concatenate([train.labels, more.labels]))
    return Dataset("svhn", 10, train, _split("test", data_dir, verify), model="liao_svhn")


def _split(name: str, data_dir: Path | None, verify: bool) -> Split:
    file, md5, size = FILES[name]
    searched = folders("svhn", data_dir)
    path = find([file], searched)
    if path is None:
        raise missing("svhn", file, searched, PUBLISHED)
    return read(verified(path, md5, verify), size)


def read(path: Path, size: int | None = None) -> Split:
    """The images of such a file, X [32, 32, 3, n] and y [n] from 1 to 10, which stands for 0. Raises UserError."""
    matlab = need("scipy.io.matlab", "the dataset svhn", "train")
    try:
        found = matlab.loadmat(path, variable_names=["X", "y"])
        pixels, digits = found["X"], found["y"].ravel()
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, matlab.MatReadError) as error:
        raise broken(path, f"it is no MATLAB file with X and y ({error})") from None
    if pixels.shape[:3] != (32, 32, 3) or pixels.shape[3:] != digits.shape or pixels.dtype != np.uint8:
        raise broken(path, f"X is {pixels.dtype} of {pixels.shape} and y of {digits.shape}, not 32 x 32 x 3 x n and n")
    if size is not None and len(digits) != size:
        raise broken(path, f"it has {len(digits)} images, where there are {size}")
    if digits.min() < 1 or digits.max() > 10:
        raise broken(path, f"its labels are {digits.min()} to {digits.max()}, not 1 to 10")
    images = np.ascontiguousarray(pixels.transpose(3, 2, 0, 1), np.float32) / np.float32(255)
    return Split(images, digits.astype(np.int64) % 10)
