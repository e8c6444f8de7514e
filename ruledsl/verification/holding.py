"""What a disturbed run holds at the values of the undisturbed one, as DESIGN, section 4, has it: transmission.

A map that is applied forwards to what its own input neurons emit, and what a sink reads at its own site.
"""

from __future__ import annotations

from dataclasses import replace

from ruledsl.ir.nodes import Node, walk, with_args
from ruledsl.ir.operations import ELEMENTWISE

HELD = " held"


def is_tensor(node: Node, name: str) -> bool:
    """Whether the node reads the tensor where it lives."""
    return node.op == "tensor" and node.attrs[0] == name


def reads(node: Node, name: str) -> bool:
    """Whether the node is the tensor, or its transpose."""
    return is_tensor(node, name) or (node.op == "transpose" and is_tensor(node.args[0], name))


def hears(root: Node, signal: str) -> bool:
    """Whether the value depends on the signal; `delta[k]` is another one than `delta`."""
    name = signal.partition("[")[0]
    return any(n.op == "signal" and n.attrs[0] == name and bool(n.attrs[1]) == ("[" in signal) for n in walk(root))


def still(node: Node, args: tuple[Node, ...], reverse_of: str | None) -> Node:
    """Hold what a map has at its own site where it is applied forwards; for one source, where it is used backwards."""
    new = with_args(node, args)
    if node.op != "apply":
        return new
    matrix = at_home(args[0])
    if reverse_of is not None and matrix.op == "transpose" and is_tensor(matrix.args[0], reverse_of):
        matrix = with_args(matrix, (held(matrix.args[0]),))
    return with_args(new, (matrix, args[1]))


def at_home(root: Node) -> Node:
    """Tensors that are read where they live, through elementwise operations alone, at their undisturbed values."""
    done: dict[int, Node] = {}
    for node in walk(root):
        inner = node.op in ELEMENTWISE and node.type.kind == "map"
        if node.op == "tensor" and node.type.kind == "map":
            done[id(node)] = held(node)
        elif inner:
            done[id(node)] = with_args(node, tuple(done[id(a)] if a.type.kind == "map" else a for a in node.args))
        else:
            done[id(node)] = node
    return done[id(root)]


def held(node: Node) -> Node:
    """The tensor as it was in the undisturbed run."""
    name = str(node.attrs[0])
    return node if name.endswith(HELD) else replace(node, attrs=(name + HELD, *node.attrs[1:]))
