"""Random numbers on the host: found by names alone, and spread as their distributions say."""

from __future__ import annotations

import numpy as np
import pytest

from ruledsl import architectures
from ruledsl.streams import Kernel, Stream, Streams, first_weights, forward_weights, number


def test_a_stream_is_found_by_seed_path_and_name() -> None:
    drawn = Streams(3, "fc1").of("B").normal((4,))
    np.testing.assert_array_equal(drawn, Streams(3, "fc1").of("B").normal((4,)))
    for other in (Streams(4, "fc1").of("B"), Streams(3, "fc2").of("B"), Streams(3, "fc1").of("M")):
        assert not np.isin(drawn, other.normal((4,))).any()


def test_names_do_not_run_into_each_other() -> None:
    assert number(0, "ab", "c") != number(0, "a", "bc") != number(0, "abc")
    assert 0 <= number(0, "fc1", "B") < 2**63


def test_numbers_stay_what_they_are() -> None:
    """Runs of older versions begin with these."""
    assert number(0, "fc1", "B") == 8083094850758960017
    np.testing.assert_allclose(Streams(0, "fc1").of("B").normal((2,)), [-0.85436393, 0.55324386], atol=1e-8)


def test_a_second_draw_goes_on_where_the_first_one_ended() -> None:
    stream = Stream(1)
    parts = np.concatenate([stream.normal((3,)), stream.normal((5,))])
    np.testing.assert_array_equal(parts, Stream(1).normal((8,)))


def test_draws_are_spread_as_they_should_be() -> None:
    normal = Stream(1).normal((200, 500))
    assert abs(normal.mean()) < 0.01 and abs(normal.var() - 1) < 0.02
    uniform = Stream(1).uniform((200, 500), -1.0, 3.0)
    assert uniform.min() >= -1 and uniform.max() <= 3
    assert abs(uniform.mean() - 1) < 0.02 and abs(uniform.var() - 16 / 12) < 0.02
    signs = Stream(1).signs((200, 500), 0.2)
    assert set(np.unique(signs)) == {-1.0, 1.0} and abs((signs < 0).mean() - 0.2) < 0.01


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4), (6, 2, 3, 3)])
def test_orthogonal_maps_have_orthonormal_rows_or_columns(shape: tuple[int, ...]) -> None:
    M = Stream(1).orthogonal(shape).reshape(shape[0], -1)
    smaller = M @ M.T if M.shape[0] <= M.shape[1] else M.T @ M
    np.testing.assert_allclose(smaller, np.eye(min(M.shape)), atol=1e-12)


def test_forward_weights_lie_within_one_over_the_root_of_fan_in() -> None:
    W, b = forward_weights(Kernel((64, 8, 3, 3)), Streams(0, "conv1"))
    assert b is not None and W.shape == (64, 8, 3, 3) and b.shape == (64,)
    bound = 1 / np.sqrt(8 * 9)
    assert bound * 0.99 < np.abs(W).max() < bound and np.abs(b).max() < bound
    assert forward_weights(Kernel((4, 2), bias=False), Streams(0, "fc1"))[1] is None


@pytest.mark.parametrize("name", ["digits_lenet", "resnet18_cifar"])
def test_a_network_has_first_weights_for_every_layer(name: str) -> None:
    architecture = architectures.get(name, (3, 32, 32), 10)
    kernels = architecture.kernels()
    found = {path: (W.shape, b is not None) for path, W, b in first_weights(kernels, 0)}
    assert list(found) == list(architecture.activations())
    assert found == {path: (kernel.shape, kernel.bias) for path, kernel in kernels.items()}
