"""Datasets as NumPy batches: `load("mnist").train.shuffled(batch_size=50, seed=0, epoch=3)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruledsl.data.arrays import npz
from ruledsl.data.cifar import FORMS, cifar10, cifar100
from ruledsl.data.dataset import Batch, Dataset, Split
from ruledsl.data.embedded import digits, synthetic
from ruledsl.data.files import find, folders
from ruledsl.data.idx import fashion_mnist, mnist
from ruledsl.data.image_folder import image_folder
from ruledsl.data.stl10 import stl10
from ruledsl.data.svhn import svhn
from ruledsl.errors import choose
from ruledsl.options import checked_options

__all__ = ["TABLE", "Batch", "Dataset", "Split", "load"]

TABLE: Mapping[str, Callable[..., Dataset]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "stl10": stl10,
    "npz": npz,
    "synthetic": synthetic,
    "image_folder": image_folder,
}


@dataclass(frozen=True)
class Needs:
    """The files of a dataset: one of each group; `words` for people, who may say it shorter."""

    groups: tuple[tuple[str, ...], ...]
    words: str

    def found(self, name: str, data_dir: Path | None) -> Path | None:
        """The folder of the first file, where all of them are there."""
        searched = folders(name, data_dir)
        paths = [find(group, searched) for group in self.groups]
        return paths[0].parent if paths and paths[0] and None not in paths else None


def _idx() -> Needs:
    names = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    groups = tuple((f"{name}.gz", name) for name in names)
    return Needs(groups, "train- and t10k-images-idx3-ubyte.gz, train- and t10k-labels-idx1-ubyte.gz")


NEEDS: Mapping[str, Needs] = {
    "mnist": _idx(),
    "fashion_mnist": _idx(),
    **{
        name: Needs(
            (tuple(part for form in forms("fine") for part in (form.folder, form.archive)),),
            " or ".join(form.archive for form in forms("fine")),
        )
        for name, forms in FORMS.items()
    },
    "svhn": Needs((("train_32x32.mat",), ("test_32x32.mat",)), "train_32x32.mat, test_32x32.mat"),
    "stl10": Needs((("stl10_binary", "stl10_binary.tar.gz"),), "stl10_binary.tar.gz"),
    "npz": Needs((), "your own arrays: --set data.options.file=faces.npz"),
    "image_folder": Needs((("train",), ("val", "test")), "train/CLASS/NAME.jpg, and val/ or test/ likewise"),
}
"""What those datasets need that do not come with ruledsl."""


def load(name: str, data_dir: Path | None = None, **options: Any) -> Dataset:
    """The dataset `name`; `options` are the keyword arguments of its function in `TABLE`.

    Raises UserError for a name or option that does not exist, and for a file that is missing or broken.
    """
    maker = choose("dataset", name, TABLE)
    return maker(data_dir, **checked_options(f"the dataset {name}", maker, options))
