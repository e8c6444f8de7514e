"""Messages: the signals and efficacies that travel through each bundle of synapses in one phase (DESIGN, section 4.1).

An axon carries one signal, and a synapse has one efficacy. What a phase sends besides is a message more, and the ledger
counts it: `W @ z` beside the `W @ x` that the network itself computes, `outer(x, u)` beside `B @ delta`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import is_

from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.types import POST, PRE, Space
from ruledsl.locality.tensors import is_elementwise

Bundle = tuple[Space, Space]
Site = tuple[int, bool]
"""The id of a node that uses a bundle, and whether (of an outer product) its synapses are those of its transpose."""


@dataclass
class _Message:
    """A signal in a bundle, and the efficacy that it meets; of an outer product alone there is none."""

    signal: Node | None
    efficacy: Node | None


def messages(equations: Equations, phase: str, wired: frozenset[str]) -> dict[Site, tuple[str, int]]:
    """The messages beyond the first one of each bundle, in one phase: by the place that needs it, bundle and number.

    wired   the names of tensors that are given
    """
    found: dict[Site, tuple[str, int]] = {}
    carried: dict[Bundle, list[_Message]] = {}
    own = sorted((e for e in equations.equations if e.phase == phase), key=lambda e: e.role != "send")
    for site, bundle, signal, efficacy in (use for e in own for use in _uses(e)):
        known = carried.setdefault(bundle, [_FORWARD] if bundle == (PRE, POST) else [])
        number = _number(known, signal, efficacy, wired)
        if number > 0:
            found[site] = (in_words(bundle), number)
    return found


_FORWARD = _Message(None, None)
"""What the network itself computes: W, applied to x."""


def in_words(bundle: Bundle) -> str:
    """`post -> pre`"""
    return f"{bundle[0]} -> {bundle[1]}"


Use = tuple[Site, Bundle, Node, Node | None]


def _uses(equation: Equation) -> Iterator[Use]:
    """Applications first, then outer products: these may take what is sent anyway."""
    nodes = list(walk(equation.value))
    for node in nodes:
        if node.op == "apply":
            matrix, vector = node.args
            if not is_backwards(plain(matrix)):
                assert matrix.type.source is not None and matrix.type.target is not None
                yield (id(node), False), (matrix.type.source, matrix.type.target), plain(vector), plain(matrix)
    turned = {id(n.args[0]) for n in nodes if n.op == "transpose"}
    straight = {id(arg) for n in nodes if n.op != "transpose" for arg in n.args} | {id(equation.value)}
    for node in nodes:
        if node.op != "outer":
            continue
        assert node.type.source is not None and node.type.target is not None
        after, before = node.args
        if id(node) in straight:
            yield (id(node), False), (node.type.source, node.type.target), before, None
        if id(node) in turned:
            yield (id(node), True), (node.type.target, node.type.source), after, None


def is_backwards(matrix: Node) -> bool:
    """`M.T`: the synapses of M, used backwards; of wiring too, which has a direction."""
    return matrix.op == "transpose" and matrix.args[0].op == "tensor"


def plain(node: Node) -> Node:
    """The value without the scalars in front of it and its sign."""
    while True:
        if node.op == "neg":
            node = node.args[0]
        elif node.op == "mul" and node.args[0].type.kind == "scalar" and node.args[1].type.kind != "scalar":
            node = node.args[1]
        elif node.op in ("mul", "div") and node.args[1].type.kind == "scalar" and node.args[0].type.kind != "scalar":
            node = node.args[0]
        else:
            return node


def _number(known: list[_Message], signal: Node, efficacy: Node | None, wired: frozenset[str]) -> int:
    """Which message of a bundle a use is, from 0; a new one where it is none of the known ones."""
    if efficacy is None and not _varies(signal, wired):
        return 0  # a synapse knows constants without being told
    for number, message in enumerate(known):
        if message is _FORWARD:
            if efficacy is None and _elementwise(signal, lambda node: _is(node, "signal", "x"), wired):
                return number
            if efficacy is not None and _is(efficacy, "tensor", "W") and _is(signal, "signal", "x"):
                return number
            continue
        if efficacy is None and _elementwise(signal, partial(is_, message.signal), wired):
            return number
        if efficacy is not None and signal is message.signal and message.efficacy in (None, efficacy):
            message.efficacy = efficacy
            return number
    known.append(_Message(plain(signal), efficacy))
    return len(known) - 1


def _is(node: Node, op: str, name: str) -> bool:
    return node.op == op and node.attrs == (name, None)


def _given(node: Node, wired: frozenset[str]) -> bool:
    return node.op in ("const", "scalar") or (node.op == "tensor" and str(node.attrs[0]) in wired)


def _varies(signal: Node, wired: frozenset[str]) -> bool:
    """Whether a signal is more than constants and wiring."""
    shapes = {id(node.args[0]) for node in walk(signal) if node.op == "full_like"}
    for node in walk(signal, until=shapes):
        if id(node) not in shapes and node.is_leaf and not _given(node, wired):
            return True
    return False


def _elementwise(signal: Node, base: Callable[[Node], bool], wired: frozenset[str]) -> bool:
    """Whether a synapse computes the value by itself from the base signal that it sees."""
    waiting = [signal]
    while waiting:
        node = waiting.pop()
        if base(node) or _given(node, wired) or node.type.kind == "scalar":
            continue  # a number that is the same for all synapses is listed for what it depends on
        if node.op == "full_like":
            waiting.append(node.args[1])
        elif is_elementwise(node):
            waiting += node.args
        else:
            return False
    return True
