"""What every operation means, in NumPy. Kept out of `ruledsl.ir.operations` so that checking a rule needs no NumPy.

Activities are [batch, units] or [batch, channels, height, width]; a reduced axis keeps the size one. A value with one
number per unit is [units] or [channels, 1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ruledsl.ir.nodes import Node
from ruledsl.ir.operations import SHORTEST
from ruledsl.ir.types import OUT, POST

Array = Any
Meaning = Callable[..., Array]


def _axes(axis: object, value: Array) -> tuple[int, ...]:
    units = -3 if value.ndim >= 3 else -1
    return {"batch": (0,), "units": (units,), "positions": tuple(range(units + 1, 0))}[str(axis)]


def _count(node: Node, layer: Any, value: Array) -> float:
    if node.attrs[0] is None:
        return float(np.size(value))
    return float(np.prod([value.shape[axis] for axis in _axes(node.attrs[0], value)]))


def _over(function: Callable[..., Array]) -> Meaning:
    def meaning(node: Node, layer: Any, value: Array) -> Array:
        if node.attrs[0] is None:
            return function(value)
        axes = _axes(node.attrs[0], value)
        return function(value, axis=axes, keepdims=True) if axes else function(value[..., None], axis=-1)

    return meaning


def _l2_norm(node: Node, layer: Any, value: Array) -> Array:
    return np.maximum(np.sqrt(_over(np.sum)(node, layer, value * value)), SHORTEST)


def _is_kernel(node: Node) -> bool:
    """Maps between pre and post of this layer are kernels; all others are dense arrays [*source, *target]."""
    spaces = (node.type.source, node.type.target)
    return all(space is not None and space != OUT and not space.index for space in spaces)


def _apply(node: Node, layer: Any, matrix: Array, vector: Array) -> Array:
    maps = node.args[0]
    if _is_kernel(maps):
        return layer.apply(matrix, vector) if maps.type.target == POST else layer.adjoint(matrix, vector)
    summed = vector.ndim - 1
    if stored_forwards(maps):
        return np.tensordot(vector, matrix, axes=summed)
    here = tuple(range(1, vector.ndim))
    there = tuple(range(matrix.ndim - summed, matrix.ndim))
    return np.tensordot(vector, matrix, axes=(here, there))


def stored_forwards(maps: Node) -> bool:
    """Dense maps are stored [*far space, *own space]: is this one read in that direction?"""
    source = maps.type.source
    return source is not None and (source == OUT or source.index is not None)


def _outer(node: Node, layer: Any, after: Array, before: Array) -> Array:
    mean = node.attrs[0]
    if _is_kernel(node):
        post, pre = (after, before) if node.type.target == POST else (before, after)
        return layer.outer(post, pre, mean=mean)
    far, own = (before, after) if stored_forwards(node) else (after, before)
    product = np.tensordot(far, own, axes=([0], [0]))
    return product / len(far) if mean else product


def _dot(node: Node, layer: Any, a: Array, b: Array) -> Array:
    total = np.sum(a * b)
    batch = [len(v) for v, arg in zip((a, b), node.args, strict=True) if "batch" in arg.type.axes]
    return total / max(batch) if batch else total


def _simple(function: Callable[..., Array]) -> Meaning:
    return lambda node, layer, *args: function(*args)


def _divide(a: Array, b: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(a, b)


def _quiet(function: Callable[..., Array]) -> Meaning:
    def meaning(node: Node, layer: Any, *args: Array) -> Array:
        with np.errstate(all="ignore"):
            return function(*args)

    return meaning


MEANINGS: dict[str, Meaning] = {
    "add": _simple(np.add),
    "sub": _simple(np.subtract),
    "mul": _simple(np.multiply),
    "div": _simple(_divide),
    "pow": _quiet(np.power),
    "neg": _simple(np.negative),
    "relu": _simple(lambda v: np.maximum(v, 0.0)),
    "sign": _simple(np.sign),
    "abs": _simple(np.abs),
    "exp": _quiet(np.exp),
    "log": _quiet(np.log),
    "tanh": _simple(np.tanh),
    "sqrt": _quiet(np.sqrt),
    "min": _simple(np.minimum),
    "max": _simple(np.maximum),
    "lt": _simple(np.less),
    "le": _simple(np.less_equal),
    "gt": _simple(np.greater),
    "ge": _simple(np.greater_equal),
    "eq": _simple(np.equal),
    "ne": _simple(np.not_equal),
    "and": _simple(np.logical_and),
    "or": _simple(np.logical_or),
    "not": _simple(np.logical_not),
    "where": _simple(np.where),
    "apply": _apply,
    "outer": _outer,
    "transpose": _simple(lambda matrix: matrix),  # both orientations are stored alike
    "dot": _dot,
    "sq": lambda node, layer, a: np.sum(a * a) / (len(a) if "batch" in node.args[0].type.axes else 1),
    "norm": _simple(lambda matrix: np.sqrt(np.sum(matrix * matrix))),
    "total": _simple(np.sum),
    "mean": _over(np.mean),
    "std": _over(np.std),
    "l2_norm": _l2_norm,
    "count": _count,
    "full_like": _simple(lambda value, number: np.full_like(value, number)),
    "summed": lambda node, layer, v: layer.spread(layer.sum_to_units(v)) if node.type.target != OUT else v.sum(axis=0),
}
