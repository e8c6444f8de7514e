"""CIFAR, SVHN, STL-10 and `.npz`, from small files in the published forms."""

from __future__ import annotations

import io
import pickle
import tarfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ruledsl import data
from ruledsl.data import cifar
from ruledsl.errors import UserError

stl10, svhn = import_module("ruledsl.data.stl10"), import_module("ruledsl.data.svhn")
RANDOM = np.random.Generator(np.random.PCG64(0))
PIXELS = RANDOM.integers(0, 256, (12, 3072), np.uint8)
LABELS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 1]


def python_batch(rows: slice, **labels: Any) -> bytes:
    """As Python 2 wrote it: protocol 2, and texts that are bytes."""
    batch = {b"data": PIXELS[rows], **{name.encode(): value[rows] for name, value in labels.items()}}
    return pickle.dumps(batch, protocol=2)


def parts(form: cifar.Form) -> dict[str, bytes]:
    """Two images in each training batch, two to test with."""
    names = (*form.train, *form.test)
    binary = form.archive.endswith("binary.tar.gz")
    made = {}
    for index, name in enumerate(names):
        rows = slice(2 * index, 2 * index + 2)
        if binary:
            columns = [np.array(LABELS[rows], np.uint8)[:, None]] * (2 if "100" in form.archive else 1)
            made[name] = np.concatenate([*columns, PIXELS[rows]], axis=1).tobytes()
        else:
            made[name] = python_batch(rows, labels=LABELS, fine_labels=LABELS, coarse_labels=LABELS)
    return made


def packed(path: Path, folder: str, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


FORMS = [(name, kind, index) for name, kind in (("cifar10", ""), ("cifar100", "fine")) for index in (0, 1)]


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize(("name", "kind", "index"), FORMS)
def test_every_form_of_cifar_is_read(name: str, kind: str, index: int, unpacked: bool, tmp_path: Path) -> None:
    forms = cifar.FORMS[name](kind)
    form = forms[index]
    if unpacked:
        (tmp_path / form.folder).mkdir()
        for file, content in parts(form).items():
            (tmp_path / form.folder / file).write_bytes(content)
    else:
        packed(tmp_path / form.archive, form.folder, parts(form))
    trained = 2 * len(form.train)
    found = cifar.load(name, tmp_path, forms, 100, (trained, 2), verify=False)
    assert found.train.images.shape == (trained, 3, 32, 32) and found.train.labels.tolist() == LABELS[:trained]
    assert found.test.labels.tolist() == LABELS[trained : trained + 2]
    assert (found.train.images[1] == PIXELS[1].reshape(3, 32, 32).astype(np.float32) / np.float32(255)).all()


class Thief:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("stolen",)


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forms = cifar.FORMS["cifar10"]("")
    files = parts(forms[0])
    files["data_batch_1"] = pickle.dumps({b"data": PIXELS[:2], b"labels": [0, 1], b"more": Thief()}, protocol=2)
    packed(tmp_path / forms[0].archive, forms[0].folder, files)
    with pytest.raises(UserError, match=r"data_batch_1 of .* cannot be used: it wants to load .*print"):
        cifar.load("cifar10", tmp_path, forms, 10, (10, 2), verify=False)
    assert "stolen" not in capsys.readouterr().out


def test_a_set_of_another_size_and_one_of_another_checksum_are_messages(tmp_path: Path) -> None:
    form = cifar.FORMS["cifar10"]("")[0]
    packed(tmp_path / form.archive, form.folder, parts(form))
    with pytest.raises(UserError, match="it has 10 images"):
        data.load("cifar10", tmp_path, verify=False)
    with pytest.raises(UserError, match="is not the published file"):
        data.load("cifar10", tmp_path)
    (tmp_path / form.archive).write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be used"):
        data.load("cifar10", tmp_path, verify=False)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10"])
def test_a_set_that_is_not_there_says_what_it_needs(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing; looked in") as caught:
        data.load(name, tmp_path)
    assert "it is published as" in str(caught.value) and str(tmp_path) in str(caught.value)


def test_svhn_calls_the_zero_ten(tmp_path: Path) -> None:
    io_ = pytest.importorskip("scipy.io")
    pixels = RANDOM.integers(0, 256, (32, 32, 3, 4), np.uint8)
    io_.savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [9], [3]], np.uint8)})
    split = svhn.read(tmp_path / "test_32x32.mat")
    assert split.labels.tolist() == [0, 1, 9, 3]
    assert split.images[2, 1, 5, 7] == np.float32(pixels[5, 7, 1, 2]) / np.float32(255)
    with pytest.raises(UserError, match="it has 4 images, where there are 26032"):
        svhn.read(tmp_path / "test_32x32.mat", 26_032)
    (tmp_path / "broken.mat").write_bytes(b"no matlab")
    with pytest.raises(UserError, match="no MATLAB file"):
        svhn.read(tmp_path / "broken.mat")


