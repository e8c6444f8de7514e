"""A node as mathematics on one line, for ledgers, messages and `explain`."""

from __future__ import annotations

import math
from collections.abc import Callable

from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operations import OPERATIONS, Infix

_INFIX = {name: row.written for name, row in OPERATIONS.items() if isinstance(row.written, Infix)}
_ATOM = 9
LONGEST = 2000  # characters; where a value is used twice again and again, its text would double each time


def show(node: Node, *, names: bool = True) -> str:
    """The node in the language's own notation; with `names`, a value that the author named by `let` by its name."""
    memo: dict[int, tuple[str, int]] = {}

    def text(part: Node, least: int) -> str:
        words, binding = memo[id(part)]
        return words if binding >= least else f"({words})"

    for part in walk(node):  # arguments first: a rule can be deeper than Python's stack
        words, binding = _show(part, text, names)
        memo[id(part)] = (words, binding) if len(words) <= LONGEST else ("...", _ATOM)
    return text(node, 0)


def _show(node: Node, text: Callable[[Node, int], str], names: bool) -> tuple[str, int]:
    if names and node.name:
        return node.name, _ATOM
    if node.op == "const":
        return number(node.attrs[0]), _ATOM if node.attrs[0] is True or float(node.attrs[0] or 0) >= 0 else 7
    if node.op in ("signal", "tensor"):
        name, index = node.attrs
        return f"{name}[{index}]" if index else str(name), _ATOM
    if node.op == "scalar":
        return str(node.attrs[0]), _ATOM
    if node.op in _INFIX:
        infix = _INFIX[node.op]
        left, right = node.args
        return f"{text(left, infix.binding)} {infix.symbol} {text(right, infix.binding + 1)}", infix.binding
    if node.op == "neg":
        return f"-{text(node.args[0], 7)}", 7
    if node.op == "not":
        return f"not {text(node.args[0], 3)}", 3
    if node.op == "transpose":
        return f"{text(node.args[0], _ATOM)}.T", _ATOM
    if node.op == "where":
        condition, then, otherwise = node.args
        return f"if {text(condition, 1)} then {text(then, 1)} else {text(otherwise, 0)}", 0
    if node.op == "sum_k":
        return f"sum({node.attrs[0]}, {text(node.args[0], 0)})", _ATOM
    arguments = [text(arg, 0) for arg in node.args]
    if node.op == "outer" and node.attrs[0]:
        arguments.append(f"mean={node.attrs[0]}")
    elif node.op != "outer":
        arguments += [str(a) for a in node.attrs if a is not None]
    function = str(node.attrs[0]) if node.op == "random" else node.op
    if node.op == "random":
        arguments = [text(arg, 0) for arg in node.args]
    return f"{function}({', '.join(arguments)})", _ATOM


def number(value: object) -> str:
    """A constant as the language spells it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    assert isinstance(value, int | float)
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if math.isnan(value):
        return "nan"
    return str(int(value)) if value == int(value) and abs(value) < 1e6 else repr(float(value))
