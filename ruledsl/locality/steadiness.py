"""Steadiness: whether the sign of a map tells one bit, or the author has a hand on where its threshold lies.

`sign(W)` is one bit of W. A rule that shifts W, reads its sign and shifts it back reads on which side of the shift W
lies, and with shifts enough the value. So a map is steady only where whatever moves it is of a few kinds:

- pseudo-gradients: odd in the errors and summed as they are, so that nobody knows before where they lead; in one phase,
  once a step, so that nothing is taken back while the network stands still; with nothing in them that the rule turns
  around by itself
- decay, and any factor that is not negative; `sign(W)`, as in the gradient of a sum of sizes, by a little
- bounds: `min`, `max` with a number, chosen by signs alone, around all else: within a sum they are shifts

and the rule's own optimizer, where it has one, takes `p` along one direction of the gradients, or adds fresh noise of
mean zero; beside one that does not just add a multiple of them, decays turn into steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import Node, reads, walk
from ruledsl.locality.intervals import INFINITE, Interval, Intervals
from ruledsl.locality.schedules import most_often
from ruledsl.passes.scaling import ERRORS

MAPS = ("map", "parameter")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
LITTLE = 0.01
"""By how much an update may push all weights to zero: the largest factor of `sign(W)`, or of W where it has inertia."""

FAINT = 1e-6
"""A factor below which a map is stored so faintly that its small weights can become zeros."""


def shifted_maps(equations: Equations, movers: Mapping[str, Equations]) -> frozenset[str]:
    """Maps of which the sign tells the value, since the rule moves their threshold.

    movers   the rule's own optimizers, by the slot that they stand in
    """
    intervals = Intervals(equations)
    arguments = {slot: equations.optimizers[slot][1] for slot in movers}
    unsteady = {slot for slot, mover in movers.items() if not moves_along(mover, arguments[slot])}
    rates = {slot: _rate(mover, arguments[slot]) for slot, mover in movers.items()}
    signs = _signs(equations)
    maps = {name for name, declared in equations.tensors.items() if declared.type.kind == "map"}
    return frozenset(
        name for name in maps - signs if not _is_steady(equations, name, unsteady, rates, signs, intervals)
    )


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
    equations: Equations,
    name: str,
    unsteady: set[str],
    rates: Mapping[str, _Rate],
    signs: frozenset[str],
    intervals: Intervals,
) -> bool:
    pushed: set[str] = set()
    for equation in equations.of("grad", "assign"):
        if equation.target != name:
            continue
        grad = equation.role == "grad"
        if grad and equation.optimizer in unsteady:
            return False
        parts = _Update(name, intervals, signs, bounded=not grad).parts(equation.value)
        if parts is None or not _follow_errors(parts, intervals):
            return False
        rate = rates.get(equation.optimizer, _PLAIN) if grad else _PLAIN
        if not (rate.decays(parts) if grad else parts.factor.positive and parts.shrinks == _NONE):
            return False  # it turns the whole map around, or shifts all of it
        if not grad and _loses_small_weights(parts.factor):
            return False
        if parts.terms or grad:
            pushed.add(equation.phase)
    return len(pushed) <= 1 and all(most_often(equations, phase) <= 1 for phase in pushed)


def _loses_small_weights(factor: Interval) -> bool:
    """Whether a map is stored faintly, where numbers end, or comes back from there by a known factor."""
    return 0 < factor.low == factor.high < FAINT or 1 < factor.high < INFINITE


# --- what an update is made of ---


_NONE = Interval(0, 0)


class _Parts(NamedTuple):
    """`factor * M + shrinks * sign(M)`, and terms beside it.

    within  whether bounds are around it
    chosen  whether a condition decides which of several terms are there
    """

    factor: Interval
    terms: tuple[Node, ...] = ()
    shrinks: Interval = _NONE
    within: bool = False
    chosen: bool = False


class _Rate(NamedTuple):
    """What an optimizer makes of a gradient: `most` times as much; None where it is anything but a multiple.

    inertia  whether it goes on with what it got before
    """

    most: float | None
    inertia: bool

    def decays(self, parts: _Parts) -> bool:
        """Whether no weight is turned around by what its gradient has of itself."""
        if parts.factor == _NONE and parts.shrinks == _NONE:
            return True
        if self.most is None or not parts.shrinks.positive:
            return False
        return self.most * parts.factor.high <= (LITTLE if self.inertia else 1) and (
            self.most * parts.shrinks.high <= LITTLE
        )


_PLAIN = _Rate(1, inertia=False)


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
        return _is_read(node, self.name)

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
                return _Parts(_NONE, shrinks=Interval(1, 1))
            case "neg":
                return _times(args[0], Interval(-1, -1))
            case "add" | "sub":
                return self._sum(node, args)
            case "mul":
                for parts, factor in zip(args, reversed(node.args), strict=True):
                    plain = factor.type.kind not in MAPS or not self._reads(factor)
                    if parts is not None and plain and not parts.terms:
                        return _times(parts, self.intervals.of(factor))
                for term, factor in (node.args, node.args[::-1]):
                    if not self._reads(term) and term.type.kind in MAPS and self.intervals.of(factor).positive:
                        return _Parts(_NONE, (term,), chosen=True)  # as near a bound, by what the synapse is
            case "div" if node.args[1].type.kind not in MAPS and args[0] is not None and not args[0].terms:
                return _times(args[0], self.intervals.of(node.args[1]).inverse)
            case "where" if not self.bounded or self._by_signs(node.args[0]):
                return _either(args[1:])
            case "min" | "max" if self.bounded:
                for own, other in ((0, 1), (1, 0)):
                    parts = args[own]
                    if parts is not None and self._is_limit(node.args[other]):
                        return parts._replace(within=True)
        return None

    def _sum(self, node: Node, args: list[_Parts | None]) -> _Parts | None:
        left, right = args
        if left is None or right is None:
            return None
        if any(
            one.within and (other.factor, other.shrinks) != (_NONE, _NONE)
            for one, other in ((left, right), (right, left))
        ):
            return None
        if node.op == "sub":
            right = right._replace(factor=right.factor.turned, shrinks=right.shrinks.turned)
        return _Parts(
            left.factor.plus(right.factor),
            left.terms + right.terms,
            left.shrinks.plus(right.shrinks),
            left.within or right.within,
            left.chosen or right.chosen,
        )

    def _is_fixed(self, name: str) -> bool:
        return self.intervals.equations.tensors[name].kind == "fixed"

    def _is_limit(self, node: Node) -> bool:
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


def _times(parts: _Parts | None, factor: Interval) -> _Parts | None:
    if parts is None:
        return None
    return parts._replace(factor=parts.factor.times(factor), shrinks=parts.shrinks.times(factor))


def _either(args: list[_Parts | None]) -> _Parts | None:
    known = [arg for arg in args if arg is not None]
    if len(known) < len(args):
        return None
    then, otherwise = known
    return _Parts(
        then.factor.around(otherwise.factor),
        then.terms + otherwise.terms,
        then.shrinks.around(otherwise.shrinks),
        then.within or otherwise.within,
        then.chosen or otherwise.chosen or bool(then.terms and otherwise.terms),
    )


def _is_read(node: Node, name: str) -> bool:
    return any(n.op in ("tensor", "signal") and n.attrs[0] == name and n.type.kind in MAPS for n in walk(node))


def _is_limit(node: Node) -> bool:
    return not any(n.op in ("tensor", "signal", "random") for n in walk(node))


# --- terms that follow the errors ---

Parity = Literal["odd", "even", "zero"]
_EVEN = ("abs", "sq", "norm", "std", "l2_norm")
_KEPT = ("neg", "sign", "tanh", "transpose", "total", "sum_all", "sum_k", "mean")
_PRODUCTS = ("mul", "div", "apply", "outer", "dot")
_SUMMED = ("apply", "outer", "dot", "total", "sum_all", "sum_k", "mean")
_BENT = ("sign", "tanh")


class _Kind(NamedTuple):
    """How a value answers when all errors change their sign; None where in no such way.

    driven   it follows something that the rule sets or draws: as a factor that keeps its sign, or freely
    hears    it depends on errors
    bent     it is not proportional to the errors; a sum of such goes where it is known before, as that of `e * abs(e)`
             over the classes of a softmax
    """

    parity: Parity | None
    driven: Literal["no", "gate", "freely"] = "no"
    hears: bool = False
    bent: bool = False


_DRIVEN = ("no", "gate", "freely")


def _follow_errors(parts: _Parts, intervals: Intervals) -> bool:
    """Whether all terms are odd in the errors, and the rule has no hand on their signs, nor weighs one with others."""
    kinds = [_kind_of(term, intervals) for term in parts.terms]
    if any(kind.parity != "odd" or kind.driven == "freely" for kind in kinds):
        return False
    return len(kinds) < 2 or not (parts.chosen or any(kind.driven == "gate" for kind in kinds))


def _kind_of(term: Node, intervals: Intervals) -> _Kind:
    memo: dict[int, _Kind] = {}
    for node in walk(term):
        core = _clipped(node, even=True)
        if core:
            kind = memo[id(core)]
            kind = kind._replace(bent=kind.bent or not _holds_probabilities(node))
        else:
            kind = _kind(node, [memo[id(arg)] for arg in node.args], intervals)
        if kind.driven == "freely" and kind.parity in ("even", "zero") and intervals.of(node).one_sided:
            kind = kind._replace(driven="gate")
        memo[id(node)] = kind
    return memo[id(term)]


def _holds_probabilities(clip: Node) -> bool:
    """Whether a clip leaves errors of a softmax alone: these lie between -1 and 1."""
    limits = [n.constant for part in (clip, *clip.args) for n in part.args if n.constant is not None]
    return all(abs(limit) >= 1 for limit in limits)


def _kind(node: Node, args: list[_Kind], intervals: Intervals) -> _Kind:
    match node.op:
        case "const":
            return _Kind("zero" if node.constant == 0 else "even")
        case "signal":
            heard = node.attrs[0] in ERRORS
            return _Kind("odd" if heard else "even", hears=heard)
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
    kind = _combined(node, args)
    bent = any(arg.bent for arg in args) or node.op in _BENT
    if kind.parity == "odd" and node.op in (*_PRODUCTS, "where"):
        listening = [arg for part, arg in zip(node.args, args, strict=True) if arg.hears and part.type.kind != "scalar"]
        bent = bent or len(listening) > (1 if node.op != "where" or not args[0].hears else 0)
    if node.op == "where" and not args[0].hears:
        bent = any(arg.bent for arg in args)
    known = bent and node.op in _SUMMED and kind.parity == "odd"
    return kind._replace(parity=None if known else kind.parity, hears=any(arg.hears for arg in args), bent=bent)


def _combined(node: Node, args: list[_Kind]) -> _Kind:
    """What an operation makes of the parities of its arguments, and of what drives them."""
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
        several = sum(p != "zero" for p in parities) > 1
        gated = driven == "gate" and (parity != "odd" or several)  # of two gates, one can be opened at a time
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
    known = {name: "none" for name, d in mover.tensors.items() if d.kind == "state" and d.type.kind in MAPS}
    known["p"] = "along"
    directions = _Directions(intervals, known)
    directions.iterate(mover)
    if not all(_remembers_little(equation.value, intervals) for equation in _remembered(mover)):
        return False
    for equation in mover.of("assign"):
        if equation.target != "p":
            continue
        own, taken = _Parts(_NONE), ["none"]
        for term, sign in _summed(_without_bounds(equation.value)):
            if _is_noise(term, mover, intervals):
                continue
            parts = _of_itself(term, intervals)
            if parts is None:
                return False
            parts = _times(parts, Interval(sign, sign)) or parts
            own = own._replace(factor=own.factor.plus(parts.factor), shrinks=own.shrinks.plus(parts.shrinks))
            if not _reads_alone(term, "p"):
                taken.append(_turned(directions.of(term)) if sign < 0 else directions.of(term))
        if _joined(taken) == "unknown" or not own.factor.positive:
            return False
        if not (own.shrinks.low >= -LITTLE and own.shrinks.high <= 0):
            return False
    return True


def _rate(mover: Equations, arguments: Mapping[str, float | bool]) -> _Rate:
    """What an optimizer makes of the gradients that it gets."""
    intervals = Intervals(mover, float(arguments.get("lr", 1.0)))
    taken, inertia = _NONE, False
    for equation in mover.of("assign"):
        if equation.target == "p":
            found = _factor(equation.value, "g", intervals)
            if found is None:
                return _Rate(None, inertia=True)
            taken = taken.around(found)
            states = (name for name, d in mover.tensors.items() if d.kind == "state" and d.type.kind in MAPS)
            inertia = inertia or any(_factor(equation.value, name, intervals) != _NONE for name in states)
    return _Rate(-taken.low if taken.high <= 0 else None, inertia)


def _without_bounds(root: Node) -> Node:
    """What the bounds are around."""
    while root.op in ("min", "max") and any(map(_is_limit, root.args)):
        root = root.args[0] if _is_limit(root.args[1]) else root.args[1]
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


def _of_itself(term: Node, intervals: Intervals) -> _Parts | None:
    """What a term has of `p`; None where it is made of `p` alone, in no way that is known to be steady."""
    factor = _factor(term, "p", intervals)
    if factor is not None:
        return _Parts(factor)
    if not _reads_alone(term, "p"):
        return _Parts(_NONE)  # its direction tells
    parts = _Update("p", intervals, frozenset(), bounded=False).parts(term)
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
        memo[id(node)] = _NONE
        if not _is_read(node, name):
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
            case "mul" if one and other and not all(_is_read(arg, name) for arg in node.args):
                left, right = node.args
                found = one.times(intervals.of(right)).plus(other.times(intervals.of(left)))
            case "div" if one and not _is_read(node.args[1], name):
                found = one.times(intervals.of(node.args[1]).inverse)
            case "where" if other and args[2] and not _is_read(node.args[0], name):
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
            return mean == _NONE
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