def test_stl10_is_kept_by_columns(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 256, (3, 3, 96, 96), np.uint8)
    files = {"train_X.bin": pixels[:2], "train_y.bin": np.array([1, 10], np.uint8), "test_X.bin": pixels[2:]}
    made = {name: value.tobytes() for name, value in files.items()} | {"test_y.bin": b"\x04"}
    packed(tmp_path / stl10.ARCHIVE, stl10.FOLDER, made)
    found = stl10.load(tmp_path, False, {"train": 2, "test": 1})
    assert found.train.labels.tolist() == [0, 9] and found.test.labels.tolist() == [3]
    assert found.train.images[1, 2, 10, 20] == np.float32(pixels[1, 2, 20, 10]) / np.float32(255)
    with pytest.raises(UserError, match="where there are 5000 images"):
        data.load("stl10", tmp_path, verify=False)


def arrays(path: Path, **changes: Any) -> Path:
    held = {
        "train_images": RANDOM.standard_normal((6, 20)).astype(np.float32),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": RANDOM.standard_normal((3, 20)).astype(np.float32),
        "test_labels": np.array([0, 1, 2]),
    }
    np.savez(path / "set.npz", **{name: value for name, value in (held | changes).items() if value is not None})
    return path


def test_arrays_of_a_users_own_are_a_dataset(tmp_path: Path) -> None:
    found = data.load("npz", arrays(tmp_path), file="set.npz")
    assert (found.name, found.classes, found.shape, len(found.train)) == ("set", 3, (20,), 6)
    pictures = np.full((6, 5, 4, 3), 255, np.uint8)
    found = data.load("npz", arrays(tmp_path, train_images=pictures, test_images=pictures[:3]), file="set.npz")
    assert found.shape == (3, 5, 4) and found.train.images.max() == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_labels": None}, "has no array train_labels"),
        ({"train_labels": np.array([0, 1])}, "there are 2 labels"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, -2])}, "classes count from 0"),
        ({"train_labels": np.ones(6)}, "whole number"),
        ({"train_images": np.full((6, 20), np.nan)}, "no finite numbers"),
        ({"test_images": np.zeros((3, 21))}, "test images of"),
        ({"test_images": np.array(["a", "b", "c"], object)}, "no .npz file that can be read"),
        ({"train_images": np.ones((6, 20), complex)}, "images are numbers"),
        ({"train_images": np.ones((6, 20), np.uint8)}, "whole numbers are divided by 255, and others are not"),
        ({"train_images": np.full((6, 20), 256)}, "whole numbers from 256 to 256"),
        ({"train_labels": np.array([1, 2, 3, 1, 2, 3])}, "no image of class 0, and go up to 3"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, 3 * 10**9])}, "has 3000000000"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, 2**63 + 5], np.uint64)}, "has 9223372036854775813"),
        ({"train_images": np.zeros((6, 0)), "test_images": np.zeros((3, 0))}, "are (6, 0)"),
        ({"test_labels": np.array([0, 1, 7])}, "no image of class 3, 4, 5, 6, 7, and go up to 7"),
    ],
)
def test_what_is_wrong_with_arrays_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        data.load("npz", arrays(tmp_path, **changes), file="set.npz")
    assert said in f"{caught.value} {caught.value.help}"


def test_npz_wants_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a file"):
        data.load("npz", tmp_path)
    with pytest.raises(UserError, match=r"there is no file other\.npz"):
        data.load("npz", tmp_path, file="other.npz")


def test_files_that_are_no_npz_are_messages(tmp_path: Path) -> None:
    np.save(tmp_path / "alone.npy", np.zeros((3, 4)))
    np.savez_compressed(tmp_path / "good.npz", train_images=np.arange(4000.0))
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "broken.npz").write_bytes(whole[:200] + bytes(100) + whole[300:])
    for name in ("alone.npy", "broken.npz"):
        with pytest.raises(UserError, match=r"no \.npz file that can be read|has no array"):
            data.load("npz", tmp_path, file=name)
