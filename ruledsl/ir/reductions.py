"""Operations that sum or average: over everything there is, or over one axis of an activity.

An activity is [batch, units] or [batch, channels, *size]; a reduced axis keeps the size one, so that everything
broadcasts as in NumPy. A value with one number per unit is [units] or, in two dimensions, [channels, 1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ruledsl.ir import type_rules as rules
from ruledsl.ir.nodes import Node, scalar
from ruledsl.ir.operation import Call, Cotangents, Meaning, Operation, make, reduced
from ruledsl.ir.types import OUT

SHORTEST = 1e-6  # `normalize` divides by at least this length, so that a silent layer stays finite


def _axes(node: Node, layer: Any, value: Any) -> tuple[int, ...]:
    """The axes of an argument that a node goes over: its units stand before as many dimensions as positions have."""
    space = node.args[0].type.target
    assert space is not None
    positions = 0 if space == OUT else value.ndim - 2 if space.index else layer.dimensions
    return {"batch": (0,), "units": (-1 - positions,), "positions": tuple(range(-positions, 0))}[str(node.attrs[0])]


def _over(function: Callable[[Any], Meaning]) -> Meaning:
    """A function of NumPy over the axis of the node, or over everything where it names none."""

    def meaning(np: Any, node: Node, layer: Any, value: Any) -> Any:
        reduce = function(np)
        if node.attrs[0] is None:
            return reduce(value)
        axes = _axes(node, layer, value)
        return reduce(value, axis=axes, keepdims=True) if axes else reduce(value[..., None], axis=-1)

    return meaning


# --- over everything ---


def _per_example(g: Node, *vectors: Node) -> Node:
    """`dot` is a mean over the batch, where any of its vectors has one."""
    return make("div", g, scalar("batch_size")) if any("batch" in v.type.axes for v in vectors) else g


def _dot(node: Node, g: Node) -> Cotangents:
    a, b = node.args
    g = _per_example(g, a, b)
    return [reduced(make("mul", g, b), a.type), reduced(make("mul", g, a), b.type)]


def _inner_product(np: Any, node: Node, layer: Any, a: Any, b: Any) -> Any:
    total = np.sum(a * b)
    batch = [len(v) for v, arg in zip((a, b), node.args, strict=True) if "batch" in arg.type.axes]
    return total / max(batch) if batch else total


def _sq(node: Node, g: Node) -> Cotangents:
    (a,) = node.args
    return [make("mul", make("mul", 2.0, _per_example(g, a)), a)]


def _squared(np: Any, node: Node, layer: Any, a: Any) -> Any:
    return np.sum(a * a) / (len(a) if "batch" in node.args[0].type.axes else 1)


def _norm(node: Node, g: Node) -> Cotangents:
    return [make("mul", make("div", g, node), node.args[0])]


# --- over an axis ---


def _mean(node: Node, g: Node) -> Cotangents:
    (a,) = node.args
    share = make("div", g, make("count", a, attrs=node.attrs))
    return [make("mul", make("full_like", a, 1.0), share)]


def _std(node: Node, g: Node) -> Cotangents:
    (a,) = node.args
    deviation = make("sub", a, make("mean", a, attrs=node.attrs))
    slope = make("mul", make("div", g, make("mul", make("count", a, attrs=node.attrs), node)), deviation)
    return [make("where", make("gt", node, 0.0), slope, 0.0)]  # units that are silent together have no slope


def _l2_norm(node: Node, g: Node) -> Cotangents:
    (a,) = node.args
    return [make("where", make("gt", node, SHORTEST), make("mul", g, make("div", a, node)), 0.0)]


def _length(np: Any, node: Node, layer: Any, value: Any) -> Any:
    squares = _over(lambda np: np.sum)(np, node, layer, value * value)
    return np.maximum(np.sqrt(squares), SHORTEST)


def _count(np: Any, node: Node, layer: Any, value: Any) -> float:
    if node.attrs[0] is None:
        return float(np.size(value))
    return float(np.prod([value.shape[axis] for axis in _axes(node, layer, value)]))


ROWS = (
    Operation(
        "dot",
        rules.inner_product,
        Call("dot", 2),
        flow="pooled_everywhere",
        derivative=_dot,
        numpy=_inner_product,
        commutative=True,
        homogeneity="product",
    ),
    Operation(
        "sq",
        rules.inner_product,
        Call("sq", 1),
        flow="pooled_everywhere",
        derivative=_sq,
        numpy=_squared,
        homogeneity="square",
    ),
    Operation(
        "norm",
        rules.of_map,
        Call("norm", 1),
        flow="pooled_everywhere",
        derivative=_norm,
        numpy=lambda np, node, layer, matrix: np.sqrt(np.sum(matrix * matrix)),
        homogeneity="kept",
    ),
    Operation(
        "sum_all",
        rules.everything,
        flow="pooled_everywhere",
        derivative=lambda node, g: [make("full_like", node.args[0], g)],
        numpy=lambda np, node, layer, value: np.sum(value),
        homogeneity="kept",
    ),
    Operation(
        "mean",
        rules.reduction,
        Call("mean", 1, axis=True),
        flow="pooled",
        derivative=_mean,
        numpy=_over(lambda np: np.mean),
        homogeneity="kept",
    ),
    Operation(
        "std",
        rules.reduction,
        Call("std", 1, axis=True),
        flow="pooled",
        derivative=_std,
        numpy=_over(lambda np: np.std),
        homogeneity="kept",
    ),
    Operation("l2_norm", rules.reduction, flow="pooled", derivative=_l2_norm, numpy=_length),
    Operation("count", rules.everything, flow="nothing", numpy=_count, homogeneity="nothing"),
)
