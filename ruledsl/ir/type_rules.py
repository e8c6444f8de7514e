"""The type rules of the operations: from the types of the arguments to the type of the result.

A rule raises `Mismatch` with a code of `ruledsl.messages` and what its message needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ruledsl.ir.nodes import Attribute
from ruledsl.ir.types import AXES, OUT, PER_UNIT, SCALAR, Axis, Space, Type, map_between, synapses_exist

TypeRule = Callable[[Sequence[Type], Sequence[Attribute]], Type]


class Mismatch(Exception):
    """The arguments do not fit the operation."""

    def __init__(self, code: str, argument: int | None = None, **values: object) -> None:
        self.code, self.argument, self.values = code, argument, values
        super().__init__(code)


def combined(types: Sequence[Type]) -> Type:
    """Elementwise: equal types, a scalar with anything, vectors over one space by their axes. Of numbers."""
    result = SCALAR
    for position, type in enumerate(types):
        type = type.number
        if result.kind == "scalar":
            result = type
        elif type.kind == "scalar" or type == result:
            continue
        elif type.kind == "vector" == result.kind and type.target == result.target:
            result = Type("vector", target=type.target, axes=type.axes | result.axes)
        else:
            raise Mismatch("E0301", position, left=result.in_words, right=type.in_words)
    return result


def numbers(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """Elementwise on numbers."""
    for position, type in enumerate(types):
        if type.boolean:
            raise Mismatch("E0302", position, found=type.in_words)
    return combined(types)


def comparison(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """Elementwise on numbers, giving truth values."""
    return numbers(types, attrs).condition


def logic(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """Elementwise on truth values."""
    for position, type in enumerate(types):
        if not type.boolean:
            raise Mismatch("E0303", position, found=type.in_words)
    return combined(types).condition


def choice(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """`if condition then a else b`: a and b are both numbers or both truth values."""
    condition, then, otherwise = types
    if not condition.boolean:
        raise Mismatch("E0303", 0, found=condition.in_words)
    if then.boolean != otherwise.boolean:
        raise Mismatch("E0301", 2, left=then.in_words, right=otherwise.in_words)
    result = combined((condition, then, otherwise))
    return result.condition if then.boolean else result


def application(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """`M @ v`: (a -> b) @ a : b, for an activity v."""
    matrix, vector = types
    if matrix.kind != "map" or matrix.boolean:
        raise Mismatch("E0304", 0, found=matrix.in_words)
    if vector.kind != "vector" or vector.boolean or "units" not in vector.axes:
        raise Mismatch("E0305", 1, found=vector.in_words)
    if vector.target != matrix.source:
        raise Mismatch("E0306", 1, source=matrix.source, target=matrix.target, found=vector.in_words)
    if vector.axes == PER_UNIT or (matrix.target == OUT and "batch" not in vector.axes):
        raise Mismatch("E0305", 1, found=vector.in_words)
    assert matrix.target is not None
    positions: frozenset[Axis] = frozenset(("positions",))
    axes = vector.axes - positions if matrix.target.name == "out" else vector.axes | positions
    return Type("vector", target=matrix.target, axes=axes)


def outer_product(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """`outer(v, w)`: space(w) -> space(v), for activities v and w."""
    spaces: list[Space] = []
    for position, type in enumerate(types):
        if type.kind != "vector" or type.boolean or not {"batch", "units"} <= type.axes or type.target is None:
            raise Mismatch("E0307", position, found=type.in_words)
        spaces.append(type.target)
    after, before = spaces
    if not synapses_exist(before, after):
        raise Mismatch("E0308", source=before, target=after)
    return map_between(before, after)


def transposition(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """`M.T`"""
    if types[0].kind != "map":
        raise Mismatch("E0309", 0, found=types[0].in_words)
    return types[0].transposed


def inner_product(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """`dot(a, b)`, `sq(a)`: of two vectors or two maps of one type, a scalar."""
    result = numbers(types, attrs)
    if result.kind == "scalar":
        raise Mismatch("E0310", 0, found=types[0].in_words)
    if len(types) == 2 and "scalar" in (types[0].kind, types[1].kind):
        raise Mismatch("E0310", 0 if types[0].kind == "scalar" else 1, found="a scalar")
    return SCALAR


def of_map(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """`norm(M)`: of a map (or an optimizer's parameter), a scalar."""
    if types[0].kind not in ("map", "parameter") or types[0].boolean:
        raise Mismatch("E0311", 0, found=types[0].in_words)
    return SCALAR


def reduction(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """`mean(v, axis)`, `std(v, axis)`: the vector without that axis; of a map, without an axis, a scalar."""
    (type,), (axis,) = types, attrs
    if type.boolean or type.kind == "scalar":
        raise Mismatch("E0312", 0, found=type.in_words)
    if type.kind != "vector":
        if axis is not None:
            raise Mismatch("E0313", 0, axis=axis, found=type.in_words)
        return SCALAR
    if axis is None:
        raise Mismatch("E0314", None, axes=", ".join(a for a in AXES if a in type.axes))
    if axis not in type.axes:
        raise Mismatch("E0313", 0, axis=axis, found=type.in_words)
    return Type("vector", target=type.target, axes=type.axes - {axis})


def per_neuron(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """`total(v)`: an activity summed over batch and positions, one number per neuron."""
    if types[0].kind != "vector" or types[0].boolean or "units" not in types[0].axes or types[0].axes == PER_UNIT:
        raise Mismatch("E0322", 0, found=types[0].in_words)
    return Type("vector", target=types[0].target, axes=PER_UNIT)


def everything(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """A sum over all there is: a scalar."""
    return SCALAR


def like_first(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """`full_like(v, c)`: the type of v."""
    if types[1].kind != "scalar" or types[1].boolean:
        raise Mismatch("E0315", 1, found=types[1].in_words)
    if types[0].boolean:
        raise Mismatch("E0302", 0, found=types[0].in_words)
    return types[0]


def own_activation(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """`phi(v)`: of an activity over post."""
    if types[0].kind != "vector" or types[0].boolean or str(types[0].target) == "out":
        raise Mismatch("E0316", 0, found=types[0].in_words)
    return types[0]


def over_layers(types: Sequence[Type], attrs: Sequence[Attribute]) -> Type:
    """`sum(k, expr)`: the type of one term, which must not be indexed itself."""
    (type,) = types
    if type.boolean:
        raise Mismatch("E0302", 0, found=type.in_words)
    if any(space is not None and space.index == attrs[0] for space in (type.source, type.target)):
        raise Mismatch("E0317", 0, found=type.in_words, index=attrs[0])
    return type
