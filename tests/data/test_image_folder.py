"""Folders of images, read while a network learns from them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ruledsl import data
from ruledsl.data.augment import augmentations
from ruledsl.data.dataset import ReadersEnded
from ruledsl.data.image_folder import Folder
from ruledsl.errors import UserError
from ruledsl.training import Interrupted, Listener, loop, read_config, resume, train
from ruledsl.training.checkpoints import Checkpoints
from ruledsl.training.engine import Score
from ruledsl.training.schedule import Clock

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 24 and 8 images, a dark and a bright one, some of them grey or of another shape."""
    random = np.random.Generator(np.random.PCG64(0))
    for split, number in {"train": 24, "val": 8}.items():
        for name, light in {"bright": 160, "dark": 40}.items():
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(number):
                size = (20, 20, 3) if index == 0 else (16 + index % 5, 20, 3) if index % 3 else (20, 20)
                pixels = np.clip(light + random.normal(0, 20, size), 0, 255).astype(np.uint8)
                ending = "png" if index % 2 else "jpg"
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index:02}.{ending}")
    (tmp_path / "train" / "dark" / "notes.txt").write_text("no image")
    return tmp_path


def test_classes_are_named_like_their_folders(folder: Path) -> None:
    dataset = data.load("image_folder", folder)
    assert (dataset.classes, dataset.shape, len(dataset.train), len(dataset.test)) == (2, (3, 20, 20), 48, 16)
    (batch,) = dataset.train.in_order(48)
    assert batch.labels.tolist() == [0] * 24 + [1] * 24
    light = batch.images.mean((1, 2, 3))
    assert light[:24].min() > light[24:].max()


def test_pixels_are_standardised_by_a_sample(folder: Path) -> None:
    (batch,) = data.load("image_folder", folder).standardized().train.in_order(48)
    assert abs(batch.images.mean()) < 0.01 and abs(batch.images.std() - 1) < 0.01


@pytest.mark.parametrize("kinds", [[], ["random_resized_crop 12", "flip"], ["pad_crop 3", "cutout 4"]])
def test_any_number_of_workers_makes_the_same_batches(folder: Path, kinds: list[str]) -> None:
    dataset = data.load("image_folder", folder).standardized().augmented(augmentations(kinds))
    order = dataset.train.order(8, 0, 3)
    found = []
    for workers in (0, 2):
        split = dataset.read_by(workers).train
        assert isinstance(split, Folder)
        found.append([batch.images for batch in split.batches(order, 0, len(order), 7, 3)])
    assert all((one == other).all() for one, other in zip(*found, strict=True))
    middle = next(dataset.train.batches(order, 4, 1, 7, 3)).images
    assert (middle == found[0][4]).all()
    if kinds:
        assert (next(dataset.train.batches(order, 4, 1, 7, 2)).images != middle).any()


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_run_on_a_folder_is_resumed_exactly(backend: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "BETWEEN_PAUSES", 0.0)
    settings = ["data.name=image_folder", f"data.folder={folder}", "data.augment=['random_resized_crop 12','flip']"]
    settings += ["model.name=mlp", "data.batch_size=8", "epochs=4", f"backend={backend}"]
    whole = train(read_config(settings=[*settings, f"out={folder}/whole"]))

    class Stopping(Listener):
        def step(self, clock: Clock, score: Score | None) -> None:
            if clock.step == 9:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(read_config(settings=[*settings, "checkpoint_every=0", f"out={folder}/part"]), Stopping())
    again = resume(folder / "part")
    one, other = (load_file(run.folder / "weights.safetensors") for run in (whole, again))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert whole.test_error < 0.2


def test_both_engines_learn_the_same_from_a_folder(folder: Path) -> None:
    settings = ["data.name=image_folder", f"data.folder={folder}", "data.augment=['pad_crop 2','flip']", "epochs=3"]
    settings += ["model.name=mlp", "data.batch_size=8", "optimizer.name=sgd"]
    runs = [
        train(read_config(settings=[*settings, f"backend={name}", f"out={folder}/{name}"])) for name in ("torch", "jax")
    ]
    for one, other in zip(*(run.epochs for run in runs), strict=True):
        assert one.test.loss == pytest.approx(other.test.loss, rel=1e-4)


def test_an_image_that_is_none_is_named(folder: Path) -> None:
    broken = folder / "train" / "dark" / "05.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match=r"dark/05.png is no image that can be read"):
        list(data.load("image_folder", folder).train.in_order(8))


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder `train` of images"):
        data.load("image_folder", tmp_path / "nothing")
    (folder / "val" / "grey").mkdir()
    with pytest.raises(UserError, match="grey is a class that"):
        data.load("image_folder", folder)


def test_images_of_sixteen_bits_and_fractions(folder: Path) -> None:
    grey = np.full((20, 20), 0x8000, np.uint16)
    Image.fromarray(grey).save(folder / "train" / "dark" / "00.png")
    found = data.load("image_folder", folder)
    place = next(index for index, name in enumerate(found.train.files) if name.endswith("dark/00.png"))
    assert found.train.batch(np.array([place])).images.round(3).max() == pytest.approx(128 / 255, abs=1e-3)
    Image.fromarray(np.ones((20, 20), np.float32)).save(folder / "train" / "dark" / "00.tiff")
    found = data.load("image_folder", folder)
    with pytest.raises(UserError, match="fractions"):
        list(found.train.in_order(8))


def test_a_class_without_images_is_named(folder: Path) -> None:
    (folder / "train" / "grey").mkdir()
    with pytest.raises(UserError, match="grey has no images"):
        data.load("image_folder", folder)


def test_an_image_that_would_fill_the_memory_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"no image that can be read: .*decompression bomb"):
        data.load("image_folder", folder)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups")
def test_a_group_that_is_asked_to_stop_saves_and_goes_on(folder: Path) -> None:
    call = [
        sys.executable,
        "-m",
        "ruledsl",
        "train",
        "kolen_pollack",
        "--data",
        "image_folder",
        "--data-dir",
        str(folder),
    ]
    settings = ["data.workers=2", "data.batch_size=8", "checkpoint_every=0.1", "probe_every=0", "backend=torch"]
    call += ["--model", "mlp", "--epochs", "500", "--out", str(folder / "run"), *(f"--set={each}" for each in settings)]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 120
    while not Checkpoints(folder / "run").positions()[:1] > [(0, 0)] and time.monotonic() < until:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "interrupted by SIGTERM" in said and f"ruledsl train --resume {folder / 'run'}" in said
    assert json.loads((folder / "run" / "summary.json").read_text())["status"] == "interrupted"


def test_a_process_that_reads_and_is_ended_is_a_message(folder: Path) -> None:
    split = data.load("image_folder", folder).read_by(2).train
    order = np.tile(split.order(8, 0, 0), (50, 1))
    batches = split.batches(order, 0, len(order), 0, 0)
    next(batches)
    for reader in multiprocessing.active_children():
        if reader.name.startswith("grain"):
            reader.kill()
    with pytest.raises(ReadersEnded, match="a process that reads images has ended"):
        list(batches)
