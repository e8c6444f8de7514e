"""Updates: what the value that a map gets is made of, a factor of itself and terms beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ruledsl.ir.nodes import Node, walk
from ruledsl.locality.intervals import ZERO, Interval, Intervals

MAPS = ("map", "parameter")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


class Parts(NamedTuple):
    """`factor * M + shrinks * sign(M)`, and terms beside it.

    within  whether bounds are around it
    chosen  whether a condition decides which of several terms are there
    """

    factor: Interval
    terms: tuple[Node, ...] = ()
    shrinks: Interval = ZERO
    within: bool = False
    chosen: bool = False


class Update:
    """Takes the value that a map gets apart. `bounded`: it replaces the map, and so may keep it within bounds."""

    def __init__(self, name: str, intervals: Intervals, signs: frozenset[str], bounded: bool) -> None:
        self.name, self.intervals, self.signs, self.bounded = name, intervals, signs, bounded

    def parts(self, root: Node) -> Parts | None:
        """The parts of a value; None where it is made in no way that is known to be steady."""
        memo: dict[int, Parts | None] = {}
        for node in walk(root):
            memo[id(node)] = self._parts(node, memo)
        return memo[id(root)]

    def _reads(self, node: Node) -> bool:
        return is_read(node, self.name)

    def _parts(self, node: Node, memo: Mapping[int, Parts | None]) -> Parts | None:
        if node.type.kind not in MAPS or node.type.boolean:
            return None
        if node.op == "tensor" and node.attrs[0] == self.name:
            return Parts(Interval(1, 1))
        if not self._reads(node):
            zero = node.constant == 0 or (node.op == "full_like" and node.args[1].constant == 0)
            return Parts(ZERO, () if zero else (node,))
        args = [memo[id(arg)] for arg in node.args]
        match node.op:
            case "sign" if node.args[0].op == "tensor":
                return Parts(ZERO, shrinks=Interval(1, 1))
            case "neg":
                return times(args[0], Interval(-1, -1))
            case "add" | "sub":
                return self._sum(node, args)
            case "mul":
                for parts, factor in zip(args, reversed(node.args), strict=True):
                    plain = factor.type.kind not in MAPS or not self._reads(factor)
                    if parts is not None and plain and not parts.terms:
                        return times(parts, self.intervals.of(factor))
                for term, factor in (node.args, node.args[::-1]):
                    if not self._reads(term) and term.type.kind in MAPS and self.intervals.of(factor).positive:
                        return Parts(ZERO, (term,), chosen=True)  # as near a bound, by what the synapse is
            case "div" if node.args[1].type.kind not in MAPS and args[0] is not None and not args[0].terms:
                return times(args[0], self.intervals.of(node.args[1]).inverse)
            case "where" if not self.bounded or self._by_signs(node.args[0]):
                return _either(args[1:])
            case "min" | "max" if self.bounded:
                for own, other in ((0, 1), (1, 0)):
                    parts = args[own]
                    if parts is not None and self._is_given(node.args[other]):
                        return parts._replace(within=True)
        return None

    def _sum(self, node: Node, args: list[Parts | None]) -> Parts | None:
        left, right = args
        if left is None or right is None:
            return None
        if any(
            one.within and (other.factor, other.shrinks) != (ZERO, ZERO)
            for one, other in ((left, right), (right, left))
        ):
            return None
        if node.op == "sub":
            right = right._replace(factor=right.factor.turned, shrinks=right.shrinks.turned)
        return Parts(
            left.factor.plus(right.factor),
            left.terms + right.terms,
            left.shrinks.plus(right.shrinks),
            left.within or right.within,
            left.chosen or right.chosen,
        )

    def _is_fixed(self, name: str) -> bool:
        return self.intervals.equations.tensors[name].kind == "fixed"

    def _is_given(self, node: Node) -> bool:
        """Whether a bound is made of numbers, and of what stays as it is."""
        leaves = [n for n in walk(node) if n.op in ("tensor", "signal", "random")]
        return all(leaf.op == "tensor" and self._is_fixed(str(leaf.attrs[0])) for leaf in leaves)

    def _by_signs(self, condition: Node) -> bool:
        """Whether a condition tells nothing of sizes: it compares signs, or reads no map at all."""
        waiting = [condition]
        while waiting:
            node = waiting.pop()
            if not any(n.type.kind in MAPS for n in walk(node)):
                continue
            if node.op in ("and", "or", "not"):
                waiting += node.args
            elif node.op in COMPARISONS and any(arg.constant == 0 for arg in node.args):
                compared = next(arg for arg in node.args if arg.constant != 0)
                name = str(compared.attrs[0]) if compared.op == "tensor" else None
                known = name in self.signs or (name is not None and self._is_fixed(name))
                if name != self.name and not (compared.op == "sign" or known):
                    return False
                if compared.op == "sign" and compared.args[0].op != "tensor":
                    return False
            else:
                return False
        return True


def times(parts: Parts | None, factor: Interval) -> Parts | None:
    if parts is None:
        return None
    return parts._replace(factor=parts.factor.times(factor), shrinks=parts.shrinks.times(factor))


def _either(args: list[Parts | None]) -> Parts | None:
    known = [arg for arg in args if arg is not None]
    if len(known) < len(args):
        return None
    then, otherwise = known
    return Parts(
        then.factor.around(otherwise.factor),
        then.terms + otherwise.terms,
        then.shrinks.around(otherwise.shrinks),
        then.within or otherwise.within,
        then.chosen or otherwise.chosen or bool(then.terms and otherwise.terms),
    )


def is_read(node: Node, name: str) -> bool:
    return any(n.op in ("tensor", "signal") and n.attrs[0] == name and n.type.kind in MAPS for n in walk(node))


def is_limit(node: Node) -> bool:
    return not any(n.op in ("tensor", "signal", "random") for n in walk(node))
