"""The JAX backend's linear maps equal the reference's, under every transformation."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from geometries import BATCH, CONVS, DENSE, GEOMETRIES, Geometry

from ruledsl.verification.cases import reference_layer

jax = pytest.importorskip("jax")
from jax import numpy as jnp  # noqa: E402

from ruledsl_jax import layouts, linear  # noqa: E402
from ruledsl_jax.executor import linear_map, tensor_from_jax, tensor_to_jax  # noqa: E402

MEANS: tuple[linear.Mean | None, ...] = (None, "batch", "all")
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
STACKED = ("stride_skips_pixels", "depthwise", "everything")
precisions = pytest.mark.parametrize("dtype", TOLERANCE)
geometries = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


KERNEL = ("pre", "post")


def arrays(geometry: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    layer = reference_layer(geometry)
    rng = np.random.default_rng(0)
    shapes = (layer.kernel_shape, (BATCH, *layer.pre_shape), (BATCH, *layer.post_shape))
    kernel, pre, post = (rng.normal(size=shape) for shape in shapes)
    return kernel, pre, post


def close(found: Any, expected: np.ndarray, dtype: str) -> None:
    found = np.asarray(found)
    assert found.dtype == dtype
    assert found.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@geometries
@precisions
def test_maps_equal_the_reference(geometry: Geometry, dtype: str) -> None:
    M, x, v = arrays(geometry)
    reference, layer = reference_layer(geometry), linear_map(geometry)
    per_unit = np.arange(1.0, v.shape[1] + 1)

    @jax.jit
    def everything(kernel: Any, pre: Any, post: Any, per_unit: Any) -> dict[str, Any]:
        return {
            "apply": layer.apply(kernel, pre),
            "adjoint": layer.adjoint(kernel, post),
            "outer": [layer.outer(post, pre, mean) for mean in MEANS],
            "sum_to_units": layer.sum_to_units(post),
            "mean_positions": layer.mean_positions(post),
            "sum_positions": layer.sum_positions(post),
            "spread": layer.spread(per_unit) * post,
        }

    with jax.enable_x64(dtype == "float64"):
        kernel = jnp.asarray(tensor_to_jax(geometry, KERNEL, M), dtype)
        pre, post = (jnp.asarray(layouts.activity_to_jax(a), dtype) for a in (x, v))
        found = jax.tree.map(np.asarray, everything(kernel, pre, post, jnp.asarray(per_unit, dtype)))
    from_jax = layouts.activity_from_jax
    close(from_jax(found["apply"]), reference.apply(M, x), dtype)
    close(from_jax(found["adjoint"]), reference.adjoint(M, v), dtype)
    for mean, outer in zip(MEANS, found["outer"], strict=True):
        close(tensor_from_jax(geometry, KERNEL, outer), reference.outer(v, x, mean), dtype)
    close(found["sum_to_units"], reference.sum_to_units(v), dtype)
    close(from_jax(found["mean_positions"]), reference.mean_positions(v), dtype)
    close(from_jax(found["sum_positions"]), reference.sum_positions(v), dtype)
    close(from_jax(found["spread"]), reference.spread(per_unit) * v, dtype)
    assert layer.positions(post) == reference.positions(v)


@geometries
def test_sizes_equal_the_reference(geometry: Geometry) -> None:
    reference, layer = reference_layer(geometry), linear_map(geometry)
    M, x, v = arrays(geometry)
    assert layer.kernel_shape == tensor_to_jax(geometry, KERNEL, M).shape
    assert layer.pre_shape == layouts.activity_to_jax(x).shape[1:]
    assert layer.post_shape == layouts.activity_to_jax(v).shape[1:]
    assert (layer.fan_in, layer.fan_out) == (reference.fan_in, reference.fan_out)


@geometries
def test_maps_are_differentiable_in_both_arguments(geometry: Geometry) -> None:
    """Each of the three is bilinear, and the three are each other's derivatives."""
    layer = linear_map(geometry)
    M, x, v = arrays(geometry)
    with jax.enable_x64(True):
        kernel = jnp.asarray(tensor_to_jax(geometry, KERNEL, M))
        pre, post = (jnp.asarray(layouts.activity_to_jax(a)) for a in (x, v))

        @jax.jit
        def gaps(kernel: Any, pre: Any, post: Any) -> Any:
            by_kernel, by_post = jax.vjp(layer.adjoint, kernel, post)[1](pre)
            through_outer = jax.vjp(layer.outer, post, pre)[1](kernel)
            return (
                by_kernel - layer.outer(post, pre),
                by_post - layer.apply(kernel, pre),
                through_outer[0] - layer.apply(kernel, pre),
                through_outer[1] - layer.adjoint(kernel, post),
            )

        for gap in gaps(kernel, pre, post):
            np.testing.assert_allclose(gap, 0.0, atol=1e-10)


