"""Steadiness: whether the sign of a map tells one bit, or the author has a hand on where its threshold lies.

`sign(W)` is one bit of W. A rule that shifts W, reads its sign and shifts it back reads on which side of the shift W
lies, and with shifts enough the value. So a map is steady only where whatever moves it is of a few kinds:

- pseudo-gradients: odd in the errors, so that nobody knows before where they lead; in one phase, once a step, so that
  nothing is taken back while the network stands still; with nothing in them that the rule turns around by itself
- decay, and any factor that is not negative
- bounds: `min`, `max` with a number, chosen by signs alone

and the rule's own optimizer, where it has one, takes `p` along one direction of the gradients, or adds fresh noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from ruledsl.ir.equations import Equations
from ruledsl.ir.nodes import Node, walk
from ruledsl.locality.intervals import Interval, Intervals
from ruledsl.locality.schedules import most_often
from ruledsl.passes.scaling import ERRORS

MAPS = ("map", "parameter")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def shifted_maps(equations: Equations, movers: Mapping[str, Equations]) -> frozenset[str]:
    """Maps of which the sign tells the value, since the rule moves their threshold.

    movers   the rule's own optimizers, by the slot that they stand in
    """
    intervals = Intervals(equations)
    unsteady = {slot for slot, mover in movers.items() if not moves_along(mover, equations.optimizers[slot][1])}
    signs = _signs(equations)
    maps = {name for name, declared in equations.tensors.items() if declared.type.kind == "map"}
    return frozenset(name for name in maps - signs if not _is_steady(equations, name, unsteady, signs, intervals))


def moves_thresholds(equations: Equations) -> bool:
    """Whether an optimizer, or a constraint, makes a value of every sign that somebody reads of what it moves."""
    if equations.kind == "optimizer":
        return not moves_along(equations, {})
    return "W" in shifted_maps(equations, {})


def _signs(equations: Equations) -> frozenset[str]:
    """States that hold signs of maps, and nothing else: there is no threshold to move."""
    found = frozenset(n for n, d in equations.tensors.items() if d.kind == "state" and d.type.kind == "map")
    while True:
        values = [(e.target, e.value) for e in equations.equations if e.target in found]
        left = found - {name for name, value in values if not _is_sign(value, found)}
        if left == found:
            return found
        found = left


def _is_sign(value: Node, known: frozenset[str]) -> bool:
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if node.op == "neg":
            waiting += node.args
        elif node.op == "where" and not any(n.type.kind in MAPS for n in walk(node.args[0])):
            waiting += node.args[1:]
        elif node.op == "sign":
            if node.args[0].op != "tensor":
                return False
        elif node.op == "tensor":
            if node.attrs[0] not in known:
                return False
        elif node.constant is None and node.op != "full_like":
            return False
    return True


def _is_steady(
    equations: Equations, name: str, unsteady: set[str], signs: frozenset[str], intervals: Intervals
) -> bool:
    pushed: set[str] = set()
    for equation in equations.of("grad", "assign"):
        if equation.target != name:
            continue
        grad = equation.role == "grad"
        if grad and equation.optimizer in unsteady:
            return False
        parts = _Update(name, intervals, signs, bounded=not grad).parts(equation.value)
        if parts is None or not all(_follows_errors(term, intervals) for term in parts.terms):
            return False
        if not (parts.factor.high <= 1 if grad else parts.factor.positive):
            return False  # it turns the whole map around
        if parts.shrinks and not grad:
            return False
        if parts.terms or grad:
            pushed.add(equation.phase)
    return len(pushed) <= 1 and all(most_often(equations, phase) <= 1 for phase in pushed)


# --- what an update is made of ---


class _Parts(NamedTuple):
    """`factor * M`, terms beside it, and whether `sign(M)` is among them, as in the gradient of a sum of sizes."""

    factor: Interval
    terms: tuple[Node, ...] = ()
    shrinks: bool = False


_NONE = Interval(0, 0)


class _Update:
    """Takes the value that a map gets apart. `bounded`: it replaces the map, and so may keep it within bounds."""

    def __init__(self, name: str, intervals: Intervals, signs: frozenset[str], bounded: bool) -> None:
        self.name, self.intervals, self.signs, self.bounded = name, intervals, signs, bounded

    def parts(self, root: Node) -> _Parts | None:
        """The parts of a value; None where it is made in no way that is known to be steady."""
        memo: dict[int, _Parts | None] = {}
        for node in walk(root):
            memo[id(node)] = self._parts(node, memo)
        return memo[id(root)]

    def _reads(self, node: Node) -> bool:
        return any(n.op == "tensor" and n.attrs[0] == self.name and n.type.kind in MAPS for n in walk(node))

    def _parts(self, node: Node, memo: Mapping[int, _Parts | None]) -> _Parts | None:
        if node.type.kind not in MAPS or node.type.boolean:
            return None
        if node.op == "tensor" and node.attrs[0] == self.name:
            return _Parts(Interval(1, 1))
        if not self._reads(node):
            zero = node.constant == 0 or (node.op == "full_like" and node.args[1].constant == 0)
            return _Parts(_NONE, () if zero else (node,))
        args = [memo[id(arg)] for arg in node.args]
        match node.op:
            case "sign" if node.args[0].op == "tensor":
                return _Parts(_NONE, shrinks=True)
            case "neg":
                return _times(args[0], Interval(-1, -1))
            case "add" | "sub":
                return self._sum(node, args)
            case "mul":
                for parts, factor in zip(args, reversed(node.args), strict=True):
                    plain = factor.type.kind not in MAPS or not self._reads(factor)
                    if parts is not None and plain and not parts.terms:
                        return _times(parts, self.intervals.of(factor))
            case "div" if node.args[1].type.kind not in MAPS and args[0] is not None and not args[0].terms:
                return _times(args[0], self.intervals.of(node.args[1]).inverse)
            case "where" if not self.bounded or self._by_signs(node.args[0]):
                return _either(args[1:])
            case "min" | "max" if self.bounded:
                for own, other in ((0, 1), (1, 0)):
                    limit = node.args[other]
                    if not any(n.op in ("tensor", "signal", "random") for n in walk(limit)):
                        return args[own]
        return None

    def _sum(self, node: Node, args: list[_Parts | None]) -> _Parts | None:
        left, right = args
        if left is None or right is None:
            return None
        if node.op == "sub":
            right = _Parts(right.factor.turned, right.terms, right.shrinks)
        return _Parts(left.factor.plus(right.factor), left.terms + right.terms, left.shrinks or right.shrinks)

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
                if name != self.name and not (compared.op == "sign" or name in self.signs):
                    return False
                if compared.op == "sign" and compared.args[0].op != "tensor":
                    return False
            else:
                return False
        return True


def _times(parts: _Parts | None, factor: Interval) -> _Parts | None:
    return None if parts is None else _Parts(parts.factor.times(factor), parts.terms, parts.shrinks)


def _either(args: list[_Parts | None]) -> _Parts | None:
    known = [arg for arg in args if arg is not None]
    if len(known) < len(args):
        return None
    factor = known[0].factor.around(known[1].factor)
    return _Parts(factor, tuple(term for p in known for term in p.terms), any(p.shrinks for p in known))


# --- terms that follow the errors ---

Parity = Literal["odd", "even", "zero"]
_EVEN = ("abs", "sq", "norm", "std", "l2_norm")
_KEPT = ("neg", "sign", "tanh", "transpose", "total", "sum_all", "sum_k", "mean")
_PRODUCTS = ("mul", "div", "apply", "outer", "dot")


class _Kind(NamedTuple):
    """How a value answers when all errors change their sign; None where in no such way.

    driven   it follows something that the rule sets or draws: as a factor that keeps its sign, or freely
    """

    parity: Parity | None
    driven: Literal["no", "gate", "freely"] = "no"


_DRIVEN = ("no", "gate", "freely")


def _follows_errors(term: Node, intervals: Intervals) -> bool:
    """Whether a term is odd in the errors, and the rule has no hand on its sign."""
    memo: dict[int, _Kind] = {}
    for node in walk(term):
        core = _clipped(node, even=True)
        kind = memo[id(core)] if core else _kind(node, [memo[id(arg)] for arg in node.args], intervals)
        if kind.driven == "freely" and kind.parity in ("even", "zero") and intervals.of(node).one_sided:
            kind = _Kind(kind.parity, "gate")
        memo[id(node)] = kind
    return memo[id(term)].parity == "odd" and memo[id(term)].driven != "freely"


def _kind(node: Node, args: list[_Kind], intervals: Intervals) -> _Kind:
    match node.op:
        case "const":
            return _Kind("zero" if node.constant == 0 else "even")
        case "signal":
            return _Kind("odd" if node.attrs[0] in ERRORS else "even")
        case "scalar":
            name = str(node.attrs[0])
            return _Kind("even", "freely" if name in ("step", "epoch", "progress", "lr") else "no")
        case "tensor":
            declared = intervals.equations.tensors[str(node.attrs[0])]
            return _Kind("even", "freely" if declared.kind in ("state", "fresh") else "no")
        case "random":
            return _Kind("even", "freely")
        case "count":
            return _Kind("even")
        case "full_like":
            return args[1]
    driven = max((arg.driven for arg in args), key=_DRIVEN.index)
    parities = [arg.parity for arg in args]
    if node.op in _PRODUCTS:
        if None in parities:
            return _Kind(None, driven)
        if "zero" in parities:
            return _Kind("zero")
        return _Kind("odd" if parities.count("odd") % 2 else "even", driven)
    if node.op in _KEPT:
        return args[-1]
    if node.op in _EVEN:
        return _Kind(None if parities[0] is None else "even", driven)
    if node.op == "where":
        parities = parities[1:] if parities[0] in ("even", "zero") else [None]
    if node.op in ("add", "sub", "where"):
        found = {parity for parity in parities if parity != "zero"}
        parity = (found.pop() if found else "zero") if len(found) < 2 else None
        gated = driven == "gate" and parity != "odd"
        return _Kind(parity, "freely" if gated else driven)
    return _Kind("even" if all(parity in ("even", "zero") for parity in parities) else None, _freely(driven))


def _freely(driven: Literal["no", "gate", "freely"]) -> Literal["no", "gate", "freely"]:
    return "no" if driven == "no" else "freely"


# --- optimizers ---

Direction = Literal["none", "along", "against", "unknown"]


def moves_along(mover: Equations, arguments: Mapping[str, float | bool]) -> bool:
    """Whether an optimizer takes `p` along the gradients that it gets, with all of them counted in one direction.

    Then its author can't have it go somewhere and come back: `p <- p - lr * g + 0.3 * side` does.
    """
    intervals = Intervals(mover, float(arguments.get("lr", 1.0)))
    known = {name: "none" for name, d in mover.tensors.items() if d.type.kind in MAPS}
    known["p"] = "along"
    directions = _Directions(intervals, known)
    directions.iterate(mover)
    for equation in mover.of("assign"):
        if equation.target == "p":
            steps = [term for term in _summed(equation.value) if not _is_noise(term[0], mover, intervals)]
            taken = [_turned(directions.of(term)) if sign < 0 else directions.of(term) for term, sign in steps]
            if "unknown" in taken or _joined(taken) == "unknown":
                return False
            if not _factor(equation.value, intervals).positive:
                return False
    return True


def _summed(root: Node) -> Iterator[tuple[Node, int]]:
    """What is added to `p`, with its sign."""
    waiting = [(root, 1)]
    while waiting:
        node, sign = waiting.pop()
        if node.op in ("add", "sub"):
            waiting.append((node.args[0], sign))
            waiting.append((node.args[1], -sign if node.op == "sub" else sign))
            continue
        maps = {str(n.attrs[0]) for n in walk(node) if n.op in ("signal", "tensor") and n.type.kind in MAPS}
        if maps != {"p"} and node.constant != 0:
            yield node, sign


def _factor(root: Node, intervals: Intervals) -> Interval:
    """The factor in front of `p` in its own next value."""
    memo: dict[int, Interval] = {}
    for node in walk(root):
        args = [memo[id(arg)] for arg in node.args]
        found = _NONE
        match node.op:
            case "tensor" if node.attrs[0] == "p":
                found = Interval(1, 1)
            case "add":
                found = args[0].plus(args[1])
            case "sub":
                found = args[0].plus(args[1].turned)
            case "neg":
                found = args[0].turned
            case "mul":
                one, other = node.args
                found = args[0].times(intervals.of(other)).plus(args[1].times(intervals.of(one)))
            case "div":
                found = args[0].times(intervals.of(node.args[1]).inverse)
            case "where":
                found = args[1].around(args[2])
        memo[id(node)] = found
    return memo[id(root)]


def _is_noise(term: Node, mover: Equations, intervals: Intervals) -> bool:
    """Fresh draws, times numbers that keep their sign."""
    for node in walk(term):
        if node.op == "tensor" and mover.tensors[str(node.attrs[0])].kind != "fresh":
            return False
        if node.op in ("signal", "random") or (node.type.kind == "scalar" and not intervals.of(node).one_sided):
            return False
    return True


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
            case "where":
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
                core = _clipped(node)
                return _joined(args) if core is None else self.of(core)
        return "unknown"

    def _scaled(self, direction: str, factor: Interval) -> str:
        if factor == _NONE:
            return "none"
        if not factor.one_sided:
            return "none" if direction == "none" else "unknown"
        return direction if factor.positive else _turned(direction)


def _clipped(node: Node, even: bool = False) -> Node | None:
    """The v of `clip(v, low, high)`, where zero lies between these; with `even`, in the middle."""
    if node.op not in ("min", "max"):
        return None
    inner = node.args[0] if node.args[0].op in ("min", "max") else node.args[1]
    limits = [n.constant for part in (node, inner) for n in part.args if n.constant is not None]
    core = [n for n in inner.args if n.constant is None]
    clips = {node.op, inner.op} == {"min", "max"} and len(limits) == 2 and len(core) == 1
    middle = clips and min(limits) < 0 < max(limits) and (not even or sum(limits) == 0)
    return core[0] if middle else None


def _turned(direction: str) -> str:
    return {"along": "against", "against": "along"}.get(direction, direction)


def _joined(directions: Iterator[str] | list[str]) -> str:
    found = {direction for direction in directions if direction != "none"}
    return "none" if not found else found.pop() if len(found) == 1 else "unknown"
