"""The linear maps of the torch backend against autograd, on every geometry."""

from __future__ import annotations

import pytest
import torch
from backends.torch import small
from geometries import GEOMETRIES, Geometry
from torch import nn
from torch.nn import functional as F

from ruledsl.verification.cases import reference_layer
from ruledsl_torch.executor import linear_map as map_of_geometry
from ruledsl_torch.linear import KINDS, dense, symmetric_padding

every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


def pieces(geometry: Geometry):
    """The map, its kernel, an x over pre and a v over post, in float64."""
    module, x = small.layer(geometry, torch.float64)
    module.bias = None
    v = torch.randn_like(module(x))
    return KINDS[type(module)][0](module, x), module.weight, x.requires_grad_(), v


@every_geometry
def test_a_map_is_that_of_its_geometry(geometry):
    assert map_of_geometry(geometry) == pieces(geometry)[0]


@every_geometry
def test_sizes_equal_the_reference(geometry):
    linear, W, x, v = pieces(geometry)
    reference = reference_layer(geometry)
    for name in ("units_in", "units_out", "kernel_shape", "fan_in", "fan_out"):
        assert getattr(linear, name) == getattr(reference, name)
    assert (x.shape[1:], v.shape[1:], W.shape) == (reference.pre_shape, reference.post_shape, reference.kernel_shape)


@every_geometry
def test_adjoint_and_outer_are_the_gradients_of_apply(geometry):
    linear, W, x, v = pieces(geometry)
    send, kernel = torch.autograd.grad(linear.apply(W, x), (x, W), v)
    assert small.relative(linear.adjoint(W, v), send) < 1e-12
    assert small.relative(linear.outer(v, x), kernel) < 1e-12
    assert linear.outer(v, x).shape == linear.kernel_shape


@every_geometry
def test_adjoint_identity(geometry):
    linear, W, x, v = pieces(geometry)
    left, right = (linear.apply(W, x) * v).sum(), (x * linear.adjoint(W, v)).sum()
    assert torch.isclose(left, right, rtol=1e-12)


@every_geometry
def test_means_of_outer_divide_by_batch_and_positions(geometry):
    linear, _, x, v = pieces(geometry)
    positions = v[0, 0].numel()
    assert linear.positions(v) == positions
    assert torch.allclose(linear.outer(v, x, mean="batch") * len(x), linear.outer(v, x))
    assert torch.allclose(linear.outer(v, x, mean="all") * len(x) * positions, linear.outer(v, x))


@every_geometry
def test_numbers_per_unit_spread_and_sum(geometry):
    linear, _, _, v = pieces(geometry)
    p = torch.randn(linear.units_out, dtype=torch.float64)
    axes = tuple(axis for axis in range(v.dim()) if axis != 1)
    assert torch.equal(linear.spread(p) + v, v + p.reshape(1, -1, *[1] * (v.dim() - 2)))
    assert torch.allclose(linear.sum_to_units(v), v.sum(axes))
    assert torch.allclose(linear.sum_to_units(linear.mean_positions(v)) * linear.positions(v), v.sum(axes))
    assert torch.allclose(linear.sum_to_units(linear.sum_positions(v)), v.sum(axes))


def test_a_dense_map_treats_more_leading_axes_as_batch():
    module, v = nn.Linear(4, 3), torch.randn(2, 5, 3)
    x = torch.randn(2, 5, 4, requires_grad=True)
    send, kernel = torch.autograd.grad(F.linear(x, module.weight), (x, module.weight), v)
    linear = dense(module)
    assert torch.allclose(linear.adjoint(module.weight, v), send, atol=1e-6)
    assert torch.allclose(linear.outer(v, x), kernel, atol=1e-6)


def test_padding_by_name_becomes_pixels_where_both_sides_are_equal():
    assert symmetric_padding(nn.Conv2d(1, 1, (3, 5), padding="same", dilation=(2, 1))) == (2, 2)
    assert symmetric_padding(nn.Conv2d(1, 1, 3, padding="valid")) == (0, 0)
    assert symmetric_padding(nn.Conv2d(1, 1, 2, padding="same")) is None