@pytest.mark.parametrize("geometry", [DENSE[0], *(conv for conv in CONVS if conv.name in STACKED)], ids=str)
def test_maps_work_under_vmap(geometry: Geometry) -> None:
    """A stack of three kernels, as in an ensemble, and of three batches."""
    layer = linear_map(geometry)
    M, x, v = arrays(geometry)
    with jax.enable_x64(True):
        kernels, pres, posts = (
            jnp.stack([jnp.asarray(to_jax(a)) * (k + 1) for k in range(3)])
            for to_jax, a in (
                (partial(tensor_to_jax, geometry, KERNEL), M),
                (layouts.activity_to_jax, x),
                (layouts.activity_to_jax, v),
            )
        )

        @jax.jit
        def gaps(kernels: Any, pres: Any, posts: Any) -> Any:
            found = []
            for function, first, second in (
                (layer.apply, kernels, pres),
                (layer.adjoint, kernels, posts),
                (layer.outer, posts, pres),
            ):
                one_by_one = jnp.stack([function(a, b) for a, b in zip(first, second, strict=True)])
                found.append(jax.vmap(function)(first, second) - one_by_one)
                one_shared = jnp.stack([function(first[0], b) for b in second])
                found.append(jax.vmap(function, (None, 0))(first[0], second) - one_shared)
            return found

        for gap in gaps(kernels, pres, posts):
            np.testing.assert_allclose(gap, 0.0, atol=1e-10)


def test_layers_are_static_arguments() -> None:
    layer = linear_map(CONVS[0])
    assert hash(layer) == hash(linear_map(CONVS[0]))
    assert layer == linear_map(CONVS[0])


def test_padding_may_differ_between_the_sides() -> None:
    layer = linear.Convolution(2, 3, (2, 3), (5, 6), (2, 2), ((0, 1), (1, 0)))
    even = linear.Convolution(2, 3, (2, 3), (6, 7), (2, 2))
    rng = np.random.default_rng(0)
    M, x = rng.normal(size=layer.kernel_shape), rng.normal(size=(BATCH, *layer.pre_shape))
    padded = np.pad(x, ((0, 0), (0, 1), (1, 0), (0, 0)))
    with jax.enable_x64(True):
        u = layer.apply(jnp.asarray(M), jnp.asarray(x))
        assert u.shape == (BATCH, *layer.post_shape)
        np.testing.assert_allclose(u, even.apply(jnp.asarray(M), jnp.asarray(padded)), atol=1e-12)
        pre = layer.adjoint(jnp.asarray(M), u)
        np.testing.assert_allclose(pre, even.adjoint(jnp.asarray(M), u)[:, :-1, 1:], atol=1e-12)


MORE = (
    linear.Convolution(4, 6, (3,), (9,), (2,), (1,), (2,), 2),
    linear.Convolution(2, 4, (2, 3, 2), (5, 6, 4), (2, 1, 2), (1, 0, (1, 0)), (1, 2, 1), 2),
    linear.Convolution(4, 6, (3, 2), (5, 4), padding=((2, 1), (1, 1)), input_dilation=(2, 3), groups=2),
    linear.Convolution(2, 3, (4,), (6,), padding=((3, 2),), input_dilation=(2,), dilation=(2,)),
    linear.Embedding(7, 3),
)


@pytest.mark.parametrize("layer", MORE, ids=str)
def test_maps_of_every_kind_are_the_derivatives_of_apply(layer: linear.Linear) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        M, v = (
            jnp.asarray(rng.normal(size=layer.kernel_shape)),
            jnp.asarray(rng.normal(size=(BATCH, *layer.post_shape))),
        )
        b = jnp.asarray(rng.normal(size=layer.units_out))
        if isinstance(layer, linear.Embedding):
            x = jnp.asarray(rng.integers(layer.units_in, size=BATCH))
            one_hot = jax.nn.one_hot(x, layer.units_in, dtype=M.dtype)
            np.testing.assert_allclose(layer.apply(M, x), one_hot @ M, atol=1e-12)
            np.testing.assert_allclose(layer.adjoint(M, v), jax.vjp(lambda x: x @ M, one_hot)[1](v)[0], atol=1e-12)
        else:
            x = jnp.asarray(rng.normal(size=(BATCH, *layer.pre_shape)))
            np.testing.assert_allclose(
                layer.adjoint(M, v), jax.vjp(lambda x: layer.apply(M, x), x)[1](v)[0], atol=1e-12
            )
        u, pull = jax.vjp(lambda M, b: layer.apply(M, x, b), M, b)
        assert u.shape == v.shape
        to_M, to_b = pull(v)
        np.testing.assert_allclose(layer.outer(v, x), to_M, atol=1e-12)
        np.testing.assert_allclose(layer.sum_to_units(v), to_b, atol=1e-12)
        positions = v[0, ..., 0].size
        assert layer.positions(v) == positions
        np.testing.assert_allclose(layer.outer(v, x, "all") * BATCH * positions, to_M, atol=1e-12)
        np.testing.assert_allclose(layer.outer(v, x, "batch") * BATCH, to_M, atol=1e-12)
        np.testing.assert_allclose(layer.mean_positions(v) * positions, layer.sum_positions(v), atol=1e-12)
        np.testing.assert_allclose(layer.apply(M, x) + layer.spread(b), u, atol=1e-12)
