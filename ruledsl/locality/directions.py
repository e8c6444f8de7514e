"""Directions: whether an optimizer takes what it moves along its gradients, and how far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import Node, reads, walk
from ruledsl.locality.intervals import ZERO, Interval, Intervals
from ruledsl.locality.parity import clipped
from ruledsl.locality.updates import MAPS, Parts, Update, is_limit, is_read, times

LITTLE = 0.01
"""By how much an update may push all weights to zero: the largest factor of `sign(W)`, or of W where it has inertia."""


Direction = Literal["none", "along", "against", "unknown"]


class Rate(NamedTuple):
    """What an optimizer makes of a gradient: `most` times as much; None where it is anything but a multiple.

    inertia  whether it goes on with what it got before
    """

    most: float | None
    inertia: bool

    def decays(self, parts: Parts) -> bool:
        """Whether no weight is turned around by what its gradient has of itself."""
        if parts.factor == ZERO and parts.shrinks == ZERO:
            return True
        if self.most is None or not parts.shrinks.positive:
            return False
        return self.most * parts.factor.high <= (LITTLE if self.inertia else 1) and (
            self.most * parts.shrinks.high <= LITTLE
        )


PLAIN = Rate(1, inertia=False)


def moves_along(mover: Equations, arguments: Mapping[str, float | bool]) -> bool:
    """Whether an optimizer takes `p` along the gradients that it gets, with all of them counted in one direction.

    Then its author can't have it go somewhere and come back: `p <- p - lr * g + 0.3 * side` does.
    """
    intervals = Intervals(mover, float(arguments.get("lr", 1.0)))
    known = {name: "none" for name, d in mover.tensors.items() if d.kind == "state" and d.type.kind in MAPS}
    known["p"] = "along"
    directions = _Directions(intervals, known)
    directions.iterate(mover)
    if not all(_remembers_little(equation.value, intervals) for equation in _remembered(mover)):
        return False
    for equation in mover.of("assign"):
        if equation.target != "p":
            continue
        own, taken = Parts(ZERO), ["none"]
        for term, sign in _summed(_without_bounds(equation.value)):
            if _is_noise(term, mover, intervals):
                continue
            parts = _of_itself(term, intervals)
            if parts is None:
                return False
            parts = times(parts, Interval(sign, sign)) or parts
            own = own._replace(factor=own.factor.plus(parts.factor), shrinks=own.shrinks.plus(parts.shrinks))
            if not _reads_alone(term, "p"):
                taken.append(_turned(directions.of(term)) if sign < 0 else directions.of(term))
        if _joined(taken) == "unknown" or not own.factor.positive:
            return False
        if not (own.shrinks.low >= -LITTLE and own.shrinks.high <= 0):
            return False
    return True


def rate_of(mover: Equations, arguments: Mapping[str, float | bool]) -> Rate:
    """What an optimizer makes of the gradients that it gets."""
    intervals = Intervals(mover, float(arguments.get("lr", 1.0)))
    taken, inertia = ZERO, False
    for equation in mover.of("assign"):
        if equation.target == "p":
            found = _factor(equation.value, "g", intervals)
            if found is None:
                return Rate(None, inertia=True)
            taken = taken.around(found)
            states = (name for name, d in mover.tensors.items() if d.kind == "state" and d.type.kind in MAPS)
            inertia = inertia or any(_factor(equation.value, name, intervals) != ZERO for name in states)
    return Rate(-taken.low if taken.high <= 0 else None, inertia)


def _without_bounds(root: Node) -> Node:
    """What the bounds are around."""
    while root.op in ("min", "max") and any(map(is_limit, root.args)):
        root = root.args[0] if is_limit(root.args[1]) else root.args[1]
    return root


def _summed(root: Node) -> Iterator[tuple[Node, int]]:
    """What is added to be `p`, with its sign."""
    waiting = [(root, 1)]
    while waiting:
        node, sign = waiting.pop()
        if node.op in ("add", "sub"):
            waiting.append((node.args[0], sign))
            waiting.append((node.args[1], -sign if node.op == "sub" else sign))
        elif node.constant != 0:
            yield node, sign


def _of_itself(term: Node, intervals: Intervals) -> Parts | None:
    """What a term has of `p`; None where it is made of `p` alone, in no way that is known to be steady."""
    factor = _factor(term, "p", intervals)
    if factor is not None:
        return Parts(factor)
    if not _reads_alone(term, "p"):
        return Parts(ZERO)  # its direction tells
    parts = Update("p", intervals, frozenset(), bounded=False).parts(term)
    return None if parts is None or parts.terms else parts


def _reads_alone(term: Node, name: str) -> bool:
    return {str(n.attrs[0]) for n in walk(term) if n.op in ("signal", "tensor") and n.type.kind in MAPS} == {name}


def _remembered(mover: Equations) -> Iterator[Equation]:
    """What the states are made of that `p` follows."""
    names = {"p"}
    while True:
        found = [e for e in mover.of("assign") if e.target in names]
        more = names.union(*(reads(e.value) for e in found))
        if more == names:
            yield from (e for e in found if e.target != "p")
            return
        names = more


def _remembers_little(value: Node, intervals: Intervals) -> bool:
    """Whether a state keeps so little of `p` that it takes it back slowly."""
    factor = _factor(value, "p", intervals)
    if factor is None:
        return not _reads_alone(value, "p")
    return factor.low >= -LITTLE and factor.high <= LITTLE


def _factor(root: Node, name: str, intervals: Intervals) -> Interval | None:
    """The factor in front of `p`, `g` or a state in a value; None where it is read in any other way."""
    memo: dict[int, Interval | None] = {}
    for node in walk(root):
        memo[id(node)] = ZERO
        if not is_read(node, name):
            continue
        args, found = [memo[id(arg)] for arg in node.args], None
        one, other = (*args, None, None)[:2]
        match node.op:
            case "tensor" | "signal":
                found = Interval(1, 1)
            case "add" if one and other:
                found = one.plus(other)
            case "sub" if one and other:
                found = one.plus(other.turned)
            case "neg" if one:
                found = one.turned
            case "mul" if one and other and not all(is_read(arg, name) for arg in node.args):
                left, right = node.args
                found = one.times(intervals.of(right)).plus(other.times(intervals.of(left)))
            case "div" if one and not is_read(node.args[1], name):
                found = one.times(intervals.of(node.args[1]).inverse)
            case "where" if other and args[2] and not is_read(node.args[0], name):
                found = other.around(args[2])
        memo[id(node)] = found
    return memo[id(root)]


def _is_noise(term: Node, mover: Equations, intervals: Intervals) -> bool:
    """Fresh draws of mean zero, times numbers that keep their sign."""
    node = term
    while node.op in ("mul", "div", "neg"):
        kept = [arg for arg in node.args if arg.type.kind != "scalar" or not intervals.of(arg).one_sided]
        if len(kept) != 1 or (node.op == "div" and kept[0] is not node.args[0]):
            return False
        node = kept[0]
    if node.op != "tensor" or mover.tensors[str(node.attrs[0])].kind != "fresh":
        return False
    return all(_is_centered(e.value, intervals) for e in mover.of("draw") if e.target == node.attrs[0])


def _is_centered(drawn: Node, intervals: Intervals) -> bool:
    """Whether draws have mean zero."""
    if drawn.op != "random":
        return False
    args = [intervals.of(arg) for arg in drawn.args]
    match drawn.attrs[0], args:
        case "normal", [mean, _]:
            return mean == ZERO
        case "uniform", [low, high]:
            return low == high.turned and low.low == low.high
        case "signs", [chance]:
            return chance == (0.5, 0.5)
    return drawn.attrs[0] in ("zeros", "xavier", "kaiming", "orthogonal")


class _Directions:
    """Whether values go along the gradients (and with `p`), or against them; least fixed point over the states."""

    def __init__(self, intervals: Intervals, known: dict[str, str]) -> None:
        self.intervals, self.known = intervals, known

    def iterate(self, mover: Equations) -> None:
        """Until the directions of all states are found."""
        while True:
            before = dict(self.known)
            for equation in mover.of("init", "assign"):
                if equation.target in self.known and equation.target != "p":
                    self.known[equation.target] = _joined([self.known[equation.target], self.of(equation.value)])
            if before == self.known:
                return

    def of(self, root: Node) -> str:
        """The direction of a value."""
        memo: dict[int, str] = {}
        for node in walk(root):
            memo[id(node)] = self._of(node, [memo[id(arg)] for arg in node.args])
        return memo[id(root)]

    def _of(self, node: Node, args: list[str]) -> str:
        if node.constant == 0 or (node.op == "full_like" and node.args[1].constant == 0):
            return "none"
        if node.op == "signal":
            return "along"
        if node.op == "tensor":
            return self.known.get(str(node.attrs[0]), "unknown")
        match node.op:
            case "neg":
                return _turned(args[0])
            case "add":
                return _joined(args)
            case "sub":
                return _joined([args[0], _turned(args[1])])
            case "where" if not any(n.type.kind in MAPS for n in walk(node.args[0])):
                return _joined(args[1:])
            case "sign" | "tanh" | "transpose":
                return args[0]
            case "mul":
                for own, other in ((0, 1), (1, 0)):
                    if "unknown" not in args[own] and node.args[own].type.kind in MAPS:
                        return self._scaled(args[own], self.intervals.of(node.args[other]))
            case "div":
                return self._scaled(args[0], self.intervals.of(node.args[1]))
            case "min" | "max":
                core = clipped(node)
                return _joined(args) if core is None else self.of(core)
        return "unknown"

    def _scaled(self, direction: str, factor: Interval) -> str:
        if factor == ZERO:
            return "none"
        if not factor.one_sided:
            return "none" if direction == "none" else "unknown"
        return direction if factor.positive else _turned(direction)


def _turned(direction: str) -> str:
    return {"along": "against", "against": "along"}.get(direction, direction)


def _joined(directions: Iterator[str] | list[str]) -> str:
    found = {direction for direction in directions if direction != "none"}
    return "none" if not found else found.pop() if len(found) == 1 else "unknown"
