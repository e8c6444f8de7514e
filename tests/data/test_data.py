"""Datasets: what is in them, the order of batches, and what is said when files are missing or broken."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ruledsl import data
from ruledsl.data import Split, files
from ruledsl.data.idx import read_idx
from ruledsl.errors import UserError

FILES = {
    "train-images-idx3-ubyte": (12, 4, 5),
    "train-labels-idx1-ubyte": (12,),
    "t10k-images-idx3-ubyte": (6, 4, 5),
    "t10k-labels-idx1-ubyte": (6,),
}


def idx(shape: tuple[int, ...]) -> bytes:
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + bytes(i % 10 for i in range(int(np.prod(shape))))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small MNIST; neither the environment nor the cache has another."""
    monkeypatch.delenv("RULEDSL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mnist").mkdir()
    for name, shape in FILES.items():
        (tmp_path / "mnist" / f"{name}.gz").write_bytes(gzip.compress(idx(shape)))
    return tmp_path


def test_digits_has_every_image_once_and_every_class_in_both_splits() -> None:
    digits = data.load("digits")
    assert digits.shape == (1, 8, 8)
    assert len(digits.train) + len(digits.test) == 1797
    assert digits.train.images.dtype == np.float32
    assert digits.train.images.min() == 0
    assert digits.train.images.max() == 1
    for split in (digits.train, digits.test):
        assert np.bincount(split.labels).min() > 30


def test_digits_is_the_same_every_time() -> None:
    first, second = data.load("digits"), data.load("digits")
    assert np.array_equal(first.test.images, second.test.images)


def test_standardizing_uses_the_training_images_alone() -> None:
    digits = data.load("digits").standardized()
    assert digits.train.images.mean() == pytest.approx(0, abs=1e-5)
    assert digits.train.images.std() == pytest.approx(1, abs=1e-5)
    assert digits.test.images.mean() != pytest.approx(0, abs=1e-5)


def test_an_epoch_has_every_image_at_most_once_in_an_order_of_seed_and_epoch() -> None:
    train = data.load("synthetic", train=50, classes=5).train

    def order(seed: int, epoch: int) -> list[np.ndarray]:
        return [batch.images for batch in train.shuffled(8, seed, epoch)]

    assert len(order(0, 0)) == train.batches_per_epoch(8) == 6
    seen = np.concatenate(order(0, 0)).reshape(48, -1)
    assert len(np.unique(seen, axis=0)) == 48
    assert all(np.array_equal(a, b) for a, b in zip(order(0, 0), order(0, 0), strict=True))
    assert not np.array_equal(order(0, 0)[0], order(0, 1)[0])
    assert not np.array_equal(order(0, 0)[0], order(1, 0)[0])


def test_a_batch_larger_than_the_dataset_is_the_dataset() -> None:
    train = data.load("synthetic", train=5).train
    assert [len(batch) for batch in train.shuffled(100, 0, 0)] == [5]


def test_an_evaluation_meets_the_last_images_too() -> None:
    assert [len(batch) for batch in data.load("synthetic", test=10).test.in_order(4)] == [4, 4, 2]


def test_mnist_is_found_below_the_folder_of_the_call_and_of_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data.load("mnist", folder, verify=False).shape == (1, 4, 5)
    assert data.load("mnist", folder / "mnist", verify=False).shape == (1, 4, 5)
    monkeypatch.setenv("RULEDSL_DATA", str(folder))
    mnist = data.load("mnist", verify=False)
    assert len(mnist.train) == 12
    assert mnist.train.images[0].ravel().tolist() == pytest.approx([(i % 10) / 255 for i in range(20)])


