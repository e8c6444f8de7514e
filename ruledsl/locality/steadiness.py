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

from collections.abc import Mapping

from ruledsl.ir.equations import Equations
from ruledsl.ir.nodes import Node, walk
from ruledsl.locality.directions import PLAIN, Rate, moves_along, rate_of
from ruledsl.locality.intervals import INFINITE, ZERO, Interval, Intervals
from ruledsl.locality.parity import follow_errors
from ruledsl.locality.schedules import most_often
from ruledsl.locality.updates import MAPS, Update

FAINT = 1e-6
"""A factor below which a map is stored so faintly that its small weights can become zeros."""


def shifted_maps(equations: Equations, movers: Mapping[str, Equations]) -> frozenset[str]:
    """Maps of which the sign tells the value, since the rule moves their threshold.

    movers   the rule's own optimizers, by the slot that they stand in
    """
    intervals = Intervals(equations)
    arguments = {slot: equations.optimizers[slot][1] for slot in movers}
    unsteady = {slot for slot, mover in movers.items() if not moves_along(mover, arguments[slot])}
    rates = {slot: rate_of(mover, arguments[slot]) for slot, mover in movers.items()}
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
    rates: Mapping[str, Rate],
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
        parts = Update(name, intervals, signs, bounded=not grad).parts(equation.value)
        if parts is None or not follow_errors(parts, intervals):
            return False
        rate = rates.get(equation.optimizer, PLAIN) if grad else PLAIN
        if not (rate.decays(parts) if grad else parts.factor.positive and parts.shrinks == ZERO):
            return False  # it turns the whole map around, or shifts all of it
        if not grad and _loses_small_weights(parts.factor):
            return False
        if parts.terms or grad:
            pushed.add(equation.phase)
    return len(pushed) <= 1 and all(most_often(equations, phase) <= 1 for phase in pushed)


def _loses_small_weights(factor: Interval) -> bool:
    """Whether a map is stored faintly, where numbers end, or comes back from there by a known factor."""
    return 0 < factor.low == factor.high < FAINT or 1 < factor.high < INFINITE
