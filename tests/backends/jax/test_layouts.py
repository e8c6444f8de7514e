"""Arrays go to JAX's layout and come back unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from ruledsl_jax import layouts


@pytest.mark.parametrize(
    ("space", "shape", "conv", "expected"),
    [
        ((), (), False, ()),
        (("post",), (4,), True, (4,)),
        (("pre", "post"), (4, 3), False, (3, 4)),
        (("post", "pre"), (4, 3), False, (3, 4)),
        (("post", "pre"), (5, 2, 3, 4), True, (3, 4, 2, 5)),
        (("out", "pre"), (10, 3), False, (10, 3)),
        (("out", "pre"), (10, 2, 3, 4), True, (10, 3, 4, 2)),
        (("post[k]", "pre"), (5, 6, 7, 2, 3, 4), True, (6, 7, 5, 3, 4, 2)),
        (("post[k]", "pre"), (9, 2, 3, 4), True, (9, 3, 4, 2)),
        (("post[k]", "pre"), (5, 6, 7, 9), False, (6, 7, 5, 9)),
    ],
)
def test_tensors_of_a_rule_keep_their_entries(
    space: tuple[str, ...], shape: tuple[int, ...], conv: bool, expected: tuple[int, ...]
) -> None:
    value = np.arange(np.prod(shape)).reshape(shape)
    there = layouts.tensor_to_jax(space, value, 3 if conv else 1)
    assert there.shape == expected
    np.testing.assert_array_equal(layouts.tensor_from_jax(space, there, 3 if conv else 1), value)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5)])
def test_activities_come_back(shape: tuple[int, ...]) -> None:
    v = np.random.default_rng(0).normal(size=shape)
    assert layouts.activity_to_jax(v).shape[-1] == shape[1]
    np.testing.assert_array_equal(layouts.activity_from_jax(layouts.activity_to_jax(v)), v)
