"""Datasets that need no file: the digits that come with scikit-learn, and artificial ones."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ruledsl.data.dataset import Dataset, Labels, Split
from ruledsl.errors import UserError, need

TEST_SHARE = 5  # every fifth image of a class is a test image


def digits(data_dir: Path | None = None) -> Dataset:
    """1797 handwritten digits of 1 x 8 x 8 in [0, 1] (UCI ML, bundled with scikit-learn): 1442 to learn, 355 to test.

    Of every class, every fifth image is a test image.
    """
    table = _digits_table()
    images = (table[:, :-1].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    labels = table[:, -1].astype(np.int64)
    test = np.zeros(len(labels), bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[TEST_SHARE - 1 :: TEST_SHARE]] = True
    train, rest = (Split(images[chosen], labels[chosen]) for chosen in (~test, test))
    return Dataset("digits", 10, train, rest, model="digits_lenet")


def _digits_table() -> NDArray[np.float64]:
    """[images, 64 pixels and the label], from scikit-learn's file: to import all of scikit-learn takes a second."""
    found = find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.exists():
            return np.loadtxt(file, delimiter=",")
    bundled = need("sklearn.datasets", "the dataset digits", "train").load_digits()
    return np.column_stack([bundled.data, bundled.target])


def synthetic(
    data_dir: Path | None = None,
    *,
    shape: tuple[int, ...] = (1, 8, 8),
    classes: int = 10,
    train: int = 1024,
    test: int = 256,
    noise: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Normal noise around one random image per class: for speed measurements and tests, at any size."""
    if min(*shape, classes, train, test) < 1:
        raise UserError("the sizes of the dataset synthetic must be positive")
    random = np.random.Generator(np.random.PCG64(seed))
    centres = random.standard_normal((classes, *shape), np.float32)

    def draw(number: int) -> Split:
        labels: Labels = random.permutation(np.arange(number, dtype=np.int64) % classes)
        images = centres[labels] + np.float32(noise) * random.standard_normal((number, *shape), np.float32)
        return Split(images, labels)

    return Dataset("synthetic", classes, draw(train), draw(test), model="mlp")
