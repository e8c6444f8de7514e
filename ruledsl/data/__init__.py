"""Datasets as NumPy batches: `load("mnist").train.shuffled(batch_size=50, seed=0, epoch=3)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ruledsl.data.dataset import Batch, Dataset, Split
from ruledsl.data.embedded import digits, synthetic
from ruledsl.data.idx import fashion_mnist, mnist
from ruledsl.data.image_folder import image_folder
from ruledsl.errors import choose
from ruledsl.options import checked_options

__all__ = ["TABLE", "Batch", "Dataset", "Split", "load"]

TABLE: Mapping[str, Callable[..., Dataset]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "synthetic": synthetic,
    "image_folder": image_folder,
}


def load(name: str, data_dir: Path | None = None, **options: Any) -> Dataset:
    """The dataset `name`; `options` are the keyword arguments of its function in `TABLE`.

    Raises UserError for a name or option that does not exist, and for a file that is missing or broken.
    """
    maker = choose("dataset", name, TABLE)
    return maker(data_dir, **checked_options(f"the dataset {name}", maker, options))
