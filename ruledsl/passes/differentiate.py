"""Differentiate: `minimize E over B` becomes the update equation of B, by reverse mode over the nodes.

Only the named weights vary; everything else, their own other roles in the rule included, is a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ruledsl.ir.equations import Energy, Equation, Equations
from ruledsl.ir.nodes import Node, const, walk
from ruledsl.ir.operations import OPERATIONS, make
from ruledsl.source import SourceLocation

Report = Callable[..., None]


def differentiate(equations: Equations, report: Report) -> Equations:
    """Add the gradient of every energy to the pseudo-gradient of the weights it is minimised over.

    `report(code, place, **values)` hears of energies that cannot be differentiated.
    """
    result = list(equations.equations)
    for energy in equations.energies:
        gradients = gradient(energy, report)
        for target, value in gradients.items():
            _add(result, Equation("grad", target, energy.phase, value, energy.place, energy.optimizer))
    return replace(equations, equations=tuple(result), energies=())


def _add(equations: list[Equation], new: Equation) -> None:
    for index, old in enumerate(equations):
        same = (old.role, old.target, old.phase, old.optimizer) == (new.role, new.target, new.phase, new.optimizer)
        if same:
            equations[index] = old.with_value(make("add", old.value, new.value))
            return
    equations.append(new)


def gradient(energy: Energy, report: Report) -> dict[str, Node]:
    """dE/dM for every target M, as nodes."""
    varying: set[int] = set()
    order = list(walk(energy.value))
    for node in order:
        target = node.op == "tensor" and node.attrs[0] in energy.targets
        if target or any(id(arg) in varying for arg in node.args):
            varying.add(id(node))
    cotangents: dict[int, Node] = {id(energy.value): const(1.0)}
    found: dict[str, Node] = {}
    refused = False
    for node in reversed(order):
        g = cotangents.get(id(node))
        if g is None or id(node) not in varying:
            continue
        g = _spread_out(g, node)
        if node.op == "tensor":
            name = str(node.attrs[0])
            found[name] = g if name not in found else make("add", found[name], g)
            continue
        operation = OPERATIONS[node.op]
        if not operation.differentiable:
            place = node.place or energy.place
            report("E0403", place, operation="sum(k, ...)" if node.op == "sum_k" else node.op)
            refused = True
            continue
        if operation.derivative is None:
            continue
        for argument, cotangent in zip(node.args, operation.derivative(node, g), strict=True):
            if cotangent is not None and id(argument) in varying:
                _place(cotangent, node.place or energy.place)
                earlier = cotangents.get(id(argument))
                cotangents[id(argument)] = cotangent if earlier is None else make("add", earlier, cotangent)
    for name in energy.targets:
        if name not in found and not refused:
            read = any(node.op == "tensor" and node.attrs[0] == name for node in order)
            help = f"`{name}` stands only where small changes change nothing: in `sign`, or in a condition"
            report("E0404", energy.places.get(name, energy.place), help=help if read else None, name=name)
    return found


def _spread_out(g: Node, node: Node) -> Node:
    """A cotangent in the type of its node: a sum over an axis must find the axis, even where nothing differs on it."""
    if node.type.kind == "vector" and not node.type.axes <= g.type.axes:
        return make("mul", make("full_like", node, 1.0), g)
    return g


def _place(node: Node, place: SourceLocation) -> None:
    """What differentiation made stands where the term stood that it came from."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if part.place is None:
            part.place = place
            waiting += part.args
