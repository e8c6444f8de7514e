"""Windows over images, and their derivative: what PyTorch has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("torch")

import jax
import torch
from torch.nn import functional

from ruledsl.architectures.components import Pool
from ruledsl_jax.pooling import pooled

POOLS = [
    (Pool("max", 2, 2), 8),
    (Pool("max", 2, 2), 7),
    (Pool("max", 2, 2, ceil=True), 7),
    (Pool("max", 3, 3, ceil=True), 10),
    (Pool("max", 3, 2), 9),
    (Pool("max", 3, 2, padding=1), 9),
]


def images(pool: Pool, size: int) -> tuple[Any, Any, Any]:
    """Images with many equal entries, channels last; in PyTorch; and what comes of these."""
    v = np.random.default_rng(0).integers(0, 3, (4, size, size + 2, 5)).astype(np.float32)
    there = torch.tensor(np.moveaxis(v, -1, 1)).requires_grad_()
    return v, there, functional.max_pool2d(there, pool.kernel, pool.stride, pool.padding, ceil_mode=pool.ceil)


@pytest.mark.parametrize(("pool", "size"), POOLS, ids=str)
def test_the_largest_entries_and_where_errors_go_are_those_of_torch(pool: Pool, size: int) -> None:
    v, there, expected = images(pool, size)
    error = np.random.default_rng(1).standard_normal(expected.shape).astype(np.float32)
    expected.backward(torch.tensor(error))
    found, back = jax.vjp(lambda v: pooled(pool, v, tuple(expected.shape[2:])), v)
    np.testing.assert_array_equal(np.moveaxis(found, -1, 1), expected.detach().numpy())
    (given,) = back(np.moveaxis(error, 1, -1))
    np.testing.assert_allclose(np.moveaxis(given, -1, 1), there.grad.numpy(), rtol=1e-6)


def test_what_is_no_number_comes_through() -> None:
    v = np.ones((1, 4, 4, 1), np.float32)
    v[0, 1, 1] = np.nan
    assert np.isnan(pooled(Pool("max", 2, 2), v, (2, 2))).sum() == 1
