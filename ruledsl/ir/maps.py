"""Operations that have to do with maps: application, outer product, transpose; and what a layer brings along.

A map between pre and post of this layer is a kernel, in the layout of the forward kernel in both orientations. All
others are dense arrays, stored [*far space, *own space].
"""

from __future__ import annotations

from typing import Any

from ruledsl.ir import type_rules as rules
from ruledsl.ir.elementwise import times
from ruledsl.ir.nodes import Node
from ruledsl.ir.operation import Call, Cotangents, Infix, Operation, make, reduced
from ruledsl.ir.types import OUT, POST, PRE, SCALAR


def is_kernel(node: Node) -> bool:
    """Whether a map is a kernel of this layer: between pre and post, in either direction."""
    spaces = (node.type.source, node.type.target)
    return all(space is not None and space != OUT and not space.index for space in spaces)


def from_far(node: Node) -> bool:
    """Whether a dense map is read in the direction in which it is stored: from `out` or `post[k]`."""
    source = node.type.source
    return source is not None and (source == OUT or source.index is not None)


def _apply(node: Node, g: Node) -> Cotangents:
    matrix, vector = node.args
    if "batch" in vector.type.axes:
        over_matrix = make("outer", g, vector, attrs=(None,))
    else:  # an average over the batch: one example, whose mean is its sum
        over_matrix = Node("outer", (g, vector), ("batch",), matrix.type)
    return [over_matrix, make("apply", make("transpose", matrix), g)]


def _applied(np: Any, node: Node, layer: Any, matrix: Any, vector: Any) -> Any:
    maps = node.args[0]
    if is_kernel(maps):
        return layer.apply(matrix, vector) if maps.type.target == POST else layer.adjoint(matrix, vector)
    summed = vector.ndim - 1
    if from_far(maps):
        return np.tensordot(vector, matrix, axes=summed)
    here = tuple(range(1, vector.ndim))
    there = tuple(range(matrix.ndim - summed, matrix.ndim))
    return np.tensordot(vector, matrix, axes=(here, there))


def _outer(node: Node, g: Node) -> Cotangents:
    after, before = node.args
    to_after, to_before = make("apply", g, before), make("apply", make("transpose", g), after)
    if node.attrs[0] is None:
        return [to_after, to_before]
    size = make("count", after, attrs=("batch",))
    if node.attrs[0] == "all" and {after.type.target, before.type.target} == {PRE, POST}:
        kernel = after if after.type.target == POST else before
        size = make("mul", size, make("count", kernel, attrs=("positions",)))
    return [make("div", to_after, size), make("div", to_before, size)]


def _outer_product(np: Any, node: Node, layer: Any, after: Any, before: Any) -> Any:
    mean = node.attrs[0]
    if is_kernel(node):
        post, pre = (after, before) if node.type.target == POST else (before, after)
        return layer.outer(post, pre, mean=mean)
    far, own = (before, after) if from_far(node) else (after, before)
    product = np.tensordot(far, own, axes=([0], [0]))
    return product / len(far) if mean else product


def _to_units(np: Any, node: Node, layer: Any, value: Any) -> Any:
    return value.sum(axis=0) if node.type.target == OUT else layer.spread(layer.sum_to_units(value))


ROWS = (
    Operation(
        "apply",
        rules.application,
        Infix("@", 6, everywhere=False),
        flow="applied",
        derivative=_apply,
        numpy=_applied,
        homogeneity="product",
    ),
    Operation(
        "outer",
        rules.outer_product,
        Call("outer", 2, mean=True),
        flow="gathered",
        derivative=_outer,
        numpy=_outer_product,
        homogeneity="product",
    ),
    Operation(
        "transpose",
        rules.transposition,
        flow="transposed",
        derivative=lambda node, g: [make("transpose", g)],
        numpy=lambda np, node, layer, matrix: matrix,
        homogeneity="kept",
    ),
    Operation(
        "phi", rules.own_activation, Call("phi", 1), derivative=times(lambda a, y: make("dphi", a))
    ),  # what it means is for the layer to say
    Operation("dphi", rules.own_activation, differentiable=False),
    Operation(
        "total",
        rules.per_neuron,
        Call("total", 1, mean=True),
        flow="totalled",
        derivative=lambda node, g: [make("mul", make("full_like", node.args[0], 1.0), g)],
        numpy=_to_units,
        homogeneity="kept",
    ),
    Operation(
        "full_like",
        rules.like_first,
        Call("full_like", 2),
        flow="of_second",
        derivative=lambda node, g: [None, reduced(g, SCALAR)],
        numpy=lambda np, node, layer, value, number: np.full_like(value, number, order="C"),  # of the shape alone
        homogeneity="kept",
    ),
    Operation("sum_k", rules.over_layers, Call("sum", 1, index=True), differentiable=False, homogeneity="kept"),
)
