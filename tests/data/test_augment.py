"""Augmentation: what it does to images, and that it follows from the seed and the time alone."""

from __future__ import annotations

import numpy as np
import pytest

from ruledsl import data
from ruledsl.data.augment import augmentations
from ruledsl.data.dataset import draws_of
from ruledsl.errors import UserError

IMAGES = np.arange(1, 6 * 3 * 8 * 10 + 1, dtype=np.float32).reshape(6, 3, 8, 10)


def changed(text: str, images: np.ndarray = IMAGES, epoch: int = 0) -> np.ndarray:
    (each,) = augmentations([text])
    return each.train(images, draws_of(0, epoch, 0))


def test_a_flip_turns_half_of_the_images() -> None:
    found = changed("flip", np.repeat(IMAGES, 50, axis=0))
    turned = (found == np.repeat(IMAGES, 50, axis=0)[..., ::-1]).all((1, 2, 3))
    kept = (found == np.repeat(IMAGES, 50, axis=0)).all((1, 2, 3))
    assert (turned ^ kept).all() and 0.4 < turned.mean() < 0.6


@pytest.mark.parametrize(("text", "height", "width"), [("crop 5", 5, 5), ("pad_crop 2", 8, 10)])
def test_windows_are_parts_of_the_image_at_all_places(text: str, height: int, width: int) -> None:
    many = np.repeat(IMAGES[:1], 400, axis=0)
    found = changed(text, many)
    assert found.shape == (400, 3, height, width)
    around = 2 if text.startswith("pad") else 0
    whole = np.pad(IMAGES[0], ((0, 0), (around, around), (around, around)))
    windows = {
        whole[:, top : top + height, left : left + width].tobytes(): (top, left)
        for top in range(whole.shape[1] - height + 1)
        for left in range(whole.shape[2] - width + 1)
    }
    assert {windows[image.tobytes()] for image in found} == set(windows.values())


def test_cutout_covers_a_square_in_all_channels() -> None:
    found = changed("cutout 4", np.repeat(IMAGES[:1], 200, axis=0))
    covered = found == 0
    assert (covered.all(1) == covered.any(1)).all()
    assert covered[:, 0].sum((1, 2)).max() == 16 and covered[:, 0].sum((1, 2)).min() >= 4
    assert (found[~covered] == np.repeat(IMAGES[:1], 200, axis=0)[~covered]).all()


def test_a_resized_part_of_a_slope_is_a_slope_within_it() -> None:
    slope = np.broadcast_to(np.linspace(0, 1, 40, dtype=np.float32), (50, 3, 30, 40))
    found = changed("random_resized_crop 12", np.ascontiguousarray(slope))
    assert found.shape == (50, 3, 12, 12)
    assert (np.diff(found, axis=3) > 0).all() and np.allclose(np.diff(found, axis=2), 0, atol=1e-6)
    spans = found[:, 0, 0, -1] - found[:, 0, 0, 0]
    assert spans.min() > 0.1 and spans.max() > 0.6 and found.min() >= 0 and found.max() <= 1


def test_test_images_get_the_size_of_the_training_images_and_nothing_random() -> None:
    dataset = data.load("synthetic", shape=(3, 12, 12), train=20, test=8)
    found = dataset.augmented(augmentations(["pad_crop 2", "crop 8", "flip"]))
    assert found.shape == found.test.shape == (3, 8, 8)
    assert (found.test.images == dataset.test.images[:, :, 2:10, 2:10]).all()


def test_a_batch_follows_from_seed_epoch_and_number() -> None:
    dataset = data.load("synthetic", shape=(3, 8, 8), train=64, test=8)
    split = dataset.augmented(augmentations(["pad_crop 2", "flip"])).train
    order = split.order(16, 0, 1)
    whole = [batch.images for batch in split.batches(order, 0, 4, 0, 1)]
    assert (next(split.batches(order, 2, 1, 0, 1)).images == whole[2]).all()
    assert (next(split.batches(order, 2, 1, 0, 2)).images != whole[2]).any()
    assert (next(split.batches(order, 2, 1, 5, 1)).images != whole[2]).any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flop", "did you mean `flip`"),
        ("crop", "crop N"),
        ("crop many", "crop N"),
        ("flip 3", '"flip"'),
        ("crop 0", "crop N"),
    ],
)
def test_a_wrong_augmentation_is_a_message(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        augmentations([text])
    assert said in str(caught.value)


def test_windows_that_do_not_fit_and_vectors_are_messages() -> None:
    with pytest.raises(UserError, match="does not fit"):
        data.load("synthetic", shape=(3, 8, 8)).augmented(augmentations(["crop 9"]))
    with pytest.raises(UserError, match="vectors"):
        data.load("synthetic", shape=(8,)).augmented(augmentations(["flip"]))
