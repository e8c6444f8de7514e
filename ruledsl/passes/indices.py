"""Indices: the sums over `j` and over `k` of one term are the same, so a rule has one name for all of its indices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ruledsl.ir.equations import Equations
from ruledsl.ir.nodes import Node, rewrite, walk
from ruledsl.ir.types import Space, Type


def with_one_index(equations: Equations) -> Equations:
    """The equations with the rule's first index in the place of every other one."""
    names = indices(equations)
    if len(names) < 2:
        return equations
    first = names[0]
    memo: dict[int, Node] = {}

    def renamed(node: Node, args: tuple[Node, ...]) -> Node:
        attrs = tuple(
            first if attribute in names and _is_index(node, at) else attribute
            for at, attribute in enumerate(node.attrs)
        )
        return Node(node.op, args, attrs, _renamed(node.type, first), node.place, node.name)

    return replace(
        equations,
        tensors={n: replace(d, type=_renamed(d.type, first)) for n, d in equations.tensors.items()},
        equations=tuple(e.with_value(rewrite(e.value, renamed, memo)) for e in equations.equations),
    )


def indices(equations: Equations) -> tuple[str, ...]:
    """The names of all indices, in the order in which they come."""
    return tuple(dict.fromkeys(name for equation in equations.equations for name in _indices(equation.value)))


def _is_index(node: Node, at: int) -> bool:
    """Whether an attribute of a node is an index."""
    return (node.op in ("signal", "tensor") and at == 1) or node.op == "sum_k"


def _indices(root: Node) -> Iterator[str]:
    for node in walk(root):
        yield from (str(a) for at, a in enumerate(node.attrs) if a is not None and _is_index(node, at))


def _renamed(type: Type, index: str) -> Type:
    def space(old: Space | None) -> Space | None:
        return replace(old, index=index) if old is not None and old.index else old

    return replace(type, source=space(type.source), target=space(type.target))
