"""Networks as data: shapes and parameter counts, and what is said when a network cannot be had."""

from __future__ import annotations

import pytest

from ruledsl import architectures
from ruledsl.architectures.components import Conv, Pool, same_padding
from ruledsl.errors import UserError

# Counted by hand from the papers' tables: weights and biases, layer by layer.
HAND_COUNTED = {
    ("mlp", (1, 28, 28), 10): (784 * 256 + 256) + (256 * 10 + 10),
    ("digits_lenet", (1, 8, 8), 10): (16 * 9 + 16) + (32 * 16 * 9 + 32) + (128 * 64 + 64) + (640 + 10),
    ("moskovitz_mnist", (1, 28, 28), 10): (
        (32 * 25 + 32) + (64 * 32 * 25 + 64) + (7 * 7 * 64 * 1024 + 1024) + (1024 * 10 + 10)
    ),
    ("moskovitz_cifar10_1", (3, 24, 24), 10): (
        (64 * 3 * 25 + 64) + (64 * 64 * 25 + 64) + (6 * 6 * 64 * 384 + 384) + (384 * 192 + 192) + (192 * 10 + 10)
    ),
    ("moskovitz_cifar10_2", (3, 32, 32), 10): (
        (96 * 3 * 9 + 96)
        + 2 * (96 * 96 * 9 + 96)
        + (192 * 96 * 9 + 192)
        + 3 * (192 * 192 * 9 + 192)
        + (192 * 192 + 192)
        + (192 * 10 + 10)
    ),
    ("liao_mnist", (1, 28, 28), 10): (20 * 25 + 20) + (50 * 20 * 25 + 50) + (4 * 4 * 50 * 500 + 500) + (5000 + 10),
    ("liao_cifar", (3, 32, 32), 100): (
        (32 * 3 * 25 + 32) + (64 * 32 * 25 + 64) + (64 * 64 * 25 + 64) + (4 * 4 * 64 * 128 + 128) + (128 * 100 + 100)
    ),
    ("liao_svhn", (3, 32, 32), 10): (
        (20 * 3 * 25 + 20) + (512 * 20 * 49 + 512) + (4 * 4 * 512 * 40 + 40) + (40 * 10 + 10)
    ),
    ("liao_timit", (1845,), 80): (1845 * 512 + 512) + (512 * 256 + 256) + (256 * 80 + 80),
    ("liao_other", (3, 119, 119), 102): (
        (48 * 3 * 81 + 48) + (128 * 48 * 25 + 128) + (12 * 12 * 128 * 306 + 306) + (306 * 204 + 204) + (204 * 102 + 102)
    ),
    ("liao_mnist_bn", (1, 28, 28), 10): 431_080 + 2 * (20 + 50 + 500),
    ("resnet18_cifar", (3, 32, 32), 10): 11_173_962,
    ("resnet18", (3, 224, 224), 1000): 11_689_512,
    ("resnet50", (3, 224, 224), 1000): 25_557_032,
}


@pytest.mark.parametrize(("name", "shape", "classes"), HAND_COUNTED)
def test_a_network_has_as_many_parameters_as_its_paper_gives_it(
    name: str, shape: tuple[int, ...], classes: int
) -> None:
    network = architectures.get(name, shape, classes)
    assert network.parameter_count() == HAND_COUNTED[name, shape, classes]


def test_the_shapes_of_the_all_convolutional_network_end_in_the_average_that_the_table_states() -> None:
    network = architectures.get("moskovitz_cifar10_2", (3, 32, 32), 10)
    shapes = {place.path: place.output_shape for place in network.weight_layers()}
    assert shapes["conv3"] == (96, 16, 16)
    assert shapes["conv9"] == (10, 8, 8)


def test_every_hidden_layer_declares_its_activation_and_the_output_none() -> None:
    network = architectures.get("mlp", (1, 8, 8), 10, hidden=[30, 20], activation="tanh")
    assert network.activations() == {"fc1": "tanh", "fc2": "tanh", "fc3": None}


def test_blocks_give_their_layers_paths() -> None:
    paths = [place.path for place in architectures.get("resnet18_cifar", (3, 32, 32), 10).weight_layers()]
    assert len(paths) == 1 + 8 * 2 + 3 + 1
    assert "block2_1.shortcut" in paths
    assert "block1_1.shortcut" not in paths


@pytest.mark.parametrize("size", range(5, 20))
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_same_padding_gives_as_many_positions_as_tensorflow(size: int, stride: int, kernel: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert 0 <= after - before <= 1
    conv = Conv("conv", 4, kernel, stride=stride, padding="same")
    assert conv.output_shape((1, size, size)) == (4, -(-size // stride), -(-size // stride))


def test_a_ceiling_pool_counts_the_window_that_sticks_out() -> None:
    assert Pool("max", 2, 2, ceil=True).output_shape((1, 7, 8)) == (1, 4, 4)
    assert Pool("max", 2, 2).output_shape((1, 7, 8)) == (1, 3, 4)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("lio_mnist", {}, "did you mean `liao_mnist`?"),
        ("mlp", {"hiden": [3]}, "did you mean `hidden`?"),
        ("mlp", {"hidden": "many"}, "option `hidden`"),
        ("mlp", {"activation": "rellu"}, "'relu'"),
        ("mlp", {"hidden": [0]}, "layer fc1 has a side without units"),
        ("vit_cifar", {"heads": 0}, "cannot be built where heads is 0"),
        ("liao_mnist", {}, "conv2: its window of 5 does not fit"),
        ("liao_mnist_bn", {"norm": {"place": "beside"}}, "'before' or 'after'"),
    ],
)
def test_a_network_that_cannot_be_had_says_why(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        architectures.get(name, (1, 8, 8), 10, **options)
    assert said in str(caught.value)


def test_an_image_network_refuses_vectors() -> None:
    with pytest.raises(UserError, match="conv1 needs an image"):
        architectures.get("liao_mnist", (784,), 10)
