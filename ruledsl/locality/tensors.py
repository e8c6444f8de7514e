"""What the tensors of a rule are made of: wiring that is given, weights, accumulated activity."""

from __future__ import annotations

from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operations import ELEMENTWISE
from ruledsl.ir.phases import INIT


def drawn_first(equations: Equations) -> frozenset[str]:
    """Tensors of which the first value is drawn, or computed from nothing but draws and constants."""
    first = {e.target: e.value for e in equations.of("init")}
    found: frozenset[str] = frozenset()
    while True:
        more = frozenset(name for name, value in first.items() if _free(value, found))
        if more == found:
            return found
        found = more


def wiring(equations: Equations) -> frozenset[str]:
    """Tensors that are given before learning begins, by draws alone; and noise.

    What a weight started from is a draw as well, unless it was computed from a layer's own W or b.
    """
    constant = frozenset(n for n in drawn_first(equations) if equations.tensors[n].kind == "fixed")
    return constant | {e.target for e in equations.of("draw") if _free(e.value, constant)}


def _free(value: Node, known: frozenset[str]) -> bool:
    leaves = (n for n in walk(value) if n.op in ("tensor", "signal"))
    return all(leaf.op == "tensor" and str(leaf.attrs[0]) in known for leaf in leaves)


def gathered(equations: Equations) -> frozenset[str]:
    """Maps that start from constants and gather activity alone: outer products, or what an optimizer gets."""
    kinds = ("map", "parameter")
    maps = {n for n, d in equations.tensors.items() if d.type.kind in kinds and d.kind in ("state", "weight")}
    writers: dict[str, list[Equation]] = {}
    for equation in equations.of("init", "grad", "assign"):
        writers.setdefault(equation.target, []).append(equation)

    def only_activity(value: Node, known: set[str]) -> bool:
        outers = {id(node) for node in walk(value) if node.op == "outer"}
        for node in walk(value, until=outers):
            if node.op == "random" or (node.op == "tensor" and node.type.kind in kinds and node.attrs[0] not in known):
                return False
        return True

    while True:
        left = {name for name in maps if all(only_activity(e.value, maps) for e in writers.get(name, []))}
        left = {name for name in left if any(e.phase != INIT for e in writers.get(name, []))}
        if left == maps:
            return frozenset(maps)
        maps = left


def is_elementwise(node: Node) -> bool:
    """Whether every entry of the value comes from the same entry of its arguments."""
    return node.op in ELEMENTWISE or node.op in ("phi", "dphi")
