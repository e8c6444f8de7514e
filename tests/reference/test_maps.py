"""The reference's linear maps mean what their definitions say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from geometries import BATCH, GEOMETRIES, Geometry

from ruledsl.reference.maps import Dense, Linear
from ruledsl.verification.cases import reference_layer

pytestmark = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


def arrays(layer: Linear, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A kernel, an activity over pre and one over post."""
    rng = np.random.default_rng(seed)
    shapes = (layer.kernel_shape, (BATCH, *layer.pre_shape), (BATCH, *layer.post_shape))
    kernel, pre, post = (rng.normal(size=shape) for shape in shapes)
    return kernel, pre, post


def test_shapes_are_those_of_the_layer(geometry: Geometry) -> None:
    layer = reference_layer(geometry)
    M, x, v = arrays(layer)
    assert layer.apply(M, x).shape == (BATCH, *layer.post_shape)
    assert layer.adjoint(M, v).shape == (BATCH, *layer.pre_shape)
    assert layer.outer(v, x).shape == layer.kernel_shape


def test_adjoint_is_the_adjoint_of_apply(geometry: Geometry) -> None:
    layer = reference_layer(geometry)
    M, x, v = arrays(layer)
    np.testing.assert_allclose(np.sum(v * layer.apply(M, x)), np.sum(layer.adjoint(M, v) * x), rtol=1e-12, atol=1e-12)


def test_outer_is_the_derivative_of_apply_by_the_kernel(geometry: Geometry) -> None:
    layer = reference_layer(geometry)
    _, x, v = arrays(layer)
    gradient = layer.outer(v, x)
    for index in np.ndindex(*layer.kernel_shape):
        direction = np.zeros(layer.kernel_shape)
        direction[index] = 1.0
        np.testing.assert_allclose(np.sum(v * layer.apply(direction, x)), gradient[index], rtol=1e-10, atol=1e-12)


def test_outer_averages_over_what_it_is_told(geometry: Geometry) -> None:
    layer = reference_layer(geometry)
    _, x, v = arrays(layer)
    summed = layer.outer(v, x)
    positions = int(np.prod(layer.post_shape[1:]))
    np.testing.assert_allclose(layer.outer(v, x, mean="batch"), summed / BATCH)
    np.testing.assert_allclose(layer.outer(v, x, mean="all"), summed / (BATCH * positions))


def test_apply_is_the_sum_over_synapses(geometry: Geometry) -> None:
    """The definition once more, one product at a time."""
    layer = reference_layer(geometry)
    M, x, _ = arrays(layer)
    u = np.zeros((BATCH, *layer.post_shape))
    if isinstance(layer, Dense):
        for n, o, i in np.ndindex(BATCH, layer.units_out, layer.units_in):
            u[n, o] += M[o, i] * x[n, i]
    else:
        outputs, inputs = layer.channels_out // layer.groups, layer.channels_in // layer.groups
        coarse, fine = layer.output_size, layer.input_size
        if layer.transposed:
            coarse, fine = fine, coarse
        for p, k in product(np.ndindex(coarse), np.ndindex(layer.kernel_size)):
            q = tuple(np.multiply(layer.stride, p) + np.multiply(layer.dilation, k) - layer.padding)
            if all(0 <= at < size for at, size in zip(q, fine, strict=True)):
                for group, o, i in np.ndindex(layer.groups, outputs, inputs):
                    post, pre = group * outputs + o, group * inputs + i
                    if layer.transposed:
                        u[:, post, *q] += M[pre, o, *k] * x[:, pre, *p]
                    else:
                        u[:, post, *p] += M[post, i, *k] * x[:, pre, *q]
    np.testing.assert_allclose(layer.apply(M, x), u, rtol=1e-12, atol=1e-12)


def test_fans_count_the_synapses(geometry: Geometry) -> None:
    layer = reference_layer(geometry)
    channels_in, channels_out = layer.pre_shape[0], layer.post_shape[0]
    assert layer.fan_in * channels_out == layer.fan_out * channels_in == np.prod(layer.kernel_shape)


def test_reductions_go_over_batch_and_positions(geometry: Geometry) -> None:
    layer = reference_layer(geometry)
    _, _, v = arrays(layer)
    flat = v.reshape(BATCH, v.shape[1], -1)
    assert layer.positions(v) == flat.shape[2]
    np.testing.assert_allclose(layer.sum_to_units(v), flat.sum((0, 2)))
    np.testing.assert_allclose(layer.sum_positions(v).reshape(BATCH, -1), flat.sum(2))
    np.testing.assert_allclose(layer.mean_positions(v).reshape(BATCH, -1), flat.mean(2))
    assert np.broadcast_shapes(layer.spread(np.ones(v.shape[1])).shape, v.shape) == v.shape


def test_torch_agrees(geometry: Geometry) -> None:
    torch = pytest.importorskip("torch")
    layer = reference_layer(geometry)
    M, x, v = arrays(layer)
    W, pre = (torch.from_numpy(array).requires_grad_() for array in (M, x))
    if isinstance(layer, Dense):
        u = torch.nn.functional.linear(pre, W)
    else:
        more = (layer.stride, layer.padding, layer.dilation, layer.transposed, layer.output_padding, layer.groups)
        u = torch.convolution(pre, W, None, *more)
    u.backward(torch.from_numpy(v))
    np.testing.assert_allclose(layer.apply(M, x), u.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.adjoint(M, v), pre.grad.numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.outer(v, x), W.grad.numpy(), rtol=1e-10, atol=1e-12)