def test_fashion_mnist_is_not_taken_from_a_folder_of_mnist(folder: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        data.load("fashion_mnist", folder / "mnist", verify=False)
    (folder / "mnist").rename(folder / "fashion_mnist")
    assert data.load("fashion_mnist", folder, verify=False).name == "fashion_mnist"
    with pytest.raises(UserError, match="is missing"):
        data.load("mnist", folder, verify=False)


def test_a_missing_file_is_named_with_the_places_and_the_publication(folder: Path) -> None:
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError) as caught:
        data.load("mnist", folder, verify=False)
    message = str(caught.value)
    assert "t10k-labels-idx1-ubyte.gz" in message
    assert str(folder / "mnist") in message
    assert "LeCun" in message


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    return content[:40] + bytes(255 - byte for byte in content[40:44]) + content[44:]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "truncated"),
        (flip, "cannot be used"),
        (lambda content: b"no gzip at all", "not a valid gzip file"),
        (lambda content: b"", "cannot be used"),
        (lambda content: gzip.compress(b"something else"), "does not begin like an IDX file"),
        (lambda content: gzip.compress(idx((12, 4, 5))[:-1]), "promises 12 x 4 x 5 bytes, but 239 follow"),
        (lambda content: gzip.compress(idx((12, 4, 5)) + b"x"), "but 241 follow"),
        (lambda content: gzip.compress(idx((12, 4, 5))[:9]), "promises"),
        (lambda content: gzip.compress(idx((12, 20))), "not images x height x width"),
        (lambda content: gzip.compress(idx((11, 4, 5))), "but there are 11 images"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(folder: Path, damage: Callable[[bytes], bytes], said: str) -> None:
    path = folder / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        data.load("mnist", folder, verify=False)
    assert said in str(caught.value)
    assert "ubyte" in str(caught.value)


def test_labels_outside_the_classes_are_refused(folder: Path) -> None:
    path = folder / "mnist" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx((12,))[:-1] + b"\x0b"))
    with pytest.raises(UserError, match="label 11"):
        data.load("mnist", folder, verify=False)


def test_an_unzipped_file_is_read_too(folder: Path) -> None:
    path = folder / "mnist" / "train-images-idx3-ubyte.gz"
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    assert len(data.load("mnist", folder, verify=False).train) == 12


def test_the_real_mnist_has_its_published_sizes(dataset_folder: Callable[[str], Path]) -> None:
    labels = read_idx(dataset_folder("mnist") / "t10k-labels-idx1-ubyte.gz")
    assert labels.shape == (10_000,)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.parametrize(("name", "said"), [("mnits", "did you mean `mnist`?"), ("cifar", "did you mean `cifar10`?")])
def test_an_unknown_dataset_gets_a_suggestion(name: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        data.load(name)
    assert said in str(caught.value)


def test_an_unknown_option_of_a_dataset_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean `classes`"):
        data.load("synthetic", clases=3)


def test_a_file_that_is_not_the_published_one_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match="is not the published file: its MD5 checksum is") as caught:
        data.load("mnist", folder)
    assert "data.options.verify=false" in str(caught.value)


def test_a_checksum_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert files.verified(path, "900150983cd24fb0d6963f7d28e17f72") == path
    monkeypatch.setattr(files, "hashlib", None)  # whoever computes one now fails
    assert files.verified(path, "900150983cd24fb0d6963f7d28e17f72") == path
    os.utime(path, ns=(1, 1))
    with pytest.raises(AttributeError):
        files.verified(path, "900150983cd24fb0d6963f7d28e17f72")


def test_mnist_has_the_published_checksums(dataset_folder: Callable[[str], Path]) -> None:
    assert len(data.load("mnist", dataset_folder("mnist")).train) == 60_000


def test_a_part_of_a_sorted_set_has_all_its_classes() -> None:
    labels = np.repeat(np.arange(10), 30)
    images = labels[:, None].astype(np.float32)
    part = Split(images, labels).some(20)
    assert sorted(set(part.labels)) == list(range(10)) and (part.images[:, 0] == part.labels).all()
    mixed = np.tile(np.arange(10), 30)
    assert (Split(images, mixed).some(12).labels == mixed[:12]).all()
    assert len(Split(images, labels).some(1000)) == 300
